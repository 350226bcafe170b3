"""The reference scenarios of the exploration, with their bounds."""

from __future__ import annotations

from typing import Any

from exploration.parts import Program
from exploration.world import Scenario

SUBSCRIBE = (("subscribe", "t", 2),)


def publisher(*qos: int, **options: Any) -> Program:
    """Return a program that publishes a message of each QoS."""
    return Program("p", tuple(("publish", "t", each, False) for each in qos), **options)


def delivery(*qos: int, losses: int = 0, crashes: int = 0, **options: Any) -> Scenario:
    """(a): one publisher, one broker and one subscriber, with sessions kept at both ends and in stores."""
    bounds = f"(a) QoS {','.join(map(str, qos))}; losses {losses}, crashes {crashes}"
    bounds += ", packets cut anywhere" if options.get("cuts") else ""
    return Scenario(
        bounds, (publisher(*qos), Program("s", SUBSCRIBE)), (0, 1), losses=losses, crashes=crashes, **options
    )


def sessions(
    what: str,
    *qos: int,
    losses: int = 0,
    crashes: int = 0,
    publisher_has: str = "kept store",
    subscriber_has: str = "kept store",
    **options: Any,
) -> Scenario:
    """(b): sessions kept or clean at either end, with a store or without, lost on one side or not."""
    made = [
        Program(
            name,
            steps,
            clean_session="kept" not in has,
            durable="store" in has,
            once="taken late" not in has,
            exact=False,
        )
        for name, steps, has in (
            ("p", publisher(*qos).steps, publisher_has),
            ("s", SUBSCRIBE, subscriber_has),
        )
    ]
    bounds = f"losses {losses}, crashes {crashes}, expiries {options.get('expiries', 0)}"
    name = f"(b) {what}, QoS {','.join(map(str, qos))}; {bounds}"
    return Scenario(name, tuple(made), (0, 1), losses=losses, crashes=crashes, promise="listed", **options)


def subscriptions(*payloads: str, losses: int = 0, crashes: int = 0, steps: str = "sus", qos: int = 1) -> Scenario:
    """(c): subscribing and unsubscribing race with retained messages; an empty payload removes the retained one."""
    verbs = {"s": ("subscribe", "t", qos), "u": ("unsubscribe", "t")}
    programs = (
        Program("p", tuple(("publish", "t", qos, True, payload.encode()) for payload in payloads)),
        Program("s", tuple(verbs[step] for step in steps), ordered=False),
    )
    name = f"(c) retained {','.join(payloads)} QoS {qos}, {steps}; losses {losses}, crashes {crashes}"
    return Scenario(name, programs, (), losses=losses, crashes=crashes, promise="current")


def unsubscribed(*qos: int, losses: int = 0, crashes: int = 0) -> Scenario:
    """(c): what is published after the UNSUBACK never arrives."""
    programs = (publisher(*qos), Program("s", (*SUBSCRIBE, ("unsubscribe", "t"))))
    name = f"(c) unsubscribed, QoS {','.join(map(str, qos))}; losses {losses}, crashes {crashes}"
    return Scenario(name, programs, (0, 2), losses=losses, crashes=crashes, promise="nothing")


def take_over(*qos: int, losses: int = 0, crashes: int = 0, connects: int = 1) -> Scenario:
    """(d): another process connects with the same client identifier, and takes over each time."""
    will = ("t", b"1-9", 1, False)
    programs = (
        publisher(*qos),
        Program("s", (("subscribe", "t", 1),), durable=False, exact=False, will=will, ordered=False),
        Program("s", (), durable=False, exact=False, connects=connects, ordered=False),
    )
    name = f"(d) take-over, QoS {','.join(map(str, qos))}; losses {losses}, crashes {crashes}, connects {connects}"
    options: dict[str, Any] = {"promise": "one of them", "crashing": (-1, 0)}
    return Scenario(name, programs, (0, 1, -1), losses=losses, crashes=crashes, **options)


def identifiers(*qos: int, space: int = 3, window: int = 3, losses: int = 0, crashes: int = 0) -> Scenario:
    """(e): so few packet identifiers that they wrap around and run out."""
    programs = (publisher(*qos, window=window), Program("s", SUBSCRIBE))
    name = (
        f"(e) {space} identifiers, window {window}, QoS {','.join(map(str, qos))}; losses {losses}, crashes {crashes}"
    )
    return Scenario(name, programs, (0, 1), losses=losses, crashes=crashes, broker_window=window, identifiers=space)


def core(*qos: int, losses: int = 0, crashes: int = 0, close: bool = False, durable: bool = True) -> Scenario:
    """(f): the publisher is a whole client core, which reconnects automatically and may be closed."""
    steps = (*publisher(*qos).steps, *((("close",),) if close else ()))
    programs = (Program("p", steps, durable=durable, core=True), Program("s", SUBSCRIBE))
    what = f"QoS {','.join(map(str, qos))}{', then closed' if close else ''}{'' if durable else ', without a store'}"
    name = f"(f) client core, {what}; losses {losses}, crashes {crashes}"
    return Scenario(name, programs, (0, 1), losses=losses, crashes=crashes, promise="at least once")
