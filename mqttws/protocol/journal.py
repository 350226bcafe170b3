"""The records by which a session is kept in a store: how they are written and read back.

A client and a server keep the same records::

    key                                   value
    "o" client_id token (8 bytes)         an outgoing QoS 1 or 2 message, its phase and its packet identifier
    "i" client_id packet identifier (2)   empty: the peer uses this identifier and has not released it yet
    "s" client_id Topic Filter            its QoS (1 byte)

The length of the client identifier precedes it, so that no key prefix is the beginning of another. A message is written
when it is accepted and when its phase changes, without its payload once the peer has taken ownership, and deleted on
its last acknowledgement. While it is queued, its age, if known, is written before its topic. The identifier of an
incoming message is recorded only when the consumer has processed the message. Until then the peer must send it again.

Spec: §3.1.2.4, §4.1
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from math import isfinite

from mqttws.codec.publishing import Message
from mqttws.codec.topics import check_topic_filter
from mqttws.errors import MQTTError, StoreError
from mqttws.protocol.outgoing import PUBLISHED, RELEASED, WAITING, Outgoing
from mqttws.protocol.store import Store

#: Phase; QoS and flags (`_RETAIN`, `_AGED`); packet identifier or 0; number of the PUBREC or 0; length of the topic.
_HEAD = struct.Struct(">BBHQH")
#: When the message was published, in seconds since 1970; how many seconds it may wait, infinity for no limit.
_AGE = struct.Struct(">dd")
_RETAIN, _AGED = 4, 8
#: Tokens and numbers of PUBRECs in records are lower, so that those of all later messages also fit in 8 bytes.
_END = 1 << 63
#: By how many seconds the system clock may be changed before all ages are written again.
CLOCK_STEP = 1.0
_PHASES = (WAITING, PUBLISHED, RELEASED)
#: The value of a subscription -> its QoS.
_QOS = {bytes((qos,)): qos for qos in (0, 1, 2)}

#: Since when a message has waited, by the clock of `now`, and how many seconds it may.
_KnownAge = tuple[float, float]
#: A message, its phase, its packet identifier (0: none) and its age, if known.
Record = tuple[Outgoing, str, int, _KnownAge | None]


def _unreadable(record: str, error: Exception) -> StoreError:
    return StoreError(f"{record} in the store cannot be read ({error!r}); it may be from another program")


def key_of(kind: bytes, client_id: str) -> bytes:
    """Return the prefix of all keys of one kind and one client identifier."""
    name = client_id.encode()
    return kind + len(name).to_bytes(2, "big") + name


class Journal:
    """The records of one session.

    Args:
        store: The store.
        client_id: The client identifier of the session.
        now: The current time in seconds, of the clock on which ages are based.
        wall: The same moment in seconds since 1970.

    Attributes:
        store: The store; see `Claim`.
    """

    def __init__(self, store: Store, client_id: str, now: float = 0.0, wall: float = 0.0) -> None:
        self.store = store
        self._now, self._wall = now, wall
        self._outgoing = key_of(b"o", client_id)
        self._incoming = key_of(b"i", client_id)
        self._subscription = key_of(b"s", client_id)
        self._releases = 0

    # Outgoing messages.

    def set_clock(self, now: float, wall: float) -> bool:
        """Record the time. Return whether the system clock was changed, so that all ages must be written again."""
        was_set = abs((wall - now) - (self._wall - self._now)) > CLOCK_STEP
        if was_set:
            self._now, self._wall = now, wall
        return was_set

    def keep(self, outgoing: Outgoing, phase: str, packet_id: int = 0, age: _KnownAge | None = None) -> None:
        """Write the current state of a message, with its packet identifier and its age, if known."""
        token, topic, payload, qos, retain = outgoing
        order = 0
        if phase == RELEASED:  # the peer has the message: only the order of the PUBRELs matters now
            self._releases = order = self._releases + 1
            payload = b""
        name = topic.encode()
        flags = qos | retain * _RETAIN | (age is not None) * _AGED
        head = _HEAD.pack(_PHASES.index(phase), flags, packet_id, order, len(name))
        if age is not None:
            head += _AGE.pack(age[0] - self._now + self._wall, age[1])
        self.store.put(self._outgoing + token.to_bytes(8, "big"), head + name + payload)

    def drop(self, token: int) -> None:
        """Delete a message that was acknowledged or withdrawn."""
        self.store.delete(self._outgoing + token.to_bytes(8, "big"))

    def outgoing(self) -> list[Record]:
        """Return the messages: first those with a PUBREC, in the order of the PUBRECs; then all others, by token.

        Raises:
            StoreError: A record is malformed.
        """
        found: list[tuple[int, Record]] = []
        in_use: set[int] = set()
        for key, value in self.store.load(self._outgoing):
            try:
                order, record = self._read(key[len(self._outgoing) :], value)
                packet_id = record[2]
                if packet_id in in_use:
                    raise ValueError(f"a second message with the packet identifier {packet_id}")
            except (struct.error, ValueError, IndexError, MQTTError) as error:
                raise _unreadable("a message", error) from None
            if packet_id:
                in_use.add(packet_id)
            self._releases = max(self._releases, order)
            found.append((order, record))
        found.sort(key=lambda entry: entry[0] or self._releases + 1)  # stable: the store returned the rest by token
        return [entry for _, entry in found]

    def _read(self, number: bytes, value: bytes) -> tuple[int, Record]:
        """Read the record of a message. Return the number of its PUBREC, or 0, and the message."""
        phase, flags, packet_id, order, length = _HEAD.unpack_from(value)
        start, age = _HEAD.size, None
        if flags & _AGED:
            age = self._read_age(*_AGE.unpack_from(value, start))
            start += _AGE.size
        end = start + length
        message = Message(value[start:end].decode(), value[end:], flags & 3, bool(flags & _RETAIN))
        token, state = int.from_bytes(number, "big"), _PHASES[phase]
        if (
            len(number) != 8
            or not 0 < token < _END
            or flags & ~(3 | _RETAIN | _AGED)
            or not message.qos
            or end > len(value)
            or bool(packet_id) != (state != WAITING)
            or (age is not None and state != WAITING)
            or bool(order) != (state == RELEASED)
            or order >= _END
            or (state == RELEASED and (message.qos != 2 or message.payload))
        ):
            raise ValueError(f"the token {number.hex()} and {value[: _HEAD.size].hex()} are not of one message")
        return order, ((token, message.topic, message.payload, message.qos, message.retain), state, packet_id, age)

    def _read_age(self, published: float, seconds: float) -> _KnownAge:
        """Convert a stored age. A time of publishing in the future (the clock was set back) counts as now."""
        if not (isfinite(published) and seconds > 0):
            raise ValueError(f"an age of {published} and {seconds} s")
        return self._now - max(0.0, self._wall - published), seconds

    # Identifiers of incoming messages.

    def taken(self, packet_id: int) -> None:
        """Record that the consumer has acknowledged a QoS 2 message."""
        self.store.put(self._incoming + packet_id.to_bytes(2, "big"), b"")

    def released(self, packet_id: int) -> None:
        """Record that the peer has released the identifier."""
        self.store.delete(self._incoming + packet_id.to_bytes(2, "big"))

    def incoming(self) -> list[int]:
        """Return the recorded identifiers.

        Raises:
            StoreError: A record is malformed.
        """
        length = len(self._incoming)
        found: list[int] = []
        for key, value in self.store.load(self._incoming):
            packet_id = int.from_bytes(key[length:], "big")
            if len(key) != length + 2 or not packet_id or value:
                error = ValueError(f"{key[length:].hex()}, with {len(value):,} bytes")
                raise _unreadable("a packet identifier", error)
            found.append(packet_id)
        return found

    # Subscriptions.

    def subscribed(self, topic_filter: str, qos: int) -> None:
        """Record a subscription."""
        self.store.put(self._subscription + topic_filter.encode(), bytes((qos,)))

    def unsubscribed(self, topic_filter: str) -> None:
        """Delete a subscription."""
        self.store.delete(self._subscription + topic_filter.encode())

    def subscriptions(self) -> dict[str, int]:
        """Return the subscriptions: Topic Filter -> QoS.

        Raises:
            StoreError: A record is malformed.
        """
        length = len(self._subscription)
        records = self.store.load(self._subscription)
        try:
            found = {key[length:].decode(): _QOS[value] for key, value in records}
            for topic_filter in found:
                check_topic_filter(topic_filter)
            return found
        except (ValueError, KeyError, MQTTError) as error:
            raise _unreadable("a subscription", error) from None

    def erase(self, tokens: Iterable[int], packet_ids: Iterable[int], topic_filters: Iterable[str]) -> None:
        """Delete all records of the session. Nothing is read, so that this cannot fail.

        Args:
            tokens: The tokens of the outgoing messages.
            packet_ids: The identifiers of the incoming messages.
            topic_filters: The subscriptions.
        """
        for token in tokens:
            self.drop(token)
        for packet_id in packet_ids:
            self.released(packet_id)
        for topic_filter in topic_filters:
            self.unsubscribed(topic_filter)
