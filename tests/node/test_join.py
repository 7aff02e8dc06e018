"""Modules joined into one: the shipped runtime is one module that parses and works (test_node.py runs it); names that clash, renamed imports, re-exports; what is not understood is refused."""
from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from sardonyx.wasm.join import join, later
from sardonyx.wasm.runtime import scripts

MODULES = {
    "root": 'import { twice as double, hidden } from "./low.js";\nimport { twice } from "./middle.js";\nimport "./effect.js";\n'
            'export { twice, double as other };\nexport { hidden as seen } from "./low.js";\n'
            "export const four = double(2);\nexport const again = hidden;\nexport class Thing {\nget() { return twice(1); }\n}\n",
    "middle": 'import { twice as low } from "./low.js";\nexport function twice(x) {\nreturn low(x) + 1;\n}\n',
    "low": "const secret = 7;\nexport const twice = (x) => 2 * x;\nexport async function slow() {\nreturn secret;\n}\nexport const hidden = secret;\n",
    "effect": "const secret = 1;\nglobalThis.effects = (globalThis.effects ?? 0) + secret;\n",
    "late": 'import { hidden as it, slow } from "./low.js";\nimport { beside } from "./other.js";\nexport const found = async () => [it, await slow(), beside];\n',
    "other": "export const beside = 3;\n",
}


def test_joined_modules_work_as_before(tmp_path: Path) -> None:
    whole, inside = join(MODULES, "root")
    assert inside == ["low", "middle", "effect", "root"]
    for name, text in {"root": whole, "late": later(MODULES["late"], "root", inside), "other": later(MODULES["other"], "root", inside)}.items():
        (tmp_path / f"{name}.js").write_text(text)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "main.js").write_text('import * as r from "./root.js";\nimport { found } from "./late.js";\n'
                                      "console.log(JSON.stringify([r.twice(3), r.other(3), r.seen, r.four, r.again, new r.Thing().get(), effects, await found(), Object.keys(r)]));")
    done = subprocess.run(["node", "main.js"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert done == '[7,6,7,4,7,3,1,[7,7,3],["Thing","again","four","internals","other","seen","twice"]]\n'


def test_what_is_shipped(tmp_path: Path) -> None:
    made = scripts()
    assert {"index.js", "thread.js", "planner-worker.js", "gpu.js"} <= set(made) and not {"session.js", "worker.js"} & set(made)
    for name, text in made.items():
        (tmp_path / name.replace(".js", ".mjs")).write_text(text)
        subprocess.run(["node", "--check", str(tmp_path / name.replace(".js", ".mjs"))], check=True)


@pytest.mark.parametrize(("text", "why"), [
    ('import { gone } from "./low.js";\n', "does not export"), ("export default 1;\n", "can not be joined"),
    ('import * as low from "./low.js";\n', "can not be joined"), ('import { a } from "./root.js";\n', "circle")])
def test_what_is_not_understood(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        join(MODULES | {"root": text}, "root")
