"""A reader for the protobuf wire format (https://protobuf.dev/programming-guides/encoding), just as much of it as `.onnx` files use.

How to think: a message is a class whose attributes are declared with `one` and `many`; `read(cls, buffer)` walks the bytes once and sets the
attributes that are present (absent ones are class-level defaults, so they cost nothing). Bytes fields are memoryviews of the buffer: nothing
is copied. Repeated numbers that may be large (tensor data) stay in their packed form (`PACKED_*`) and are decoded by NumPy when asked for.
Every length is checked against the enclosing message before it is used, so what is allocated is bounded by the file. Offsets in errors are absolute.
"""
from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

import numpy as np
from sardonyx.errors import InvalidProtobuf

#: Protobuf's own limit on nested messages.
WORTHWHILE = 64  # bytes from which on repeated integers are read by NumPy
MAX_DEPTH = 100
#: A message this short is remembered by its bytes where its class says `memo` (types repeat hundreds of times in one file).
MEMO_BYTES = 256

VARINT, I64, LEN, START_GROUP, END_GROUP, I32 = range(6)
_WIRE_NAMES = ("varint", "64-bit", "length-delimited", "group", "group end", "32-bit")

STRING, BYTES, INT, INTS, FLOAT, MESSAGE, PACKED_FLOAT, PACKED_DOUBLE, PACKED_INT = range(9)
_WIRE_TYPES = {STRING: (LEN,), BYTES: (LEN,), MESSAGE: (LEN,), INT: (VARINT,), FLOAT: (I32,), INTS: (VARINT, LEN), PACKED_FLOAT: (I32, LEN),
               PACKED_DOUBLE: (I64, LEN), PACKED_INT: (VARINT, LEN)}
_DEFAULTS: dict[int, Any] = {STRING: "", BYTES: b"", INT: 0, FLOAT: 0.0, MESSAGE: None}
_FLOAT = struct.Struct("<f")


class Field:
    """One declared field: its number, kind, whether it repeats, and the name of its message class."""

    __slots__ = ("number", "kind", "repeated", "message", "name")

    def __init__(self, number: int, kind: int, repeated: bool, message: str) -> None:
        self.number, self.kind, self.repeated, self.message, self.name = number, kind, repeated, message, ""


def one(number: int, kind: int | str) -> Any:
    """A singular field; a kind given as text is the name of a message class."""
    return Field(number, MESSAGE, False, kind) if isinstance(kind, str) else Field(number, kind, False, "")


def many(number: int, kind: int | str) -> Any:
    """A repeated field."""
    return Field(number, MESSAGE, True, kind) if isinstance(kind, str) else Field(number, kind, True, "")


class Message:
    """Base of the messages. `at`: the offset of the message's first byte in the file."""

    memo: ClassVar[bool] = False
    at: int = 0
    _classes: ClassVar[dict[str, type[Message]]] = {}
    _fields: ClassVar[list[Field]] = []
    _tags: ClassVar[dict[int, tuple[str, int, bool, type[Message] | None]] | None] = None

    def __init_subclass__(cls) -> None:
        cls._fields = []
        cls._tags = None
        for name, field in list(vars(cls).items()):
            if isinstance(field, Field):
                field.name = name
                cls._fields.append(field)
                setattr(cls, name, () if field.repeated else _DEFAULTS[field.kind])
        Message._classes[cls.__name__] = cls

    @classmethod
    def tags(cls) -> dict[int, tuple[str, int, bool, type[Message] | None]]:
        """Tag byte(s) as an int → (attribute, kind, repeated, message class)."""
        if cls._tags is None:
            cls._tags = {field.number << 3 | wire: (field.name, field.kind, field.repeated, Message._classes[field.message] if field.message else None)
                         for field in cls._fields for wire in _WIRE_TYPES[field.kind]}
        return cls._tags

    @classmethod
    def describe(cls, number: int) -> str:
        """`NodeProto.op_type` or `NodeProto field 99`."""
        return next((f"{cls.__name__}.{f.name}" for f in cls._fields if f.number == number), f"{cls.__name__} field {number}")


M = TypeVar("M", bound=Message)


def read(cls: type[M], buffer: Any) -> M:
    """The message in `buffer` (any bytes-like). Raises InvalidProtobuf naming message, field and byte offset."""
    return _Reader(memoryview(buffer).cast("B")).message(cls)


