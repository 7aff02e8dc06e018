"""The ONNX messages (onnx.proto, IR version 14), as far as an inference model needs them. Fields not listed here are skipped by the reader."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .wire import BYTES, FLOAT, INT, INTS, PACKED_DOUBLE, PACKED_FLOAT, PACKED_INT, STRING, Message, many, one


class StringStringEntryProto(Message):
    key: str = one(1, STRING)
    value: str = one(2, STRING)


class OperatorSetIdProto(Message):
    domain: str = one(1, STRING)
    version: int = one(2, INT)


class TensorProto(Message):
    """`*_data` are packed bytes; `raw_data` is a view of the file."""

    dims: Sequence[int] = many(1, INTS)
    data_type: int = one(2, INT)
    segment: Any = one(3, "Segment")
    float_data: Any = many(4, PACKED_FLOAT)
    int32_data: Any = many(5, PACKED_INT)
    string_data: Sequence[memoryview] = many(6, BYTES)
    int64_data: Any = many(7, PACKED_INT)
    name: str = one(8, STRING)
    raw_data: Any = one(9, BYTES)
    double_data: Any = many(10, PACKED_DOUBLE)
    uint64_data: Any = many(11, PACKED_INT)
    external_data: Sequence[StringStringEntryProto] = many(13, "StringStringEntryProto")
    data_location: int = one(14, INT)


class Segment(Message):
    begin: int = one(1, INT)
    end: int = one(2, INT)


class SparseTensorProto(Message):
    values: TensorProto | None = one(1, "TensorProto")
    indices: TensorProto | None = one(2, "TensorProto")
    dims: Sequence[int] = many(3, INTS)


class Dimension(Message):
    """`dim_value` is None where the file gives none."""

    dim_value: int | None = one(1, INT)
    dim_param: str = one(2, STRING)


Dimension.dim_value = None


class TensorShapeProto(Message):
    dim: Sequence[Dimension] = many(1, "Dimension")


class TensorTypeProto(Message):
    """TypeProto.Tensor and TypeProto.SparseTensor."""

    elem_type: int = one(1, INT)
    shape: TensorShapeProto | None = one(2, "TensorShapeProto")


class ElementTypeProto(Message):
    """TypeProto.Sequence and TypeProto.Optional."""

    elem_type: TypeProto | None = one(1, "TypeProto")


class MapTypeProto(Message):
    key_type: int = one(1, INT)
    value_type: TypeProto | None = one(2, "TypeProto")


class OpaqueTypeProto(Message):
    domain: str = one(1, STRING)
    name: str = one(2, STRING)


class TypeProto(Message):
    memo = True
    tensor_type: TensorTypeProto | None = one(1, "TensorTypeProto")
    sequence_type: ElementTypeProto | None = one(4, "ElementTypeProto")
    map_type: MapTypeProto | None = one(5, "MapTypeProto")
    opaque_type: OpaqueTypeProto | None = one(7, "OpaqueTypeProto")
    sparse_tensor_type: TensorTypeProto | None = one(8, "TensorTypeProto")
    optional_type: ElementTypeProto | None = one(9, "ElementTypeProto")


class ValueInfoProto(Message):
    name: str = one(1, STRING)
    type: TypeProto | None = one(2, "TypeProto")
    doc_string: str = one(3, STRING)


class AttributeProto(Message):
    name: str = one(1, STRING)
    f: float = one(2, FLOAT)
    i: int = one(3, INT)
    s: Any = one(4, BYTES)
    t: TensorProto | None = one(5, "TensorProto")
    g: GraphProto | None = one(6, "GraphProto")
    floats: Any = many(7, PACKED_FLOAT)
    ints: Sequence[int] = many(8, INTS)
    strings: Sequence[memoryview] = many(9, BYTES)
    tensors: Sequence[TensorProto] = many(10, "TensorProto")
    graphs: Sequence[GraphProto] = many(11, "GraphProto")
    tp: TypeProto | None = one(14, "TypeProto")
    type_protos: Sequence[TypeProto] = many(15, "TypeProto")
    type: int = one(20, INT)
    ref_attr_name: str = one(21, STRING)
    sparse_tensor: SparseTensorProto | None = one(22, "SparseTensorProto")
    sparse_tensors: Sequence[SparseTensorProto] = many(23, "SparseTensorProto")


class NodeProto(Message):
    input: Sequence[str] = many(1, STRING)
    output: Sequence[str] = many(2, STRING)
    name: str = one(3, STRING)
    op_type: str = one(4, STRING)
    attribute: Sequence[AttributeProto] = many(5, "AttributeProto")
    doc_string: str = one(6, STRING)
    domain: str = one(7, STRING)
    overload: str = one(8, STRING)


class GraphProto(Message):
    node: Sequence[NodeProto] = many(1, "NodeProto")
    name: str = one(2, STRING)
    initializer: Sequence[TensorProto] = many(5, "TensorProto")
    doc_string: str = one(10, STRING)
    input: Sequence[ValueInfoProto] = many(11, "ValueInfoProto")
    output: Sequence[ValueInfoProto] = many(12, "ValueInfoProto")
    value_info: Sequence[ValueInfoProto] = many(13, "ValueInfoProto")
    sparse_initializer: Sequence[SparseTensorProto] = many(15, "SparseTensorProto")


class FunctionProto(Message):
    name: str = one(1, STRING)
    input: Sequence[str] = many(4, STRING)
    output: Sequence[str] = many(5, STRING)
    attribute: Sequence[str] = many(6, STRING)
    node: Sequence[NodeProto] = many(7, "NodeProto")
    doc_string: str = one(8, STRING)
    opset_import: Sequence[OperatorSetIdProto] = many(9, "OperatorSetIdProto")
    domain: str = one(10, STRING)
    attribute_proto: Sequence[AttributeProto] = many(11, "AttributeProto")
    value_info: Sequence[ValueInfoProto] = many(12, "ValueInfoProto")
    overload: str = one(13, STRING)


class ModelProto(Message):
    ir_version: int = one(1, INT)
    producer_name: str = one(2, STRING)
    producer_version: str = one(3, STRING)
    domain: str = one(4, STRING)
    model_version: int = one(5, INT)
    doc_string: str = one(6, STRING)
    graph: GraphProto | None = one(7, "GraphProto")
    opset_import: Sequence[OperatorSetIdProto] = many(8, "OperatorSetIdProto")
    metadata_props: Sequence[StringStringEntryProto] = many(14, "StringStringEntryProto")
    functions: Sequence[FunctionProto] = many(25, "FunctionProto")
