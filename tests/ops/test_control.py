"""If, Loop, Scan, SequenceMap, sequences and optionals: corner cases against onnxruntime or by hand, and the soundness of their shape rules."""
from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime
import pytest
from sardonyx.converter.onnx import load_model
from sardonyx.dim import Expr
from sardonyx.errors import InvalidGraph, RuntimeException, Terminated
from sardonyx.graph import Model
from sardonyx.plan.shapes import infer_shapes
from sardonyx.providers.base import RunContext
from sardonyx.providers.reference import ReferenceProvider
from sardonyx.types import DType, OptionalType, SequenceType, TensorType

onnxruntime.set_default_logger_severity(4)
F = np.float32


def parse(graph: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{graph}')


def inferred(graph: str) -> Model:
    model = load_model(parse(graph))
    infer_shapes(model)
    return model


def shapes(graph: str) -> list[Any]:
    return [v.shape for v in inferred(graph).graph.outputs]


def run(graph: str, *feeds: Any, context: RunContext | None = None) -> list[Any]:
    model = inferred(graph)
    return ReferenceProvider().compile(model, {}).run(list(feeds), range(len(model.graph.outputs)), context or RunContext())


def same_as_onnxruntime(graph: str, *feeds: np.ndarray) -> list[Any]:
    proto = parse(graph)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {i.name: np.asarray(x) for i, x in zip(proto.graph.input, feeds, strict=True)})
    made = run(graph, *feeds)
    for a, b in zip(made, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-6)
    return made


SUM = """
g (int64 m, bool c, float[2] x) => (float[2] last, float[k, 2] all) {
  last, all = Loop (m, c, x) <body = b (int64 i, bool go, float[2] s) => (bool go2, float[2] t, float[2] u) {
    f = Cast <to = 1> (i)
    t = Add (s, f)
    u = Mul (t, x)
    ten = Constant <value_float = 10.0> ()
    top = ReduceMax <keepdims = 0> (t)
    go2 = Less (top, ten)
  }>
}"""


@pytest.mark.parametrize(("m", "c"), [(0, True), (-3, True), (4, True), (4, False), (100, True), (1, True)])
def test_loop_counts_and_stops(m: int, c: bool) -> None:
    _, scanned = same_as_onnxruntime(SUM, np.array(m), np.array(c), np.array([1, 2], F))
    assert scanned.shape[1:] == (2,) and len(scanned) == {(0, True): 0, (-3, True): 0, (4, True): 4, (4, False): 0, (100, True): 5, (1, True): 1}[m, c]


def test_loop_without_condition_ignores_the_body_s() -> None:
    made, = run("""g (int64 m, float x) => (float y) {
      y = Loop (m, , x) <body = b (int64 i, bool go, float s) => (bool no, float t) { one = Constant <value_float = 1.0> () t = Add (s, one) no = Not (go) }>
    }""", np.array(5), F(0))
    assert made == 5


def test_loop_without_trip_count() -> None:
    made, = same_as_onnxruntime("""g (bool c, float x) => (float y) {
      y = Loop (, c, x) <body = b (int64 i, bool go, float s) => (bool go2, float t) { t = Add (s, s) h = Constant <value_float = 100.0> () go2 = Less (t, h) }>
    }""", np.array(True), F(1))
    assert made == 128


def test_endless_loop_can_be_stopped() -> None:
    calls = count()
    graph = """g (float x) => (float y) { y = Loop (, , x) <body = b (int64 i, bool go, float s) => (bool go2, float t) { t = Identity (s) go2 = Identity (go) }> }"""
    with pytest.raises(Terminated):
        run(graph, F(1), context=RunContext(terminated=lambda: next(calls) > 50))


