"""SparseTensor: a sparse tensor as the API passes it around. Models compute with its dense form."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import Fail, InvalidArgument
from ..types import DType
from .devices import OrtDevice, require_host
from .enums import OrtSparseFormat


class SparseCooView:
    """The indices of a COO tensor."""

    def __init__(self, indices: np.ndarray) -> None:
        self._indices = indices

    def indices(self) -> np.ndarray:
        """int64: (n,) positions in the flattened tensor, or (n, 2) rows and columns."""
        return self._indices


class SparseCsrView:
    """The indices of a CSR matrix."""

    def __init__(self, inner: np.ndarray, outer: np.ndarray) -> None:
        self._inner, self._outer = inner, outer

    def inner(self) -> np.ndarray:
        """int64 (n,): the column of each value."""
        return self._inner

    def outer(self) -> np.ndarray:
        """int64 (rows + 1,): where each row begins."""
        return self._outer


class SparseTensor:
    """Values with their places in a dense shape; made by `sparse_coo_from_numpy` or `sparse_csr_from_numpy`."""

    def __init__(self, sparse_tensor: SparseTensor) -> None:
        self._shape: tuple[int, ...] = sparse_tensor._shape
        self._values: np.ndarray = sparse_tensor._values
        self._indices: SparseCooView | SparseCsrView = sparse_tensor._indices

    @classmethod
    def _of(cls, dense_shape: Sequence[int], values: Any, indices: SparseCooView | SparseCsrView) -> SparseTensor:
        made = cls.__new__(cls)
        made._shape, made._values, made._indices = tuple(int(d) for d in dense_shape), values, indices
        return made

    @classmethod
    def sparse_coo_from_numpy(cls, dense_shape: Any, values: Any, coo_indices: Any, ort_device: OrtDevice) -> SparseTensor:
        """values: (n,). coo_indices: int64, n flat positions, or 2·n numbers (or (n, 2)) for rows and columns of a matrix."""
        require_host(ort_device)
        shape, values, indices = _sizes(dense_shape), _vector(values), np.asarray(coo_indices, np.int64)
        if indices.size == 2 * values.size and values.size:
            indices = indices.reshape(-1, 2)
            limits: Any = shape if len(shape) == 2 else None
        elif indices.size == values.size:
            indices = indices.reshape(-1)
            limits = int(np.prod(shape, dtype=np.int64))
        else:
            raise InvalidArgument(f"Index size: {indices.size} must be equal to or twice the values size: {values.size}")
        if limits is None or (indices < 0).any() or (indices >= np.asarray(limits)).any():
            raise InvalidArgument(f"a COO index lies outside the dense shape {list(shape)}")
        return cls._of(shape, values, SparseCooView(indices))

    @classmethod
    def sparse_csr_from_numpy(cls, dense_shape: Any, values: Any, inner_indices: Any, outer_indices: Any, ort_device: OrtDevice) -> SparseTensor:
        """values: (n,). inner_indices: int64 (n,) columns. outer_indices: int64 (rows + 1,) row beginnings."""
        require_host(ort_device)
        shape, values = _sizes(dense_shape), _vector(values)
        inner, outer = np.asarray(inner_indices, np.int64).ravel(), np.asarray(outer_indices, np.int64).ravel()
        if len(shape) != 2 or inner.size != values.size or outer.size != shape[0] + 1:
            raise InvalidArgument(f"a CSR matrix of shape {list(shape)} with {values.size} values needs as many inner indices (got {inner.size}) and rows + 1 outer ones (got {outer.size})")
        rises = outer.size == 0 or (outer[0] == 0 and outer[-1] == values.size and (np.diff(outer) >= 0).all())
        if not rises or (inner < 0).any() or (inner >= shape[1]).any():
            raise InvalidArgument(f"the CSR indices do not fit the dense shape {list(shape)}: outer ones must rise from 0 to {values.size}, inner ones be columns")
        return cls._of(shape, values, SparseCsrView(inner, outer))

    def dense_shape(self) -> list[int]:
        """The shape of the dense form."""
        return list(self._shape)

    def values(self) -> np.ndarray:
        """The stored values, (n,)."""
        return self._values

    def data_type(self) -> str:
        """`sparse_tensor(float)`."""
        return f"sparse_tensor({DType.of(self._values).text})"

    def device_name(self) -> str:
        """`cpu`."""
        return "cpu"

    def format(self) -> OrtSparseFormat:
        """How the indices are stored."""
        return OrtSparseFormat.ORT_SPARSE_COO if isinstance(self._indices, SparseCooView) else OrtSparseFormat.ORT_SPARSE_CSRC

    def as_coo_view(self) -> SparseCooView:
        """The COO indices; Fail where the format is another."""
        if not isinstance(self._indices, SparseCooView):
            raise Fail("This sparse tensor does not contain COO format; use as_csrc_view()")
        return self._indices

    def as_csrc_view(self) -> SparseCsrView:
        """The CSR indices; Fail where the format is another."""
        if not isinstance(self._indices, SparseCsrView):
            raise Fail("This sparse tensor does not contain CSR(C) format; use as_coo_view()")
        return self._indices

    def as_blocksparse_view(self) -> Any:
        """Fail: block-sparse tensors can not be made from Python."""
        raise Fail("This sparse tensor does not contain BlockSparse format")

    def to_cuda(self, ort_device: OrtDevice) -> Any:
        """Fail: there is no such device."""
        require_host(ort_device)
        raise Fail("CUDA is not available")

    def to_dense(self) -> np.ndarray:
        """The dense array; absent places are 0 (empty text for strings). Ours, not onnxruntime's."""
        dense = np.zeros(self._shape, self._values.dtype) if self._values.dtype != object else np.full(self._shape, "", object)
        if isinstance(self._indices, SparseCsrView):
            rows = np.repeat(np.arange(self._shape[0]), np.diff(self._indices.outer()))
            dense[rows, self._indices.inner()] = self._values
        elif self._indices.indices().ndim == 2:
            dense[tuple(self._indices.indices().T)] = self._values
        else:
            dense.reshape(-1)[self._indices.indices()] = self._values
        return dense

    def _get_c_tensor(self) -> SparseTensor:
        return self


def _sizes(dense_shape: Any) -> tuple[int, ...]:
    shape = tuple(int(d) for d in np.asarray(dense_shape).ravel())
    if any(d < 0 for d in shape):
        raise InvalidArgument(f"the dense shape {list(shape)} has a negative size")
    return shape


def _vector(values: Any) -> np.ndarray:
    array = np.asarray(values).ravel()
    return array.astype(object) if array.dtype.kind in "UST" else array
