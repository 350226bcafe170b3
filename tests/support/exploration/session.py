"""A trace as a session that `pubsub look` opens.

A packet is recorded when it arrives, so lost packets are missing. The time of a record is the number of its step in the
trace; packets of the scenario's set-up have the time 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import count

from exploration.parts import Violation
from exploration.world import Action, Scenario, State, World
from mqttws.tap import Record, SessionReader, lines


class Recorded(World):
    """A world that records the packets that arrive.

    Args:
        scenario: the scenario of a trace.

    Attributes:
        records: the records so far.
        step: the number of the current step.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.records: list[Record] = []
        self.step = 0
        self._numbers = count(1)
        self._connections = count(1)
        self._readers: dict[tuple[int, int], SessionReader] = {}
        self._lost: set[int] = set()
        self._ended: set[tuple[int, str]] = set()
        super().__init__(scenario)

    def after(self, state: State, action: Action) -> State:
        """See `World.after`."""
        crashing = action[0] == "crashing"
        self._record(state, action[2:] if crashing else action)
        if crashing:
            self._crash(self._process_of(action[2:]))
        return super().after(state, action)

    def _record(self, state: State, action: Action) -> None:
        verb, client = action[0], action[1] if len(action) > 1 else -1
        if verb == "connect":
            self._connect(client)
        elif verb in ("up", "down"):
            slot = action[2] if verb == "up" else 0
            wire = self.wires.values[state[3 + 3 * client + slot]]
            piece, _ = self._cut(wire[verb == "down"][0], action[3 if verb == "up" else 2 :])
            sender = "client" if verb == "up" else "server"
            self.records += self._readers[client, slot].receive_data(sender, piece, self.step)
        elif verb in ("end up", "silence"):
            self._end(client, action[2] if verb == "end up" else 0, "client")
        elif verb in ("end down", "silent server"):
            self._end(client, action[2] if verb == "silent server" else 0, "server")
        elif verb == "crash":
            self._crash(client)
        elif verb == "cut":
            self._lost.add(self._readers[client, 0].connection)

    def _connect(self, client: int) -> None:
        if (client, 0) in self._readers:
            self._readers[client, 1] = self._readers[client, 0]
        reader = self._readers[client, 0] = SessionReader(next(self._connections), self._numbers)
        client_id = self.scenario.programs[client].client_id
        self.records += reader.opened(self.step, process=f"client {client}", client_id=client_id)

    def _crash(self, process: int) -> None:
        if process >= 0:
            self._end(process, 0, "client")
            return
        for client, slot in self._readers:
            self._end(client, slot, "server")

    def _end(self, client: int, slot: int, sender: str) -> None:
        reader = self._readers.get((client, slot))
        if reader is not None and (reader.connection, sender) not in self._ended:
            self._ended.add((reader.connection, sender))
            self.records += reader.receive_end(sender, self.step, reset=reader.connection in self._lost)


def as_session(scenario: Scenario, trace: list[Action]) -> Iterator[str]:
    """Return the lines of a file with the session of a trace."""
    world = Recorded(scenario)
    state = world.root
    for action in trace:
        world.step += 1
        with suppress(Violation):  # the last step may be the one that violates a property
            state = world.after(state, action)
    return lines(world.records)
