"""Rewrites of the Graph that hold on every device: one class a pass, `base` says how to write one, `match` how to recognise. `default_passes` is the order `convert` uses."""
from __future__ import annotations

from typing import TYPE_CHECKING

from .activations import RecogniseActivations, RecogniseGelu
from .affine import FoldBatchNorm
from .attention import RecogniseAttention, RecogniseRotaryEmbedding
from .base import Pass, PassResult, run_passes
from .cleanup import CommonSubexpressions, DeadCode, DuplicateConstants, NoOps
from .fold import FoldConstants
from .labels import NumberLabels
from .merge import MergeProducts
from .moves import CleanMoves
from .normalizations import RecogniseLayerNormalization, RecogniseRMSNormalization
from .qdq import NormalizeQDQ
from .standard import StandardForms

if TYPE_CHECKING:
    from ..options import ConvertOptions


def default_passes(options: ConvertOptions) -> list[Pass]:
    """The passes of a conversion, in order.

    1. com.microsoft's operators become standard ones where these exist; string labels become numbers. What is constant and what does nothing goes first, so that
       patterns are seen in their plain form (shared subexpressions once).
    2. Quantised models get their canonical form, small operators become the standard ones, from the inside out; then affine maps go into weights (before, they would take the
       factors out of activations that are spelled out).
    3. What these left behind is cleaned up, and products of one tensor become one.
    """
    small, budget = 64, options.fold_budget
    return [
        DeadCode(), StandardForms(), NumberLabels(), FoldConstants(budget), NoOps(), DuplicateConstants(small), CommonSubexpressions(),     # 1
        CleanMoves(), FoldConstants(budget), DeadCode(), CommonSubexpressions(),
        NormalizeQDQ(), RecogniseLayerNormalization(), RecogniseRMSNormalization(), RecogniseGelu(), RecogniseActivations(),                # 2
        RecogniseRotaryEmbedding(), RecogniseAttention(), FoldBatchNorm(),
        CleanMoves(), FoldConstants(budget), NoOps(), DuplicateConstants(), CommonSubexpressions(), MergeProducts(), DeadCode(),            # 3
    ]


def session_passes() -> list[Pass]:
    """What a session does to a graph that no conversion has optimised: the recognitions that kernels need. Shape arithmetic and dead nodes cost a program nothing, so less is cleaned up."""
    budget = 1 << 20
    return [
        StandardForms(), NumberLabels(), FoldConstants(budget), NoOps(), CommonSubexpressions(), CleanMoves(),
        NormalizeQDQ(), RecogniseLayerNormalization(), RecogniseRMSNormalization(), RecogniseGelu(), RecogniseActivations(), RecogniseRotaryEmbedding(), RecogniseAttention(), FoldBatchNorm(),
        CleanMoves(), NoOps(), MergeProducts(), DeadCode(),
    ]


__all__ = ["CleanMoves", "CommonSubexpressions", "DeadCode", "DuplicateConstants", "FoldBatchNorm", "FoldConstants", "MergeProducts", "NoOps", "NormalizeQDQ", "NumberLabels", "Pass", "PassResult",
           "RecogniseActivations", "RecogniseAttention", "RecogniseGelu", "RecogniseLayerNormalization", "RecogniseRMSNormalization", "RecogniseRotaryEmbedding", "StandardForms", "default_passes",
           "run_passes", "session_passes"]
