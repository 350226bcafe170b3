"""Deterministic simulation of a publisher, a broker and a subscriber with durable sessions, with injected faults.

The machines, sessions, router and stores are the real ones; the clock, the network and process crashes are simulated.
A run depends only on a `Schedule`: what is published when, which line is cut or frozen, which process is killed. Its
seed decides the rest, from each delay to the byte at which a line breaks. So every run can be replayed, and a failing
one can be shrunk::

    schedule = Schedule.of(4711)
    Simulation(schedule).run()          # raises Violation
    print(shrink(schedule))             # the same failure with fewer actions, as code to run again

Each run checks: no accepted message of QoS 1 is lost, every message of QoS 2 arrives exactly once, first copies
arrive in the order of publishing, no identifier in flight is used for another message, and at rest neither sessions
nor stores hold anything of a message.
"""

from __future__ import annotations

from simulation.schedule import Action, Schedule
from simulation.world import Simulation, Violation, fails, shrink

__all__ = ["Action", "Schedule", "Simulation", "Violation", "fails", "shrink"]
