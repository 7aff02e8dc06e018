"""InferenceSession: a model, loaded and ready to run, with onnxruntime's interface.

Threads: any number of threads may call `run` on one session at the same time; each run is independent. `close` lets runs that are going on finish, refuses new ones
and gives the memory back when the last has ended.
"""
from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import EPFail, Fail, InvalidArgument, NoModel, SardonyxError
from ..graph import Value
from ..providers.base import Executor, RunContext, on_host
from ..types import ValueType
from . import nodes, providers
from .binding import IOBinding
from .devices import OrtEpDevice, OrtMemoryInfo, get_ep_devices, host_memory
from .environment import current_seed, logger
from .exceptions import InvalidType, expect
from .explain import Explanation, rows_of
from .feeds import Plain, collect, describe, own
from .loading import load
from .nodes import ModelMetadata, NodeArg, OrtEpAssignedNode, OrtEpAssignedSubgraph
from .options import RunOptions, SessionOptions
from .profile import Profiler
from .turns import AnyTime, Turns
from .values import OrtValue, OrtValueVector, wrap

STRICT = "session.disable_cpu_ep_fallback"
_KNOWN_KEYWORDS = ("disabled_optimizers", "enable_fallback", "read_config_from_model")
_warned: set[str] = set()


class InferenceSession:
    """InferenceSession(path_or_bytes, sess_options=None, providers=None, provider_options=None).

    path_or_bytes: a `.sdx` or `.onnx` file by its path, as bytes or as a binary file object. providers: names or (name, options) tuples, best first; one that is not
    available is skipped with a warning, and the CPU takes over, unless the session configuration entry `session.disable_cpu_ep_fallback` is "1" (then EPFail).
    Raises NoSuchFile, InvalidProtobuf, InvalidGraph, NotImplemented, InvalidArgument, EPFail.
    """

    def __init__(self, path_or_bytes: Any, sess_options: SessionOptions | None = None, providers: Any = None, provider_options: Any = None, **kwargs: Any) -> None:
        if sess_options is not None:
            expect(sess_options, SessionOptions, "sess_options")
        for name in kwargs:
            if name not in _KNOWN_KEYWORDS:
                warnings.warn(f"InferenceSession ignores the unknown argument '{name}'", UserWarning, stacklevel=2)
        self._options = SessionOptions() if sess_options is None else sess_options.copy()
        self._profiler = Profiler(self._options.profile_file_prefix) if self._options.enable_profiling else None
        self._model_path = os.fspath(path_or_bytes) if isinstance(path_or_bytes, (str, os.PathLike)) else ""
        self._gate = _Gate()
        self._seed, self._runs = current_seed(), 0
        self._turns = Turns()
        begin = self._profiler.now() if self._profiler else 0
        loaded = load(path_or_bytes, self._options)
        if self._profiler:
            self._profiler.session("model_loading_uri" if self._model_path else "model_loading_array", begin)
        self._model, self._args = loaded.model, loaded
        self._inputs: list[Value] = loaded.model.interface[0]
        self._plain = Plain(self._inputs)
        outputs = self._outputs = loaded.model.interface[1]  # one value may be among them twice
        self._output_types: dict[str, ValueType | None] = {v.name: v.type for v in outputs}
        self._output_index = {v.name: i for i, v in enumerate(outputs)}
        self._all = list(range(len(outputs)))
        self._executor: Executor
        begin = self._profiler.now() if self._profiler else 0
        self._place(_requests(self._options, providers, provider_options))
        if self._profiler:
            self._profiler.session("session_initialization", begin)
        if self._options.optimized_model_filepath:
            self._write_model(self._options.optimized_model_filepath)

    # -- providers ---------------------------------------------------------------------------------------------------------------------------
    def _place(self, listed: Sequence[providers.Request]) -> None:
        """Compile the model with the first provider that takes it."""
        strict = self._options._entries.get(STRICT) == "1"
        chosen, skipped = providers.choose(listed, strict)
        if strict:
            self._refuse_fallback(chosen, skipped)
        if skipped:
            _warn(f"{'; '.join(f'{name} is not available: {reason}' for name, reason in skipped.items())}. {chosen[0].name} takes over; session.explain() shows where each node runs", 4)
        for rank, choice in enumerate(chosen):
            try:
                executor = choice.provider.compile(self._model, {"session.intra_op_num_threads": self._options.intra_op_num_threads,
                                                                   "session.graph_optimization_level": int(self._options.graph_optimization_level), **self._options._entries, **choice.options,
                                                                   "session.providers": [c.name for c in chosen if not c.stand_in]})
                break
            except InvalidArgument:   # an option of the caller's, which no other provider mends
                raise
            except SardonyxError as error:
                if rank == len(chosen) - 1:
                    raise
                skipped[choice.name] = str(error)
                _warn(f"{choice.name} can not run this model: {error}. {chosen[rank + 1].name} takes over", 4)
        if choice.stand_in and choice.name not in _warned:
            _warned.add(choice.name)
            _warn(f"{choice.name} runs the NumPy reference operators: {choice.stand_in}. Results are exact, runs are slow. "
                  f"providers=['{providers.REFERENCE}'] asks for the same without this warning", 4)
        if unmet := getattr(executor, "unmet", ""):
            _warn(unmet, 4)
        self._executor, self._choices, self._choice, self._skipped = executor, chosen, choice, skipped
        if strict:
            allowed = {request.name for request in listed} or {providers.CPU}
            self._refuse_placements(allowed)

    def _refuse_fallback(self, chosen: Sequence[providers.Choice], skipped: dict[str, str]) -> None:
        """EPFail where nothing is left that may run without falling back."""
        if not all(choice.stand_in for choice in chosen):
            return
        reasons = skipped | {choice.name: choice.stand_in for choice in chosen if choice.stand_in}
        first = next(self._model.graph.walk(), None)
        if first is not None:
            why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            # Something chosen is a stand-in for the C engine, which is then not there.
            remedy = f"list '{providers.REFERENCE}' to run on NumPy" if chosen or providers.reason_missing(providers.CPU) else f"list '{providers.CPU}' too to run on the C engine"
            raise EPFail(f"{first.label} would need a fallback, and '{STRICT}' is '1' ({why}). Mend that, {remedy}, or remove the entry")

    def _refuse_placements(self, allowed: set[str]) -> None:
        if getattr(self._executor, "strict", False):  # it refuses by itself, knowing what shape arithmetic is and what the inputs' values decide
            return
        for placement in self._executor.placements():
            if placement.provider not in allowed:
                self._executor.close()
                raise EPFail(f"{placement.node.label} is a fallback to {placement.provider}, and '{STRICT}' is '1': {placement.reason or self._choice.stand_in or 'no listed provider takes it'}. "
                             f"Listed: {', '.join(sorted(allowed))}")

    def set_providers(self, providers: Any = None, provider_options: Any = None) -> None:
        """Compile the model again for other providers. Runs that are going on finish on the old ones."""
        self._gate.check()
        old = self._executor
        self._place(_requests(self._options, providers, provider_options))
        self._gate.retire(old)

    def get_providers(self) -> list[str]:
        """The providers in use, in order."""
        return [choice.name for choice in self._choices]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """The options given for each provider in use."""
        return {choice.name: dict(choice.options) for choice in self._choices}

    def disable_fallback(self) -> None:
        """Accepted without effect: a failed run never changes providers."""

    def enable_fallback(self) -> None:
        """Accepted without effect: a failed run never changes providers."""

    def explain(self) -> Explanation:
        """Where each node runs and why not elsewhere; print it for a table. Ours, not onnxruntime's."""
        self._gate.check()
        return Explanation(rows_of(self._executor.placements(), self._choice.stand_in), self._skipped, getattr(self._executor, "notes", ()))

    def get_provider_graph_assignment_info(self) -> list[OrtEpAssignedSubgraph]:
        """The nodes by provider."""
        self._gate.check()
        groups: dict[str, list[OrtEpAssignedNode]] = {}
        for p in self._executor.placements():
            groups.setdefault(p.provider, []).append(OrtEpAssignedNode(p.node.name, p.node.op_type, p.node.domain))
        return [OrtEpAssignedSubgraph(name, members) for name, members in groups.items()]

    # -- the model ---------------------------------------------------------------------------------------------------------------------------
    def get_inputs(self) -> list[NodeArg]:
        """The inputs a caller must give."""
        return list(self._args.inputs)

    def get_outputs(self) -> list[NodeArg]:
        """The outputs."""
        return list(self._args.outputs)

    def get_overridable_initializers(self) -> list[NodeArg]:
        """Inputs that have a default in the model."""
        return list(self._args.overridable)

    def get_modelmeta(self) -> ModelMetadata:
        """What the model says about itself."""
        return nodes.metadata(self._model)

    def get_session_options(self) -> SessionOptions:
        """The options the session was made with (its own copy)."""
        return self._options

    def get_input_memory_infos(self) -> list[OrtMemoryInfo]:
        """Where inputs lie: the host's memory."""
        return [host_memory() for _ in self._args.inputs]

    def get_output_memory_infos(self) -> list[OrtMemoryInfo]:
        """Where outputs lie: the host's memory."""
        return [host_memory() for _ in self._args.outputs]

    def get_input_epdevices(self) -> list[OrtEpDevice]:
        """The device each input is used on."""
        return get_ep_devices() * len(self._args.inputs)

    def _input_names(self) -> list[str]:
        return [value.name for value in self._inputs]

    # -- running -----------------------------------------------------------------------------------------------------------------------------
    def run(self, output_names: Iterable[str] | None, input_feed: Any, run_options: RunOptions | None = None) -> list[Any]:
        """Compute outputs.

        output_names: the wanted ones in order; None or [] means all. input_feed: {input name: numpy array, OrtValue, nested list (sequences: list; maps: dict; optionals: None)}.
        Returns numpy arrays the caller owns (strings: object arrays), lists for sequences, dicts for maps, None for empty optionals.
        Raises InvalidArgument (a ValueError) for a wrong name, dtype, rank or size, RuntimeException naming the node that failed, Terminated, NoModel after `close`.
        """
        return self._run(output_names, input_feed, run_options)

    def _run(self, output_names: Iterable[str] | None, input_feed: Any, run_options: RunOptions | None, submitted: Callable[[], None] | None = None) -> list[Any]:
        wanted = self._all if output_names is None else self._wanted(output_names)
        given = self._plain.collect(input_feed)
        return self._execute(self._collect(input_feed) if given is None else given, wanted, run_options, submitted=submitted)

    def run_with_ort_values(self, output_names: Iterable[str] | None, input_dict_ort_values: dict[str, OrtValue], run_options: RunOptions | None = None) -> list[OrtValue]:
        """As `run`, with OrtValues in and out."""
        for name, value in input_dict_ort_values.items():
            expect(value, OrtValue, f"input '{name}' of run_with_ort_values")
        wanted = self._wanted(output_names)
        made = self._execute(self._collect(input_dict_ort_values), wanted, run_options)
        outputs = self._outputs
        return [wrap(value, outputs[index].type) for value, index in zip(made, wanted, strict=True)]

    def run_with_ortvaluevector(self, run_options: RunOptions, feed_names: Sequence[str], feeds: Sequence[OrtValue], fetch_names: Sequence[str], fetches: OrtValueVector,
                                fetch_devices: Any = None) -> None:
        """As `run_with_ort_values`; the results replace the contents of `fetches`."""
        fetches[:] = self.run_with_ort_values(fetch_names, dict(zip(feed_names, feeds, strict=True)), run_options)

    def io_binding(self) -> IOBinding:
        """A new binding for this session."""
        return IOBinding(self)

    def run_with_iobinding(self, iobinding: IOBinding, run_options: RunOptions | None = None) -> None:
        """Run with bound inputs and outputs."""
        expect(iobinding, IOBinding, "iobinding")
        if iobinding._session is not self:
            raise InvalidArgument("IOBinding must be used with the session that created it.")
        wanted = self._wanted(iobinding._wanted())
        iobinding._store(self._execute(self._collect(iobinding._inputs), wanted, run_options, iobinding._memory(self._on_device), iobinding._staying()))

    def run_async(self, output_names: Iterable[str] | None, input_feed: Any, callback: Callable[[list[Any], Any, str], None], user_data: Any,
                  run_options: RunOptions | None = None) -> None:
        """Run on another thread, then call `callback(results, user_data, error)`: error is "" and results as of `run`, or error is a message and results are [].

        Missing inputs raise here; other mistakes reach the callback. Where there are no threads (in a page) the run happens before this returns. On a GPU the runs of a session begin in the order
        of the calls, each as soon as the one before is submitted (a few at most are on their way), and their callbacks are called in that order, one after the other.
        """
        if not callable(callback):
            raise InvalidType(f"callback must be callable as callback(results, user_data, error), not {type(callback).__name__}")
        self._gate.check()
        if isinstance(input_feed, dict):
            missing = [arg.name for arg in self._args.inputs if arg.name not in input_feed and not arg.type.startswith("optional")]
            if missing:
                raise InvalidArgument(f"Required inputs ({missing}) are missing from input feed ({list(input_feed)}). The inputs are {describe(self._inputs)}")

        turn = self._turns.turn() if self._on_device and sys.platform != "emscripten" else AnyTime()

        def work() -> None:
            try:
                turn.begin()
                results, error = self._run(output_names, input_feed, run_options, turn.next), ""
            except Exception as failure:
                results, error = [], str(failure) or type(failure).__name__
            try:
                turn.deliver()
                callback(results, user_data, error)
            except Exception:
                logger.exception("the callback of run_async raised")
                sys.excepthook(*sys.exc_info())
            finally:
                turn.end()
        if sys.platform == "emscripten":
            work()
        else:
            _pool().submit(work)

    @property
    def _on_device(self) -> bool:
        """Whether the executor takes and makes tensors on a device."""
        return bool(getattr(self._executor, "residents", ""))

    def _collect(self, feed: Any) -> list[Any]:
        """Feeds as the executor takes them; tensors on a device come to the host unless it runs there."""
        found = collect(self._inputs, feed)
        return found if self._on_device else [on_host(x) for x in found]

    def _wanted(self, output_names: Iterable[str] | None) -> list[int]:
        """Output names → indices."""
        if output_names is None:
            return list(range(len(self._args.outputs)))
        if isinstance(output_names, (str, bytes)) or not isinstance(output_names, Iterable):
            raise InvalidType(f"output_names must be a list of names or None, not {output_names!r:.60}; e.g. ['{next(iter(self._output_index), 'y')}']")
        names = list(output_names)
        wrong = [str(name) for name in names if not isinstance(name, str) or name not in self._output_index]
        if wrong:
            raise InvalidArgument(f"Invalid output name: {', '.join(wrong)}. The outputs are {', '.join(self._output_index)}")
        return [self._output_index[name] for name in names] or list(range(len(self._args.outputs)))

    def _execute(self, inputs: list[Any], wanted: Sequence[int], run_options: RunOptions | None, into: Sequence[Any] | None = None,
                 stay: frozenset[int] = frozenset(), submitted: Callable[[], None] | None = None) -> list[Any]:
        if run_options is not None:
            expect(run_options, RunOptions, "run_options")
        profiler = self._profiler
        context = RunContext(events=[] if profiler else None, seed=self._next_seed(), into=into, stay=stay, submitted=submitted)
        if run_options is not None:
            context.terminated = run_options._stops
        with self._gate.enter(self) as executor:
            begin = profiler.now() if profiler else 0
            made = executor.run(inputs, wanted, context)
            if profiler:
                profiler.add(context.events or ())
                profiler.session("model_run", begin)
            return made if context.owned else [own(value) for value in made]

    def _next_seed(self) -> int | None:
        """The seed of the next run: equal programs get equal draws, successive runs different ones."""
        if self._seed is None:
            return None
        self._runs += 1
        return int(np.random.SeedSequence([self._seed & (2**64 - 1), self._runs]).generate_state(1, np.uint64)[0])

    # -- the rest ----------------------------------------------------------------------------------------------------------------------------
    def get_profiling_start_time_ns(self) -> int:
        """When profiling began, nanoseconds since 1970; 0 where it is off."""
        return self._profiler.start_time_ns if self._profiler else 0

    def end_profiling(self) -> str:
        """Stop profiling and write the Chrome trace; returns its path, "" where profiling is off."""
        profiler, self._profiler = self._profiler, None
        return profiler.write() if profiler else ""

    def create_ortvalue_from_shape_and_type(self, shape: Sequence[int], element_type: Any, device_type: str, device_id: int = 0, vendor_id: int = -1) -> OrtValue:
        """An OrtValue of zeros for this session."""
        return OrtValue.ortvalue_from_shape_and_type(shape, element_type, device_type, device_id, vendor_id)

    def get_tuning_results(self) -> list[Any]:
        """[]: nothing is tuned."""
        return []

    def set_tuning_results(self, results: Any, *, error_on_invalid: bool = False) -> None:
        """Accepted without effect: nothing is tuned."""

    def set_ep_dynamic_options(self, options: dict[str, str]) -> None:
        """Accepted without effect: no provider has such options."""
        if not options:
            raise Fail("No options were provided")

    def release_captured_graph(self, graph_annotation_id: int = 0) -> None:
        """Accepted without effect: no graphs are captured."""

    def _write_model(self, path: str) -> None:
        from ..model import write_model
        write_model(self._model, path)

    def close(self) -> None:
        """Give the memory back. Closing twice is fine; a run after it raises NoModel. Ours, not onnxruntime's."""
        if self._gate.close(self._executor):
            self.end_profiling()

    def __enter__(self) -> InferenceSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<InferenceSession of '{self._model_path or self._model.graph.name}' on {', '.join(self.get_providers())}>"


