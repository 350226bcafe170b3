"""Simulated connections that delay, break at any byte and freeze, and the drivers at their ends.

A line is independent of what is at its ends; an end drives one `Connection`, on the simulated clock.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from mqttws.protocol.connection import Connection

if TYPE_CHECKING:
    from simulation.world import Simulation


class Line:
    """A connection. Bytes arrive later and in pieces; bytes that are cut off never arrive."""

    def __init__(self, world: Simulation, client: End, server: End) -> None:
        self.ends: dict[bool, End | None] = {True: client, False: server}  # keyed by whether it is the client's end
        self.frozen = False
        self._world = world
        self._arrival = {True: 0.0, False: 0.0}  # time of the last piece, keyed by whether it is for the client
        self._cut_at: dict[bool, float] = {}  # time after which nothing arrives

    def send(self, data: bytes, to_client: bool) -> None:
        """Send bytes to one of the ends."""
        random = self._world.random
        if len(data) > 1 and random.random() < 0.3:
            middle = random.randrange(1, len(data))
            pieces: tuple[bytes, ...] = (data[:middle], data[middle:])
        else:
            pieces = (data,)
        for piece in pieces:
            self._later(partial(self._arrive, piece, to_client), to_client)

    def hang_up(self, from_client: bool) -> None:
        """Close one end; the other end is notified later, or never if the line is frozen."""
        self.ends[from_client] = None
        self._later(partial(self._arrive, b"", not from_client), not from_client)

    def cut(self) -> None:
        """Cut the line: each end receives a part of the bytes in transit, and is notified at an independent time."""
        now, random = self._world.now, self._world.random
        if self._cut_at:
            return  # nothing arrives after lost bytes
        for to_client in (True, False):
            left = max(0.0, self._arrival[to_client] - now)
            self._cut_at[to_client] = now + random.random() * left
            self._world.at(now + left + random.choice((0.0, 0.5, 3.0)), partial(self._end, to_client))

    def _later(self, arrive: Callable[[], None], to_client: bool) -> None:
        world = self._world
        delay = world.random.random() * (0.05 if world.random.random() < 0.8 else 1.0)
        due = self._arrival[to_client] = max(self._arrival[to_client], world.now + delay)
        world.at(due, arrive)

    def _arrive(self, data: bytes, to_client: bool) -> None:
        if self.frozen or self._world.now > self._cut_at.get(to_client, self._world.now):
            return
        if not data:
            self._end(to_client)
        elif (end := self.ends[to_client]) is not None:
            end.receive(data)

    def _end(self, to_client: bool) -> None:
        end = self.ends[to_client]
        if end is not None and not self.frozen:
            self._cut_at[to_client] = -1.0
            end.hear_end()


class End:
    """The driver of one end of a line."""

    def __init__(self, world: Simulation, name: str, connection: Connection[Any], from_client: bool) -> None:
        self.name = name
        self.connection = connection
        self.line: Line | None = None
        self._world = world
        self._from_client = from_client
        self._timer = 0.0
        self._eof = False

    def receive(self, data: bytes) -> None:
        """Handle received bytes."""
        self.connection.receive_data(data, self._world.now)
        self.handled()

    def hear_end(self) -> None:
        """Handle the end of the line."""
        self._eof = True
        self.connection.receive_eof(self._world.now)
        self.handled()

    def handled(self) -> None:
        """Handle the events."""
        raise NotImplementedError

    def write(self) -> None:
        """Send pending output; close when everything is sent."""
        line, world = self.line, self._world
        if line is None:
            return
        while data := self.connection.data_to_send(world.now):
            world.watch(self, data)
            if not self._eof:
                line.send(data, not self._from_client)
        if self.connection.finished:
            self.vanish()
            return
        deadline = self.connection.next_deadline()
        if deadline is not None and deadline != self._timer:
            self._timer = deadline
            world.at(deadline, partial(self._on_timer, deadline))

    def vanish(self) -> None:
        """Detach from the line."""
        line, self.line = self.line, None
        if line is not None:
            line.hang_up(self._from_client)

    def _on_timer(self, deadline: float) -> None:
        if deadline == self._timer and self.line is not None:
            self._timer = 0.0
            self.connection.handle_timeout(self._world.now)
            self.handled()
