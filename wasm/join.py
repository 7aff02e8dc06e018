"""JavaScript modules into one: a page fetches one file, and a worker the same file again, instead of a dozen each, three deep.

Only what js/ uses is understood: imports and exports of names, at the beginning of a line. Each module becomes a function that gives its exports, called once, after those it imports from.
"""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w-]+)\.js";$', re.MULTILINE)
_BARE = re.compile(r'^import "\./([\w-]+)\.js";$', re.MULTILINE)
_AGAIN = re.compile(r'^export \{([^}]*)\} from "\./([\w-]+)\.js";$', re.MULTILINE)
_LIST = re.compile(r"^export \{([^}]*)\};$", re.MULTILINE)
_NAMED = re.compile(r"^export ((?:async )?function|class|const) (\w+)", re.MULTILINE)
#: What a joined module exports besides its own: {module: its exports}, for modules that are fetched later and must not bring a second `env` or second error classes.
INTERNALS = "internals"


def join(modules: Mapping[str, str], root: str, *, outer: str = "", inside: Sequence[str] = ()) -> tuple[str, list[str]]:
    """`root` (a name without .js) and all it imports, as one module; and the names of what is in it. `modules`: {name: text without comments}. What is `inside` another joined module, `outer`, comes
    from there. ValueError for what is not understood."""
    if outer:
        body, joined = join({name: _outside(text, inside) for name, text in modules.items()}, root)
        return f'import {{ {INTERNALS} }} from "./{outer}.js";\n' + body[:body.rindex(f"export const {INTERNALS} =")], joined
    order: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ValueError(f"modules import each other in a circle: {' → '.join((*above, name))}")
        if name in order:
            return
        for found in re.finditer(r'^(?:import|export) (?:\{[^}]*\} from )?"\./([\w-]+)\.js";$', modules[name], re.MULTILINE):
            visit(found.group(1), (*above, name))
        order.append(name)

    visit(root, ())
    made, names = [], dict[str, list[str]]()
    for name in order:
        for found in (*_IMPORT.finditer(modules[name]), *_AGAIN.finditer(modules[name])):
            for own, _ in _pairs(found.group(1)):
                if own not in [one.split(":")[0] for one in names[found.group(2)]]:
                    raise ValueError(f"{name}.js takes '{own}' from {found.group(2)}.js, which does not export it by a line of its own")
        text, names[name] = _as_function(name, modules[name])
        made.append(f"const ${_word(name)} = (() => {{\n{text}return {{ {', '.join(names[name])} }};\n}})();\n")
    exported = f"export const {{ {', '.join(one.split(':')[0] for one in names[root])} }} = ${_word(root)};\n" if names[root] else ""
    inner = ", ".join(f'"{name}": ${_word(name)}' for name in order if name != root)
    return "".join(made) + exported + (f"export const {INTERNALS} = {{ {inner} }};\n" if exported else ""), order


def later(text: str, root: str, inside: list[str]) -> str:
    """A module that is fetched when it is needed: what it imports from modules that are inside `root` comes from there."""
    made = _outside(text, inside)
    return made if made == text else f'import {{ {INTERNALS} }} from "./{root}.js";\n' + made


def _outside(text: str, inside: Sequence[str]) -> str:
    """Imports of what is inside another joined module, from what it exports."""
    return _IMPORT.sub(lambda m: f'const {{ {_renamed(m.group(1))} }} = {INTERNALS}["{m.group(2)}"];' if m.group(2) in inside else m.group(), text)


def _as_function(name: str, text: str) -> tuple[str, list[str]]:
    """The body, and its exports as an object takes them (`a`, or `a: b`)."""
    exports: list[str] = []

    def again(found: re.Match[str]) -> str:
        exports.extend(f"{public}: ${_word(found.group(2))}.{own}" for own, public in _pairs(found.group(1)))
        return ""

    def listed(found: re.Match[str]) -> str:
        exports.extend(own if own == public else f"{public}: {own}" for own, public in _pairs(found.group(1)))
        return ""

    def named(found: re.Match[str]) -> str:
        exports.append(found.group(2))
        return f"{found.group(1)} {found.group(2)}"

    text = _IMPORT.sub(lambda m: f"const {{ {_renamed(m.group(1))} }} = ${_word(m.group(2))};", text)
    text = _NAMED.sub(named, _LIST.sub(listed, _AGAIN.sub(again, _BARE.sub("", text))))
    if left := re.search(r"""^(?:import [^;\n]*["']|export\b).*$""", text, re.MULTILINE):
        raise ValueError(f"{name}.js: '{left.group()}' can not be joined")
    return re.sub(r"\n{2,}", "\n", text if text.endswith("\n") else text + "\n"), exports


def _pairs(names: str) -> list[tuple[str, str]]:
    """`a, b as c` → (a, a), (b, c)."""
    return [(parts[0], parts[-1]) for one in names.split(",") if (parts := one.split())]


def _renamed(names: str) -> str:
    return ", ".join(own if own == here else f"{own}: {here}" for own, here in _pairs(names))


def _word(name: str) -> str:
    return name.replace("-", "_")
