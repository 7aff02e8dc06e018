"""What engine/src/session.c does, plainly, on any runner of programs: what it is compared with. `host(block, segment, inputs)` gives the outputs of segments on the host."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sardonyx.errors import InvalidArgument, RuntimeException, Terminated
from sardonyx.package import Block, Device, Do, LoopParams, Package, Segment, SlotTypes

Host = Callable[[int, Segment, list[Any]], Sequence[Any]]


def never() -> bool:
    """Nobody stops the run."""
    return False


class BlockExecutor:
    """Runs a package; `runners[i]` runs program i."""

    def __init__(self, package: Package, runners: Sequence[Any], host: Host | None = None) -> None:
        self.package, self.runners, self.host = package, runners, host
        types = SlotTypes(package)
        for v in package.variants:
            types.block(v.block, [(p.dtype, len(p.dims)) for p in package.inputs], 0)
        self._types = types.slots

    def run(self, inputs: Sequence[Any], *, terminated: Callable[[], bool] | None = None) -> list[Any]:
        """The model's outputs. InvalidArgument where no variant covers the inputs' sizes; `terminated` is polled between segments."""
        variant = self.package.variant([x.shape for x in inputs])
        return self._block(variant.block, list(inputs), terminated or never)

    def _block(self, index: int, inputs: list[Any], terminated: Callable[[], bool]) -> list[Any]:
        block: Block = self.package.blocks[index]
        slots: list[Any] = [None] * block.slots
        for slot, x in zip(block.inputs, inputs, strict=True):
            slots[slot] = x
        for number, s in enumerate(block.segments):
            if terminated():
                raise Terminated("the run was stopped by RunOptions.terminate")
            given = [None if i < 0 else slots[i] for i in s.inputs]
            if s.do is Do.IF:
                made: Sequence[Any] = self._block(s.blocks[not _scalar(given[0], s)], given[1:], terminated)
            elif s.do is Do.LOOP:
                made = self._loop(index, s, given, terminated)
            elif s.device is Device.HOST:
                if self.host is None:
                    raise InvalidArgument(f"segment {number} of block {index} ({s.origin}) runs on a host that is not there")
                made = self.host(index, s, given)
            else:
                made = self.runners[s.program].run(given, terminated=terminated)
            for slot, y in zip(s.outputs, made, strict=True):
                if slot >= 0:
                    slots[slot] = y
        return [slots[i] for i in block.outputs]

    def _loop(self, index: int, s: Segment, given: list[Any], terminated: Callable[[], bool]) -> list[Any]:
        loop = LoopParams.of(s)
        go = given[1] is None or bool(_scalar(given[1], s))
        limit = None if given[0] is None else int(_scalar(given[0], s))
        at = 2 + loop.carried
        carried, scanned, captured = given[2:at], given[at:at + loop.scanned], given[at + loop.scanned:]
        lengths = {x.shape[axis] for x, (axis, _) in zip(scanned, loop.scans, strict=True)}
        if len(lengths) > 1:
            raise RuntimeException(f"{s.origin}: scanned inputs differ in length: {sorted(lengths)}")
        limits = [n for n in (limit, *lengths) if n is not None]
        stacks: list[list[Any]] = [[] for _ in loop.stacks]
        turn = 0
        while go and (not limits or turn < min(limits)):
            slices = [np.take(x, x.shape[axis] - 1 - turn if reverse else turn, axis) for x, (axis, reverse) in zip(scanned, loop.scans, strict=True)]
            counts = [np.array(turn, np.int64), np.array(go)] if loop.counts else []
            made = self._block(s.blocks[0], [*counts, *carried, *slices, *captured], terminated)
            if loop.counts:
                go = bool(_scalar(made[0], s))
                made = made[1:]
            carried = made[:loop.carried]
            for stack, part in zip(stacks, made[loop.carried:], strict=True):
                if stack and stack[0].shape != part.shape:
                    raise RuntimeException(f"{s.origin}: what the rounds of a loop give differs in size: {stack[0].shape}, {part.shape}")
                stack.append(part)
            turn += 1
        return [*carried, *[self._stacked(index, s, i, stack, *loop.stacks[i]) for i, stack in enumerate(stacks)]]

    def _stacked(self, index: int, s: Segment, number: int, parts: list[Any], axis: int, reverse: int) -> Any:
        slot = s.outputs[LoopParams.of(s).carried + number]
        if parts or slot < 0:
            return np.stack(parts[::-1] if reverse else parts, axis) if parts else None
        kind = self._types[index][slot]
        assert kind is not None and kind[0] is not None
        return np.empty([0 if d == axis else max(n, 0) for d, n in enumerate(kind[2])], kind[0].numpy)


def _scalar(x: Any, s: Segment) -> Any:
    if x.size != 1:
        raise RuntimeException(f"{s.origin}: a condition or trip count must have one element, this has {x.size}")
    return x.reshape(-1)[0]
