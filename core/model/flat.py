"""The FlatBuffer of the graph section, built with the accessors flatc generated from sdx.fbs."""
from __future__ import annotations

from collections.abc import Mapping

import flatbuffers
import numpy as np

from ..errors import InvalidGraph
from . import sdx_generated
from .format import COLUMNS, GRAPH_IDENTIFIER, SCALARS

_LIMIT = 1 << 31  # FlatBuffer offsets are 32 bits, signed in places


def build_graph_section(columns: Mapping[str, np.ndarray], scalars: Mapping[str, int]) -> bytes:
    """The bytes of the graph section. Equal columns are not shared, empty ones are left out. Raises InvalidGraph beyond 2 GB."""
    size = sum(c.nbytes + 16 for c in columns.values())
    if size >= _LIMIT:
        raise InvalidGraph(f"the graph takes {size} bytes without its weights; a .sdx holds graphs below 2 GB")
    builder = flatbuffers.Builder(size + 1024)
    vectors = {name: _vector(builder, columns[name], name) for name in reversed(COLUMNS) if len(columns[name])}
    sdx_generated.ModelStart(builder)
    for name, offset in vectors.items():
        getattr(sdx_generated, f"ModelAdd{_camel(name)}")(builder, offset)
    for name in SCALARS:
        getattr(sdx_generated, f"ModelAdd{_camel(name)}")(builder, scalars[name])
    builder.Finish(sdx_generated.ModelEnd(builder), file_identifier=GRAPH_IDENTIFIER)
    return bytes(builder.Output())


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def _vector(builder: flatbuffers.Builder, records: np.ndarray, name: str) -> int:
    """A vector of structs or scalars copied in one go (the library's own call takes scalars only)."""
    getattr(sdx_generated, f"ModelStart{_camel(name)}Vector")(builder, len(records))
    data = records.tobytes()
    builder.head -= len(data)
    builder.Bytes[builder.head:builder.head + len(data)] = data
    return int(builder.EndVector())
