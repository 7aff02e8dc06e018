"""Linear algebra: MatMul, Gemm, Einsum, Det. Half-precision floats accumulate in float32 and round once."""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dim import Dim, fresh
from ..dim import Shape as Dims
from ..expr import E
from ..kernels import Kernel
from ..lowering import CannotLower, Lowering, View
from ..types import DType
from .common import broadcast_shapes, check_equal, same_type
from .precision import matmul, widened
from .quantize import dequantized_product
from .registry import Spec, operator, require


@operator()
def MatMul(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """numpy.matmul: matrices on the last two axes, the others broadcast; vectors get and lose an axis."""
    return np.asarray(matmul(A, B))


@MatMul.shape
def _(A: Spec, B: Spec) -> Spec:
    dtype = same_type(A, B, names="A and B")
    if A.shape is None or B.shape is None:
        return Spec(dtype)
    require(A.shape and B.shape, f"A {A} and B {B} must not be scalars")
    left = A.shape if len(A.shape) > 1 else (1, *A.shape)
    right = B.shape if len(B.shape) > 1 else (*B.shape, 1)
    check_equal(left[-1], right[-2], f"the inner sizes of A {A} and B {B} differ")
    batch = broadcast_shapes(left[:-2], right[:-2]) or ()
    return Spec(dtype, (*batch, *([left[-2]] if len(A.shape) > 1 else []), *([right[-1]] if len(B.shape) > 1 else [])))


@operator()
def Gemm(A: np.ndarray, B: np.ndarray, C: np.ndarray | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0) -> np.ndarray:
    """alpha·A'·B' + beta·C with A' = Aᵀ if transA, B' = Bᵀ if transB; C broadcasts to the product."""
    out = _scaled(np.matmul(widened(A.T if transA else A), widened(B.T if transB else B)), alpha)
    if C is not None:
        require(np.broadcast_shapes(C.shape, out.shape) == out.shape, f"C of shape {list(C.shape)} does not broadcast to the product of shape {list(out.shape)}")
        out = out + _scaled(widened(C), beta)
    return out.astype(A.dtype, copy=False)


def _scaled(array: np.ndarray, factor: float) -> np.ndarray:
    """array · factor in the array's type; a fraction of an integer is truncated."""
    if factor == 1:
        return array
    if array.dtype.kind == "f":
        return array * array.dtype.type(factor)
    return array * np.asarray(int(factor)).astype(array.dtype) if factor == int(factor) else (array * factor).astype(array.dtype)


@Gemm.shape
def _(A: Spec, B: Spec, C: Spec | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0) -> Spec:
    dtype = same_type(A, B, C, names="A, B and C")
    rows, inner = _matrix(A, transA, "A")
    other, columns = _matrix(B, transB, "B")
    check_equal(inner, other, f"the inner sizes of A {A} and B {B} differ")
    if C is not None and C.shape is not None:
        require(len(C.shape) <= 2, f"C {C} must broadcast to a matrix")
        for size, want in zip(C.shape[::-1], (columns, rows), strict=False):
            require(size == 1 or not isinstance(size, int) or not isinstance(want, int) or size == want, f"C {C} does not broadcast to [{rows}, {columns}]")
    return Spec(dtype, (rows, columns))


def _matrix(value: Spec, transposed: int, name: str) -> Dims:
    if value.shape is None:
        return fresh(), fresh()
    require(len(value.shape) == 2, f"{name} must be a matrix, not {value}")
    return value.shape[::-1] if transposed else value.shape


@operator()
def Det(X: np.ndarray) -> np.ndarray:
    """The determinants of square matrices on the last two axes."""
    require(X.ndim >= 2 and X.shape[-1] == X.shape[-2], f"the last two axes must form square matrices, not {list(X.shape)}")
    return np.asarray(np.linalg.det(widened(X))).astype(X.dtype, copy=False)


@Det.shape
def _(X: Spec) -> Spec:
    if X.shape is None:
        return X.with_shape(None)
    require(len(X.shape) >= 2, f"the input must have at least rank 2, not {X}")
    check_equal(X.shape[-2], X.shape[-1], f"the last two axes of {X} must form square matrices")
    return X.with_shape(X.shape[:-2])


# -- Einsum ------------------------------------------------------------------------------------------------------------------------------------

ELLIPSIS = "..."
Term = tuple[str, ...]


@operator()
def Einsum(*Inputs: np.ndarray, equation: str) -> np.ndarray:
    """Σ over the letters that do not occur in the output term of the product of the inputs; "..." stands for the same number of axes wherever it occurs."""
    terms, out = parse_einsum(equation, [x.ndim for x in Inputs])
    require(out is not None and None not in terms, f"equation '{equation}' leaves an ellipsis open")
    labels = [t for t in terms if t is not None]
    sizes = _einsum_sizes(labels, [x.shape for x in Inputs])
    number = {label: i for i, label in enumerate(sizes)}
    operands: list[object] = []
    for x, term in zip(Inputs, labels, strict=True):
        operands += [np.broadcast_to(widened(x), [sizes[label] for label in term]), [number[label] for label in term]]  # type: ignore[misc]
    made = np.einsum(*operands, [number[label] for label in out or ()], optimize=True)  # type: ignore[call-overload]
    return np.asarray(made).astype(Inputs[0].dtype, copy=False)


@Einsum.shape
def _(*Inputs: Spec, equation: str) -> Spec:
    dtype = same_type(*Inputs)
    terms, out = parse_einsum(equation, [s.rank for s in Inputs])
    if out is None:
        return Spec(dtype)
    known = [(t, s.shape) for t, s in zip(terms, Inputs, strict=True) if t is not None and s.shape is not None]
    sizes = _einsum_sizes([t for t, _ in known], [s for _, s in known])
    return Spec(dtype, tuple(sizes[label] if label in sizes else fresh() for label in out))


def parse_einsum(equation: str, ranks: Sequence[int | None]) -> tuple[list[Term | None], Term | None]:
    """The axis labels of each input and of the output; an ellipsis becomes labels ...0, ...1. None where an unknown rank leaves its length open.

    "...ij,jk" of ranks 3, 2 → [("...0", "i", "j"), ("j", "k")], ("...0", "i", "k").
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = [_tokens(t, equation) for t in left.split(",")]
    require(len(terms) == len(ranks), f"equation '{equation}' has {len(terms)} terms for {len(ranks)} inputs")
    used = Counter(label for term in terms for label in term)
    if arrow:
        out = _tokens(right, equation)
        for label in out:
            require(label in used, f"equation '{equation}': output label '{label}' is in no input")
            require(out.count(label) == 1, f"equation '{equation}': output label '{label}' is repeated")
    else:
        out = ((ELLIPSIS,) if ELLIPSIS in used else ()) + tuple(sorted(label for label, count in used.items() if count == 1 and label != ELLIPSIS))
    width = _ellipsis_width(equation, terms, ranks)
    return [_filled(t, width) for t in terms], _filled(out, width)


def _tokens(term: str, equation: str) -> Term:
    require(re.fullmatch(r"[A-Za-z]*(\.\.\.)?[A-Za-z]*", term), f"equation '{equation}': term '{term}' must be letters and at most one '...'")
    return tuple(re.findall(r"\.\.\.|[A-Za-z]", term))


def _ellipsis_width(equation: str, terms: Sequence[Term], ranks: Sequence[int | None]) -> int | None:
    width: int | None = None
    for term, rank in zip(terms, ranks, strict=True):
        if rank is None:
            continue
        if ELLIPSIS not in term:
            require(rank == len(term), f"equation '{equation}': term '{''.join(term)}' has {len(term)} labels for an input of rank {rank}")
            continue
        here = rank - len(term) + 1
        require(here >= 0, f"equation '{equation}': term '{''.join(term)}' has {len(term) - 1} labels for an input of rank {rank}")
        require(width in (None, here), f"equation '{equation}': '...' stands for {width} axes in one input and for {here} in another")
        width = here
    return width


def _filled(term: Term, width: int | None) -> Term | None:
    if ELLIPSIS not in term:
        return term
    if width is None:
        return None
    place = term.index(ELLIPSIS)
    return term[:place] + tuple(f"...{i}" for i in range(width)) + term[place + 1:]


def _einsum_sizes(terms: Sequence[Term], shapes: Sequence[Dims]) -> dict[str, Dim]:
    """The size of each label; size 1 broadcasts."""
    found: dict[str, Dim] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for label, size in zip(term, shape, strict=True):
            (found[label],) = broadcast_shapes((found.get(label, 1),), (size,)) or (size,)
    return found


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

FLOATS = (DType.FLOAT, DType.FLOAT16, DType.BFLOAT16, DType.DOUBLE)


@MatMul.lower
def _(k: Lowering, A: View, B: View, *, out: Spec) -> View:
    if A.dtype not in FLOATS:
        raise CannotLower(f"a MatMul of {A.dtype.text}")
    product = dequantized_product(k, A, B, None, out.shape or ())
    if product is not None:
        return product
    left = A if A.rank > 1 else A.unsqueeze(0)
    right = B if B.rank > 1 else B.unsqueeze(1)
    batch = broadcast_shapes(left.shape[:-2], right.shape[:-2]) or ()
    made = k.matmul(left.expand((*batch, *left.shape[-2:])), right if right.rank == 2 else right.expand((*batch, *right.shape[-2:])), A.dtype, (*batch, left.shape[-2], right.shape[-1]))
    return k.reshape(made, out.shape or ()) if made.shape != out.shape else made


@Gemm.lower
def _(k: Lowering, A: View, B: View, C: View | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0, out: Spec) -> View:
    if A.dtype not in FLOATS:
        raise CannotLower(f"a Gemm of {A.dtype.text}")
    if alpha == 1 and beta == 1:
        product = dequantized_product(k, A.permute((1, 0)) if transA else A, B.permute((1, 0)) if transB else B, C, out.shape or ())
        if product is not None:
            return product

    def epilogue(total: E, *leaves: E) -> E:
        total = total if alpha == 1 else total * alpha
        return total if not leaves else total + (leaves[0] if beta == 1 else leaves[0] * beta)
    plain = alpha == 1 and C is None
    return k.matmul(A.permute((1, 0)) if transA else A, B.permute((1, 0)) if transB else B, A.dtype, out.shape or (), None if plain else epilogue, [] if C is None else [C])


@Det.lower
def _(k: Lowering, X: View, *, out: Spec) -> View:
    made = k.buffer(X.dtype, X.shape[:-2]).whole()
    k.call(Kernel.LINALG, [X], [made], op=0)
    return made


def _diagonals(k: Lowering, view: View, term: Any) -> tuple[View, Any]:
    """An operand with the axes of each repeated label replaced by their diagonal, as the last axis."""
    term = list(term)
    for label in dict.fromkeys(term):
        while term.count(label) > 1:
            first, second = [i for i, other in enumerate(term) if other == label][:2]
            rest = [i for i in range(len(term)) if i not in (first, second)]
            size = view.shape[first]
            flat = k.reshape(view.permute((*rest, first, second)), (*(view.shape[i] for i in rest), size * size))
            view, term = flat.slice(len(rest), 0, size, size + 1), [*(term[i] for i in rest), label]
    return view, type(term)(term)


@Einsum.lower
def _(k: Lowering, *Inputs: View, equation: str, out: Spec) -> View:
    terms, result = parse_einsum(equation, [v.rank for v in Inputs])
    assert result is not None
    labels = [t for t in terms if t is not None]
    Inputs, labels = zip(*(_diagonals(k, v, t) for v, t in zip(Inputs, labels, strict=True)), strict=True)  # type: ignore[assignment]
    sizes = _einsum_sizes(labels, [v.shape for v in Inputs])
    summed = [label for label in sizes if label not in result]
    views = [_ordered(v, t, (*result, *summed)) for v, t in zip(Inputs, labels, strict=True)]
    if len(views) == 2 and len(summed) == 1 and Inputs[0].dtype in FLOATS:
        made = _contracted(k, views, labels, result, summed[0], sizes)
        if made is not None:
            return made
    shape = [sizes[label] for label in (*result, *summed)]

    def product_of(first: E, *rest: E) -> E:
        for x in rest:
            first = first * x
        return first
    if not summed:
        return k.map(product_of, *views, dtype=Inputs[0].dtype, shape=shape)
    total = k.reduce(0, views[0].expand(shape), range(len(result), len(shape)), Inputs[0].dtype, product_of, leaves=views[1:])
    return k.reshape(total, out.shape or ())


def _ordered(view: View, term: Term, labels: Sequence[str]) -> View:
    """The view with one axis for each label, of size 1 where its term lacks it."""
    view = view.permute([term.index(label) for label in labels if label in term])
    for axis, label in enumerate(labels):
        if label not in term:
            view = view.unsqueeze(axis)
    return view


def _contracted(k: Lowering, views: Sequence[View], labels: Sequence[Term], result: Term, summed: str, sizes: dict[str, Dim]) -> View | None:
    """A batched matrix product where one label is summed, one belongs to the left input alone and one to the right; None where it is none."""
    left = [label for label in result if label in labels[0] and label not in labels[1]]
    right = [label for label in result if label in labels[1] and label not in labels[0]]
    if len(left) != 1 or len(right) != 1 or any(summed not in t for t in labels):
        return None
    batch = [i for i, label in enumerate(result) if label not in (left[0], right[0])]
    row, column, inner = result.index(left[0]), result.index(right[0]), len(result)
    full = [sizes[result[i]] for i in batch]
    a = views[0].permute((*batch, row, inner, column)).squeeze(len(batch) + 2).expand((*full, sizes[left[0]], sizes[summed]))
    b = views[1].permute((*batch, inner, column, row)).squeeze(len(batch) + 2).expand((*full, sizes[summed], sizes[right[0]]))
    made = k.buffer(views[0].dtype, [sizes[label] for label in result]).whole()
    k.call(Kernel.MATMUL, [a, b], [made.permute((*batch, row, column))], first_leaf=2, zero_a=-1, zero_b=-1)
    return made
