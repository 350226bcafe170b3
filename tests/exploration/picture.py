"""Draw explored graphs as SVG: one QoS 2 delivery with one loss.

Rows are steps from the start. In the picture of a hop, states of the world that map to one state of the model are one
circle; in that of the whole graph each state is a dot.

python tests/exploration/picture.py    writes docs/qos2-one-loss.svg and docs/qos2-one-loss-whole.svg
"""

from __future__ import annotations

import logging
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

from exploration import Explorer, delivery  # noqa: E402  (found by the line above)
from exploration.world import State  # noqa: E402
from refinement import Mapped, Mapping  # noqa: E402

DOCS = HERE.parents[1] / "docs"
PHASES = ("new", "waiting", "published", "released", "done")
HELD = ("", ", held", ", taken")
PACKETS = {"1": "PUBLISH", "2": "PUBACK", "3": "PUBREC", "4": "PUBREL", "5": "PUBCOMP"}
WIDTH, ROW = 1200, 64
#: The styles of edges by precedence, if several coincide: a loss, an edge before any loss, an edge after one.
COLOURS = {"loss": "#c33", "kind": "#124", "after": "#aaa"}


def words(mapped: Mapped) -> list[str]:
    """Describe a state of the hop."""
    phases, held, _, _, up, down, (sender, receiver, broken) = mapped[0], mapped[1], *mapped[2:]
    up = " ".join(PACKETS[each[0]] for each in up)
    down = " ".join(PACKETS[each[0]] for each in down)
    ends = ("–" if sender else "×") + ("⚡" if broken else "–") + ("–" if receiver else "×")
    return [f"{PHASES[phases[0]]}{HELD[held[0]]}", f"{up or '·'} {ends} {down or '·'}"]


def draw(explorer: Explorer, key: Callable[[State], Hashable], label: Callable[[Hashable], list[str]] | None) -> str:
    """Draw an explored graph, merging states with the same key."""
    world = explorer.world
    rows: dict[Hashable, int] = {}
    edges: dict[tuple[Hashable, Hashable], str] = {}
    for state in explorer.states():
        rows.setdefault(key(state), 0)
    depth: dict[State, int] = {world.root: 0}
    for state in explorer.states():
        for action in world.actions(state):
            after = world.after(state, action)
            depth.setdefault(after, depth[state] + 1)
            kind = "loss" if world.is_fault(action) else "kind" if state[0] else "after"
            edge = key(state), key(after)
            if edge[0] != edge[1]:
                edges[edge] = min(kind, edges.get(edge, kind), key=list(COLOURS).index)
    for state in reversed(list(explorer.states())):
        rows[key(state)] = depth[state]
    by_row: dict[int, list[Hashable]] = defaultdict(list)
    for each, row in rows.items():
        by_row[row].append(each)
    places: dict[Hashable, tuple[float, float]] = {}
    for number, row in enumerate(sorted(by_row)):
        for column, each in enumerate(by_row[row]):
            places[each] = ((column + 0.5) * WIDTH / len(by_row[row]), (number + 0.6) * ROW)
    height = (len(by_row) + 0.2) * ROW
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" font-family="sans-serif" '
        'font-size="9">',
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="white"/>',
    ]
    for (before, after), kind in edges.items():
        (x1, y1), (x2, y2) = places[before], places[after]
        bend = 30 if y2 <= y1 else 0
        path = f"M{x1:.0f} {y1:.0f} Q{(x1 + x2) / 2 + bend:.0f} {(y1 + y2) / 2 - bend:.0f} {x2:.0f} {y2:.0f}"
        width = 1 if label else 0.4
        lines.append(f'<path d="{path}" fill="none" stroke="{COLOURS[kind]}" stroke-width="{width}"/>')
    for each, (x, y) in places.items():
        if label is None:
            lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2"/>')
            continue
        lines.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="4" fill="#fff" stroke="#000"/>')
        for number, text in enumerate(label(each)):
            lines.append(f'<text x="{x:.0f}" y="{y + 13 + 10 * number:.0f}" text-anchor="middle">{text}</text>')
    return "\n".join([*lines, "</svg>", ""])


def pictures() -> dict[str, str]:
    """Return both pictures by file name."""
    hop = Explorer(delivery(2, losses=1, losing=(0,)))
    hop.run()
    mapping = Mapping(hop.world, 0)
    whole = Explorer(delivery(2, losses=1))
    whole.run()
    return {
        "qos2-one-loss.svg": draw(hop, mapping.of, words),  # type: ignore[arg-type]
        "qos2-one-loss-whole.svg": draw(whole, lambda state: state, None),
    }


if __name__ == "__main__":
    logging.getLogger("mqttws.broker").setLevel(logging.CRITICAL)
    for name, text in pictures().items():
        (DOCS / name).write_text(text)
