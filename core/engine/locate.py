"""Where the C engine's library is, without the build script and what that imports: the wheel's, or in a checkout the one built from the sources as they are.

A checkout's build leaves a note (names, sizes and times of the sources, and the library they made); while the note holds, nothing is read or hashed. `build.py` does the rest.
"""
from __future__ import annotations

import os
import sys
from zlib import crc32

HERE = os.path.dirname(os.path.realpath(__file__))
LIBRARY = "libsardonyx.dylib" if sys.platform == "darwin" else "libsardonyx.so"
CACHE = os.path.join(HERE, "..", "..", ".cache", "engine")


class EngineMissing(RuntimeError):
    """The engine is not here and can not be built; the message says why, or the command that helps."""


def locate() -> str:
    """The path of the library for this machine. Raises EngineMissing."""
    packaged = os.path.join(HERE, "lib", LIBRARY)
    if os.path.exists(packaged):
        return packaged
    note, state = os.path.join(CACHE, f"current-{crc32(HERE.encode()):08x}"), _state()  # checkouts may share a cache
    try:
        with open(note, encoding="utf-8") as file:
            known, _, found = file.read().rpartition("\n")
        if known == state and os.path.exists(found):
            return found
    except OSError:
        pass
    from .build import BuildError, find
    try:
        made = str(find())
    except BuildError as reason:
        raise EngineMissing(str(reason)) from None
    try:
        part = f"{note}.{os.getpid()}"
        with open(part, "w", encoding="utf-8") as file:
            file.write(f"{state}\n{made}")
        os.replace(part, note)
    except OSError:  # a folder nobody may write to: looked up the long way every time
        pass
    return made


def _state() -> str:
    """What the sources are, as far as their names, sizes and times say."""
    rows = [f"{HERE} {os.environ.get('SARDONYX_ISAS', '')}"]
    for path in (os.path.join(HERE, "build.py"), os.path.join(HERE, "src")):
        for entry in sorted(os.scandir(path), key=lambda e: e.name) if os.path.isdir(path) else ():
            about = entry.stat()
            rows.append(f"{entry.name} {about.st_size} {about.st_mtime_ns}")
        about = os.stat(path)
        rows.append(f"{os.path.basename(path)} {about.st_size} {about.st_mtime_ns}")
    return "\n".join(rows)
