"""Which constants are packed, and how. The rule, in full (see packing.py for the arrangements):

1. A use has a *role* where it is the constant right-hand side of a product: MatMul and FusedMatMul B of rank 2, Gemm and QGemm B (transposed or not),
   MatMulInteger, QLinearMatMul, DynamicQuantizeMatMul and MatMulIntegerToFloat B, the weights of Conv, FusedConv, ConvInteger and QLinearConv,
   MatMulNBits' B (4 and 8 bits) and scales. A use by DequantizeLinear has the role its result has in every use.
2. Gather on axis 0 reads packed tables too, so it neither asks for a packing nor forbids one. Every other use forbids it: so does being a graph's
   input or output, a batched matrix, an element type other than f32, f16, bf16, int8, uint8, and a uniform tensor (it is one element in the file).
3. A constant is a candidate where its uses (those of all constants of equal content together) agree on one role.
4. Padding must not blow the file up: candidates are taken in order of how many bytes they grow by, while the sum stays below 1/128 of all
   plain bytes + 32 KiB. What is left out stays plain and is packed when a session opens.
5. A table that only Gather reads and that is the transpose of a packed matrix (tied embeddings, transposed by an exporter) shares its bytes.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..graph import Graph, Node, Value
from ..types import DType
from .packing import Packing, packed_nbytes, problem


@dataclass(frozen=True, slots=True)
class Role:
    """A packing and its parameter."""

    packing: Packing
    group: int = 1


#: What a use says that neither asks nor forbids.
NEUTRAL = Role(Packing.NONE)

PACKED_TYPES = (DType.FLOAT, DType.FLOAT16, DType.BFLOAT16, DType.INT8, DType.UINT8)


def _integer(node: Node, attribute: str, default: int) -> int:
    """The attribute; 0 where it is not an integer (an invalid node: nothing fits it)."""
    value = node.attributes.get(attribute, default)
    return value if isinstance(value, int) else 0


def _transposed(attribute: str) -> Callable[[Node], Role]:
    return lambda node: Role(Packing.MATRIX_T if _integer(node, attribute, 0) else Packing.MATRIX)


def _matrix(node: Node) -> Role:
    return Role(Packing.MATRIX)


def _convolution(node: Node) -> Role:
    return Role(Packing.CONV, _integer(node, "group", 1))


def _table(node: Node) -> Role | None:
    return NEUTRAL if _integer(node, "axis", 0) == 0 else None


def _blocks(node: Node) -> Role | None:
    return {4: Role(Packing.NIBBLES), 8: Role(Packing.MATRIX_T)}.get(_integer(node, "bits", 4))


def _scales(node: Node) -> Role | None:
    return Role(Packing.SCALES, _integer(node, "N", 0)) if _blocks(node) else None


#: (domain, operator, input index) → the use's role.
_ROLES: dict[tuple[str, str, int], Callable[[Node], Role | None]] = {
    ("", "MatMul", 1): _matrix,
    ("", "Gemm", 1): _transposed("transB"),
    ("", "MatMulInteger", 1): _matrix,
    ("", "QLinearMatMul", 3): _matrix,
    ("", "Conv", 1): _convolution,
    ("", "ConvInteger", 1): _convolution,
    ("", "QLinearConv", 3): _convolution,
    ("", "Gather", 0): _table,
    ("com.microsoft", "FusedMatMul", 1): _transposed("transB"),
    ("com.microsoft", "QGemm", 3): _transposed("transB"),
    ("com.microsoft", "DynamicQuantizeMatMul", 1): _matrix,
    ("com.microsoft", "MatMulIntegerToFloat", 1): _matrix,
    ("com.microsoft", "FusedConv", 1): _convolution,
    ("com.microsoft", "MatMulNBits", 1): _blocks,
    ("com.microsoft", "MatMulNBits", 2): _scales,
}


def role_of_use(node: Node, index: int, outputs: set[Value]) -> Role | None:
    """The role of one use; None forbids packing. `outputs`: values that are outputs of some graph."""
    if node.op_type == "DequantizeLinear" and not node.domain and index == 0:
        result = node.outputs[0]
        return None if result is None or result in outputs else agreed(_direct_role(n, i) for n, i in result.uses)
    return _direct_role(node, index)


def _direct_role(node: Node, index: int) -> Role | None:
    rule = _ROLES.get((node.domain, node.op_type, index))
    return None if rule is None else rule(node)


def agreed(roles: Iterable[Role | None]) -> Role | None:
    """The one role all have (NEUTRAL aside); None where they differ, one forbids, or there is none."""
    found = set(roles)
    asked = found - {NEUTRAL}
    return asked.pop() if len(asked) == 1 else NEUTRAL if found == {NEUTRAL} else None


def fitted(role: Role | None, dtype: DType, shape: tuple[int, ...]) -> Role | None:
    """The role where a tensor of this dtype and shape can lie so, DEPTHWISE for convolutions with one channel a group; else None."""
    if role is None or role == NEUTRAL or dtype not in PACKED_TYPES:
        return None
    if role.packing is Packing.CONV and role.group > 1 and len(shape) >= 3 and shape[1] == 1:
        role = Role(Packing.DEPTHWISE)
    return None if problem(role.packing, dtype.bits // 8, shape, role.group) else role


def affordable(growths: dict[int, int], plain_bytes: int) -> set[int]:
    """Rule 4: the keys of {key: growth in bytes} that are packed."""
    allowance = plain_bytes // 128 + (32 << 10)
    taken: set[int] = set()
    for key in sorted(growths, key=lambda k: (growths[k], k)):
        allowance -= growths[key]
        if allowance < 0:
            break
        taken.add(key)
    return taken


def growth(role: Role, dtype: DType, shape: tuple[int, ...], plain_bytes: int) -> int:
    """How many bytes more the packed form takes."""
    return packed_nbytes(role.packing, dtype.bits // 8, shape, role.group) - plain_bytes


def graph_outputs(graph: Graph) -> set[Value]:
    """The values that are outputs of this graph or one nested in it."""
    return {v for g in graph.graphs() for v in g.outputs}