class _Reader:
    """One walk over one buffer."""

    def __init__(self, buffer: memoryview) -> None:
        self.buffer = buffer
        self.memo: dict[bytes, Message] = {}

    def message(self, cls: type[M]) -> M:
        made = cls()
        self.fill(made, 0, len(self.buffer), 0)
        return made

    def fill(self, message: Message, pos: int, end: int, depth: int) -> None:
        """Set the attributes of `message` from the bytes [pos, end)."""
        if depth > MAX_DEPTH:
            raise InvalidProtobuf(f"{type(message).__name__} at byte {pos}: messages are nested more than {MAX_DEPTH} deep")
        buffer, values = self.buffer, message.__dict__
        values["at"] = pos
        tags = message.tags()
        while pos < end:
            start = pos
            tag = buffer[pos]
            if tag < 128:
                pos += 1
            else:
                tag, pos = self.varint(pos, end, message, 0)
            known = tags.get(tag)
            if known is None:
                pos = self.skip(tag, pos, end, message, start)
                continue
            name, kind, repeated, child = known
            wire = tag & 7
            if wire == LEN:
                if pos < end and buffer[pos] < 128:
                    size = buffer[pos]
                    pos += 1
                else:
                    size, pos = self.varint(pos, end, message, tag)
                stop = pos + size
                if stop > end:
                    raise InvalidProtobuf(f"{message.describe(tag >> 3)} at byte {start}: says it has {size} bytes, but {end - pos} are left; the file is truncated or damaged")
                if kind == MESSAGE:
                    assert child is not None
                    self.submessage(values, name, repeated, child, pos, stop, depth)
                elif kind == STRING:
                    text = str(buffer[pos:stop], "utf-8", "backslashreplace")
                    if repeated:
                        values.setdefault(name, []).append(text)
                    else:
                        values[name] = text
                elif kind == BYTES:
                    if repeated:
                        values.setdefault(name, []).append(buffer[pos:stop])
                    else:
                        values[name] = buffer[pos:stop]
                elif kind == INTS:
                    values.setdefault(name, []).extend(varints(buffer[pos:stop], np.dtype(np.int64)).tolist())
                else:
                    _extend(values, name, buffer[pos:stop])
                pos = stop
            elif wire == VARINT:
                value, after = self.varint(pos, end, message, tag)
                if kind == PACKED_INT:
                    _extend(values, name, buffer[pos:after])
                else:
                    if value >> 63:
                        value -= 1 << 64
                    if repeated:
                        values.setdefault(name, []).append(value)
                        if tag < 128 and end - after > WORTHWHILE and buffer[after] == tag:
                            after = self.run_of_varints(values[name], tag, after, end)
                    else:
                        values[name] = value
                pos = after
            else:
                width = 4 if wire == I32 else 8
                stop = pos + width
                if stop > end:
                    raise InvalidProtobuf(f"{message.describe(tag >> 3)} at byte {start}: needs {width} bytes, but {end - pos} are left; the file is truncated or damaged")
                if repeated:
                    pos = self.run_of_numbers(values, name, tag, start, end, pos - start, width)
                else:
                    values[name] = _FLOAT.unpack_from(buffer, pos)[0]
                    pos = stop

    def submessage(self, values: dict[str, Any], name: str, repeated: bool, child: type[Message], pos: int, stop: int, depth: int) -> None:
        made: Message | None
        if child.memo and stop - pos <= MEMO_BYTES:
            key = bytes(self.buffer[pos:stop])
            made = self.memo.get(key)
            if made is None:
                made = self.memo[key] = child()
                self.fill(made, pos, stop, depth + 1)
        else:
            made = None if repeated else values.get(name)  # a singular message given twice is merged, as protobuf does
            if made is None or child.memo:
                made = child()
            self.fill(made, pos, stop, depth + 1)
        if repeated:
            values.setdefault(name, []).append(made)
        else:
            values[name] = made

    def run_of_numbers(self, values: dict[str, Any], name: str, tag: int, start: int, end: int, head: int, width: int) -> int:
        """Unpacked repeated fixed-width numbers lie side by side with one tag each: the longest such run is taken with NumPy. Returns its end."""
        step = head + width
        count, room = 1, (end - start) // step
        tag_bytes = bytes(self.buffer[start:start + head])
        while count < room:  # look ahead in doubling strides, so that a run of n costs O(n) whatever follows it
            block = np.frombuffer(self.buffer[start + count * step:start + min(2 * count, room) * step], np.uint8).reshape(-1, step)
            same = (block[:, :head] == np.frombuffer(tag_bytes, np.uint8)).all(axis=1)
            good = len(same) if same.all() else int(same.argmin())
            count += good
            if good < len(same):
                break
        taken = np.frombuffer(self.buffer[start:start + count * step], np.uint8).reshape(count, step)[:, head:]
        _extend(values, name, memoryview(taken.tobytes()))
        return start + count * step

    def run_of_varints(self, into: list[int], tag: int, pos: int, end: int) -> int:
        """Unpacked repeated integers, each after the same tag of one byte, lie side by side: taken with NumPy in windows that double. Returns where what was read ends."""
        window = WORTHWHILE
        while pos < end:
            block = np.frombuffer(self.buffer[pos:min(end, pos + window)], np.uint8)
            last = np.flatnonzero(block < 128)                      # of every tag and number
            pairs = len(last) // 2
            first = np.concatenate([[0], last[:-1] + 1])[:2 * pairs:2]
            ours = (first == last[:2 * pairs:2]) & (block[first] == tag)
            good = pairs if ours.all() else int(ours.argmin())
            if good:
                stop = int(last[2 * good - 1]) + 1
                numbers = np.ones(stop, np.bool_)
                numbers[first[:good]] = False
                into.extend(varints(memoryview(block[:stop][numbers].tobytes()), np.dtype(np.int64)).tolist())
                pos += stop
            if good < pairs or not good:
                break
            window *= 2
        return pos

    def varint(self, pos: int, end: int, message: Message, tag: int) -> tuple[int, int]:
        """The unsigned number at `pos` and the position after it; at most 64 bits."""
        buffer, start, value, shift = self.buffer, pos, 0, 0
        while pos < end:
            byte = buffer[pos]
            pos += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value & 0xFFFFFFFFFFFFFFFF, pos
            shift += 7
            if shift >= 70:
                raise InvalidProtobuf(f"{message.describe(tag >> 3)} at byte {start}: a number has more than 10 bytes; the file is damaged or not an ONNX file")
        raise InvalidProtobuf(f"{message.describe(tag >> 3)} at byte {start}: the file ends within a number; it is truncated or damaged")

    def skip(self, tag: int, pos: int, end: int, message: Message, start: int) -> int:
        """Step over a field this reader does not know; a known one of the wrong wire type is an error."""
        number, wire = tag >> 3, tag & 7
        if number == 0 or wire > I32:
            raise InvalidProtobuf(f"{type(message).__name__} at byte {start}: field number {number} of wire type {wire} does not exist; the file is damaged or not an ONNX file")
        if any(f.number == number for f in message._fields):
            raise InvalidProtobuf(f"{message.describe(number)} at byte {start}: is a {_WIRE_NAMES[wire]} field here, which it can not be; the file is damaged or not an ONNX file")
        if wire == VARINT:
            return self.varint(pos, end, message, tag)[1]
        if wire in (START_GROUP, END_GROUP):
            raise InvalidProtobuf(f"{message.describe(number)} at byte {start}: is a protobuf group, which ONNX does not use; the file is damaged or not an ONNX file")
        size = 8 if wire == I64 else 4
        if wire == LEN:
            size, pos = self.varint(pos, end, message, tag)
        if pos + size > end:
            raise InvalidProtobuf(f"{message.describe(number)} at byte {start}: says it has {size} bytes, but {end - pos} are left; the file is truncated or damaged")
        return pos + size


