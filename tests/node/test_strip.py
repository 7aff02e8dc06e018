"""Comments out of shipped JavaScript: a program with every trap says the same before and after, and the runtime's modules still parse."""
from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from sardonyx.wasm.runtime import JS
from sardonyx.wasm.strip import strip

TRAPS = r"""
// a comment with "quotes", `ticks` and ${braces}
const url = "http://example.org//x" /* behind */ + '/* not one */';
const half = 8 / 2 / 2, list = [4 / 2]; // two divisions
const pattern = /[/"'`]\/\/(?:x)/g, after = ((1 + 1) / 2);
const text = `kept:
    // in a template
  ${ `inner ${ { a: { b: "}" } }.a.b /* dropped */ } //` }   
end`;
function give() {
  /* a return that
     spans lines */
  return /\s+\/\//.test("a  //b");
}
let i = 5, x = i++ /2
const next = x
console.log(JSON.stringify([url, half, list, pattern.source, after, text, give(), next, "a//b".split(/\//)]));
"""


def node(program: str) -> str:
    return subprocess.run(["node", "--input-type=module", "-e", program], capture_output=True, text=True, check=True).stdout


def test_the_program_stays_the_same() -> None:
    made = strip(TRAPS)
    assert node(made) == node(TRAPS) != ""
    assert not any(word in made for word in ("a comment with", "behind", "dropped", "spans lines", "two divisions")) and "    // in a template" in made and strip(made) == made


@pytest.mark.parametrize("path", sorted(JS.glob("*js")), ids=lambda p: p.name)
def test_modules_parse(path: Path, tmp_path: Path) -> None:
    made = tmp_path / f"{path.stem}.mjs"
    made.write_text(strip(path.read_text()))
    subprocess.run(["node", "--check", str(made)], check=True)
    assert made.stat().st_size < path.stat().st_size


def test_a_template_without_end() -> None:
    with pytest.raises(ValueError, match="does not end"):
        strip("const x = `abc")
