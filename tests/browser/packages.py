"""Two lines of Pyodide with the wheels they load, in `.cache/pyodide/<version>/`: the core from npm, and the packages of WHEELS as Pyodide's own lock file names and hashes them.

Their place is Pyodide's CDN; where that can not be reached, the same files lie inside the wheel of `open-webui` on PyPI. Whatever the source, a file whose sha256 is not the lock file's
is refused. `python -m tests.browser.packages` fetches what is missing.
"""
from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from tests.models.registry import CACHE

NPM = CACHE / "npm" / "node_modules"
#: npm folder → the PyPI package that carries the same wheels, and where.
LINES = {"pyodide": ("open-webui==0.12.4", "open_webui/frontend/pyodide/"), "pyodide-old": ("open-webui==0.9.6", "open_webui/frontend/pyodide/")}
#: The line a user has who does not update; a smoke test.
OLD = "pyodide-old"
WHEELS = ("numpy", "micropip", "packaging", "pillow")
#: An npm package of which one file is wanted, without what it depends on: (package, file, sha256).
TRANSFORMERS = ("@huggingface/transformers@4.3.2", "dist/transformers.js", "f9e04d8c2f7839e32b0b6cf8f63ae1d0e13b06b453fddffdb9a1f595a4c733b1")
CDN = "https://cdn.jsdelivr.net/pyodide/v{version}/full/{file}"


def version(line: str = "pyodide") -> str:
    """The pinned version of a line of Pyodide."""
    return str(json.loads((NPM / line / "package.json").read_text())["version"])


def pyodide(line: str = "pyodide") -> Path:
    """The folder with Pyodide's core and the wheels of WHEELS; fetched if it is not there yet."""
    target = CACHE / "pyodide" / version(line)
    complete = target / ".complete"
    if complete.exists() and complete.read_text() == " ".join(WHEELS):
        return target
    target.mkdir(parents=True, exist_ok=True)
    for file in NPM.joinpath(line).iterdir():
        if file.is_file():
            shutil.copyfile(file, target / file.name)
    lock = json.loads((target / "pyodide-lock.json").read_text())["packages"]
    wanted = {lock[name]["file_name"]: lock[name]["sha256"] for name in WHEELS}
    for file, data in _fetch(line, list(wanted)).items():
        found = hashlib.sha256(data).hexdigest()
        if found != wanted[file]:
            raise SystemExit(f"{file} has sha256 {found}, Pyodide's lock file says {wanted[file]}: do not use it")
        (target / file).write_bytes(data)
    complete.write_text(" ".join(WHEELS))
    return target


def _fetch(line: str, files: list[str]) -> dict[str, bytes]:
    try:
        return {file: urllib.request.urlopen(CDN.format(version=version(line), file=file), timeout=10).read() for file in files}
    except OSError as error:
        if line not in LINES:
            raise SystemExit(f"Pyodide {version(line)}'s wheels can not be fetched from its CDN: {error}") from None
    package, folder = LINES[line]
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check", "--only-binary=:all:", "-d", place, package], check=True)
        with zipfile.ZipFile(next(Path(place).glob("*.whl"))) as wheel:
            return {file: wheel.read(folder + file) for file in files}


def npm_file(package: str, file: str, sha256: str) -> Path:
    """One file of an npm package, in `.cache/npm-files/`; fetched and checked if it is not there yet."""
    target = CACHE / "npm-files" / package.replace("/", "-") / Path(file).name
    if target.exists():
        return target
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", place, package], check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(next(Path(place).glob("*.tgz"))) as archive:
            found = archive.extractfile(f"package/{file}")
            data = found.read() if found is not None else b""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise SystemExit(f"{file} of {package} is not the file that was pinned: do not use it")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return target


if __name__ == "__main__":
    print(pyodide())
    print(pyodide(OLD))