class _Gate:
    """Counts the runs on each executor, so that `close` and `set_providers` give one back when its last run has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: dict[int, int] = {}
        self._retired: dict[int, Executor] = {}
        self._closed = False

    def check(self) -> None:
        """NoModel after `close`."""
        if self._closed:
            raise NoModel("this session is closed; make a new InferenceSession to run the model again")

    def enter(self, session: InferenceSession) -> _Run:
        """A run begins, on the session's present executor."""
        with self._lock:
            self.check()
            executor = session._executor
            self._active[id(executor)] = self._active.get(id(executor), 0) + 1
            return _Run(self, executor)

    def leave(self, executor: Executor) -> None:
        """A run ended."""
        with self._lock:
            self._active[id(executor)] -= 1
            last = not self._active[id(executor)]
            if last:
                del self._active[id(executor)]
            done = last and self._retired.pop(id(executor), None) is not None
        if done:
            executor.close()

    def retire(self, executor: Executor) -> None:
        """Close the executor, now or after its last run."""
        with self._lock:
            if id(executor) in self._active:
                self._retired[id(executor)] = executor
                return
        executor.close()

    def close(self, executor: Executor) -> bool:
        """Refuse new runs and retire the executor; False where that was done before."""
        with self._lock:
            if self._closed:
                return False
            self._closed = True
        self.retire(executor)
        return True


class _Run:
    """One run on one executor, as a context manager."""

    __slots__ = ("_gate", "_executor")

    def __init__(self, gate: _Gate, executor: Executor) -> None:
        self._gate, self._executor = gate, executor

    def __enter__(self) -> Executor:
        return self._executor

    def __exit__(self, *_: Any) -> None:
        self._gate.leave(self._executor)


def _requests(options: SessionOptions, listed: Any, provider_options: Any) -> list[providers.Request]:
    """What the caller listed, or what the options list where the caller did not."""
    if listed is None and options.has_providers():
        return providers.requests(options._providers)
    return providers.requests(listed, provider_options)


def _warn(message: str, level: int) -> None:
    warnings.warn(message, UserWarning, stacklevel=level)
    logger.warning("%s", message)


@cache
def _pool() -> ThreadPoolExecutor:
    """The threads of run_async, shared by all sessions."""
    return ThreadPoolExecutor(max(2, os.cpu_count() or 1), "sardonyx-run")
