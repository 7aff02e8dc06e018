"""What a conversion may be asked to do, and what it reports."""
from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from .passes.base import PassResult


@dataclass
class ConvertOptions:
    """Options of `convert`.

    fix_dims: {symbolic size: number}. inputs, outputs: cut the graph at these values (names of any values of the model). fp16: store and compute float32 as
    float16. fold_budget: bytes constant folding may add per node. optimize: False runs no pass. pack: store weights packed. external_data: write tensor data
    to `<file>.data` beside the file. store: also store the model planned for the C engine (stored.py); plan: for which sizes, one or several of
    {size: (least, most or None)}. webgpu: also store what a page replays on WebGPU; webgpu_f16: and with float32 that lies as f16 there, for pages that ask for the precision "f16";
    webgpu_device: for this device alone, (software adapter, features of its WGSL, precision), as a page's planner says. progress: called with (what, fraction).
    """

    fix_dims: Mapping[str, int] = field(default_factory=dict)
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    fp16: bool = False
    fold_budget: int = 1 << 20
    optimize: bool = True
    pack: bool = True
    external_data: bool = False
    store: bool = True
    plan: Sequence[Mapping[str, tuple[int, int | None]]] = ()
    webgpu: bool = False
    webgpu_f16: bool = False
    webgpu_device: tuple[bool, Collection[str], str] | None = None
    progress: Callable[[str, float], None] | None = None


@dataclass
class ConvertReport:
    """What a conversion did. Sizes in bytes; `operators` count nodes by operator, nested graphs included."""

    source_size: int = 0
    size: int = 0
    passes: list[PassResult] = field(default_factory=list)
    operators_before: dict[str, int] = field(default_factory=dict)
    operators_after: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    file: dict[str, object] = field(default_factory=dict)
    not_stored: str = ""    # why no programs are in the file, where they were asked for
