"""`sardonyx explain`: where each node runs, and why not elsewhere."""
from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from . import show
from .inputs import ProviderOption
from .run import open_session

EPILOG = """\b
Examples:
  sardonyx explain model.onnx
  sardonyx explain model.sdx --provider webgpu --provider cpu"""


def explain(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx or .sdx file.")],
    provider: ProviderOption = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Show for every node which provider runs it, and why not an earlier one."""
    session = open_session(model, provider)
    found = session.explain()
    if as_json:
        rows = [{"nodes": list(row.names), "operator": row.operator, "provider": row.provider, "reason": row.reason} for row in found]
        print(json.dumps({"providers": session.get_providers(), "skipped": found.skipped, "nodes": rows}, indent=1))
        return
    counts = Counter(row.provider for row in found)
    show.say(f"{show.plural(len(found), 'node')}: {', '.join(f'{count} on {name}' for name, count in counts.most_common()) or 'nothing to run'}")
    for name, reason in found.skipped.items():
        show.say(f"{name} is not used: {reason}")
    columns = {"provider": [row.provider for row in found], "reason": [row.reason for row in found]}
    told = {title: texts for title, texts in columns.items() if len(set(texts)) > 1}  # what is the same for all is said once
    if "reason" not in told and any(columns["reason"]):
        show.say(f"reason: {columns['reason'][0]}")
    show.say()
    show.table(["node", "operator", *told], zip([" + ".join(row.names) for row in found], [row.operator for row in found], *told.values(), strict=True))
