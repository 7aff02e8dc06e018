"""Files that are no model, or not a whole one: the class of the error, what it names and what it says to do."""
from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from sardonyx.converter.onnx import load_model
from sardonyx.errors import InvalidArgument, InvalidGraph, InvalidModelFile, InvalidProtobuf, NoSuchFile
from sardonyx.model import write_model

from tests.api import models

from .tools import FLOAT, refused, session

ONNX = models.scaled()
X = {"x": np.ones(3, np.float32)}


def sdx() -> bytes:
    file = io.BytesIO()
    write_model(load_model(ONNX), file)
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model.onnx", ONNX)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("model.onnx")
        info.size = len(ONNX)
        archive.addfile(info, io.BytesIO(ONNX))
    return file.getvalue()


FOREIGN = {
    "empty": (b"", "is empty (0 bytes)"), "zip": (zipped(), "zip archive"), "tar": (tarred(), "tar archive"), "gzip": (gzip.compress(ONNX), "unpack it first"),
    "bz2": (b"BZh91AY&SY" + bytes(20), "bzip2"),
    "xz": (b"\xfd7zXZ\0" + bytes(20), "xz archive"), "zstd": (b"\x28\xb5\x2f\xfd" + bytes(20), "zstd"), "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(20), "7-zip"),
    "pt": (b"\x80\x02}q\x00.", "torch.onnx.export"), "tflite": (b"\x1c\0\0\0TFL3" + bytes(60), "tf2onnx"), "h5": (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
    "gguf": (b"GGUF\3\0\0\0" + bytes(20), "GGUF"),
    "ort": (b"\x1c\0\0\0ORTM" + bytes(20), ".ort"), "safetensors": (b"\x40\0\0\0\0\0\0\0{\"a\":{}}", "safetensors"),
    "html": (b"<!doctype html><html>404</html>", "the download failed"),
    "json": (b'{"error": "not found"}', "JSON"), "text": (b"hello, this is not a model\n", "text"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(20), "PNG"), "jpeg": (b"\xff\xd8\xff\xe0" + bytes(20), "JPEG"), "pdf": (b"%PDF-1.7\n", "PDF"),
    "elf": (b"\x7fELF\2\1\1" + bytes(20), "program"),
    "zeros": (bytes(1000), "byte 0"), "ones": (b"\xff" * 1000, "byte 0"), "half a model": (ONNX[:len(ONNX) // 2], "truncated or damaged"),
    "more than a model": (ONNX + b"garbage", "not an ONNX file"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files(name: str, tmp_path: Path) -> None:
    data, words = FOREIGN[name]
    path = tmp_path / "some.onnx"
    path.write_bytes(data)
    with refused(InvalidProtobuf, words, "some.onnx"):
        session(path)
    with refused(InvalidProtobuf, words):
        session(data)


@pytest.mark.parametrize(("cut", "words"), [(3, "header"), (20, "header"), (127, "header"), (200, "truncated"), (-1, "truncated")])
def test_cut_sdx_files(cut: int, words: str, tmp_path: Path) -> None:
    path = tmp_path / "some.sdx"
    path.write_bytes(sdx()[:cut])
    with refused(InvalidModelFile if cut > 8 else InvalidProtobuf, words if cut > 8 else "sdx", "some.sdx"):
        session(path)


@pytest.mark.parametrize(("source", "kind", "words"), [
    ("nowhere/model.onnx", NoSuchFile, ["nowhere/model.onnx", "doesn't exist", "current folder"]), ("", NoSuchFile, ["doesn't exist"]), ("a\0b", NoSuchFile, ["null byte"]),
    ("a" * 5000, NoSuchFile, ["too long"]),
    ("https://example.org/m.onnx", NoSuchFile, ["https://example.org/m.onnx"]), (5, InvalidArgument, ["int", "path, bytes or a binary file object"]),
    (None, InvalidArgument, ["NoneType"]),
    ([], InvalidArgument, ["list"]), (io.StringIO("x"), InvalidArgument, ["binary mode ('rb')"]), (np.ones(3), InvalidArgument, ["ndarray"])])
def test_sources_that_are_no_model(source: Any, kind: type, words: list[str]) -> None:
    with refused(kind, *words) as caught:
        session(source)
    assert len(str(caught.value)) < 600


def test_folders_and_places_within_files(tmp_path: Path) -> None:
    for path in (tmp_path, f"{tmp_path}{os.sep}"):
        with refused(InvalidArgument, "it is a folder", str(tmp_path)):
            session(path)
    (tmp_path / "m.onnx").write_bytes(ONNX)
    with refused(NoSuchFile, "m.onnx"):
        session(tmp_path / "m.onnx" / "inner")


def external(folder: Path, location: str, **entries: Any) -> Path:
    """q = x * w with w in an external file."""
    proto = helper.make_tensor("w", FLOAT, [3], [0, 0, 0])
    proto.ClearField("float_data")
    proto.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        proto.external_data.add(key=key, value=str(value))
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["q"])], "g", [models.vi("x", FLOAT, [3])], [models.vi("q", FLOAT, [3])], [proto])
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())
    return path


SECRET = np.arange(3, dtype=np.float32).tobytes()


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "sub/../../w.bin", "sub/../w.bin", "..", "C:\\w.bin", "..\\w.bin", "\\\\host\\w.bin", "", "w\0.bin"])
def test_external_data_stays_in_the_folder(location: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(SECRET)
    (tmp_path / "model" / "sub").mkdir(parents=True)
    with refused(InvalidGraph, "'w'", "refused", "inside the model's folder"):
        session(external(tmp_path / "model", location))


def test_external_data_by_links(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(SECRET)
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    (folder / "out").symlink_to(tmp_path)
    for location in ("link.bin", "out/w.bin"):
        with refused(InvalidGraph, "'w'", location, "leads out of the model's folder", "copy the file there"):
            session(external(folder, location))
    (folder / "w.bin").write_bytes(SECRET)
    (folder / "inner.bin").symlink_to(folder / "w.bin")
    assert session(external(folder, "inner.bin")).run(None, X)[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("entries", "size", "kind", "words"), [
    ({}, None, NoSuchFile, ["'w'", "does not exist", "put 'w.bin' beside the model"]), ({}, 8, InvalidGraph, ["'w'", "0 to 12", "only 8 bytes", "truncated"]),
    ({"offset": 4}, 12, InvalidGraph, ["4 to 16"]),
    ({"offset": -4}, 12, InvalidGraph, ["offset '-4'"]), ({"offset": 2**63}, 12, InvalidGraph, ["bytes"]), ({"length": 8}, 12, InvalidGraph, ["8 bytes", "need 12"]),
    ({"length": "all"}, 12, InvalidGraph, ["'all'"])])
def test_external_data_that_is_wrong(entries: dict[str, Any], size: int | None, kind: type, words: list[str], tmp_path: Path) -> None:
    if size is not None:
        (tmp_path / "w.bin").write_bytes(SECRET[:size])
    with refused(kind, *words):
        session(external(tmp_path, "w.bin", **entries))


def test_external_data_of_bytes_and_of_a_folder(tmp_path: Path) -> None:
    with refused(InvalidArgument, "'w.bin'", "no folder"):
        session(external(tmp_path, "w.bin").read_bytes())
    (tmp_path / "w.bin").mkdir()
    with refused(NoSuchFile, "'w'", "does not exist"):
        session(external(tmp_path, "w.bin"))
