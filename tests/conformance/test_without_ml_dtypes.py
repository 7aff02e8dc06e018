"""Types NumPy lacks where ml_dtypes is not installed, as in Pyodide: all of the suite's cases with such tensors run natively in a process that forbids it, on the engine alone."""
from __future__ import annotations

import pickle
import struct
import subprocess
import sys
from typing import Any

from sardonyx.types import DType

from .executors import converted
from .server import packed, unpacked
from .suite import Case, compare, load

#: Forbids ml_dtypes, then answers messages of length and bytes.
CODE = """
import struct, sys
sys.modules["ml_dtypes"] = None
from tests.conformance.server import answer
while head := sys.stdin.buffer.read(4):
    made = answer(sys.stdin.buffer.read(struct.unpack("<I", head)[0]))
    sys.stdout.buffer.write(struct.pack("<I", len(made)) + made)
    sys.stdout.buffer.flush()
"""


def needs_them(case: Case) -> bool:
    return any(x is not None and "bits" in str(packed(x))[:8] for given, made in case.sets for x in (*given, *made))


def test_cases_with_types_numpy_lacks() -> None:
    cases = [c for c in load() if needs_them(c)]
    assert len(cases) == 191
    with subprocess.Popen([sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as host:
        assert host.stdin is not None and host.stdout is not None
        failed: dict[str, Any] = {}
        for case in cases:
            for given, expected in case.sets:
                message = pickle.dumps((converted(case), [packed(x) for x in given]), protocol=5)
                host.stdin.write(struct.pack("<I", len(message)) + message)
                host.stdin.flush()
                made, place = pickle.loads(host.stdout.read(struct.unpack("<I", host.stdout.read(4))[0]))
                if place != "strict":
                    failed[case.name] = place or made
                else:
                    compare(case, expected, [unpacked(y) for y in made])
        host.stdin.close()
    assert not failed
    assert DType.BFLOAT16.numpy.name == "bfloat16", "this process has ml_dtypes"
