"""`make differential`: compare our broker and clients with others on the same bytes; write docs/differential.md.

python tests/differential/differential.py [--seconds S] [--seed N] [--only NAME]
"""

# ruff: noqa: E501  (the head of a table is one line)

from __future__ import annotations

import argparse
import datetime
import logging
import os
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]
os.environ.setdefault("PATIENCE", "60")  # for brokers that start slowly

from brokers import BROKERS, Difference, Duel, duel  # noqa: E402  (found by the lines above)
from clients import AGENTS, Case, Outcome, outcomes_of, there  # noqa: E402

PAGE = HERE.parents[1] / "docs" / "differential.md"
#: Judgements of differences that the step alone does not decide: see the file.
JUDGEMENTS = HERE / "judgements.toml"
HEAD = """# Differential: other brokers and clients on the same bytes

This page shows where implementations of MQTT 3.1.1 differ when they get the same bytes. Seeded conversations of raw packets go to
the embedded broker and to other brokers, and a scripted server talks to the clients of this library and to others. Each
difference is reduced to the shortest conversation that shows it, and judged by the statement of the standard, not by what this
library does. A machine found these facts; they apply to the named versions, and most have no effect with a correct peer.

A replay reads `client: action`, step by step; `tests/differential/conversation.py` has the bytes. `make differential` writes this
page.
"""
TAIL = """
**Next:** [proof](proof.md), or [interoperability](interop.md) in normal use.
"""


def judge(difference: Difference) -> tuple[str, str]:
    """Return the judgement, "they depart", "both may", "ours departs" or "open", and the reason."""
    for rule in tomllib.loads(JUDGEMENTS.read_text())["rule"]:
        if all(rule.get(name, "") in getattr(difference, name) for name in ("step", "ours", "theirs")):
            return rule["verdict"], rule["why"]
    last = difference.replay[-1]
    if not last.legal:
        if "closed" in difference.ours and "closed" not in difference.theirs:
            return "they depart", "a packet that may not be sent ends the connection [MQTT-4.8.0-1]"
        if "closed" in difference.theirs and "closed" not in difference.ours:
            return "ours departs", "a packet that may not be sent ends the connection [MQTT-4.8.0-1]"
    return "open", ""


def broker_page(name: str, version: str, found: Duel) -> tuple[str, dict[str, int]]:
    """Return the section about a broker, and the number of differences of each judgement."""
    counts: dict[str, int] = {}
    rows = []
    for each in sorted(found.found.values(), key=lambda each: (judge(each)[0], each.statement, each.step)):
        verdict, why = judge(each)
        counts[verdict] = counts.get(verdict, 0) + 1
        replay = "; ".join(f"{step.client}: {step.what}" for step in each.replay)
        rows.append(
            f"| {each.statement} | {replay} | {each.ours} | {each.theirs} | {verdict}{': ' if why else ''}{why} | {each.count} |"
        )
    table = "\n".join(rows)
    return (
        f"""
## {name} {version}

{found.conversations:,} conversations, {found.steps:,} steps, {len(found.found)} kinds of difference: {_counted(counts)}.

| statement | replay | only this library | only the other | judgement | times |
|---|---|---|---|---|---:|
{table}
""",
        counts,
    )


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} × {verdict}" for verdict, number in sorted(counts.items())) or "none"


def client_page(outcomes: dict[str, tuple[str, list[tuple[Case, Outcome]]]]) -> tuple[str, dict[str, int]]:
    """Return the section about the clients, and the number of departures of each."""
    counts = dict.fromkeys(outcomes, 0)
    rows = []
    for number, (case, _) in enumerate(next(iter(outcomes.values()))[1]):
        cells = []
        for name, (_, found) in outcomes.items():
            outcome = found[number][1]
            right = outcome.is_right(case)
            counts[name] += not right
            cells.append("right" if right else f"**{outcome.words(case)}**".replace("|", "/"))
        rows.append(f"| {case.statement} | {case.what} | {case.right} | {' | '.join(cells)} |")
    heads = " | ".join(f"{name} {version}" for name, (version, _) in outcomes.items())
    table = "\n".join(rows)
    return (
        f"""
## Clients

The server sends something that is not allowed, or that tests a rule, and then a message of QoS 1. Bold results depart from the
statement. "Goes on" means that the connection is still open three seconds later.

| statement | the server sends | correct | {heads} |
|---|---|---|{"---|" * len(outcomes)}
{table}

Departures: {", ".join(f"{name} {count}" for name, count in counts.items())}.
""",
        counts,
    )


def main() -> int:
    """Run from the command line. Return exit status 0 if neither our broker nor our clients depart."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="for each broker")
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--only", default="", help="peers with this in their names; writes nothing")
    options = parser.parse_args()
    logging.getLogger("mqttws").setLevel(logging.CRITICAL)
    brokers = [name for name in BROKERS if options.only in name]
    clients = [name for name in AGENTS if options.only in name and there(name)]
    with ThreadPoolExecutor(len(brokers) + len(clients)) as pool:
        duels = {name: pool.submit(duel, name, options.seconds, options.seed) for name in brokers}
        meetings = {name: pool.submit(outcomes_of, name) for name in clients}
        page, ours, departures = HEAD, 0, 0
        for name, future in duels.items():
            try:
                found, version = future.result()
            except AssertionError as error:  # it did not start in time, or is not installed
                page += f"\n## {name}\n\nNot run: {str(error).splitlines()[0]}\n"
                continue
            text, counts = broker_page(name, version, found)
            page += text
            ours += counts.get("ours departs", 0)
            departures += counts.get("they depart", 0)
        if meetings:
            text, numbers = client_page({name: future.result() for name, future in meetings.items()})
            page += text
            for name, number in numbers.items():
                if name.startswith("mqttws"):
                    ours += number
                else:
                    departures += number
    day = datetime.datetime.now(datetime.UTC).date()
    summary = f"{departures} departures of others, {ours} of this library; seeds from {options.seed}, {day}."
    page = page.replace(HEAD, f"{HEAD}\n{summary}\n")
    if not options.only:
        PAGE.write_text(page + TAIL)
    print(page if options.only else summary)
    return 1 if ours else 0


if __name__ == "__main__":
    sys.exit(main())