def test_nested_control_flow_sees_all_enclosing_values() -> None:
    same_as_onnxruntime("""g (int64 m, float[3] x, float y) => (float[3] r, float[k, j, 3] rows) {
      c = Constant <value = bool {1}> ()
      r, rows = Loop (m, c, x) <body = outer (int64 i, bool go, float[3] s) => (bool go2, float[3] t, float[j, 3] inner) {
        two = Constant <value = int64 {2}> ()
        odd = Mod (i, two)
        flag = Cast <to = 9> (odd)
        step = If (flag) <then_branch = a () => (float[3] p) { p = Mul (s, y) }, else_branch = e () => (float[3] q) { q = Sub (s, x) }>
        t, inner = Loop (two, go, step) <body = deep (int64 k, bool g1, float[3] z) => (bool g2, float[3] w, float[3] v) {
          fi = Cast <to = 1> (i)
          w0 = Add (z, fi)
          w = Add (w0, x)
          v = Mul (w, y)
          g2 = Identity (g1)
        }>
        go2 = Identity (go)
      }>
    }""", np.array(4), np.array([1, -2, 3], F), F(0.5))


def test_loop_carries_sequences_and_optionals() -> None:
    model = inferred(GROW)
    assert model.graph.outputs[0].type == SequenceType(TensorType(DType.FLOAT, (2,)))
    made, = ReferenceProvider().compile(model, {}).run([np.array(3), np.array([1, 2], F)], [0], RunContext())
    np.testing.assert_array_equal(made, [[1, 2], [1, 2], [2, 4], [3, 6]])


GROW = """g (int64 m, float[2] x) => (seq(float[]) out) {
  start = SequenceConstruct (x)
  c = Constant <value = bool {1}> ()
  out, last = Loop (m, c, start, x) <body = b (int64 i, bool go, seq(float[]) s, float[2] a) => (bool go2, seq(float[]) t, float[2] n) {
    t = SequenceInsert (s, a)
    n = Add (a, x)
    go2 = Identity (go)
  }>
}"""


# -- shape rules of Loop -----------------------------------------------------------------------------------------------------------------------

def growing(init: str, step: str, extra: str = "") -> str:
    return f"""g (int64 m, float[{init}] x{extra}) => (float[] r, float[] all) {{
      c = Constant <value = bool {{1}}> ()
      r, all = Loop (m, c, x) <body = b (int64 i, bool go, float[] s) => (bool go2, float[] t, float[] u) {{ {step} go2 = Identity (go) }}>
    }}"""


def loop_shapes(graph: str) -> tuple[list[Any], Any]:
    model = inferred(graph)
    loop = next(n for n in model.graph.nodes if n.op_type == "Loop")
    return [v.shape for v in model.graph.outputs], loop.attributes["body"]


def test_a_size_that_changes_is_unknown_everywhere() -> None:
    (final, scanned), body = loop_shapes(growing("1, n", "t = Concat <axis = 0> (s, x) u = Identity (s)"))
    assert isinstance(final[0], Expr) and str(final[1]) == "n"
    assert isinstance(body.inputs[2].shape[0], Expr) and body.inputs[2].shape[0] != final[0]  # the size within an iteration is not the final one
    assert str(body.outputs[1].shape[0] - body.inputs[2].shape[0]) == "1"
    assert scanned[1] not in (body.inputs[2].shape[0], final[0]) and str(scanned[2]).startswith("?")  # n, or 0 where there is no round


def test_types_of_an_early_round_do_not_survive() -> None:
    # In the first round the inner node makes [4]; were that kept as its declared type, the final inference would say so.
    _, body = loop_shapes(growing("4", "d = Concat <axis = 0> (s, s) t = Abs (d) u = Neg (s)"))
    assert not any(isinstance(d, int) for n in body.nodes for v in n.outputs if v.dtype is DType.FLOAT for d in v.shape)


def test_a_rank_that_changes_is_unknown() -> None:
    (final, scanned), body = loop_shapes(growing("2", "a = Constant <value_ints = [0]> () t = Unsqueeze (s, a) u = Identity (x)"))
    assert final is None and body.inputs[2].shape is None and scanned[1] == 2


def test_sizes_that_stay_are_known() -> None:
    (final, scanned), _ = loop_shapes(growing("n, 3", "t = Neg (s) u = ReduceSum <keepdims = 0> (s)"))
    assert [str(d) for d in final] == ["n", "3"] and len(scanned) == 1


