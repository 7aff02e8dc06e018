"""Rewrites of the Graph that hold on every device: one class a pass, `base` says how to write one. `default_passes()` is the order `convert` uses."""
from __future__ import annotations

from .base import Pass, PassResult, run_passes

__all__ = ["Pass", "PassResult", "default_passes", "run_passes"]
