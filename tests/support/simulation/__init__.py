"""A publisher, a broker and a subscriber with durable sessions, in one deterministic world full of faults.

The machines, sessions, router and stores are the real ones; the clock, the network and the ends of processes are not.
Everything that happens follows from a `Schedule`: what is published when, which line is cut or frozen, whose process is
killed; and its seed decides all the rest, from each delay to the byte at which a line breaks. So every run can be
replayed, and one that fails can be shrunk::

    schedule = Schedule.of(4711)
    Simulation(schedule).run()          # raises Violation
    print(shrink(schedule))             # the same failure with fewer faults; run it again as it stands there

What is promised, and checked in each run: of QoS 1 nothing that was accepted is lost, of QoS 2 everything is seen
exactly once, first copies come in the order of their publishing, no identifier in flight is given to another message,
and at rest neither sessions nor stores hold anything of a message any more.
"""

from __future__ import annotations

from simulation.schedule import Action, Schedule
from simulation.world import Simulation, Violation, fails, shrink

__all__ = ["Action", "Schedule", "Simulation", "Violation", "fails", "shrink"]