def test_exchanged_sizes_become_unknown() -> None:
    (final, _), _ = loop_shapes(growing("2, 3", "t = Transpose (s) u = Identity (x)"))
    assert all(isinstance(d, Expr) for d in final) and final[0] != final[1]


def test_trip_count_is_the_size_of_the_scan() -> None:
    graph = """g (float[n, 2] x) => (float[k, 2] y) {
      zero = Constant <value_int = 0> ()
      shape = Shape (x)
      m = Gather (shape, zero)
      c = Constant <value = bool {1}> ()
      y = Loop (m, c) <body = b (int64 i, bool go) => (bool go2, float[2] row) { row = Gather (x, i) go2 = Constant <value = bool {1}> () }>
    }"""
    assert [str(d) for d in shapes(graph)[0]] == ["n", "2"]
    stops = graph.replace("go2 = Constant <value = bool {1}> ()", "f = ReduceMax <keepdims = 0> (row) go2 = Cast <to = 9> (f)")
    assert "n" not in [str(d) for d in shapes(stops)[0]]


def test_zero_iterations_give_the_inferred_shape() -> None:
    made, = run("""g (int64 m, float[3] x) => (float[k, 1, 3] y) {
      c = Constant <value = bool {1}> ()
      y = Loop (m, c) <body = b (int64 i, bool go) => (bool go2, float[] row) { a = Constant <value_ints = [0]> () row = Unsqueeze (x, a) go2 = Identity (go) }>
    }""", np.array(0), np.zeros(3, F))
    assert made.shape == (0, 1, 3) and made.dtype == F


def test_a_body_that_does_not_fit_is_an_invalid_graph() -> None:
    with pytest.raises(InvalidGraph, match="carried"):
        inferred("g (int64 m, float x) => (float y) { y = Loop (m, , x) <body = b (int64 i, bool go) => (bool go2) { go2 = Identity (go) }> }")
    with pytest.raises(InvalidGraph, match="differ"):
        inferred("""g (int64 m, float x) => (float y) {
          y = Loop (m, , x) <body = b (int64 i, bool go, float s) => (bool go2, int64 t) { t = Identity (i) go2 = Identity (go) }> }""")


def test_scan_output_that_changes_its_shape_is_an_error() -> None:
    with pytest.raises(RuntimeException, match="changes its shape"):
        run(growing("1", "t = Concat <axis = 0> (s, x) u = Identity (s)"), np.array(3), np.ones(1, F))


# -- If ----------------------------------------------------------------------------------------------------------------------------------------

def branches(then: str, other: str, cond: str = "bool c, ", make: str = "") -> str:
    return f"""g ({cond}float[2, n] x, float[5, n] y) => (float[] r) {{
      {make}
      r = If (c) <then_branch = a () => (float[] p) {{ {then} }}, else_branch = e () => (float[] q) {{ {other} }}>
    }}"""


def if_shape(graph: str) -> Any:
    return inferred(graph).graph.outputs[0].shape


def test_if_keeps_what_both_branches_agree_on() -> None:
    shape = if_shape(branches("p = Neg (x)", "q = Neg (y)"))
    assert isinstance(shape[0], Expr) and str(shape[1]) == "n"
    assert if_shape(branches("p = Neg (x)", "q = ReduceSum <keepdims = 0> (y)")) is None


def test_if_does_not_equate_sizes_made_in_its_branches() -> None:
    # Both branches call the value `z`, so the sizes they make have equal names; nothing says that they are equal.
    model = inferred(branches("z = NonZero (x) p = Cast <to = 1> (z)", "z = NonZero (y) q = Cast <to = 1> (z)"))
    shape, branch = model.graph.outputs[0].shape, model.graph.nodes[-1].attributes["then_branch"]
    assert shape[0] == 2 and isinstance(shape[1], Expr) and shape[1] != branch.outputs[0].shape[1]


