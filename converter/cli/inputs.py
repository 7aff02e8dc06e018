"""What `run` and `check` feed a model: `--input` and `--dim` on one side, the model's inputs on the other.

Sizes: `--dim` binds names first, then the shapes of the inputs that were given, then `default_size` decides (and the command says so).
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from sardonyx.converter.cut import fix_dims
from sardonyx.dim import Expr, Symbol, substitute, symbols
from sardonyx.errors import InvalidArgument, NoSuchFile, SardonyxError
from sardonyx.graph import Model, Value
from sardonyx.model import is_sdx
from sardonyx.narrow import astype, plain
from sardonyx.types import DType, MapType, OptionalType, SequenceType, SparseTensorType, TensorType

from .media import AUDIO, IMAGES, Pixels, read_audio, read_image
from .show import dim, type_text

SIZES_HELP = """\b
Inputs that are not given are random (--seed). Sizes without a number come from --dim, from the given inputs, or are
  1    on axis 0 and where the name says batch
  224  for height and width: by name, or axes 2 and 3 of a rank-4 input (1 and 2 where channels are last)
  16   elsewhere"""

InputOption = Annotated[list[str], typer.Option("--input", "-i", metavar="[NAME=]VALUE", help=(
    "An input: a file (.npy .npz .json .txt, an image, .wav), `random`, or JSON such as [[1, 2]]. "
    "NAME may be left out where there is one input, or a .npz or JSON object has the names."))]
DimOption = Annotated[list[str], typer.Option("--dim", "-d", metavar="NAME=N", help="Size of a symbolic dimension; `input.axis=N` where it has no name.")]
SeedOption = Annotated[int, typer.Option(help="Seed of random inputs.")]
ScaleOption = Annotated[float, typer.Option("--image-scale", help="Pixels (0–255) are multiplied by this for float inputs.", show_default="1/255")]
MeanOption = Annotated[str, typer.Option("--image-mean", metavar="A[,B,C]", help="Subtracted from scaled pixels, per channel.")]
StdOption = Annotated[str, typer.Option("--image-std", metavar="A[,B,C]", help="Scaled pixels minus mean are divided by this, per channel.")]
ProviderOption = Annotated[list[str], typer.Option("--provider", "-p", metavar="NAME", help="Execution provider, best first; short names such as `reference` or `cpu` work.")]

#: Integer inputs whose meaning their name tells; the rest is random.
_NAMED_INTEGERS = (("attention_mask", 1), ("mask", 1), ("token_type", 0), ("segment_ids", 0), ("sample_rate", 16000), ("sampling_rate", 16000))
#: Operators that hand indices on as they are, on the way from an input to a Gather.
_CARRIERS = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Expand"})
MAX_RANDOM_INTEGER = 100
_WORDS = ("sardonyx", "onyx", "agate", "jasper", "chalcedony")


@dataclass
class Feeds:
    """The feeds of one run. `chosen`: sizes nobody gave, by name; `random`: inputs nobody gave."""

    values: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, int] = field(default_factory=dict)
    random: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """What the user should know about inputs they did not give, a line each."""
        lines = [f"random inputs: {', '.join(self.random)}"] if self.random else []
        if self.chosen:
            lines.append(f"sizes chosen: {', '.join(f'{name}={size}' for name, size in self.chosen.items())}; set them with --dim {next(iter(self.chosen))}=N")
        return lines

    def suspicion(self) -> str:
        """The end of an error message of a run: what the user did not choose may be its cause."""
        return f"; if a size chosen here is why ({', '.join(f'{name}={size}' for name, size in self.chosen.items())}), set it with --dim" if self.chosen else ""


def is_sdx_file(path: Path) -> bool:
    """Whether the file is an .sdx, by its first bytes; False where there is none."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return is_sdx(file.read(16))


