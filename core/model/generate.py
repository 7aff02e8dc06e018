"""`python core/model/generate.py` writes sdx_generated.py from sdx.fbs; `make generate` calls it. Needs Debian's `flatbuffers-compiler`."""
from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

#: The compiler whose output is committed; others may word the same code differently.
FLATC_VERSION = "2.0.8"
FOLDER = Path(__file__).parent


def flatc_problem() -> str:
    """Why the right compiler is not there, or ""."""
    if shutil.which("flatc") is None:
        return "flatc is missing: apt-get install -y --no-install-recommends flatbuffers-compiler"
    found = subprocess.run(["flatc", "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    return "" if found == FLATC_VERSION else f"flatc is {found}, the committed accessors are of {FLATC_VERSION} (Debian 12)"


def generate() -> str:
    """The text of sdx_generated.py."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["flatc", "--python", "--gen-onefile", "-o", folder, str(FOLDER / "sdx.fbs")], check=True)
        return "# ruff: noqa\n# mypy: ignore-errors\n" + (Path(folder) / "sdx_generated.py").read_text()


if __name__ == "__main__":
    if problem := flatc_problem():
        sys.exit(problem)
    (FOLDER / "sdx_generated.py").write_text(generate())
