"""SessionOptions and RunOptions. COMPATIBILITY.md says which fields have an effect."""
from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import Fail, InvalidArgument
from ..errors import NotImplemented as NotImplementedHere
from ..providers.base import Stops
from .enums import ExecutionMode, ExecutionOrder, GraphOptimizationLevel, OrtExecutionProviderDevicePolicy
from .exceptions import InvalidType, expect
from .values import OrtValue

MAX_KEY = 1024  # onnxruntime's limit for configuration keys


class Option:
    """A typed field: bool, int, str or an enumeration, with its default."""

    def __init__(self, kind: type, default: Any, doc: str) -> None:
        self.kind, self.default, self.__doc__ = kind, default, doc
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else instance._fields.get(self.name, self.default)

    def __set__(self, instance: Any, value: Any) -> None:
        instance._fields[self.name] = self._checked(value)

    def _checked(self, value: Any) -> Any:
        try:
            if self.kind is str:
                return os.fspath(value)
            if self.kind is bool:
                return bool(value.__index__())
            return self.kind(value.__index__())
        except (AttributeError, TypeError):
            raise InvalidType(f"option {self.name} must be {self.kind.__name__}, not {type(value).__name__} {value!r:.60}") from None
        except ValueError:
            raise InvalidArgument(f"option {self.name}: {value!r} is not one of {', '.join(map(str, self.kind))}") from None  # type: ignore[call-overload]


class _Configured:
    """Fields and configuration entries; an unknown attribute is an error, so that a misspelt option is noticed."""

    __slots__ = ("_fields", "_entries")

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._entries: dict[str, str] = {}

    def _add_entry(self, key: str, value: str) -> None:
        expect(key, str, "the configuration key")
        expect(value, str, f"the value of configuration entry '{key}'")
        if not 0 < len(key) <= MAX_KEY:
            raise Fail(f"Config key is empty or longer than maximum length {MAX_KEY}")
        self._entries[key] = value

    def _get_entry(self, key: str) -> str:
        if key not in self._entries:
            raise Fail(f"{type(self).__name__} does not have configuration with key: {key}; it has: {', '.join(sorted(self._entries)) or 'none'}")
        return self._entries[key]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in {**self._fields, **self._entries}.items())})"