def parse_sizes(texts: Sequence[str], option: str) -> dict[str, int]:
    """`name=N` words → {name: N}."""
    sizes = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not number.strip().isdecimal():
            raise InvalidArgument(f"{option} {text}: expected NAME=N with a whole number, e.g. {option} batch=1")
        sizes[name] = int(number)
    return sizes


def parse_ranges(text: str) -> dict[str, tuple[int, int | None]]:
    """`a=1,b=1..512,c=2..` → {name: (least, most or None)}."""
    ranges: dict[str, tuple[int, int | None]] = {}
    for part in text.split(","):
        name, _, said = part.strip().rpartition("=")
        low, dots, high = said.partition("..")
        if not name or not low.strip().isdecimal() or (high.strip() and not high.strip().isdecimal()):
            raise InvalidArgument(f"--plan {text}: expected NAME=N, NAME=LEAST..MOST or NAME=LEAST.., e.g. --plan batch=1,seq=1..512")
        ranges[name] = (int(low), int(high) if high.strip() else None if dots else int(low))
    return ranges


def make_feeds(model: Model, given: Sequence[str], sizes: Mapping[str, int], seed: int, pixels: Pixels) -> Feeds:
    """The feeds for `model` (whose input types it binds to `sizes`). Raises InvalidArgument naming the input and what would do."""
    fix_dims(model, sizes)
    inputs = {v.name: v for v in model.graph.inputs}
    sources = _sources(inputs, given)
    feeds = Feeds()
    for name, source in sources.items():
        if not (isinstance(source, str) and source == "random"):
            feeds.values[name] = _value(inputs[name], source, pixels)
    bound = _bind(inputs, feeds.values)
    generator = np.random.default_rng(seed)
    for name, value in inputs.items():
        if name in feeds.values or (value.const is not None and name not in sources):
            continue
        if not isinstance(value.type, OptionalType) or name in sources:
            feeds.values[name] = _random(value, value.type, bound, feeds.chosen, generator)
            feeds.random.append(name)
    return feeds


# -- which input gets what --------------------------------------------------------------------------------------------------------------------

def _sources(inputs: Mapping[str, Value], given: Sequence[str]) -> dict[str, Any]:
    """Input name → the text of its value, or the value itself where a file or a JSON object has the names."""
    sources: dict[str, Any] = {}
    for text in given:
        found = _split(inputs, text)
        for name in found:
            if name not in inputs:
                raise InvalidArgument(f"the model has no input '{name}'{_near(name, inputs)}")
            if name in sources:
                raise InvalidArgument(f"input '{name}' is given twice")
        sources.update(found)
    return sources


def _split(inputs: Mapping[str, Value], text: str) -> dict[str, Any]:
    fitting = [name for name in inputs if text.startswith(name + "=")]
    if fitting:
        name = max(fitting, key=len)
        return {name: text[len(name) + 1:]}
    if text.lower().endswith(".npz"):
        return _load_npz(text)
    if text.lstrip().startswith("{") or text.lower().endswith(".json"):
        content = _parse_json(text)
        if isinstance(content, dict) and not (len(inputs) == 1 and isinstance(next(iter(inputs.values())).type, MapType)):
            return {name: _Parsed(value) for name, value in content.items()}
    name, equals, _ = text.partition("=")
    if equals and not Path(text).exists():
        raise InvalidArgument(f"the model has no input '{name}'{_near(name, inputs)}")
    required = [name for name, value in inputs.items() if value.const is None]
    if len(required) != 1:
        raise InvalidArgument(f"--input {text}: say which input it is, NAME=VALUE; the model has {', '.join(inputs) or 'no inputs'}")
    return {required[0]: text}


def _near(name: str, inputs: Mapping[str, Value]) -> str:
    near = get_close_matches(name, inputs, 1)
    return (f"; did you mean '{near[0]}'?" if near else "") + f" Its inputs: {', '.join(f'{n} {type_text(v.type)}' for n, v in inputs.items()) or 'none'}"


@dataclass
class _Parsed:
    """A value out of a JSON object."""

    value: Any


# -- reading values ---------------------------------------------------------------------------------------------------------------------------

