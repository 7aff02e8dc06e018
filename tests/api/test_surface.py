"""The public surface beside onnxruntime's: every name is here or listed in COMPATIBILITY.md."""
from __future__ import annotations

import inspect
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import sardonyx
from sardonyx.api import compat

from tests.patience import least

TEXT = (Path(sardonyx.__file__).parent / "api" / "COMPATIBILITY.md").read_text()
LISTED = set(re.findall(r"`(?:onnxruntime\.)?([A-Za-z_.]+)`", TEXT))
CLASSES = ["SessionOptions", "RunOptions", "OrtValue", "OrtDevice", "OrtMemoryInfo", "SparseTensor", "IOBinding", "NodeArg", "ModelMetadata", "InferenceSession", "OrtArenaCfg",
           "OrtEpAssignedNode", "OrtEpAssignedSubgraph", "OrtEpDevice", "OrtHardwareDevice"]
ENUMS = ["GraphOptimizationLevel", "ExecutionMode", "ExecutionOrder", "OrtAllocatorType", "OrtMemType", "OrtDeviceMemoryType", "OrtMemoryInfoDeviceType", "OrtHardwareDeviceType",
         "OrtDeviceVendorId", "OrtSparseFormat", "OrtExecutionProviderDevicePolicy"]


def public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def test_every_public_name_is_here_or_listed() -> None:
    missing = {name for name in public(onnxruntime) if not hasattr(sardonyx, name)}
    submodules = {"quantization", "transformers", "training", "tools", "backend", "datasets"}  # attributes once another test imported them
    assert missing <= LISTED | submodules
    assert missing - submodules - {"contextlib"} == set(compat.ABSENT) | set(compat.ONLY_AS_ONNXRUNTIME)


@pytest.mark.parametrize("name", CLASSES)
def test_every_method_is_here(name: str) -> None:
    # instances, because onnxruntime's fields of NodeArg and the like are properties and ours are set when one is made
    ours = public(getattr(sardonyx, name)) | set(getattr(getattr(sardonyx, name), "__dataclass_fields__", ()))
    assert public(getattr(onnxruntime, name)) - ours <= INSTANCE_FIELDS.get(name, set())


#: Fields that only instances have; `test_devices_and_memory` and others read them. create_sync_stream: COMPATIBILITY.md, OrtSyncStream.
INSTANCE_FIELDS = {"OrtMemoryInfo": {"allocator_type", "device_id", "device_mem_type", "device_vendor_id", "mem_type", "name"}, "OrtEpAssignedSubgraph": {"ep_name"},
                   "OrtArenaCfg": set(sardonyx.OrtArenaCfg._NAMES), "OrtEpDevice": {"create_sync_stream"}}


@pytest.mark.parametrize("name", ENUMS)
def test_enumerations_are_equal(name: str) -> None:
    theirs, ours = getattr(onnxruntime, name), getattr(sardonyx, name)
    assert {k: int(v) for k, v in theirs.__members__.items()} == {k: int(v) for k, v in ours.__members__.items()}
    assert {str(v) for v in ours} == {f"{name}.{v.name}" for v in ours}


@pytest.mark.parametrize("name", ["SessionOptions", "RunOptions"])
def test_defaults_are_equal(name: str) -> None:
    theirs, ours = getattr(onnxruntime, name)(), getattr(sardonyx, name)()
    fields = [f for f in public(theirs) if not callable(getattr(theirs, f))]
    assert len(fields) > 4
    assert {f: str(getattr(ours, f)) for f in fields} == {f: str(getattr(theirs, f)) for f in fields}


def test_what_has_no_effect_exists() -> None:
    for name in LISTED:
        if "." in name and not name.startswith("session"):
            owner, _, member = name.partition(".")
            assert hasattr(getattr(sardonyx, owner), member), name


def test_exceptions_have_their_names() -> None:
    from onnxruntime.capi import onnxruntime_pybind11_state as state
    theirs = [n for n in dir(state) if inspect.isclass(getattr(state, n)) and issubclass(getattr(state, n), Exception)]
    assert len(theirs) >= 13
    for name in theirs:
        assert issubclass(getattr(sardonyx.capi.onnxruntime_pybind11_state, name), sardonyx.errors.SardonyxError)


def test_absent_names_say_why() -> None:
    with pytest.raises(AttributeError, match="LoRA adapters are not supported"):
        sardonyx.LoraAdapter  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        sardonyx.nonsense  # noqa: B018


def test_every_exported_name_resolves() -> None:
    for name in sardonyx.__all__:
        assert getattr(sardonyx, name) is not None
    assert set(sardonyx.__all__) <= set(dir(sardonyx))
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", sardonyx.__version__)


def test_import_costs_little() -> None:
    """In processor time, the least of a few processes each, taken in turns."""
    best = dict.fromkeys(("pass", "import numpy", "import sardonyx"), float("inf"))

    def ratio() -> float:
        for code in best:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            best[code] = min(best[code], after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        base, numpy, ours = best.values()
        return (ours - base) / (numpy - base)
    assert least(ratio, 1.5, tries=20) <= 1.5


def test_a_session_needs_no_onnx(tmp_path: Path) -> None:
    from . import models
    (tmp_path / "m.onnx").write_bytes(models.scaled())
    code = ("import sys, sardonyx, numpy\ns = sardonyx.InferenceSession('m.onnx', providers=['reference'])\nprint(s.run(None, {'x': numpy.ones(3, 'f4')})[0].tolist())\n"
            "assert not {'onnx', 'onnxruntime', 'ml_dtypes', 'google.protobuf'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[2.0, 2.0, 2.0]"
