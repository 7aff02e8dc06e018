"""A model as a .sdx whose programs run without Python: what `sardonyx convert` stores, from a Model in memory."""
from __future__ import annotations

import struct

import numpy as np
from sardonyx.engine.binding import constant
from sardonyx.graph import Model
from sardonyx.model.format import Header
from sardonyx.package import Place
from sardonyx.plan.planner import plan_package
from sardonyx.plan.shapes import infer_plan
from sardonyx.program import ABI


def store(model: Model) -> bytes:
    """The file's bytes, without a graph section: only the runtime reads it. CannotLower where a node has no kernels."""
    from sardonyx.providers.engine import accepts
    made = plan_package(model, infer_plan(model.graph), model.symbols, accepts=accepts)
    arrays: dict[int, np.ndarray] = {}
    for placed in made.package.programs:
        for i, number in enumerate(placed.constants):
            if number not in arrays:
                arrays[number] = np.ascontiguousarray(constant(placed.program, i, made.package.constants[number]))
    places, data = [], bytearray()
    for number in range(len(made.package.constants)):
        places.append(Place(len(data), arrays[number].nbytes))
        data += arrays[number].tobytes()
        data += bytes(-len(data) % 64)
    words = made.package.pack(places)
    section = b"SDXP" + struct.pack("<HHQ", *ABI, len(words)) + words
    at_data = -(-(192 + len(section)) // 64) * 64
    header = Header((128, 64), (192, len(section)), (at_data, len(data)), bytes(16), False).pack()
    return (header + bytes(64) + section).ljust(at_data, b"\0") + bytes(data)