class SessionOptions(_Configured):
    """What a session is created with. A session keeps a copy: later changes do not reach it."""

    __slots__ = ("_sizes_by_name", "_sizes_by_denotation", "_initializers", "_providers", "_cancelled")

    intra_op_num_threads = Option(int, 0, "Threads used inside a node; 0: the machine's number.")
    inter_op_num_threads = Option(int, 0, "Threads used across nodes; nodes run one after another.")
    execution_mode = Option(ExecutionMode, ExecutionMode.ORT_SEQUENTIAL, "Nodes run in sequence either way.")
    execution_order = Option(ExecutionOrder, ExecutionOrder.DEFAULT, "The model's order, made topological.")
    graph_optimization_level = Option(GraphOptimizationLevel, GraphOptimizationLevel.ORT_ENABLE_ALL, "ORT_DISABLE_ALL runs an `.onnx` as it is written; the other levels optimise it before it is run.")
    optimized_model_filepath = Option(str, "", "Where to write the model as the session has it, as .sdx.")
    enable_profiling = Option(bool, False, "Collect a Chrome trace from creation to `end_profiling`.")
    profile_file_prefix = Option(str, "onnxruntime_profile_", "Beginning of the trace's file name; time and `.json` are added.")
    enable_cpu_mem_arena = Option(bool, True, "Memory is planned; there is no arena to switch off.")
    enable_mem_pattern = Option(bool, True, "As enable_cpu_mem_arena.")
    enable_mem_reuse = Option(bool, True, "As enable_cpu_mem_arena.")
    use_deterministic_compute = Option(bool, False, "Runs are deterministic in any case.")
    use_per_session_threads = Option(bool, True, "Threads are shared by the sessions of a process.")
    log_severity_level = Option(int, -1, "See set_default_logger_severity.")
    log_verbosity_level = Option(int, 0, "See set_default_logger_verbosity.")
    logid = Option(str, "", "A name for this session in log records.")

    def __init__(self) -> None:
        super().__init__()
        self._sizes_by_name: dict[str, int] = {}
        self._sizes_by_denotation: dict[str, int] = {}
        self._initializers: dict[str, OrtValue] = {}
        self._providers: list[tuple[str, dict[str, str]]] = []
        self._cancelled = False

    def copy(self) -> SessionOptions:
        """An independent copy."""
        made = SessionOptions()
        made._fields, made._entries = dict(self._fields), dict(self._entries)
        made._sizes_by_name, made._sizes_by_denotation = dict(self._sizes_by_name), dict(self._sizes_by_denotation)
        made._initializers, made._providers, made._cancelled = dict(self._initializers), list(self._providers), self._cancelled
        return made

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Set a configuration entry, e.g. 'session.disable_cpu_ep_fallback' to '1'."""
        self._add_entry(key, value)

    def get_session_config_entry(self, key: str) -> str:
        """The value of an entry; Fail (a RuntimeError) where it was not set."""
        return self._get_entry(key)

    def add_free_dimension_override_by_name(self, name: str, size: int) -> None:
        """Give a symbolic size of the model a number; names the model does not have are ignored."""
        self._sizes_by_name[name] = _size(name, size)

    def add_free_dimension_override_by_denotation(self, denotation: str, size: int) -> None:
        """Accepted without effect: sizes are known by name (COMPATIBILITY.md)."""
        self._sizes_by_denotation[denotation] = _size(denotation, size)

    def add_initializer(self, name: str, value: OrtValue) -> None:
        """Use `value` for the model's initializer `name`: one array shared by several sessions. Its dtype and shape must be the initializer's."""
        expect(value, OrtValue, f"initializer '{name}'")
        if name in self._initializers:
            raise InvalidArgument(f"An OrtValue for this name has already been added: {name}")
        self._initializers[name] = value

    def add_external_initializers(self, names: Sequence[str], values: Sequence[OrtValue]) -> None:
        """`add_initializer` for several names."""
        if len(names) != len(values):
            raise InvalidArgument(f"{len(names)} names and {len(values)} values were given; one value belongs to each name")
        for name, value in zip(names, values, strict=True):
            self.add_initializer(name, value)

    def add_external_initializers_from_files_in_memory(self, names: Sequence[str], buffers: Sequence[Any], lengths: Sequence[int]) -> None:
        """Not supported: raises NotImplemented."""
        raise NotImplementedHere("external data files can not be given from memory; write them beside the model and open it by its path, or convert it to one .sdx file (`sardonyx convert`)")

    def register_custom_ops_library(self, path: str) -> None:
        """Not supported: raises NotImplemented."""
        raise NotImplementedHere(f"custom operator libraries are compiled for onnxruntime and can not be loaded ('{path}'); express the operator as a model function or with standard operators")

    def add_provider(self, name: str, options: Mapping[str, str]) -> None:
        """List a provider, used where InferenceSession is given no `providers`."""
        from .providers import canonical
        self._providers.append((canonical(name), dict(options)))

    def add_provider_for_devices(self, devices: Sequence[Any], options: Mapping[str, str]) -> None:
        """As `add_provider` for the provider of the devices (get_ep_devices())."""
        names = dict.fromkeys(device.ep_name for device in devices)
        if len(names) != 1:
            raise InvalidArgument(f"the devices must belong to one execution provider, not {', '.join(names) or 'none'}")
        self.add_provider(next(iter(names)), options)

    def has_providers(self) -> bool:
        """Whether a provider was added here."""
        return bool(self._providers)

    def set_load_cancellation_flag(self, cancel: bool) -> None:
        """Make loading with these options raise ModelLoadCanceled."""
        self._cancelled = bool(cancel)

    def set_provider_selection_policy(self, policy: OrtExecutionProviderDevicePolicy) -> None:
        """Accepted without effect: the order of `providers` decides."""
        expect(policy, OrtExecutionProviderDevicePolicy, "the policy")

    def set_provider_selection_policy_delegate(self, delegate: Callable[..., Any]) -> None:
        """Accepted without effect: the order of `providers` decides."""

    def set_ep_context_data_read_func(self, read_func: Callable[..., Any]) -> None:
        """Accepted without effect: no provider reads context data this way."""

    def clear_ep_context_data_read_func(self) -> None:
        """Accepted without effect."""


def _size(name: str, size: Any) -> int:
    expect(name, str, "the name of a dimension")
    try:
        number = int(size.__index__())
    except (AttributeError, TypeError):
        raise InvalidType(f"dimension '{name}' must be overridden by an int, not {type(size).__name__}") from None
    if number < 0:
        raise InvalidArgument(f"dimension '{name}' can not be {number}: sizes are not negative")
    return number


class _Terminate(Option):
    """The field that stops runs: engines that are in the middle of a step are told at once."""

    def __set__(self, instance: Any, value: Any) -> None:
        super().__set__(instance, value)
        instance._stops.set(instance.terminate)


class RunOptions(_Configured):
    """What one run is given. Setting `terminate` from another thread stops every run that uses this object."""

    __slots__ = ("_stops",)

    def __init__(self) -> None:
        super().__init__()
        self._stops = Stops()

    log_severity_level = Option(int, -1, "See set_default_logger_severity.")
    log_verbosity_level = Option(int, 0, "See set_default_logger_verbosity.")
    logid = Option(str, "", "A name for this run in log records.")
    terminate = _Terminate(bool, False, "True stops the run with an error (a Fail): before its next node, and inside a long one as soon as a part of it is done.")
    only_execute_path_to_fetches = Option(bool, False, "Only a hint: outputs that are not wanted may be computed all the same.")

    def add_run_config_entry(self, key: str, value: str) -> None:
        """Set a configuration entry."""
        self._add_entry(key, value)

    def get_run_config_entry(self, key: str) -> str:
        """The value of an entry; Fail (a RuntimeError) where it was not set."""
        return self._get_entry(key)

    def add_active_adapter(self, adapter: Any) -> None:
        """Not supported: raises NotImplemented."""
        raise NotImplementedHere("LoRA adapters are not supported; merge the adapter into the model's weights before converting it")
