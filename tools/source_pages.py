"""Source pages of the site: highlighted, with anchors at lines (`L12`), classes and functions (`Class.method`)."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from mqttws.tap import explanations

_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0; font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
header { position: sticky; top: 0; padding: 8px 16px; background: #3f51b5; color: #fff; }
header a { color: inherit; }
pre { margin: 0; padding: 8px 16px; }
pre a { display: inline-block; width: 4em; color: #888; text-decoration: none; user-select: none; }
pre span { scroll-margin-top: 4em; }
span:target, span:has(> :target) { background: #ffe08a; }
@media (prefers-color-scheme: dark) { span:target, span:has(> :target) { background: #5a4a10; } }
"""


def style() -> str:
    """Return the style sheet of all pages, light and dark."""
    light, dark = (HtmlFormatter(style=name).get_style_defs("pre") for name in ("default", "github-dark"))
    body = "body { background: #fff; color: #1d2321; }"
    night = "body { background: #15191a; color: #e4e9e7; }"
    return f"{_STYLE}{body}\n{light}\n@media (prefers-color-scheme: dark) {{ {night}\n{dark} }}\n"


def page(path: str, text: str) -> str:
    """Return the page of a file.

    Args:
        path: the path of the file, relative to the root of the repository.
        text: the text of the file.
    """
    names = _names(text)
    lines = highlight(text, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).splitlines()
    numbered = (
        f'<span id="L{number}"><a href="#L{number}">{number}</a>'
        + "".join(f'<span id="{name}"></span>' for name in names.get(number, ()))
        + f"{line}\n</span>"
        for number, line in enumerate(lines, 1)
    )
    up = "../" * path.count("/")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{path}</title>'
        f'<link rel="stylesheet" href="{up}source.css"></head><body>'
        f'<header><a href="{up}../index.html">Documentation</a> · {path}</header>'
        f"<pre>{''.join(numbered)}</pre></body></html>"
    )


def files(root: Path, paths: Iterable[str]) -> dict[str, str]:
    """Return the pages of files by path below `source/` in the site, including the style sheet.

    Args:
        root: the root of the repository.
        paths: the paths of the files, relative to the root.
    """
    found = {f"{path}.html": page(path, (root / path).read_text("utf-8")) for path in sorted(set(paths))}
    return {"source.css": style()} | found


def explained() -> set[str]:
    """Return the files that `explanations` names, to which the page of `pubsub look` links."""
    places = {place for found in explanations().values() for place in (found.reads, found.writes, *found.tests)}
    return {
        file if file.endswith(".py") else file.replace(".", "/") + ".py"
        for file in (place.partition(":")[0] for place in places if place)
    }


def anchor(root: Path, path: str, label: str, line: int) -> str:
    """Return the anchor of a link within the page of a file; "" for its top.

    Generated pages contain line numbers of the time when they were written; a name is found at its current line.

    Args:
        root: the root of the repository.
        path: the path of the file, relative to the root.
        label: the label of the link: "module:Class.method", "path::Class::test", "Class.method", or any other text.
        line: the line in the link; 0 for none.
    """
    text = (root / path).read_text("utf-8")
    names = {name for found in _names(text).values() for name in found}
    label = label.strip("`").replace("::", ":")
    for name in (label.replace(":", "."), label.partition(":")[2].replace(":", ".")):
        if name in names:
            return name
    return f"L{line}" if 0 < line <= text.count("\n") else ""


@cache
def _names(text: str) -> dict[int, list[str]]:
    """Return the classes and functions that begin on each line; for a repeated name, the first."""
    found: dict[str, int] = {}

    def visit(node: ast.AST, before: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.setdefault(before + child.name, child.lineno)
                visit(child, f"{before}{child.name}.")
            elif isinstance(child, ast.If | ast.Try):
                visit(child, before)

    visit(ast.parse(text), "")
    by_line: dict[int, list[str]] = {}
    for name, line in found.items():
        by_line.setdefault(line, []).append(name)
    return by_line
