"""Structure-aware damage to .onnx files. The protobuf is read into a tree by the message types of onnx.proto, the tree is damaged and written again (so lengths
fit and the damage reaches the importer's deep parts); other changes spoil the bytes themselves (lengths, varints, truncation)."""
from __future__ import annotations

import copy
import random
from typing import Any

from sardonyx import ops

#: message → {field number: message it holds}. Facts of onnx.proto; other length-delimited fields are bytes.
MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 8: "OperatorSet", 14: "Entry", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 11: "ValueInfo", 12: "ValueInfo", 13: "ValueInfo", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 14: "Type", 15: "Type", 22: "SparseTensor", 23: "SparseTensor"},
    "Tensor": {13: "Entry"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "ValueInfo": {2: "Type"},
    "Type": {1: "TensorType", 4: "SequenceType", 5: "MapType", 8: "TensorType", 9: "SequenceType"},
    "TensorType": {2: "Shape"},
    "SequenceType": {1: "Type"},
    "MapType": {2: "Type"},
    "Shape": {1: "Dim"},
    "Function": {7: "Node", 9: "OperatorSet", 11: "Attribute", 12: "ValueInfo"},
    "OperatorSet": {}, "Entry": {}, "Dim": {},
}
NUMBERS = (0, 1, 2, 3, 5, 16, 17, 29, 100, 127, 128, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
OPERATORS = tuple(name.encode() for _, name in ops.names())


class Message:
    """A message type and its fields: [number, wire type, value], the value an int, bytes or a Message."""

    def __init__(self, kind: str, fields: list[list[Any]]) -> None:
        self.kind, self.fields = kind, fields


def parse(data: bytes, kind: str = "Model") -> Message:
    """The tree of a valid message."""
    fields: list[list[Any]] = []
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _read_varint(data, at)
        else:
            length = {1: 8, 5: 4}.get(wire)
            if length is None:
                length, at = _read_varint(data, at)
            value, at = data[at:at + length], at + length
            if wire == 2 and number in MESSAGES[kind]:
                value = parse(value, MESSAGES[kind][number])
        fields.append([number, wire, value])
    return Message(kind, fields)


def serialize(message: Message) -> bytes:
    """The bytes of a tree."""
    out = bytearray()
    for number, wire, value in message.fields:
        out += _varint(number << 3 | wire)
        if wire == 0:
            out += _varint(value)
        else:
            body = serialize(value) if isinstance(value, Message) else value
            out += (_varint(len(body)) if wire == 2 else b"") + body
    return bytes(out)


class Seed:
    """A valid .onnx file."""

    def __init__(self, data: bytes) -> None:
        self.data, self.tree = data, parse(data)

    def mutated(self, rng: random.Random) -> bytes:
        """A damaged copy."""
        if rng.random() < 0.2:
            return _spoil(bytearray(self.data), rng)
        tree = copy.deepcopy(self.tree)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
            _change(tree, rng)
        data = serialize(tree)
        return _spoil(bytearray(data), rng) if rng.random() < 0.1 else data


def _change(tree: Message, rng: random.Random) -> None:
    messages = [m for m in _walk(tree) if m.fields]
    kinds = sorted({m.kind for m in messages})
    kind = rng.choice(kinds)  # by kind first: models have many nodes and few of what is as dangerous
    message = rng.choice([m for m in messages if m.kind == kind])
    place = rng.randrange(len(message.fields))
    field = message.fields[place]
    action = rng.randrange(10)
    if action == 0:
        del message.fields[place]
    elif action == 1:
        message.fields.insert(rng.randrange(len(message.fields) + 1), copy.deepcopy(field))
    elif action == 2:
        field[0] = rng.choice((rng.randrange(1, 30), field[0] + 1, 1 << 20))
    elif action == 3:
        other = rng.choice([m for m in messages if m.kind == kind])
        field[:] = copy.deepcopy(rng.choice(other.fields))
    elif action == 4:
        rng.shuffle(message.fields)
    elif action == 5 and kind == "Graph":
        _nest(message, rng)
    else:
        _change_value(field, rng)


def _change_value(field: list[Any], rng: random.Random) -> None:
    number, wire, value = field
    if wire == 0:
        field[2] = rng.choice((*NUMBERS, value + 1, value - 1, rng.randrange(64))) % (1 << 64)
    elif isinstance(value, Message):
        if value.fields:
            del value.fields[rng.randrange(len(value.fields)):]
    elif wire == 2:
        data = bytearray(value)
        action = rng.randrange(7)
        if action == 0:
            data = data[:rng.randrange(len(data) + 1)]
        elif action == 5 and len(data) % 8 == 0:  # elements: sizes, axes, pads at the ends of their range
            data = bytearray(b"".join(rng.choice((*NUMBERS, 7)).to_bytes(8, "little") for _ in range(len(data) // 8)))
        elif action == 6:
            data = bytearray(rng.choice(OPERATORS))
        elif action == 1:
            data += rng.randbytes(rng.choice((1, 4, 8, 1000)))
        elif action == 2 and data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif action == 3:
            data = bytearray(rng.choice((b"", b"x", b"\xff\xfe", b"../../etc/passwd", b"a" * 5000, b"Add", b"If", b"Loop", b"Constant", b"Reshape", b"ai.onnx.ml")))
        elif data:
            data = bytearray(rng.randbytes(len(data)))
        field[2] = bytes(data)
    else:
        field[2] = rng.randbytes(len(value))


def _nest(graph: Message, rng: random.Random) -> None:
    """The graph within itself, a few or very many times."""
    inner = serialize(graph)
    for _ in range(rng.choice((1, 3, 60, 400)) if len(inner) < 2000 else 1):
        attribute = b"\x0a\x0bthen_branch\x32" + _varint(len(inner)) + inner + b"\xa0\x01\x05"
        node = b"\x22\x02If\x2a" + _varint(len(attribute)) + attribute
        inner = b"\x0a" + _varint(len(node)) + node
    graph.fields += parse(inner, "Leaf").fields  # kept as bytes: this walk must not be what recurses


MESSAGES["Leaf"] = {}


def _spoil(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(data) or 1)
        action = rng.randrange(5)
        if action == 0:
            del data[place:]
        elif action == 1:
            del data[place:place + rng.choice((1, 2, 8))]
        elif action == 2:
            data[place:place] = rng.choice((b"\xff" * 10, b"\x80" * 9 + b"\x01", rng.randbytes(4), b"\x0b", b"\x0c"))
        elif place < len(data):
            data[place] = rng.choice((0, 0x7f, 0x80, 0xff, data[place] ^ 1 << rng.randrange(8)))
    return bytes(data)


def _walk(message: Message) -> list[Message]:
    out, stack = [], [message]
    while stack:
        found = stack.pop()
        out.append(found)
        stack += [v for _, _, v in found.fields if isinstance(v, Message)]
    return out


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        shift, at = shift + 7, at + 1
        if byte < 128:
            return value, at


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
