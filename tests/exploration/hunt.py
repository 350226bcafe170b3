"""Find planted faults, each in a child process, with growing bounds."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from exploration import Explorer, Violation, as_session, as_test
from exploration.scenarios import core, delivery, identifiers, sessions, subscriptions, take_over, unsubscribed
from exploration.world import Scenario
from planting import Fault, plant

#: Time limit for one fault, in seconds.
PATIENCE = 300


def bounds() -> Iterator[Scenario]:
    """Yield the scenarios in which faults are searched, the smallest first."""
    for qos in ((0,), (1,), (2,)):
        yield delivery(*qos)
    yield delivery(1, 1)
    yield delivery(2, 2)
    yield delivery(1, losses=1)
    yield delivery(2, losses=1)
    yield delivery(1, crashes=1)
    yield delivery(2, crashes=1)
    yield delivery(2, 2, 2)
    yield identifiers(2, 2, space=1)
    yield identifiers(2, 1, 1, space=2)
    yield subscriptions("0-1")
    yield subscriptions("0-1", "0-2", steps="s")
    yield subscriptions("0-1", steps="s", losses=1)
    yield subscriptions("0-1", steps="s", crashes=1)
    yield unsubscribed(1, losses=1)
    yield unsubscribed(1, crashes=1)
    yield core(1)
    yield core(1, close=True)
    yield core(1, losses=1)
    yield core(1, losses=1, close=True)
    yield core(2, losses=1, close=True)
    yield take_over(1)
    yield sessions("session forgotten", 1, expiries=1, losses=1)
    yield delivery(1, 1, losses=1)
    yield delivery(2, 2, losses=1)
    yield delivery(1, losses=1, crashes=1)
    yield delivery(2, losses=2)
    yield delivery(2, losses=1, crashes=1)
    yield delivery(2, crashes=2)
    yield delivery(2, 2, crashes=1)


@dataclass
class Find:
    """The result of the search for a fault.

    Attributes:
        scenario: the name of the smallest scenario that shows it; "" if none does.
        violation: the violated property.
        steps: the number of steps of a shortest trace.
        states: the number of states explored until then.
        test: the trace as a test.
        session: the trace as the lines of a session.
    """

    scenario: str = ""
    violation: str = ""
    steps: int = 0
    states: int = 0
    test: str = ""
    session: str = ""


def hunt(fault: Fault | None) -> Find:
    """Plant a fault in a child process, and search for it.

    Args:
        fault: the fault; None to check that nothing is found without one.
    """
    with tempfile.TemporaryFile() as notes:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.alarm(PATIENCE)
                os.write(notes.fileno(), json.dumps(vars(_look(fault))).encode())
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if status:
            raise RuntimeError(f"the child that looked for {fault} ended with status {status}")
        notes.seek(0)
        return Find(**json.loads(notes.read()))


def _look(fault: Fault | None) -> Find:
    logging.getLogger("mqttws.broker").setLevel(logging.CRITICAL)
    if fault is not None:
        plant(fault)
    states = 0
    for scenario in bounds():
        try:
            result = Explorer(scenario).run()
        except Violation as violation:  # found while the scenario is set up, the smallest bound
            return Find(scenario.name, f"{violation}, before anything is lost", 0, states)
        states += result.states
        expected = {"QoS 1 lost"} if scenario.expiries else set()
        if not result.violation and set(result.found) != expected:
            result.violation = f"{sorted(result.found)} happens, {sorted(expected)} may"
        if result.violation:
            found = Find(scenario.name, result.violation, len(result.trace), states)
            if result.trace:
                found.test = as_test(scenario, result.trace, result.violation)
                found.session = "\n".join(as_session(scenario, result.trace)) + "\n"
            return found
    return Find(states=states)
