"""IOBinding: inputs and outputs bound to the caller's memory before a run."""
from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Fail, InvalidArgument
from ..types import DType, TensorType
from .devices import keeper, require_host
from .exceptions import InvalidType
from .values import OrtValue, OrtValueVector, element_dtype, wrap

if TYPE_CHECKING:
    from .session import InferenceSession


class IOBinding:
    """Made by `session.io_binding()`. Bound outputs are written in place; the others are allocated by the run."""

    def __init__(self, session: InferenceSession) -> None:
        self._session = session
        self._inputs: dict[str, Any] = {}
        self._targets: dict[str, OrtValue | None] = {}
        self._results: dict[str, OrtValue] = {}
        self._stays: set[str] = set()   # outputs bound to a device

    # -- binding -----------------------------------------------------------------------------------------------------------------------------
    def bind_cpu_input(self, name: str, arr_on_cpu: np.ndarray) -> None:
        """Feed an array (not copied: what it holds when the run begins counts)."""
        if not isinstance(arr_on_cpu, (np.ndarray, list, dict)):
            raise InvalidType(f"Unable to create OrtValue from the given python object: {type(arr_on_cpu).__name__}; give a numpy array")
        self._inputs[self._input(name)] = arr_on_cpu

    def bind_input(self, name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int], buffer_ptr: int) -> None:
        """Feed the memory at an address. It must stay valid until the run is over."""
        require_host(device_type)
        self._inputs[self._input(name)] = _at_address(element_type, shape, buffer_ptr)

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        """Feed an OrtValue."""
        if not isinstance(ortvalue, OrtValue):
            raise InvalidType(f"bind_ortvalue_input takes an OrtValue, not {type(ortvalue).__name__}")
        self._inputs[self._input(name)] = ortvalue

    def bind_output(self, name: str, device_type: str = "cpu", device_id: int = 0, element_type: Any = None, shape: Sequence[int] | None = None,
                    buffer_ptr: int | None = None) -> None:
        """Ask for an output, newly allocated, or written to the memory at an address. `device_type="webgpu"`: it stays on the GPU (float32, int32, uint32), for a session that runs there."""
        target = None
        if buffer_ptr is not None:
            require_host(device_type)
            if element_type is None or shape is None:
                raise InvalidArgument("`element_type` and `shape` are to be provided if pre-allocated memory is provided")
            array = _at_address(element_type, shape, buffer_ptr)
            target = OrtValue._of(array, TensorType(DType.of(array), array.shape))
        output = self._output(name)
        self._stays.discard(output)
        if keeper(device_type) is not None:
            self._stays.add(output)
        self._targets[output] = target

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        """Ask for an output, written into the OrtValue."""
        if not isinstance(ortvalue, OrtValue):
            raise InvalidType(f"bind_ortvalue_output takes an OrtValue, not {type(ortvalue).__name__}")
        output = self._output(name)
        self._stays.discard(output)
        if ortvalue._on_device():
            self._stays.add(output)
        self._targets[output] = ortvalue

    def clear_binding_inputs(self) -> None:
        """Forget the bound inputs."""
        self._inputs.clear()

    def clear_binding_outputs(self) -> None:
        """Forget the bound outputs and the results."""
        self._targets.clear()
        self._results.clear()
        self._stays.clear()

    def synchronize_inputs(self) -> None:
        """Nothing to wait for: uploads, runs and copies are in order."""

    def synchronize_outputs(self) -> None:
        """Nothing to wait for: uploads, runs and copies are in order."""

    # -- results -------------------------------------------------------------------------------------------------------------------------------
    def get_outputs(self) -> list[OrtValue]:
        """The outputs of the last run, in the order they were bound."""
        return [self._results[name] for name in self._targets if name in self._results]

    def get_outputs_as_ortvaluevector(self) -> OrtValueVector:
        """As `get_outputs`."""
        return OrtValueVector(self.get_outputs())

    def copy_outputs_to_cpu(self) -> list[Any]:
        """The outputs of the last run as arrays of their own (lists and dicts where they are sequences and maps)."""
        return [value.numpy().copy() if value.is_tensor() else value._data for value in self.get_outputs()]

    @property
    def _iobinding(self) -> IOBinding:
        return self

    # -- used by the session --------------------------------------------------------------------------------------------------------------------
    def _wanted(self) -> list[str]:
        if not self._targets:
            raise Fail("At least one output should be requested: call bind_output(name) first")
        return list(self._targets)

    def _memory(self, device: bool) -> list[Any]:
        """The memory bound for each output, in order; None where the run is to make some. `device`: whether tensors on one are given, too."""
        return [None if target is None or not target.is_tensor() else (target._data if device else None) if target._on_device() else target._array() for target in self._targets.values()]

    def _staying(self) -> frozenset[int]:
        """Positions of the outputs that are to stay on a device."""
        return frozenset(i for i, name in enumerate(self._targets) if name in self._stays)

    def _store(self, values: Sequence[Any]) -> None:
        """Take the results of a run; bound ones are checked before any is written."""
        pairs = list(zip(self._targets.items(), values, strict=True))
        for (name, target), value in pairs:
            if name in self._stays and not getattr(value, "on_device", False):
                raise Fail(f"output '{name}' can not stay on the device: it is {_described(value)}, made by a session on {', '.join(self._session.get_providers())}. Float, int32 and uint32 "
                           "tensors that a WebGpuExecutionProvider's program makes can; bind this one to 'cpu'")
            if target is not None:
                _check_fits(name, target, value)
        for (name, target), value in pairs:
            if target is None:
                self._results[name] = wrap(value, self._session._output_types[name])
                continue
            if target._on_device():
                target._data = value
            elif target.is_tensor():
                if value is not target._array():  # else the run wrote there
                    np.copyto(target._array(), value)
            else:
                target._data = value
            self._results[name] = target

    def _input(self, name: str) -> str:
        return self._known(name, self._session._input_names(), "input")

    def _output(self, name: str) -> str:
        return self._known(name, list(self._session._output_types), "output")

    def _known(self, name: str, names: Sequence[str], what: str) -> str:
        if name not in names:
            raise InvalidArgument(f"Failed to find NodeArg with name: {name} in the def list; the model's {what}s are {', '.join(names)}")
        return name


