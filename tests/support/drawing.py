"""Draw states, sequences and layers for the documentation, as SVG text. The output is deterministic.

Each drawing has a light background, so that it is legible on light and dark pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

INK, FAINT, CLIENT, SERVER, BOX = "#1d2321", "#5d6763", "#0b6e8f", "#96500e", "#e6eef2"
_BOX_WIDTH, _BOX_HEIGHT, _COLUMN, _ROW = 106, 32, 202, 96


class Drawing:
    """A drawing, as large as the shapes added to it."""

    def __init__(self, width: float) -> None:
        self._width = width
        self._height = 0.0
        self._shapes: list[str] = []

    def text(self, x: float, y: float, text: str, *, size: int = 12, color: str = INK, anchor: str = "middle") -> None:
        """Add a line of text."""
        self._shapes.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{color}" text-anchor="{anchor}">{escape(text)}</text>'
        )
        self._height = max(self._height, y + 12)

    def box(self, x: float, y: float, width: float, height: float, text: str, *, fill: str = BOX) -> None:
        """Add a box with a name in it; x and y are its upper left corner."""
        self._shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{fill}" stroke="{FAINT}"/>'
        )
        self.text(x + width / 2, y + height / 2 + 4.5, text, size=13)
        self._height = max(self._height, y + height + 8)

    def path(self, path: str, bottom: float, *, color: str = FAINT, dashed: bool = False, arrow: bool = True) -> None:
        """Add a line with an arrowhead at its end."""
        dashes = ' stroke-dasharray="4 4"' if dashed else ""
        end = ' marker-end="url(#arrow)"' if arrow else ""
        self._shapes.append(f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1.3"{dashes}{end}/>')
        self._height = max(self._height, bottom + 8)

    def dot(self, x: float, y: float, *, end: bool) -> None:
        """Add the initial or the final state of a state diagram."""
        ring = f'<circle cx="{x:g}" cy="{y:g}" r="8" fill="none" stroke="{INK}"/>' if end else ""
        self._shapes.append(f'{ring}<circle cx="{x:g}" cy="{y:g}" r="5" fill="{INK}"/>')

    def svg(self) -> str:
        """Return the SVG text."""
        size = f"{self._width:g} {self._height + 8:g}"
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif">',
                '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
                f'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="{FAINT}"/></marker></defs>',
                '<rect width="100%" height="100%" rx="8" fill="#fdfdfc"/>',
                *self._shapes,
                "</svg>",
                "",
            ]
        )


def states(places: Mapping[str, tuple[int, int]], edges: Iterable[tuple[str, str, str]]) -> str:
    """Draw states and the arrows between them.

    Args:
        places: state -> column and row. "(" begins the name of the initial state, ")" that of the final state.
        edges: (from, to, label).
    """
    columns = 1 + max(column for column, _ in places.values())
    drawing = Drawing(columns * _COLUMN - (_COLUMN - _BOX_WIDTH) + 60)

    def middle(name: str) -> tuple[float, float]:
        column, row = places[name]
        return 30 + _BOX_WIDTH / 2 + column * _COLUMN, 70 + row * _ROW

    def half(name: str) -> float:
        return 10 if name[0] in "()" else _BOX_WIDTH / 2

    for before, after, label in edges:
        (x, y), (to, _) = middle(before), middle(after)
        lines = _wrapped(label, 44)
        if before == after:
            top = y - _BOX_HEIGHT / 2
            drawing.path(f"M{x - 22:g} {top:g}C{x - 30:g} {top - 26:g} {x + 30:g} {top - 26:g} {x + 22:g} {top:g}", y)
            for number, line in enumerate(reversed(lines)):
                drawing.text(x, top - 24 - 13 * number, line, size=11)
        elif abs(places[before][0] - places[after][0]) == 1 and to > x:
            drawing.path(f"M{x + half(before):g} {y:g}H{to - half(after) - 2:g}", y)
            _label(drawing, (x + half(before) + to - half(after)) / 2, y - 7, _wrapped(label, 16))
        else:
            low, deep = y + _BOX_HEIGHT / 2, 46
            start, end = (x + 16, to - 16) if to > x else (x - 16, to + 16)
            drawing.path(
                f"M{start:g} {low:g}C{start:g} {low + deep:g} {end:g} {low + deep:g} {end:g} {low:g}", low + 36
            )
            _label(drawing, (x + to) / 2, low + 47, [label])
    for name in places:
        x, y = middle(name)
        if name[0] in "()":
            drawing.dot(x, y, end=name[0] == ")")
        else:
            drawing.box(x - _BOX_WIDTH / 2, y - _BOX_HEIGHT / 2, _BOX_WIDTH, _BOX_HEIGHT, name)
    return drawing.svg()


def _label(drawing: Drawing, x: float, y: float, lines: Sequence[str]) -> None:
    for number, line in enumerate(reversed(lines)):
        drawing.text(x, y - 13 * number, line, size=11)


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def sequence(steps: Iterable[tuple[str, str, Sequence[tuple[str, str]]]]) -> str:
    """Draw the packets between a client and a server.

    Args:
        steps: (sender, packet, [(end, its state afterwards)]).
    """
    left, right, y = 190.0, 610.0, 58.0
    drawing = Drawing(800)
    for x, name in ((left, "client"), (right, "server")):
        drawing.box(x - 45, 10, 90, 26, name)
    for sender, what, changes in steps:
        start, end = (left, right) if sender == "client" else (right, left)
        color = CLIENT if sender == "client" else SERVER
        drawing.text((left + right) / 2, y, what, color=color)
        drawing.path(f"M{start:g} {y + 7:g}H{end + (-2 if end > start else 2):g}", y + 7, color=color)
        used = {"client": 0, "server": 0}
        for which, state in changes:
            x, anchor = (left - 10, "end") if which == "client" else (right + 10, "start")
            drawing.text(x, y + 4 + 15 * used[which], state, size=11, color=FAINT, anchor=anchor)
            used[which] += 1
        y += 30 + 15 * max(0, max(used.values()) - 1)
    for x in (left, right):
        drawing.path(f"M{x:g} 36V{y:g}", y, dashed=True, arrow=False)
    return drawing.svg()


def layers(rows: Sequence[Sequence[tuple[str, str]]], above: Sequence[tuple[str, str]]) -> str:
    """Draw layers, the lowest at the bottom.

    Args:
        rows: the rows from the lowest, each a list of (package, description).
        above: (package, description) of the packages above all rows.
    """
    drawing = Drawing(840)
    y = 10.0
    for name, what in above:
        drawing.box(10, y, 200, 30, name, fill="#f3e3d3")
        drawing.text(224, y + 20, what, color=FAINT, anchor="start")
        y += 40
    drawing.text(10, y + 12, "mqttws: each imports only what is below it", size=11, color=FAINT, anchor="start")
    y += 22
    for row in reversed(rows):
        width = 200 / len(row) if len(row) < 3 else 96
        for number, (name, _) in enumerate(row):
            drawing.box(10 + number * width, y, width - (4 if len(row) > 1 else 0), 30, name)
        words = "; ".join(dict.fromkeys(what for _, what in row if what))
        drawing.text(24 + max(200, width * len(row)), y + 20, words, color=FAINT, anchor="start")
        y += 36
    return drawing.svg()
