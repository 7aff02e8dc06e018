"""`sardonyx bundle --pyodide`: what comes from Pyodide's CDN, here a folder on loopback in its place; and what is said where there is none."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from sardonyx.converter.cli import bundle
from sardonyx.converter.cli.app import app
from sardonyx.converter.cli.serve import Server
from sardonyx.wasm import pyodide as self_hosted
from typer.testing import CliRunner

from tests.browser.packages import pyodide
from tests.models.registry import fetch


def bundled(folder: Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["bundle", str(fetch("magika")), "-o", str(folder / "site"), "--pyodide"])
    return done.exit_code, done.output + (str(done.exception) if done.exception else "")


def test_from_the_cdn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server({f"/pyodide/v{self_hosted.VERSION}/full/": pyodide()}) as server:
        monkeypatch.setattr(self_hosted, "CDN", server.address + "pyodide/v{version}/full/{file}")
        code, output = bundled(tmp_path)
    assert code == 0, output
    lock = json.loads((tmp_path / "site" / "pyodide" / "pyodide-lock.json").read_text())["packages"]
    assert sorted(lock) == ["flatbuffers", "micropip", "numpy", "sardonyx"]
    there = {p.name for p in (tmp_path / "site" / "pyodide").iterdir()}
    assert there == {*self_hosted.CORE, *(entry["file_name"] for entry in lock.values())}
    assert (tmp_path / "site" / "index.html").exists()


def test_other_bytes_from_the_cdn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in self_hosted.CORE:
        shutil.copyfile(pyodide() / name, tmp_path / name)
    with (tmp_path / "pyodide.mjs").open("a") as file:
        file.write("// not Pyodide's\n")
    with Server({f"/v{self_hosted.VERSION}/": tmp_path}) as server:
        monkeypatch.setattr(self_hosted, "CDN", server.address + "v{version}/{file}")
        code, output = bundled(tmp_path)
    assert code and "pyodide.mjs has sha256" in output and "get the file again" in output
    assert not (tmp_path / "site").exists(), "nothing is written"


def test_what_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is none, and a disk that is full when the last files are written: neither a folder, nor the folders above it, nor anything in one that was there."""
    model, there = tmp_path / "broken.onnx", tmp_path / "there"
    model.write_bytes(b"\x08" * 400)
    there.mkdir()
    (there / "model.sdx").write_bytes(b"mine")

    def full(output: Path) -> None:
        raise OSError(28, "No space left on device", str(output))

    for source in (model, fetch("magika")):
        for folder in (tmp_path / "new" / "site", there):
            done = CliRunner().invoke(app, ["bundle", str(source), "-o", str(folder)])
            assert done.exit_code
        monkeypatch.setattr(bundle, "write_headers", full)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == [Path("broken.onnx"), Path("there"), Path("there/model.sdx")] and (there / "model.sdx").read_bytes() == b"mine"
    monkeypatch.undo()
    assert CliRunner().invoke(app, ["bundle", str(fetch("magika")), "-o", str(there)]).exit_code == 0
    names = {path.name for path in there.iterdir()}
    assert {"model.sdx", "index.html", "sardonyx", ".htaccess"} <= names and not any(name.startswith(".bundle") for name in names)
    assert there.stat().st_mode == (there / "sardonyx").stat().st_mode and (there / "model.sdx").stat().st_size > 1000


@pytest.mark.parametrize("missing", ["everything", "numpy"])
def test_no_cdn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """No answer, and a folder without the wheels (404): the file, the address, and what to give instead."""
    (tmp_path / "cdn").mkdir()
    for name in self_hosted.CORE:
        shutil.copyfile(pyodide() / name, tmp_path / "cdn" / name)
    with Server({f"/v{self_hosted.VERSION}/": tmp_path / "cdn"}) as server:
        monkeypatch.setattr(self_hosted, "CDN", ("http://127.0.0.1:9/" if missing == "everything" else server.address) + "v{version}/{file}")
        code, output = bundled(tmp_path)
    words = " ".join(output.split())
    assert code and f"v{self_hosted.VERSION}/" in words and "can not be fetched" in words and "--pyodide-from FOLDER" in words
    assert not (tmp_path / "site").exists()