def test_if_of_a_known_condition_is_its_branch() -> None:
    constant = "c = Constant <value = bool {1}> ()"
    assert str(if_shape(branches("p = Neg (x)", "q = Neg (y)", "", constant))[0]) == "2"
    wrong = "q = Add (x, y)"  # 2 and 5 rows do not broadcast; it never runs
    assert str(if_shape(branches("p = Neg (x)", wrong, "", constant))[0]) == "2"
    with pytest.raises(InvalidGraph):
        if_shape(branches("p = Neg (x)", wrong))


def test_if_refuses_different_element_types() -> None:
    with pytest.raises(InvalidGraph, match="differ"):
        inferred("g (bool c, float x) => (float r) { r = If (c) <then_branch = a () => (float p) { p = Neg (x) }, else_branch = e () => (bool q) { q = Not (c) }> }")


def test_if_runs_one_branch() -> None:
    graph = """g (bool[1] c, float[2] x) => (float[2] r) {
      r = If (c) <then_branch = a () => (float[2] p) { p = Neg (x) }, else_branch = e () => (float[2] q) { q = Identity (x) }>
    }"""
    for c in (True, False):
        same_as_onnxruntime(graph, np.array([c]), np.array([1, 2], F))


# -- Scan --------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(12))
def test_scan_axes_and_directions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps, axis_a, axis_b, out = int(rng.integers(1, 5)), int(rng.integers(-3, 3)), int(rng.integers(-2, 2)), [int(v) for v in rng.integers(-3, 3, 2)]
    a, b = np.moveaxis(rng.standard_normal((steps, 2, 3)).astype(F), 0, axis_a), np.moveaxis(rng.standard_normal((steps, 3)).astype(F), 0, axis_b)
    flags = [int(v) for v in rng.integers(0, 2, 4)]
    graph = f"""g (float[2, 3] s, float[{','.join(map(str, a.shape))}] a, float[{','.join(map(str, b.shape))}] b) => (float[2, 3] t, float[p, q, r] u, float[o, v, w] z) {{
      t, u, z = Scan <num_scan_inputs = 2, scan_input_axes = [{axis_a}, {axis_b}], scan_input_directions = [{flags[0]}, {flags[1]}],
                      scan_output_axes = [{out[0]}, {out[1]}], scan_output_directions = [{flags[2]}, {flags[3]}],
                      body = body (float[2, 3] si, float[2, 3] ai, float[3] bi) => (float[2, 3] so, float[2, 3] e, float[2, 3] f) {{
        h = Mul (si, bi)
        so = Add (h, ai)
        e = Neg (so)
        f = Mul (ai, bi)
      }}> (s, a, b)
    }}"""
    made = same_as_onnxruntime(graph, rng.standard_normal((2, 3)).astype(F), a, b)
    assert [tuple(s) for s in shapes(graph)] == [v.shape for v in made]


def test_scan_of_no_steps_and_of_different_lengths() -> None:
    graph = """g (float[2] s, float[n, 2] a, float[k, 2] b) => (float[2] t, float[n, 2] u) {
      t, u = Scan <num_scan_inputs = 2, body = body (float[2] si, float[2] ai, float[2] bi) => (float[2] so, float[2] e) { so = Add (si, ai) e = Add (so, bi) }> (s, a, b)
    }"""
    t, u = run(graph, np.ones(2, F), np.ones((0, 2), F), np.ones((0, 2), F))
    assert t.tolist() == [1, 1] and u.shape == (0, 2) and u.dtype == F
    with pytest.raises(RuntimeException, match="different lengths"):
        run(graph, np.ones(2, F), np.ones((3, 2), F), np.ones((2, 2), F))


# -- sequences and optionals -------------------------------------------------------------------------------------------------------------------

