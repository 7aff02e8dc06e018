"""`make demo`: what sardonyx does, on a real third-party model. Ends by itself.

1. converts magika's model (a file-type detector) from .onnx to .sdx and prints the sizes;
2. runs it on the files of this repository: name, predicted type, score, milliseconds;
3. runs the same inputs through onnxruntime and prints the largest difference.

It runs on the GPU where there is one, else on the CPU; `make demo DEVICE=cpu` and `make demo DEVICE=gpu` choose, so that the two can be compared. A processor that plays a GPU (lavapipe) is taken
only when it is asked for.
"""
from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import sardonyx as ort
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
CPU, GPU = "CPUExecutionProvider", "WebGpuExecutionProvider"
SUFFIXES = {".py", ".md", ".toml", ".txt", ".json", ".fbs", ".c", ".h", ".js", ".html", ".wgsl", ""}


def features(content: bytes, config: dict) -> np.ndarray:
    """magika's input: int32[2048]. The first bytes of the file's head without leading white space, padded behind; the last bytes of its tail
    without trailing white space, padded in front."""
    block, padding = config["block_size"], config["padding_token"]
    head = list(content[:block].lstrip()[:config["beg_size"]])
    tail = list(content[-block:].rstrip()[-config["end_size"]:])
    head += [padding] * (config["beg_size"] - len(head))
    tail = [padding] * (config["end_size"] - len(tail)) + tail
    return np.array(head + tail, np.int32)


def chosen_files(limit: int) -> list[Path]:
    """A few files of each kind, so that the table is not forty Python files."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") or part.endswith(".egg-info") or part == "build" for part in parts)
        if not hidden and path.is_file() and path.suffix in SUFFIXES and path.stat().st_size >= 64:
            kinds.setdefault(path.suffix or path.name, []).append(path)
    rounds = max(map(len, kinds.values()))
    mixed = [group[i] for i in range(rounds) for group in kinds.values() if i < len(group)]
    return sorted(mixed[:limit])


def providers(device: str) -> tuple[list[str], str]:
    """The providers for "cpu", "gpu" or "" (the GPU where there is a real one), and how to choose otherwise."""
    if device not in ("", "cpu", "gpu"):
        raise SystemExit(f"DEVICE is cpu or gpu, not {device!r}")
    on_gpu = device == "gpu" or (not device and GPU in ort.get_available_providers())
    return ([GPU, CPU], "compare with the CPU: make demo DEVICE=cpu") if on_gpu else ([CPU], "on the GPU: make demo DEVICE=gpu")


def main(model_path: Path, config_path: Path) -> None:
    """Run the demo."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    config = json.loads(config_path.read_text())
    listed, other = providers(os.environ.get("DEVICE", ""))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "magika.sdx"
        start = time.perf_counter()
        ort.convert(model_path, target)
        console.print(f"converted [bold]{model_path.name}[/] ({model_path.stat().st_size:,} bytes) to [bold]magika.sdx[/] ({target.stat().st_size:,} bytes) "
                      f"in {(time.perf_counter() - start) * 1000:.0f} ms")
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            session = ort.InferenceSession(target, providers=listed)
        console.print(f"opened in {(time.perf_counter() - start) * 1000:.0f} ms; {str(session.explain()).splitlines()[0]} ({other})")
        for note in notes:
            console.print(f"[yellow]note:[/] {note.message}")
        console.print()
        table = Table("file", "type", "score", "ms")
        name = session.get_inputs()[0].name
        rows, answers = [], []
        for path in chosen_files(16):
            given = features(path.read_bytes(), config)[None]
            start = time.perf_counter()
            scores = session.run(None, {name: given})[0][0]
            milliseconds = (time.perf_counter() - start) * 1000
            best = int(np.argmax(scores))
            table.add_row(str(path.relative_to(ROOT)), config["target_labels_space"][best], f"{scores[best]:.3f}", f"{milliseconds:.1f}")
            rows.append(given)
            answers.append(scores)
        console.print(table)
        compare(console, model_path, name, np.concatenate(rows), np.stack(answers))
        session.close()


def compare(console: Console, model_path: Path, name: str, given: np.ndarray, ours: np.ndarray) -> None:
    """The same inputs through onnxruntime."""
    import onnxruntime
    peer = onnxruntime.InferenceSession(str(model_path), providers=["CPUExecutionProvider"])
    theirs = peer.run(None, {name: given})[0]
    same = int((ours.argmax(1) == theirs.argmax(1)).sum())
    console.print(f"\nonnxruntime {onnxruntime.__version__} on the same inputs: {same} of {len(ours)} predictions equal, largest difference of a score {np.abs(ours - theirs).max():.1e}")
    if same != len(ours):
        raise SystemExit("the predictions differ")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
