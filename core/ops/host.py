"""The operators that run on the host (NumPy) and nowhere else: listed, not discovered. Every other operator is lowered to kernels; a node of another operator that only moves strings
(Identity, Concat, Gather …) or a value of unknown rank goes to the host too, by the types of its values (plan/lower.py)."""
from __future__ import annotations

_STRINGS, _SEQUENCES, _OPTIONALS, _MAPS = "works on strings", "works on sequences", "works on optionals", "works on maps"

#: (domain, operator) → why.
HOST_ONLY: dict[tuple[str, str], str] = {
    **{("", name): _STRINGS for name in ("StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch")},
    **{("", name): _SEQUENCES for name in ("SequenceConstruct", "SequenceEmpty", "SequenceAt", "SequenceInsert", "SequenceErase", "SequenceLength", "SplitToSequence", "ConcatFromSequence",
                                           "SequenceMap")},
    **{("", name): _OPTIONALS for name in ("Optional", "OptionalHasElement", "OptionalGetElement")},
    **{("ai.onnx.ml", name): _MAPS for name in ("CastMap", "DictVectorizer", "ZipMap")},
    ("ai.onnx.ml", "CategoryMapper"): _STRINGS,
    ("", "ImageDecoder"): "reads files of images",
    ("ai.onnx.preview.training", "Gradient"): "is training",
}
