"""webgpu/device/page.py puts modules of the JavaScript runtime into one expression, for there is no URL they could be imported from: every name they import must come from a module put in before."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from sardonyx.webgpu.device.page import script

from .package import node


@pytest.mark.skipif(shutil.which("node") is None, reason="no node: .ci/setup test")
def test_the_expression_is_whole(tmp_path: Path) -> None:
    (tmp_path / "page.cjs").write_text(f"const glue = ({script()})({{}});\nconsole.log(JSON.stringify(Object.keys(glue)));\n")
    assert {"open", "write", "bind", "submit", "read"} <= set(json.loads(node("page.cjs", cwd=tmp_path)))
