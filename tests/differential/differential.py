"""`make differential`: compare our broker and clients with others on the same bytes; write docs/differential.md.

python tests/differential/differential.py [--seconds S] [--seed N] [--only NAME]
"""

# ruff: noqa: E501  (the head of a table is one line)

from __future__ import annotations

import argparse
import datetime
import json
import logging
import os
import re
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]
os.environ.setdefault("PATIENCE", "60")  # for brokers that start slowly

from brokers import BROKERS, Difference, Duel, as_json, duel, side_by_side  # noqa: E402  (found by the lines above)
from clients import AGENTS, Case, Outcome, outcomes_of, there  # noqa: E402
from conversation import Step  # noqa: E402

PAGE = HERE.parents[1] / "docs" / "differential.md"
#: The bytes of the replays.
REPLAYS = HERE / "replays.json"
#: Judgements of differences that the step alone does not decide: see the file.
JUDGEMENTS = HERE / "judgements.toml"
HEAD = """# Differential: other brokers and clients on the same bytes

This page shows where implementations of MQTT 3.1.1 differ when they get the same bytes. Seeded conversations of raw packets go to
the embedded broker and to other brokers, and a scripted server talks to the clients of this library and to others. Each
difference is reduced to the shortest conversation that shows it, and judged by the statement of the standard, not by what this
library does. A machine found these facts; they apply to the named versions, and most have no effect with a correct peer.

A replay reads `client: action`, step by step; topics and client identifiers begin with `@`. Before it, each client has connected
with a clean session, and all retained messages were deleted. After each step the connected clients send a PINGREQ. So "nothing" means
that the connection stayed open and answered it, or, before the CONNACK, that it stayed open for five seconds. `make differential`
writes this page and the bytes of the replays. This plays the third one of Mosquitto again, and prints what each client receives after
each step:

```console
.venv/bin/python tests/differential/differential.py --replay mosquitto 3
```
"""
TAIL = """
**Next:** [proof](proof.md), or [interoperability](interop.md) in normal use.
"""


#: Statements that require the server to close the connection.
CLOSES = frozenset(
    f"MQTT-{number}"
    for number in (
        "1.5.3-1", "1.5.3-2", "2.2.2-2", "3.1.0-2", "3.1.2-3", "3.1.4-1", "3.3.1-4", "3.6.1-1", "3.8.1-1", "3.8.3-4", "3.10.1-1",
    )
)  # fmt: skip


def judge(difference: Difference) -> tuple[str, str]:
    """Return the judgement, "they depart", "both may", "ours departs" or "open", and the reason."""
    last = difference.replay[-1]
    if last.legal and ("no PINGRESP" in difference.ours) != ("no PINGRESP" in difference.theirs):
        why = "the connection stays open, and a PINGREQ on it has no answer [MQTT-3.12.4-1]"
        return ("they depart" if "no PINGRESP" in difference.theirs else "ours departs"), why
    codes = [re.search(r"SUBACK ([\d, ]+)", text) for text in (difference.ours, difference.theirs)]
    if codes[0] and codes[1] and codes[0][1].count(",") > codes[1][1].count(","):
        return "they depart", "a SUBACK has a return code for each Topic Filter [MQTT-3.8.4-5]"
    if _is_early(difference) or _is_late(difference):
        why = "§4.3.3 leaves open whether a message of QoS 2 goes on at its PUBLISH (this library) or at its PUBREL"
        return "both may", why
    for rule in tomllib.loads(JUDGEMENTS.read_text())["rule"]:
        if all(rule.get(name, "") in getattr(difference, name) for name in ("step", "ours", "theirs")):
            return rule["verdict"], rule["why"]
    if last.legal:
        return "open", ""
    if last.verb == "connect" and "CONNACK" in (difference.ours + difference.theirs):
        rule = "a CONNECT that does not conform ends in a close without a CONNACK [MQTT-3.1.4-1]"
        if "CONNACK" not in difference.ours:
            return "they depart", rule
        return ("open", "") if "CONNACK" in difference.theirs else ("ours departs", rule)
    if ("closed" in difference.ours) == ("closed" in difference.theirs):
        return "open", ""
    why = "the statement requires the server to close the connection"
    if last.statement not in CLOSES:
        why = "the packet is a protocol violation, and that ends the connection [MQTT-4.8.0-1]"
    return ("they depart" if "closed" in difference.ours else "ours departs"), why


