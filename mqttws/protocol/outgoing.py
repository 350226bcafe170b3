"""Data structures for outgoing messages: packet identifiers, QoS 1 and 2 messages, and runs of QoS 0 messages.

A QoS 0 message has no phases and no identifier. It is queued as its encoded bytes, in a `Run` with the QoS 0 messages
published directly before and after it. Sending thousands of them takes one join, and no message needs an object.

A QoS 1 or 2 message is a plain tuple. The garbage collector stops tracking a tuple of atomic values when it first
examines it, but never an object with attributes: it would traverse all queued messages again and again.
"""

from __future__ import annotations

from mqttws.hints import Final, final

#: An outgoing QoS 1 or 2 message: its token (the number that its publisher received), topic, payload, QoS and RETAIN.
#: Compare it by value, not identity: its token makes it unique, and mypyc does not preserve the identity of tuples.
Outgoing = tuple[int, str, bytes, int, bool]
# Indices of single items.
TOKEN: Final = 0
QOS: Final = 3

# The phases of an outgoing message.
WAITING = "waiting"
PUBLISHED = "published"
RELEASED = "released"

#: The highest packet identifier; 1 follows it. Spec: §2.3.1
LAST_PACKET_ID = 65_535

#: A WebSocket message of at least twice as many bytes is masked and sent in pieces of this size, and a longer write is
#: encrypted in such pieces: they fit into the processor's cache, and no second copy of the whole is made. A remainder
#: is part of the last piece. A multiple of the length of a masking key.
LONG: Final = 64 * 1024

#: The maximum size of a run in bytes. It is limited so that a connection can send part of the queue.
RUN = 64 * 1024


class Identifiers:
    """The packet identifiers of one direction: 1 to 65,535, allocated cyclically, never one that is in use.

    Attributes:
        last: The identifier that was allocated last.
        in_use: The identifiers in use; a dict used as a set, because an empty set takes three times the memory.

    Spec: §2.3.1, [MQTT-2.3.1-2] to [MQTT-2.3.1-4]
    """

    __slots__ = ("in_use", "last")

    def __init__(self) -> None:
        self.last = 0
        self.in_use: dict[int, None] = {}

    def __len__(self) -> int:
        """Count the identifiers in use."""
        return len(self.in_use)

    def __contains__(self, packet_id: int) -> bool:
        return packet_id in self.in_use

    def start_at(self, packet_id: int) -> None:
        """Make this the next identifier, if it is free; 1 to 65,535."""
        self.last = packet_id - 1

    def allocate(self) -> int | None:
        """Return the next free identifier; None while all 65,535 are in use."""
        in_use = self.in_use
        if len(in_use) == LAST_PACKET_ID:
            return None
        packet_id = self.last + 1 if self.last < LAST_PACKET_ID else 1
        while packet_id in in_use:
            packet_id = packet_id % LAST_PACKET_ID + 1
        self.last = packet_id
        in_use[packet_id] = None
        return packet_id

    def take(self, packet_id: int) -> None:
        """Mark an identifier as in use that an earlier process allocated."""
        self.last = max(self.last, packet_id)
        self.in_use[packet_id] = None

    def release(self, packet_id: int) -> None:
        """Mark an identifier as free."""
        self.in_use.pop(packet_id, None)


def size_of(topic: str, payload: bytes) -> int:
    """Return the size of a message for the limit of the queue: bytes of its topic in UTF-8 and its payload."""
    return len(payload) + (len(topic) if topic.isascii() else len(topic.encode()))


@final
class Run:
    """Consecutive queued QoS 0 messages, encoded, which are sent together.

    Attributes:
        packets: Whole PUBLISH packets; a withdrawn one is replaced by empty bytes.
        first: The token of the first one; the tokens of the others follow.
        largest: The maximum size of a packet in bytes. This and `most` limit the size of the run, so that it need not
            be computed for each message.
        most: The maximum number of packets.
        size: The size of the packets in bytes; set when the run stops growing.

    Args:
        first: The token of the first one.
        most: The maximum number of packets.
        size: The size of the first one in bytes.
        limit: The maximum size of the packets in bytes; only a single packet may exceed it.
    """

    __slots__ = ("first", "largest", "most", "packets", "size")

    def __init__(self, first: int, most: int, size: int, limit: int) -> None:
        self.packets: list[bytes] = []
        self.first = first
        self.largest = 1 << max(6, (size - 1).bit_length())  # 64 or more, so that short packets share a run
        self.most = max(1, min(most, limit // self.largest))
        self.size = 0

    @property
    def last(self) -> int:
        """The token of the last message."""
        return self.first + len(self.packets) - 1

    def encode(self) -> bytes:
        """Return the packets, concatenated."""
        return b"".join(self.packets)

    def strip(self) -> bool:
        """Remove withdrawn packets from the left. Return whether any packet remains."""
        packets, gone = self.packets, 0
        while gone < len(packets) and not packets[gone]:
            gone += 1
        del packets[:gone]
        self.first += gone
        return bool(packets)

    def without(self, tokens: frozenset[int]) -> Run:
        """Return a run of the other messages, which does not grow; it may be empty."""
        run = Run(self.first, 0, 1, 0)
        run.packets = [b"" if token in tokens else packet for token, packet in enumerate(self.packets, self.first)]
        run.strip()
        run.size = sum([len(packet) for packet in run.packets])
        return run

    def packet_of(self, token: int) -> bytes:
        """Return the packet of a message; empty if it is not in this run."""
        position = token - self.first
        return self.packets[position] if 0 <= position < len(self.packets) else b""
