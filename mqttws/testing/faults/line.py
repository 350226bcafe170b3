"""Apply the rules to one connection: rules match units, and toxics shape bytes. Sans-IO.

If no rule matches a unit in the received data, the bytes are forwarded unchanged. If one does, the units are extracted
from their frames and forwarded one by one, and the rule is applied to the unit that it matches.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import count

from mqttws.codec.connecting import Connect
from mqttws.tap.pump import Action
from mqttws.tap.reader import SessionReader
from mqttws.tap.record import CLIENT, FRAME, HTTP, MQTT, OTHER, OTHER_END, SERVER, Record
from mqttws.testing.faults.kinds import KINDS, Unit
from mqttws.testing.faults.rules import Rule, Rules, Toxic
from mqttws.testing.faults.toxics import TOXICS, Shaper, Timed

#: How many bytes may wait in one direction before reading from its sender is paused.
_HIGH_WATER = 256 * 1024


class FaultyLine:
    """The line of one connection; see `mqttws.tap.Line`.

    Args:
        rules: The rules.
        reader: The decoder of the connection.
        decided: The rules to which the applied faults are added, without randomness.
        now: Seconds.
    """

    def __init__(self, rules: Rules, reader: SessionReader, decided: Rules, now: float) -> None:
        self._rules = rules
        self._reader = reader
        self._decided = decided
        self._client_id = ""
        self._silent = False
        self._actions: list[Action] = []
        self._ways = {end: _Way(self, end, now) for end in (CLIENT, SERVER)}

    # The interface `Line`.

    def receive_data(self, sender: str, data: bytes, records: list[Record], now: float) -> None:
        """See `mqttws.tap.Line`."""
        if not self._silent:
            self._ways[sender].receive(data, records, now)

    def receive_end(self, sender: str, reset: bool, now: float) -> None:
        """See `mqttws.tap.Line`."""
        if reset:
            self.cut(now)
        elif not self._silent:
            self._ways[sender].finish(now)

    def actions(self, now: float) -> Iterable[Action]:
        """See `mqttws.tap.Line`."""
        for way in self._ways.values():
            way.release(now)
        actions, self._actions = self._actions, []
        return actions

    def next_deadline(self) -> float | None:
        """See `mqttws.tap.Line`."""
        deadlines = [deadline for way in self._ways.values() if (deadline := way.deadline()) is not None]
        return min(deadlines, default=None)

    # Called by the directions.

    def act(self, what: str, end: str, data: bytes = b"") -> None:
        """Add an action."""
        self._actions.append((what, end, data))

    def send_back(self, sender: str, data: bytes, now: float) -> None:
        """Send bytes to an end, as if they had come from the other one."""
        self._ways[OTHER_END[sender]].write(data, 0.0, now)

    def cut(self, now: float) -> None:
        """Reset both ends, and discard waiting data."""
        self._silent = True
        for end, way in self._ways.items():
            way.forget()
            self.act("rst", end)

    def close(self, now: float) -> None:
        """Send FIN in both directions, after waiting data."""
        for way in self._ways.values():
            way.finish(now)
        self._silent = True

    def fall_silent(self) -> None:
        """Forward nothing more in either direction, except waiting data."""
        self._silent = True

    def rule_for(self, record: Record, place: int, now: float, chance: random.Random) -> Rule | None:
        """Return the rule to apply to a unit, or None."""
        if isinstance(record.packet, Connect):
            self._client_id = record.packet.client_id
        found = None
        for rule in self._rules.rules:  # every rule counts its matches, but only the first is applied
            if rule.matches(record, place, self._client_id, now, chance) and found is None:
                found = rule
        return found

    def decide(self, rule: Rule, record: Record, place: int, drawn: dict[str, object]) -> None:
        """Record an applied rule, for a replay."""
        made = Rule(
            rule.kind,
            {**rule.parameters, **drawn},
            on=record.name,
            sender=record.sender,
            connection=record.connection,
            place=place,
        )
        self._decided.rules.append(made)

    def shapers(self, sender: str) -> list[Shaper]:
        """Return the shapers for a direction of this connection."""
        made: list[Shaper] = []
        chance = self.chance_for(sender, "toxics")
        for toxic in self._rules.toxics:
            if toxic.sender != sender or toxic.connection not in (0, self._reader.connection):
                continue
            if toxic.chance < 1 and chance.random() >= toxic.chance:
                continue
            self._decided.toxics.append(Toxic(toxic.kind, toxic.parameters, sender, self._reader.connection))
            own = self.chance_for(sender, f"toxic {len(made)}")  # so that a replay draws the same
            made.append(TOXICS[toxic.kind](own, **toxic.parameters))
        return made

    def settled(self, sender: str) -> bool:
        """Return whether no unit of an end is incomplete."""
        return not self._reader.under_way(sender)

    def chance_for(self, sender: str, what: str) -> random.Random:
        """Return a random number generator that depends only on seed, connection, direction and `what`."""
        return random.Random(f"{self._rules.seed}/{self._reader.connection}/{sender}/{what}")

    @property
    def websocket(self) -> bool:
        """Whether packets are sent in frames."""
        return self._reader.upgrade is not None


class _Way:
    """One direction.

    Args:
        line: The connection.
        sender: The end that sends in this direction.
        now: Seconds.
    """

    def __init__(self, line: FaultyLine, sender: str, now: float) -> None:
        self._line = line
        self._sender = sender
        self._target = OTHER_END[sender]
        self._chance = line.chance_for(sender, "units")
        self._shapers = line.shapers(sender)
        self._raw = b""  # received data that is not forwarded yet
        self._units: list[tuple[Record, Rule | None, int]] = []
        self._place = 0
        self._swapped: bytes | None = None  # to be sent after the next unit
        self._joined: list[bytes] = []
        self._queue: deque[Timed] = deque()
        self._queued = 0
        self._last_due = 0.0
        self._aside: list[tuple[float, int, bytes]] = []
        self._numbers = count()
        self._paused = False
        self._finished = False
        self._ends: list[tuple[float, str]] = [
            (now + shaper.end[1], shaper.end[0]) for shaper in self._shapers if shaper.end is not None
        ]

    def receive(self, data: bytes, records: list[Record], now: float) -> None:
        """Receive a piece, with the records that it completes."""
        self._raw += data
        for record in records:
            if record.layer in (MQTT, HTTP, OTHER) or (
                record.layer == FRAME and record.data[0] & 8 and "frame" not in record.notes
            ):
                self._place += 1
                rule = self._line.rule_for(record, self._place, now, self._chance)
                if rule is not None:
                    record.notes["fault"] = rule.kind
                self._units.append((record, rule, self._place))
        if self._line.settled(self._sender):
            units, self._units, raw, self._raw = self._units, [], self._raw, b""
            self._decide(raw, units, now)

    def _decide(self, raw: bytes, units: list[tuple[Record, Rule | None, int]], now: float) -> None:
        """Apply the rules to received data; forward it unchanged if nothing matches."""
        if not any(rule for _, rule, _ in units) and self._swapped is None and not self._joined:
            self.write(raw, 0.0, now)
            return
        for record, rule, place in units:
            unit = Unit(record, self._chance, self._line.websocket)
            if rule is None:
                unit.forward(record.data)
            else:
                KINDS[rule.kind](unit, **rule.parameters)
                self._line.decide(rule, record, place, unit.drawn)
            self._perform(unit, now)

    def _perform(self, unit: Unit, now: float) -> None:
        swapped = self._swapped
        for verb, delay, data in unit.done:
            if verb == "write":
                self._write_joined(unit, now)
                self.write(data, delay, now)
            elif verb == "aside":
                heappush(self._aside, (now + delay, next(self._numbers), data))
            elif verb == "back":
                self._line.send_back(self._sender, data, now)
            elif verb == "swap":
                self._swapped = (self._swapped or b"") + data
            elif verb == "join":
                self._joined.append(data)
                if len(self._joined) >= delay:
                    self._write_joined(unit, now)
            elif verb == "rst":
                self._flush_then(now)
                self._line.cut(now)
            elif verb == "fin":
                self._line.close(now)
            else:
                self._line.fall_silent()
        if swapped is not None and unit.done:
            self._swapped = self._swapped.removeprefix(swapped) if self._swapped else None
            self._swapped = self._swapped or None
            self.write(swapped, 0.0, now)

    def _write_joined(self, unit: Unit, now: float) -> None:
        if self._joined:
            joined, self._joined = b"".join(self._joined), []
            self.write(unit.framed(joined), 0.0, now)

    def _flush_then(self, now: float) -> None:
        """Send the written data before a reset."""
        for piece in self._queue:
            if piece.what == "send":
                self._line.act("send", self._target, piece.data)

    # Output.

    def write(self, data: bytes, delay: float, now: float) -> None:
        """Send bytes after `delay` seconds, in order."""
        if data:
            self._put(Timed(now + delay, "send", data))

    def finish(self, now: float) -> None:
        """Send FIN after waiting data."""
        if self._finished:
            return
        self._finished = True
        for data in (self._raw, self._swapped or b"", b"".join(self._joined)):
            self.write(data, 0.0, now)
        while self._aside:
            due, _, data = heappop(self._aside)
            self.write(data, max(0.0, due - now), now)
        self._raw, self._swapped, self._joined = b"", None, []
        self._put(Timed(now, "fin"))

    def forget(self) -> None:
        """Discard waiting data."""
        self._queue.clear()
        self._aside.clear()
        self._ends.clear()

    def _put(self, piece: Timed) -> None:
        pieces = [piece]
        for shaper in self._shapers:
            pieces = [shaped for one in pieces for shaped in shaper.shape(one)]
        for shaped in pieces:
            self._last_due = max(self._last_due, shaped.due)
            self._queue.append(shaped._replace(due=self._last_due))
            self._queued += len(shaped.data)
        if self._queued > _HIGH_WATER and not self._paused:
            self._paused = True
            self._line.act("pause", self._sender)

    def release(self, now: float) -> None:
        """Perform the actions that are due."""
        while self._ends and min(self._ends)[0] <= now:
            _, how = self._ends.pop(self._ends.index(min(self._ends)))
            if how == "rst":
                self._line.cut(now)
                return
            for end in (self._target, self._sender):
                self._line.act("fin", end)
        while self._aside and self._aside[0][0] <= now:
            self.write(heappop(self._aside)[2], 0.0, now)
        while self._queue and self._queue[0].due <= now:
            piece = self._queue.popleft()
            self._queued -= len(piece.data)
            self._line.act(piece.what, self._target, piece.data)
        if self._paused and self._queued < _HIGH_WATER // 2:
            self._paused = False
            self._line.act("resume", self._sender)

    def deadline(self) -> float | None:
        """Return the time at which something is due, or None."""
        due = [end for end, _ in self._ends if end != float("inf")]
        if self._queue:
            due.append(self._queue[0].due)
        if self._aside:
            due.append(self._aside[0][0])
        return min(due, default=None)
