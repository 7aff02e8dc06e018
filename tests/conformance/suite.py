"""The 2,033 backend cases of the pinned onnx package as plain data, collected once into `.cache` (collecting takes 6 s, loading 1 s)."""
from __future__ import annotations

import os
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "conformance"
KINDS = ("simple", "pytorch-operator", "pytorch-converted", "real")


@dataclass
class Case:
    """One case: a serialised ModelProto, (inputs, expected outputs) sets, tolerances, and the operators its graphs use."""

    name: str
    kind: str
    model: bytes
    sets: list[tuple[list[Any], list[Any]]]
    rtol: float
    atol: float
    operators: tuple[str, ...]


def load() -> list[Case]:
    """All cases, from the cache or collected anew."""
    import onnx
    path = CACHE / f"cases-{onnx.__version__}.pickle"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_bytes(pickle.dumps(collect(), protocol=5))
        partial.rename(path)
    found: list[Case] = pickle.loads(path.read_bytes())
    return found


def collect() -> list[Case]:
    """Ask onnx for its cases. NumPy is seeded first: some cases draw their inputs when collected."""
    from onnx.backend.test.case.node import collect_testcases
    from onnx.backend.test.loader import load_model_tests
    np.random.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        node_cases = collect_testcases(None)
    cases = [_case(c, "node", c.model, [([plain(v) for v in ins], [plain(v) for v in outs]) for ins, outs in c.data_sets]) for c in node_cases]
    for kind in KINDS:
        for found in sorted(load_model_tests(kind=kind), key=lambda c: c.name):
            model, sets = _light(found) if kind == "real" else _from_folder(Path(found.model_dir))
            cases.append(_case(found, kind, model, sets))
    return cases


def plain(value: Any) -> Any:
    """A test value as sardonyx passes it: strings as object arrays of str, TensorProto as array."""
    from onnx import TensorProto, numpy_helper
    if isinstance(value, TensorProto):
        value = numpy_helper.to_array(value)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if value is None or isinstance(value, dict):
        return value
    array = np.asarray(value)
    if array.dtype.kind in "SUO" and array.dtype.names is None:
        flat = [v.decode() if isinstance(v, bytes) else str(v) for v in array.ravel().tolist()]
        array = np.array(flat, object).reshape(array.shape)
    return array


def _case(found: Any, kind: str, model: Any, sets: list[tuple[list[Any], list[Any]]]) -> Case:
    return Case(found.name, kind, model.SerializeToString(), sets, found.rtol, found.atol, tuple(sorted(set(_operators(model.graph)))))


def _operators(graph: Any) -> list[str]:
    found = []
    for node in graph.node:
        found.append(node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}")
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _operators(attribute.g)
    return found


def _from_folder(folder: Path) -> tuple[Any, list[tuple[list[Any], list[Any]]]]:
    import onnx
    model = onnx.load(folder / "model.onnx")
    sets = []
    for data in sorted(folder.glob("test_data_set_*")):
        inputs = [_read(data / f"input_{i}.pb", model.graph.input[i].type) for i in range(len(list(data.glob("input_*.pb"))))]
        outputs = [_read(data / f"output_{i}.pb", model.graph.output[i].type) for i in range(len(list(data.glob("output_*.pb"))))]
        sets.append((inputs, outputs))
    return model, sets


def _read(path: Path, declared: Any) -> Any:
    import onnx
    from onnx import numpy_helper
    data = path.read_bytes()
    kind = declared.WhichOneof("value")
    if kind == "sequence_type":
        return plain(numpy_helper.to_list(onnx.SequenceProto.FromString(data)))
    if kind == "optional_type":
        return plain(numpy_helper.to_optional(onnx.OptionalProto.FromString(data)))
    return plain(onnx.TensorProto.FromString(data))


def _light(found: Any) -> tuple[Any, list[tuple[list[Any], list[Any]]]]:
    """A light_* model: onnx's runner feeds arange(n) / n and compares with the stored outputs."""
    import onnx
    path = Path(onnx.__file__).parent.parent / found.url
    model = onnx.load(path)
    constants = {t.name for t in model.graph.initializer}
    inputs = []
    for value in model.graph.input:
        if value.name not in constants:
            shape = tuple(d.dim_value if d.HasField("dim_value") else 1 for d in value.type.tensor_type.shape.dim)
            count = int(np.prod(shape))
            inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
    outputs = [plain(onnx.TensorProto.FromString(path.with_name(f"{path.stem}_output_{i}.pb").read_bytes())) for i in range(len(model.graph.output))]
    return model, [(inputs, outputs)]


def compare(case: Case, expected: list[Any], outputs: list[Any]) -> None:
    """Raise AssertionError unless the outputs match, by onnx's own comparison (plus None for an empty optional)."""
    from onnx.backend.test.runner import Runner
    assert len(outputs) == len(expected), f"{len(outputs)} outputs, expected {len(expected)}"
    for got, want in zip(outputs, expected, strict=True):
        if want is None or isinstance(want, dict):
            assert got == want, f"got {got}, expected {want}"
        else:
            Runner.assert_similar_outputs([want], [got], case.rtol, case.atol)
