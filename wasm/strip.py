"""Comments out of JavaScript: what is shipped is smaller, what is read stays readable. Also blank lines and indentation; strings, templates and regular expressions stay as they are."""
from __future__ import annotations

import re

#: One token at a time: comment, string, template piece, word or number, white space, anything else. A `/` is decided by what stands before it.
_TOKEN = re.compile(r"""(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|(?P<word>[\w$#]+)|(?P<line>[ \t]*\n\s*)|(?P<space>[ \t]+)|(?P<other>.)""", re.DOTALL)
_REGEX = re.compile(r"/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\[\n])+/\w*")
_TEMPLATE = re.compile(r"(?:\\.|\$(?!\{)|[^`\\$])*(`|\$\{)", re.DOTALL)
#: After these words, or a sign that is not `)`, `]` or `}`, a `/` begins a regular expression.
_BEFORE_REGEX = frozenset(["return", "typeof", "case", "in", "of", "delete", "void", "throw", "new", "else", "do", "yield", "await"])


def strip(text: str) -> str:
    """The same program without comments. ValueError where a template does not end."""
    made: list[str] = []
    depth: list[int] = []  # open braces inside each `${`
    last, at = "", 0
    while at < len(text):
        regex = _REGEX.match(text, at) if text[at] == "/" and text[at + 1:at + 2] not in ("/", "*") and _may_begin_regex(last) else None
        if regex:
            made.append(regex.group())
            last, at = "word", regex.end()
            continue
        if text[at] == "`" or (text[at] == "}" and depth and depth[-1] == 0):
            if text[at] == "}":
                depth.pop()
            found = _TEMPLATE.match(text, at + 1)
            if not found:
                raise ValueError(f"a template that begins at {at} does not end")
            if found.group(1) == "${":
                depth.append(0)
            made.append(text[at:found.end()])
            last, at = ("(" if found.group(1) == "${" else "word"), found.end()
            continue
        token = _TOKEN.match(text, at)
        assert token is not None
        kind, part = token.lastgroup, token.group()
        at = token.end()
        if kind == "line":
            part = "\n"
        elif kind == "comment":
            part = "\n" if "\n" in part else " " if part.startswith("/*") else ""
        elif kind != "space":
            last = part if kind in ("word", "other") else "word"
            if depth and part in "{}":
                depth[-1] += 1 if part == "{" else -1
        made.append(part)
    return re.sub(r"\A\n", "", _joined(made))


def _may_begin_regex(last: str) -> bool:
    return last in _BEFORE_REGEX or not (last[-1:].isalnum() or last[-1:] in ("_", "$", ")", "]", "}"))


def _joined(parts: list[str]) -> str:
    """Parts after each other, without blank lines and without spaces around the end of a line. A template is one part and is not looked into."""
    made: list[str] = []
    for part in parts:
        if part == "\n":
            while made and made[-1].strip(" \t") == "" and made[-1] != "\n":
                made.pop()
            if made and made[-1] == "\n":
                continue
        elif part.strip(" \t") == "" and made and made[-1] == "\n":
            continue
        made.append(part)
    return "".join(made)
