"""Write the results of `make cluster`: the table of docs/servers.md, and the tables of docs/scale.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from behaviours import BEHAVIOURS, REFERENCE

from mqttws import PROFILES

DOCS = Path(__file__).parents[2] / "docs"


def replace_part(path: Path, name: str, text: str) -> None:
    """Replace the text between the two comments of a page that name it."""
    begin, end = f"<!-- {name}: written by make cluster -->", f"<!-- end of {name} -->"
    page = path.read_text("utf-8")
    assert begin in page, f"{path} has no part {name}"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", "utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])


def behaviours_table(found: dict[str, tuple[str, dict[str, str]]], date: str) -> str:
    """Return the table of outcomes of each server; differences from the standard are bold.

    Args:
        found: server -> its version, and the outcome of each exchange.
        date: the date.
    """
    names = [name for name in found if name != "plain"]
    heads = [f"{PROFILES[name].server} {found[name][0]}" for name in names]
    rows = []
    for conversation, (what, _) in BEHAVIOURS.items():
        usual = REFERENCE.get(conversation, "delivered")
        cells = [found[name][1].get(conversation, "") for name in names]
        rows.append([what, usual, *(cell if cell in (usual, "") else f"**{cell}**" for cell in cells)])
    return f"Seen on {date}.\n\n" + table(["", "the standard, and this broker", *heads], rows)


def rules_table() -> str:
    """Return the table of the rules of all profiles."""
    rows: list[list[str]] = []
    for server, profile in PROFILES.items():
        for rule in profile.rules:
            rows.append(
                [f"`{server}`", f"{profile.server} {rule.says}", "refused" if rule.refuses else "warned of once"]
            )
        if profile.max_qos < 2:
            says = f"{profile.server} supports QoS {profile.max_qos} at most (`max_qos`)"
            rows.append([f"`{server}`", says, f"sent as QoS {profile.max_qos}, warned of once"])
    return table(["`server=`", "what is known", "before it is sent, it is"], rows)