def test_split_to_sequence_forms() -> None:
    x = np.arange(14, dtype=F).reshape(7, 2)
    graph = "g (float[7, 2] x, int64{0} s) => (seq(float[]) y) {{ y = SplitToSequence <axis = {1}, keepdims = {2}> (x{3}) }}"
    cases: list[tuple[str, int, int, str, Any, list[tuple[int, ...]], tuple[Any, ...]]] = [
        ("", 0, 1, ", s", np.array(3), [(3, 2), (3, 2), (1, 2)], (None, 2)), ("[2]", 0, 0, ", s", np.array([6, 1]), [(6, 2), (1, 2)], (None, 2)),
        ("", 1, 1, "", np.array(0), [(7, 1)] * 2, (7, 1)), ("", -1, 0, "", np.array(0), [(7,)] * 2, (7,)),
    ]
    for kind, axis, keep, use, s, expected, element in cases:
        text = graph.format(kind, axis, keep, use)
        made, = run(text, x, s)
        assert [p.shape for p in made] == expected
        known = inferred(text).graph.outputs[0].type.element.shape
        assert len(known) == len(element) and all(e is None or e == k for e, k in zip(element, known, strict=True))
    with pytest.raises(RuntimeException, match="sum to 7"):
        run(graph.format("[2]", 0, 1, ", s"), x, np.array([3, 3]))


def test_elements_without_a_common_size_stay_different() -> None:
    first, second, joined = shapes("""g (float[7, 2] x, int64[2] s) => (float[] p, float[] q, float[] r) {
      y = SplitToSequence (x, s)
      zero = Constant <value_int = 0> ()
      one = Constant <value_int = 1> ()
      p = SequenceAt (y, zero)
      q = SequenceAt (y, one)
      r = ConcatFromSequence <axis = 0> (y)
    }""")
    assert first[1] == second[1] == joined[1] == 2 and len({str(first[0]), str(second[0]), str(joined[0])}) == 3


def test_positions_in_sequences() -> None:
    graph = """g (int64 p) => (seq(float[]) y, seq(float[]) z, float w) {
      a = Constant <value_float = 1.0> ()
      b = Constant <value_float = 2.0> ()
      s = SequenceConstruct (a, b)
      y = SequenceInsert (s, a, p)
      z = SequenceErase (s, p)
      w = SequenceAt (s, p)
    }"""
    assert [list(map(float, v)) if isinstance(v, list) else float(v) for v in run(graph, np.array(-1))] == [[1, 1, 2], [1], 2]
    assert [list(map(float, v)) if isinstance(v, list) else float(v) for v in run(graph, np.array(0))] == [[1, 1, 2], [2], 1]
    for wrong in (2, -3):
        with pytest.raises(RuntimeException, match="out of range"):
            run(graph, np.array(wrong))


def test_sequence_map_over_nothing_and_over_two_sequences() -> None:
    graph = """g (float[n, 2] x, float[2] y) => (seq(float[]) a, seq(int64[]) b) {{
      s = SplitToSequence <keepdims = 0> (x)
      a, b = SequenceMap (s, {0}) <body = m (float[2] u, float[2] v) => (float[2] w, int64[1] h) {{ w = Add (u, v) h = Shape (w) }}>
    }}"""
    x = np.arange(6, dtype=F).reshape(3, 2)
    for other, expected in (("s", 2 * x), ("y", x + 1)):
        a, b = run(graph.format(other), x, np.ones(2, F))
        np.testing.assert_array_equal(a, expected)
        assert len(b) == 3
    assert run(graph.format("s"), x[:0], np.ones(2, F)) == [[], []]


def test_optionals() -> None:
    graph = """g (float[2] x) => (bool has, bool hasnt, float[2] y) {
      some = Optional (x)
      none = Optional <type = float[2]> ()
      has = OptionalHasElement (some)
      hasnt = OptionalHasElement (none)
      y = OptionalGetElement (some)
    }"""
    has, hasnt, y = run(graph, np.ones(2, F))
    assert has and not hasnt and y.tolist() == [1, 1]
    model = inferred(graph)
    assert model.graph.nodes[0].outputs[0].type == OptionalType(TensorType(DType.FLOAT, (2,)))
    with pytest.raises(RuntimeException, match="empty"):
        run("g (float x) => (float y) { none = Optional <type = float> () y = OptionalGetElement (none) }", F(1))
