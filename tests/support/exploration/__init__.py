"""Model checking of the real code: every state that a publisher, a broker and a subscriber can reach, within bounds.

The machines, sessions, router, registry and stores are the real ones; the wires between the processes are lists of
packets, and the next action is a choice. The explorer makes every choice, and recognises states that it has visited.
So its results hold for every run within the bounds, not for a sample::

    scenario = delivery(2, losses=1)               # one message of QoS 2, one connection lost
    result = Explorer(scenario).run()
    print(result.states, result.violation)
    print(as_test(scenario, result.trace, result.violation))

`docs/proof.md` describes what this proves, and what it does not.
"""

from __future__ import annotations

from exploration.explore import Explorer, Result
from exploration.live import Live, as_test
from exploration.parts import Program, Violation
from exploration.scenarios import delivery
from exploration.session import as_session
from exploration.world import Scenario, World

__all__ = [
    "Explorer",
    "Live",
    "Program",
    "Result",
    "Scenario",
    "Violation",
    "World",
    "as_session",
    "as_test",
    "delivery",
]