def _value(value: Value, source: Any, pixels: Pixels) -> Any:
    """The input's value from a text (file name or JSON), a parsed JSON value or an array."""
    kind = value.type.element if isinstance(value.type, OptionalType) else value.type
    if isinstance(source, _Parsed):
        return _from_json(value.name, kind, source.value)
    if isinstance(source, np.ndarray):
        return _as_type(value.name, kind, source)
    suffix = Path(source).suffix.lower()
    if not Path(source).is_file():
        if suffix in (".npy", ".npz", ".json", ".txt", *AUDIO, *IMAGES):
            raise NoSuchFile(f"input '{value.name}': the file '{source}' does not exist")
        return _from_json(value.name, kind, _parse_inline(value.name, source))
    if suffix == ".json":
        return _from_json(value.name, kind, _parse_json(source))
    if not isinstance(kind, (TensorType, SparseTensorType)):
        raise InvalidArgument(f"input '{value.name}' is {type_text(kind)}; give it as JSON (inline or a .json file)")
    if suffix in IMAGES:
        return _as_type(value.name, kind, read_image(source, value, pixels))
    if suffix in AUDIO:
        return _as_type(value.name, kind, read_audio(source, value))
    if suffix == ".npy":
        return _as_type(value.name, kind, _load_npy(source))
    if suffix == ".npz":
        arrays = _load_npz(source)
        if value.name not in arrays and len(arrays) != 1:
            raise InvalidArgument(f"'{source}' has no array '{value.name}'; it has {', '.join(arrays) or 'none'}")
        return _as_type(value.name, kind, arrays.get(value.name, next(iter(arrays.values()))))
    if suffix == ".txt":
        return _as_type(value.name, kind, _load_text(source, value))
    raise InvalidArgument(f"input '{value.name}': files of type '{suffix or source}' can not be read; known are .npy .npz .json .txt {' '.join((*IMAGES, *AUDIO))}")


def _load_npy(path: str) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InvalidArgument(f"'{path}' is not a .npy file of numbers or text ({error})") from None
    if not isinstance(loaded, np.ndarray):
        raise InvalidArgument(f"'{path}' is a .npz file; call it so")
    return loaded


