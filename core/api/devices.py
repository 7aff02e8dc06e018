"""Devices and memory as onnxruntime describes them. Tensors lie in the host's memory or, as OrtValues, on the GPU by WebGPU ("webgpu")."""
from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import Fail, InvalidArgument
from .enums import OrtAllocatorType, OrtDeviceMemoryType, OrtDeviceVendorId, OrtHardwareDeviceType, OrtMemoryInfoDeviceType, OrtMemType
from .providers import provider, reason_missing

#: device name → (device type, vendor); types: 0 CPU, 1 GPU, 2 FPGA, 3 NPU.
_DEVICES = {"cpu": (0, OrtDeviceVendorId.NONE), "cuda": (1, OrtDeviceVendorId.NVIDIA), "dml": (1, OrtDeviceVendorId.MICROSOFT), "webgpu": (1, OrtDeviceVendorId.NONE),
            "gpu": (1, OrtDeviceVendorId.NONE), "cann": (3, OrtDeviceVendorId.HUAWEI), "npu": (3, OrtDeviceVendorId.NONE)}


class OrtDevice:
    """A device: name, number, vendor."""

    __slots__ = ("name", "_id", "_type", "_vendor")

    def __init__(self, device: OrtDevice | str = "cpu", device_id: int = 0, vendor_id: int = -1) -> None:
        name: str = device.name if isinstance(device, OrtDevice) else device
        if name not in _DEVICES:
            raise InvalidArgument(f"Unsupported device type: {name}; known: {', '.join(_DEVICES)}")
        self.name: str = name
        self._type, vendor = _DEVICES[name]
        self._id: int = device._id if isinstance(device, OrtDevice) else int(device_id)
        self._vendor = int(vendor if vendor_id == -1 else vendor_id)

    @staticmethod
    def make(ort_device_name: str, device_id: int, vendor_id: int = -1) -> OrtDevice:
        """`OrtDevice.make("cpu", 0)`."""
        return OrtDevice(ort_device_name, device_id, vendor_id)

    def device_type(self) -> int:
        """0 CPU, 1 GPU, 2 FPGA, 3 NPU."""
        return self._type

    def device_id(self) -> int:
        """Which of several such devices; the CPU is always 0."""
        return 0 if self.name == "cpu" else self._id

    def device_mem_type(self) -> int:
        """0: the device's own memory."""
        return 0

    def device_vendor_id(self) -> int:
        """PCI vendor number, 0 where none applies."""
        return self._vendor

    def _get_c_device(self) -> OrtDevice:
        return self


#: device name → the provider that keeps tensors there.
_KEEPERS = {"webgpu": "WebGpuExecutionProvider"}


def require_host(device: OrtDevice | str) -> None:
    """Fail (a RuntimeError) unless the device is the CPU; InvalidArgument where there is no such device."""
    name = OrtDevice(device).name
    if name != "cpu":
        raise Fail(f"memory of device '{name}' can not be used here: use device_type='cpu'{_hint(name)}")


def _hint(name: str) -> str:
    return " or, for an OrtValue's own memory and an output without an address, 'webgpu'" if name == "webgpu" else ""


def keeper(device: OrtDevice | str) -> Any:
    """None for the CPU, else the provider that keeps tensors on the device (its `upload(array)` makes one). Fail where tensors can not be kept there."""
    name = OrtDevice(device).name
    if name == "cpu":
        return None
    if name not in _KEEPERS:
        raise Fail(f"memory of device '{name}' can not be used: tensors lie on 'cpu' or {', '.join(repr(k) for k in _KEEPERS)}")
    missing = reason_missing(_KEEPERS[name])
    if missing:
        raise Fail(f"memory of device '{name}' can not be used here: {missing}")
    return provider(_KEEPERS[name])


class OrtMemoryInfo:
    """Where memory is and how it is handed out."""

    def __init__(self, name: str, allocator_type: OrtAllocatorType, device_id: int, mem_type: OrtMemType) -> None:
        if name != "Cpu":
            raise Fail(f"memory called '{name}' is not supported; the host's memory is called 'Cpu'")
        self.name, self.allocator_type, self.device_id, self.mem_type = name, allocator_type, int(device_id), mem_type
        self.device_mem_type, self.device_vendor_id = OrtDeviceMemoryType.DEFAULT, 0

    @staticmethod
    def create_v2(name: str, device_type: OrtMemoryInfoDeviceType, vendor_id: int, device_id: int, mem_type: OrtDeviceMemoryType, alignment: int,
                  allocator_type: OrtAllocatorType) -> OrtMemoryInfo:
        """The longer form; only the CPU's memory exists here."""
        if device_type != OrtMemoryInfoDeviceType.CPU:
            raise Fail(f"memory of a {device_type} device can not be used in this version; use OrtMemoryInfoDeviceType.CPU")
        info = OrtMemoryInfo("Cpu", allocator_type, device_id, OrtMemType.DEFAULT)
        info.name, info.device_mem_type, info.device_vendor_id = name, mem_type, int(vendor_id)
        return info


def host_memory() -> OrtMemoryInfo:
    """The description of the memory every input and output uses."""
    return OrtMemoryInfo("Cpu", OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, OrtMemType.DEFAULT)


class OrtArenaCfg:
    """Settings of an arena, accepted without effect. OrtArenaCfg(max_mem, extend strategy, initial chunk, max dead bytes) or OrtArenaCfg({name: value})."""

    _NAMES = ("max_mem", "arena_extend_strategy", "initial_chunk_size_bytes", "max_dead_bytes_per_chunk", "initial_growth_chunk_size_bytes", "max_power_of_two_extend_bytes")

    def __init__(self, *settings: Any) -> None:
        given = settings[0] if len(settings) == 1 and isinstance(settings[0], Mapping) else dict(zip(self._NAMES, settings, strict=False))
        for name in given:
            if name not in self._NAMES:
                raise Fail(f"Invalid OrtArenaCfg option: {name}; known: {', '.join(self._NAMES)}")
        for name in self._NAMES:
            setattr(self, name, int(given.get(name, 0 if name == "max_mem" else -1)))


@dataclass(frozen=True)
class OrtHardwareDevice:
    """A piece of hardware."""

    type: OrtHardwareDeviceType
    vendor: str
    vendor_id: int = 0
    device_id: int = 0
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OrtEpDevice:
    """A piece of hardware an execution provider can use."""

    ep_name: str
    ep_vendor: str
    device: OrtHardwareDevice
    ep_metadata: dict[str, str] = field(default_factory=dict)
    ep_options: dict[str, str] = field(default_factory=dict)

    def memory_info(self, kind: OrtDeviceMemoryType) -> OrtMemoryInfo:
        """The device's memory."""
        return host_memory()


def get_ep_devices() -> list[OrtEpDevice]:
    """The devices providers of this version can use: the CPU."""
    return [OrtEpDevice("CPUExecutionProvider", "sardonyx", OrtHardwareDevice(OrtHardwareDeviceType.CPU, platform.machine()))]