def _extend(values: dict[str, Any], name: str, packed: memoryview) -> None:
    """Append packed numbers: the first piece stays a view of the file, which is what every ordinary file has; further ones make a copy."""
    present = values.get(name)
    if present is None:
        values[name] = packed
    else:
        if not isinstance(present, bytearray):
            present = values[name] = bytearray(present)
        present += packed


def count_varints(packed: Any) -> int:
    """How many varints lie in a packed field (the bytes below 128 end one each)."""
    return int(np.count_nonzero(np.frombuffer(packed, np.uint8) < 128))


def varints(packed: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """The varints of a packed field as integers of `dtype` (wrapping, as protobuf's int32 does). Works in blocks, so temporaries stay small."""
    data = np.frombuffer(packed, np.uint8)
    if not len(data):
        return np.empty(0, dtype)
    if data[-1] > 127:
        raise InvalidProtobuf("the packed numbers end within a number; the file is truncated or damaged")
    if len(data) < 1 << 20:
        return _varint_block(data, dtype)
    return np.concatenate([_varint_block(block, dtype) for block in _blocks(data)])


def _blocks(data: np.ndarray, size: int = 1 << 20) -> Iterator[np.ndarray]:
    """Pieces of about `size` bytes that end where a varint ends."""
    start = 0
    while start < len(data):
        stop = min(start + size, len(data))
        while data[stop - 1] > 127:
            stop += 1
        yield data[start:stop]
        start = stop


def _varint_block(data: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    ends = np.flatnonzero(data < 128)
    if len(ends) == len(data):
        return data.astype(dtype)
    starts = np.empty_like(ends)
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > 10:
        raise InvalidProtobuf("a packed number has more than 10 bytes; the file is damaged")
    out = (data[starts] & 127).astype(np.uint64)
    for k in range(1, longest):
        at = np.flatnonzero(lengths > k)
        out[at] |= (data[starts[at] + k] & np.uint8(127)).astype(np.uint64) << np.uint64(7 * k)
    return out.view(np.int64).astype(dtype)