def _load_npz(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise NoSuchFile(f"the file '{path}' does not exist")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile's, zlib's and numpy's many ways to say the same
        raise InvalidArgument(f"'{path}' is not a .npz file of numbers or text ({error})") from None


def _load_text(path: str, value: Value) -> np.ndarray:
    """A .txt file: a string a line for text inputs, else numbers apart by spaces, commas or lines, in the input's shape where that is one."""
    text = Path(path).read_text(encoding="utf-8")
    if value.dtype is DType.STRING:
        return _fit(np.array(text.splitlines(), object), value)
    try:
        numbers = np.array([float(word) for word in text.replace(",", " ").split()])
    except ValueError as error:
        raise InvalidArgument(f"input '{value.name}': '{path}' holds something that is not a number ({error})") from None
    return _fit(numbers, value)


def _fit(flat: np.ndarray, value: Value) -> np.ndarray:
    """A list in the input's shape: -1 for one unknown size, 1 for the others."""
    sizes = [d if isinstance(d, int) else -1 for d in value.shape or (-1,)]
    if sizes.count(-1) > 1:
        last = len(sizes) - 1 - sizes[::-1].index(-1)
        sizes = [1 if d == -1 and i != last else d for i, d in enumerate(sizes)]
    try:
        return flat.reshape(sizes)
    except ValueError:
        raise InvalidArgument(f"input '{value.name}' is {type_text(value.type)}; {flat.size} values do not fill it") from None


def _parse_json(source: str) -> Any:
    try:
        return json.loads(source if source.lstrip().startswith("{") else Path(source).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NoSuchFile(f"the file '{source}' does not exist") from None
    except ValueError as error:
        raise InvalidArgument(f"'{source:.60}' is not JSON ({error})") from None


def _parse_inline(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise InvalidArgument(f"input '{name}': '{text:.60}' is neither a file, nor `random`, nor JSON (strings in JSON have double quotes)") from None


def _from_json(name: str, kind: Any, value: Any) -> Any:
    if isinstance(kind, OptionalType):
        return None if value is None else _from_json(name, kind.element, value)
    if isinstance(kind, SequenceType):
        if not isinstance(value, list):
            raise InvalidArgument(f"input '{name}' is {type_text(kind)}: give a JSON list")
        return [_from_json(f"{name}[{i}]", kind.element, item) for i, item in enumerate(value)]
    if isinstance(kind, MapType):
        if not isinstance(value, dict):
            raise InvalidArgument(f"input '{name}' is {type_text(kind)}: give a JSON object")
        try:
            return {key if kind.key is DType.STRING else int(key): item for key, item in value.items()}
        except ValueError as error:
            raise InvalidArgument(f"input '{name}' is {type_text(kind)}: a key is no number ({error})") from None
    try:
        return _as_type(name, kind, np.asarray(value, object if kind.dtype is DType.STRING else None))
    except (ValueError, OverflowError) as error:
        if isinstance(error, SardonyxError):
            raise
        raise InvalidArgument(f"input '{name}' is {type_text(kind)}: the lists must be of numbers, all rows of one length ({error})") from None


def _as_type(name: str, kind: Any, array: np.ndarray) -> np.ndarray:
    """The array in the input's element type, where no number changes but by the rounding of floats."""
    if kind.dtype is None or (kind.dtype is DType.STRING and array.dtype.kind in "OUST"):
        return array.astype(object) if array.dtype.kind in "UT" else array
    wanted = kind.dtype.numpy
    if array.dtype == wanted:
        return array
    text = array.dtype.kind not in "biufc"
    problem = f"input '{name}' is {type_text(kind)}, the value given is {'text or mixed' if text else array.dtype}{list(array.shape)}"
    if text or kind.dtype is DType.STRING:
        raise InvalidArgument(f"{problem}: {'text' if kind.dtype is DType.STRING else 'numbers'} expected")
    with np.errstate(all="ignore"):
        made = astype(array, kind.dtype)
        if not (kind.dtype.is_float and array.dtype.kind in "fiub") and not np.array_equal(plain(made), array):
            raise InvalidArgument(f"{problem}: some of its numbers are not {kind.dtype.text}; convert it first")
    return made


# -- sizes ------------------------------------------------------------------------------------------------------------------------------------

def _bind(inputs: Mapping[str, Value], values: Mapping[str, Any]) -> dict[str, int]:
    """{symbolic size: number} that the given arrays say; InvalidArgument where two disagree."""
    bound: dict[str, int] = {}
    giver: dict[str, str] = {}
    for name, array in values.items():
        declared = inputs[name].shape
        if declared is None or not isinstance(array, np.ndarray) or array.ndim != len(declared):
            continue  # the session says what is wrong with a rank
        for axis, (size, number) in enumerate(zip(declared, array.shape, strict=True)):
            symbol = _only_symbol(size)
            if symbol is None:
                continue
            if bound.setdefault(symbol.name, number) != number:
                raise InvalidArgument(f"input '{name}' has {number} elements on axis {axis} ('{size}'), but input '{giver[symbol.name]}' has {size}={bound[symbol.name]}")
            giver.setdefault(symbol.name, name)
    return bound


def _only_symbol(size: Any) -> Symbol | None:
    """The symbol a size consists of, None for numbers and expressions."""
    found = symbols(size) if isinstance(size, Expr) else set()
    return next(iter(found)) if len(found) == 1 and str(size) == next(iter(found)).name else None


def default_size(name: str, axis: int, shape: Sequence[Any], dtype: DType | None) -> int:
    """The size a symbolic dimension gets where nobody says one (SIZES_HELP)."""
    word = name.lower()
    if "batch" in word or word in ("n", "bs"):
        return 1
    if word.startswith(("height", "width")) or word.endswith(("height", "width")) or word in ("h", "w"):
        return 224
    if axis == 0:
        return 1
    spatial = (1, 2) if len(shape) == 4 and shape[3] in (1, 3, 4) else (2, 3)
    return 224 if len(shape) == 4 and axis in spatial and dtype is not DType.STRING else 16


def _concrete(value: Value, kind: TensorType | SparseTensorType, bound: dict[str, int], chosen: dict[str, int]) -> list[int]:
    """The shape with a number for every size; what is chosen here is recorded in both dicts."""
    shape = kind.shape if kind.shape is not None else ()
    for axis, size in enumerate(shape):
        for symbol in sorted(symbols(size), key=lambda s: s.name):
            if symbol.name not in bound:
                name = symbol.name if dim(size) is not None else f"{value.name}.{axis}"
                bound[symbol.name] = chosen[name] = default_size("" if symbol.name.startswith("?") else symbol.name, axis, shape, kind.dtype)
    return [int(substitute(size, bound)) for size in shape]


# -- random values ----------------------------------------------------------------------------------------------------------------------------

def _random(value: Value, kind: Any, bound: dict[str, int], chosen: dict[str, int], generator: np.random.Generator) -> Any:
    if isinstance(kind, OptionalType):
        return _random(value, kind.element, bound, chosen, generator)
    if isinstance(kind, SequenceType):
        return [_random(value, kind.element, bound, chosen, generator) for _ in range(2)]
    if not isinstance(kind, (TensorType, SparseTensorType)) or kind.dtype is None:
        raise InvalidArgument(f"input '{value.name}' is {type_text(kind)}, for which there are no random values; give it as --input {value.name}=JSON")
    shape = _concrete(value, kind, bound, chosen)
    if kind.dtype is DType.STRING:
        return np.array([_WORDS[i] for i in generator.integers(0, len(_WORDS), int(np.prod(shape)))], object).reshape(shape)
    if kind.dtype is DType.BOOL:
        return generator.integers(0, 2, shape).astype(bool)
    if kind.dtype.is_complex:
        return (generator.random(shape) + 1j * generator.random(shape)).astype(kind.dtype.numpy)
    if not kind.dtype.is_integer:
        return astype(generator.random(shape), kind.dtype)
    return _random_integers(value, kind.dtype, shape, generator)


def _random_integers(value: Value, dtype: DType, shape: Sequence[int], generator: np.random.Generator) -> np.ndarray:
    """Integers that mean something: what the name says, indices within the table they index, all values of a small type."""
    word = value.name.lower()
    fixed = 16000 if word == "sr" else next((number for part, number in _NAMED_INTEGERS if part in word), None)
    if fixed is not None and dtype.bits >= 16:
        return np.full(shape, fixed, dtype.numpy)
    if "position" in word and shape:
        return astype(np.broadcast_to(np.arange(shape[-1]), shape), dtype)
    limit = index_limit(value)
    if dtype.bits <= 8 and limit is None:
        low = -(1 << dtype.bits - 1) if dtype.is_signed_integer else 0
        return astype(generator.integers(low, low + (1 << dtype.bits), shape), dtype)
    return astype(generator.integers(0, MAX_RANDOM_INTEGER if limit is None else max(limit, 1), shape), dtype)


def index_limit(value: Value) -> int | None:
    """The size of the smallest constant table that the input indexes, None where it indexes none."""
    limits: list[int] = []
    waiting, seen = [value], {value}
    while waiting:
        for node, index in waiting.pop().uses:
            table = node.inputs[0]
            if node.op_type == "Gather" and index == 1 and table is not None and table.const is not None and table.const.shape:
                limits.append(table.const.shape[int(node.attributes.get("axis", 0))])
            elif node.op_type in _CARRIERS and index == 0:
                new = [v for v in node.outputs if v is not None and v not in seen]
                waiting += new
                seen.update(new)
    return min(limits, default=None)
