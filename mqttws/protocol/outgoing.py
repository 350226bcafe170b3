"""Outgoing state: packet identifiers, a message of QoS 1 or 2, a run of messages of QoS 0.

A QoS 0 message has no phases and no identifier. It is queued as its encoded bytes, in a `Run` with the messages that
were published next to it. Sending thousands of them is one join, and no message needs an object.

A QoS 1 or 2 message is a plain tuple. The garbage collector stops tracking a tuple of atomic values when it first
examines it, but never an object with attributes: it would traverse all queued messages again and again.
"""

from __future__ import annotations

from typing import Final, final

#: A message of QoS 1 or 2 on its way out: its token, the number by which its publisher knows it; topic, payload, QoS
#: and RETAIN. Compare it by value, which its token makes unique: compiled, it has no identity.
Outgoing = tuple[int, str, bytes, int, bool]
# The places in it of what is asked for alone.
TOKEN: Final = 0
QOS: Final = 3

# The phases of an outgoing message.
WAITING = "waiting"
PUBLISHED = "published"
RELEASED = "released"

#: The highest packet identifier; after it they begin anew with 1. Spec: §2.3.1
LAST_PACKET_ID = 65_535

#: A run takes no more messages from this many bytes on, so that a connection can send a part of what waits.
RUN = 64 * 1024


class Identifiers:
    """The packet identifiers of one direction: 1 to 65,535, handed out in turn, never one that is in use.

    Spec: §2.3.1, [MQTT-2.3.1-2] to [MQTT-2.3.1-4]
    """

    __slots__ = ("_in_use", "_last")

    def __init__(self) -> None:
        self._last = 0
        self._in_use: dict[int, None] = {}  # a set, but that an empty set takes three times as much

    def __len__(self) -> int:
        """Count the identifiers in use."""
        return len(self._in_use)

    def __contains__(self, packet_id: int) -> bool:
        return packet_id in self._in_use

    def start_at(self, packet_id: int) -> None:
        """Let the next identifier be this one, if it is free; 1 to 65,535."""
        self._last = packet_id - 1

    def allocate(self) -> int | None:
        """Return the next free identifier; None while all 65,535 are in use."""
        in_use = self._in_use
        if len(in_use) == LAST_PACKET_ID:
            return None
        packet_id = self._last + 1 if self._last < LAST_PACKET_ID else 1
        while packet_id in in_use:
            packet_id = packet_id % LAST_PACKET_ID + 1
        self._last = packet_id
        in_use[packet_id] = None
        return packet_id

    def take(self, packet_id: int) -> None:
        """Take one that an earlier process had taken."""
        self._last = max(self._last, packet_id)
        self._in_use[packet_id] = None

    def release(self, packet_id: int) -> None:
        """Give an identifier back."""
        self._in_use.pop(packet_id, None)


def size_of(topic: str, payload: bytes) -> int:
    """Return how many bytes a message counts for while it waits: its topic, as UTF-8, and its payload."""
    return len(payload) + (len(topic) if topic.isascii() else len(topic.encode()))


@final
class Run:
    """Consecutive queued messages of QoS 0, encoded, which are sent together.

    Attributes:
        packets: whole PUBLISH packets; an empty one has been taken back.
        first: the token of the first one; the others have the following numbers.
        most: how many packets it may take.
        size: how many bytes they take; known only once no message may join the run any more.
        space: how many more bytes it may contain.
    """

    __slots__ = ("first", "most", "packets", "size", "space")

    def __init__(self, first: int, most: int, space: int) -> None:
        self.packets: list[bytes] = []
        self.first = first
        self.most = most
        self.size = 0
        self.space = space

    @property
    def last(self) -> int:
        """The token of the last message."""
        return self.first + len(self.packets) - 1

    def encode(self) -> bytes:
        """Put the packets together."""
        return b"".join(self.packets)

    def strip(self) -> bool:
        """Drop withdrawn packets from the left. Return whether a packet is left."""
        packets = self.packets
        gone = next((position for position, packet in enumerate(packets) if packet), len(packets))
        del packets[:gone]
        self.first += gone
        return bool(packets)

    def packet_of(self, token: int) -> bytes:
        """Return the packet of a message; empty if it is not in this run."""
        position = token - self.first
        return self.packets[position] if 0 <= position < len(self.packets) else b""
