"""The comparison of two sessions, packet by packet, without times.

Packet identifiers are replaced by the order of their first occurrence, because each client chooses different ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from typing import Any

from mqttws.tap import Record, summary
from pubsub.look.ladder import plain

#: The maximum number of packets of a session that are compared.
MOST = 20_000


class _Numbers:
    """The numbers of packet identifiers, in the order of their first occurrence in a direction."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str, int], int] = {}
        self._count = 0

    def of(self, record: Record, packet_id: int) -> int:
        answer = record.name in ("PUBACK", "PUBREC", "PUBCOMP", "SUBACK", "UNSUBACK")
        began = {"client": "server", "server": "client"}[record.sender] if answer else record.sender
        key = record.connection, began, packet_id
        if key not in self._known or (record.name in ("PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE") and not _dup(record)):
            self._count += 1
            self._known[key] = self._count
        return self._known[key]


def _dup(record: Record) -> bool:
    return bool(getattr(record.packet, "dup", False))


def _essence(record: Record, numbers: _Numbers) -> tuple[Any, ...]:
    """Return the value by which records are compared."""
    packet = record.packet
    if packet is None:
        return record.sender, record.name, record.data
    values = []
    for name in packet.__match_args__:
        value = getattr(packet, name)
        if name == "packet_id" and value is not None:
            value = numbers.of(record, value)
        values.append(repr(value))
    return record.sender, record.name, *values


def compare(one: Iterable[Record], other: Iterable[Record], secrets: bool = False) -> Iterator[str]:
    """Compare two sessions. Yield a line for each packet that is only in one of them."""
    sides = []
    for records in (one, other):
        numbers = _Numbers()
        kept = [record for record in records if record.layer in ("mqtt", "other") and record.data]
        sides.append((kept, [_essence(record, numbers) for record in kept]))
    (first, before), (second, after) = sides
    matcher = SequenceMatcher(a=before, b=after, autojunk=False)
    for kind, start, end, begin, stop in matcher.get_opcodes():
        if kind != "equal":
            yield from (_line("-", record, secrets) for record in first[start:end])
            yield from (_line("+", record, secrets) for record in second[begin:stop])


def _line(sign: str, record: Record, secrets: bool) -> str:
    arrow = "C ---> S" if record.sender == "client" else "C <--- S"
    text = plain(summary(record, secrets))
    return f"{sign} #{record.connection:<3} {record.number:>6}  {arrow}  {plain(record.name):12} {text}"
