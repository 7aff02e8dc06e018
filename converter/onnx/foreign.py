"""What a file that is not ONNX probably is, from its first bytes: so that the message says what to do."""
from __future__ import annotations

from typing import Any

_STARTS = (
    (b"PK\x03\x04", "a zip archive (a PyTorch .pt, a Keras .keras or a zipped download); export the model to ONNX, or unpack the archive"),
    (b"\x89HDF", "an HDF5 file (Keras .h5); convert it to ONNX first, e.g. with tf2onnx"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7-zip archive; unpack it first"),
    (b"\x89PNG", "a PNG image; give the path of the model"),
    (b"\xff\xd8\xff", "a JPEG image; give the path of the model"),
    (b"%PDF", "a PDF document; give the path of the model"),
    (b"\x7fELF", "a program or library; give the path of the model"),
    (b"GGUF", "a GGUF file; sardonyx reads ONNX"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; run `git lfs pull` where it came from"),
    (b"\x80", "a Python pickle (PyTorch); export the model with torch.onnx.export"),
    (b"<", "an HTML or XML page, not the file: the download failed; look at the address"),
    (b"{", "JSON; sardonyx reads binary ONNX"),
    (b"ir_version", "an ONNX model in text form; convert it with onnx.parser or google.protobuf.text_format and save it as binary"),
    (b"graph {", "an ONNX model in text form; convert it with google.protobuf.text_format and save it as binary"),
)


def foreign(data: Any) -> str:
    """A guess for the message, empty where there is none."""
    head = bytes(data[:64])
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model; convert it to ONNX first, e.g. with tf2onnx --tflite"
    if head[4:8] == b"ORTM":
        return "an onnxruntime .ort file; use the .onnx file it was made from"
    if head[:8].lower().startswith(b"sardonyx") or head[:4].lower() == b"sdx1" or head[:3].lower() == b"sdx":
        return "a sardonyx .sdx file; open it with sardonyx.InferenceSession, it needs no import"
    if head[8:10] == b'{"':
        return "a safetensors file (weights only); export the whole model to ONNX"
    if bytes(data[257:262]) == b"ustar":
        return "a tar archive; unpack it first"
    stripped = head.lstrip()
    if stripped.startswith(b"<") and b"ir_version" in head:
        return "an ONNX model in text form; parse it with onnx.parser.parse_model and save it as binary"
    return next((what for start, what in _STARTS if stripped.startswith(start)), "text, not a binary model" if _is_text(head) else "")


def _is_text(head: bytes) -> bool:
    return len(head) > 8 and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)