def _is_early(difference: Difference) -> bool:
    """Return whether only ours has sent messages, and one of QoS 2 in the replay has no PUBREL yet."""
    if difference.theirs != "nothing":
        return False
    waiting: set[tuple[str, str]] = set()
    for step in difference.replay:
        name, _, rest = step.words.partition(" ")
        if name == "PUBLISH" and rest.startswith("QoS 2"):
            waiting.add((step.client, rest.split()[3]))
        elif name == "PUBREL":
            waiting.discard((step.client, rest.split()[1]))
    seen = [each.removeprefix("to another: ") for each in difference.ours.split("; ")]
    return bool(waiting) and all(each.startswith(("PUBLISH", "PUBREL")) for each in seen)


def _is_late(difference: Difference) -> bool:
    """Return whether only the other has sent messages, at the PUBREL of one that is older than a subscription."""
    *before, last = [step.words.split() for step in difference.replay if step.client == difference.replay[-1].client]
    if difference.ours != "nothing" or last[0] != "PUBREL":
        return False
    verbs = [step.words.partition(" ")[0] for step in difference.replay]
    published = any(words[:5] == ["PUBLISH", "QoS", "2", "id", last[2]] for words in before)
    subscribed = "SUBSCRIBE" in verbs[verbs.index("PUBLISH") :] if published else False
    return subscribed and all(
        each.removeprefix("to another: ").startswith("PUBLISH") for each in difference.theirs.split("; ")
    )


def broker_page(name: str, version: str, found: Duel) -> tuple[str, dict[str, int]]:
    """Return the section about a broker, and the number of differences of each judgement."""
    counts: dict[str, int] = {}
    rows = []
    for number, each in enumerate(found.found.values(), 1):
        verdict, why = judge(each)
        counts[verdict] = counts.get(verdict, 0) + 1
        replay = "; ".join(f"{step.client}: {step.words}" for step in each.replay)
        rows.append(
            f"| {number} | {each.statement} | {replay} | {each.ours} | {each.theirs} | {verdict}{': ' if why else ''}{why} | {each.count} |"
        )
    table = "\n".join(rows)
    return (
        f"""
## {name} {version}

{found.conversations:,} conversations, {found.steps:,} steps, {found.kinds} different ones by statement, packet and state of the
client. {len(found.found)} kinds of difference: {_counted(counts)}.

| number | statement | replay | only this library | only the other | judgement | times |
|---:|---|---|---|---|---|---:|
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
statement. "Goes on" means that the connection is still open three seconds later, and that the message was acknowledged unless the
table says otherwise.

| statement | the server sends | correct | {heads} |
|---|---|---|{"---|" * len(outcomes)}
{table}

Departures: {", ".join(f"{name} {count}" for name, count in counts.items())}.
""",
        counts,
    )


def replay(name: str, number: int) -> int:
    """Play a replay with our broker and another one, and print what the clients receive. Return the exit status."""
    found = json.loads(REPLAYS.read_text())[name][number - 1]
    steps = [Step(**step) for step in found["steps"]]
    with side_by_side(name) as (both, version):
        seen = both.play(steps, found["acknowledges"])
    for step, ours, theirs in zip(steps, *seen, strict=True):
        print(f"{step.client}: {step.words}" + (f"    {step.data}" if step.data else ""))
        for broker, packets in (("mqttws", ours), (f"{name} {version}", theirs)):
            seen_by = "; ".join(f"{client}: {each}" for client in packets for each in packets[client])
            print(f"    {broker}: {seen_by or 'nothing'}")
    return 0


def main() -> int:
    """Run from the command line. Return exit status 0 if neither our broker nor our clients depart."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="for each broker")
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--only", default="", help="peers with this in their names; writes nothing")
    parser.add_argument("--replay", nargs=2, metavar=("BROKER", "NUMBER"), help="play one replay; writes nothing")
    options = parser.parse_args()
    logging.getLogger("mqttws").setLevel(logging.CRITICAL)
    if options.replay is not None:
        return replay(options.replay[0], int(options.replay[1]))
    brokers = [name for name in BROKERS if options.only in name]
    clients = [name for name in AGENTS if options.only in name and there(name)]
    run: dict[str, Duel] = {}
    with ThreadPoolExecutor(3) as pool:  # more at a time would be late, and lateness looks like a difference
        duels = {name: pool.submit(duel, name, options.seconds, options.seed) for name in brokers}
        meetings = {name: pool.submit(outcomes_of, name) for name in clients}
        page, ours, departures = HEAD, 0, 0
        for name, future in duels.items():
            try:
                found, version = future.result()
            except AssertionError as error:  # it did not start in time, or is not installed
                page += f"\n## {name}\n\nNot run: {str(error).splitlines()[0]}\n"
                continue
            run[name] = found
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
        REPLAYS.write_text(as_json(run))
    print(page if options.only else summary)
    return 1 if ours else 0


if __name__ == "__main__":
    sys.exit(main())