def _at_address(element_type: Any, shape: Sequence[int], address: int) -> np.ndarray:
    """The memory at an address as an array."""
    dtype = element_dtype(element_type)
    if dtype is DType.STRING:
        raise Fail("strings have no memory that could be bound; use bind_ortvalue_input and bind_ortvalue_output")
    sizes = [int(d) for d in shape]
    if any(d < 0 for d in sizes) or not isinstance(address, int) or address <= 0:
        raise InvalidArgument(f"shape {sizes} at address {address!r} is not memory that could be bound")
    count = int(np.prod(sizes, dtype=np.int64)) * dtype.numpy.itemsize
    if count == 0:
        return np.empty(sizes, dtype.numpy)
    return np.frombuffer(memoryview((ctypes.c_char * count).from_address(address)), dtype.numpy).reshape(sizes)


def _described(value: Any) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _check_fits(name: str, target: OrtValue, value: Any) -> None:
    if target._on_device() and list(value.shape) == target.shape() and value.dtype == target._data.dtype:
        return
    if not target._on_device() and isinstance(value, np.ndarray) is not target.is_tensor():
        raise Fail(f"output '{name}' is a {type(value).__name__}; the OrtValue bound for it is a {target.data_type()}")
    if not target.is_tensor():
        return
    array = target._data
    if array.dtype != value.dtype:
        raise Fail(f"Unexpected output data type. Actual: (tensor({DType.of(array).text})) , expected: (tensor({DType.of(value).text})) for output '{name}'")
    if array.shape != value.shape:
        raise Fail(f"Got invalid dimensions for output: {name}: the run made {list(value.shape)}, the OrtValue bound for it has {list(array.shape)}")
