"""Reading captures: pcap and pcapng -> TCP segments over IPv4 and IPv6 -> the two streams of each connection.

A capture of any length is read block by block. A truncated capture is read up to its end, and reported. Packets other
than TCP are skipped. Segments are put in order, repeated data is omitted, and a gap that is never filled is reported;
at most 4 MiB wait for it.

Spec: RFC 9293 §3.4, draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import BinaryIO, NamedTuple

#: The first bytes of a pcap -> its byte order, and its units of time per second.
_PCAP = {
    b"\xd4\xc3\xb2\xa1": ("<", 1e6),
    b"\xa1\xb2\xc3\xd4": (">", 1e6),
    b"\x4d\x3c\xb2\xa1": ("<", 1e9),
    b"\xa1\xb2\x3c\x4d": (">", 1e9),
}
_PCAPNG = b"\x0a\x0d\x0d\x0a"
#: The maximum size of a packet or block; a larger one is an error.
_MAX_BLOCK = 16 * 1024 * 1024
#: The maximum bytes that wait for a missing segment.
_MAX_WAITING = 4 * 1024 * 1024
#: What a waiting segment counts in addition to its bytes: one may have none.
_OVERHEAD = 64

_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16


class CutShort(Exception):
    """The capture ends here or is not valid from here on; everything before it is usable."""


class Segment(NamedTuple):
    """A TCP segment.

    Attributes:
        time: Seconds since the epoch.
        source: Address and port.
        target: Address and port.
        sequence: The sequence number of its first byte.
        flags: The flags of its header.
        data: Its payload.
    """

    time: float
    source: tuple[str, int]
    target: tuple[str, int]
    sequence: int
    flags: int
    data: bytes


def is_capture(start: bytes) -> bool:
    """Return whether a file with these first bytes is a capture."""
    return start[:4] in _PCAP or start[:4] == _PCAPNG


def segments(file: BinaryIO) -> Iterator[Segment]:
    """Yield the TCP segments of a capture.

    Raises:
        CutShort: The capture cannot be read from here on.
    """
    magic = file.read(4)
    frames = _pcapng_frames(file) if magic == _PCAPNG else _pcap_frames(file, *_PCAP[magic])
    for time, link, frame in frames:
        found = _ip_of(link, frame)
        segment = _segment_of(time, found) if found is not None else None
        if segment is not None:
            yield segment


def _read(file: BinaryIO, size: int, what: str) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise CutShort(f"the capture ends inside {what}")
    return data


def _pcap_frames(file: BinaryIO, order: str, unit: float) -> Iterator[tuple[float, int, bytes]]:
    link = struct.unpack(order + "I", _read(file, 20, "its header")[16:])[0] & 0xFFFF
    while head := file.read(16):
        if len(head) < 16:
            raise CutShort("the capture ends inside the header of a packet")
        seconds, fraction, size, _ = struct.unpack(order + "IIII", head)
        if size > _MAX_BLOCK:
            raise CutShort(f"a packet has the invalid length {size:,}")
        yield seconds + fraction / unit, link, _read(file, size, "a packet")


def _pcapng_frames(file: BinaryIO) -> Iterator[tuple[float, int, bytes]]:
    order = _section(file, _read(file, 4, "its header"))
    interfaces: list[tuple[int, float]] = []
    while head := file.read(8):
        if len(head) < 8:
            raise CutShort("the capture ends inside the header of a block")
        if head[:4] == _PCAPNG:
            order, interfaces = _section(file, head[4:]), []
            continue
        kind, size = struct.unpack(order + "II", head)
        if not 12 <= size <= _MAX_BLOCK:
            raise CutShort(f"a block has the invalid length {size:,}")
        body = _read(file, size - 8, "a block")[:-4]
        if kind == 1 and len(body) >= 8:
            interfaces.append((struct.unpack(order + "H", body[:2])[0], _resolution(body[8:], order)))
        elif kind == 6 and len(body) >= 20:
            number, high, low, taken, _ = struct.unpack(order + "IIIII", body[:20])
            if number < len(interfaces):
                link, unit = interfaces[number]
                yield (high << 32 | low) / unit, link, body[20 : 20 + taken]
        elif kind == 3 and len(body) >= 4 and interfaces:
            yield 0.0, interfaces[0][0], body[4:]


def _section(file: BinaryIO, size: bytes) -> str:
    """Read the rest of a section header block, after its size. Return the byte order."""
    magic = _read(file, 4, "its header")
    order = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}.get(magic)
    length = struct.unpack((order or "<") + "I", size)[0]
    if order is None or not 28 <= length <= _MAX_BLOCK:
        raise CutShort("the header of a section is not valid")
    _read(file, length - 12, "its header")
    return order


def _resolution(options: bytes, order: str) -> float:
    """Return the units of time per second of an interface."""
    while len(options) >= 4:
        code, size = struct.unpack(order + "HH", options[:4])
        if code == 9 and size == 1 and len(options) > 4:
            value = options[4]
            return float(2 ** (value & 127) if value & 128 else 10**value)
        if code == 0:
            break
        options = options[4 + size + -size % 4 :]
    return 1e6


# Down to TCP.


def _ip_of(link: int, frame: bytes) -> bytes | None:
    """Return the IP packet in a frame, or None."""
    if link == 1:
        at = 12
        while frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
            at += 4
        return frame[at + 2 :] if frame[at : at + 2] in (b"\x08\x00", b"\x86\xdd") else None
    offset = {0: 4, 108: 4, 12: 0, 14: 0, 101: 0, 228: 0, 229: 0, 113: 16, 276: 20}.get(link)
    return None if offset is None else frame[offset:]


def _segment_of(time: float, packet: bytes) -> Segment | None:
    """Return the TCP segment in an IP packet, or None."""
    if len(packet) < 20:
        return None
    if packet[0] >> 4 == 4:
        size = int.from_bytes(packet[2:4], "big") or len(packet)
        if packet[9] != 6 or int.from_bytes(packet[6:8], "big") & 0x1FFF:
            return None
        source, target, body = packet[12:16], packet[16:20], packet[(packet[0] & 15) * 4 : size]
    elif packet[0] >> 4 == 6 and len(packet) >= 40:
        found = _after_extensions(packet)
        if found is None:
            return None
        source, target, body = packet[8:24], packet[24:40], found
    else:
        return None
    if len(body) < 20:
        return None
    near, far, sequence = struct.unpack(">HHI", body[:8])
    return Segment(
        time, (str(ipaddress.ip_address(source)), near), (str(ipaddress.ip_address(target)), far), sequence, body[13],
        body[(body[12] >> 4) * 4 :],
    )  # fmt: skip


def _after_extensions(packet: bytes) -> bytes | None:
    """Return the payload after the extension headers of IPv6; None if it is not TCP."""
    kind, at = packet[6], 40
    end = 40 + int.from_bytes(packet[4:6], "big") if packet[4:6] != b"\0\0" else len(packet)
    while kind in (0, 43, 60) and at + 2 <= end <= len(packet):
        kind, at = packet[at], at + (packet[at + 1] + 1) * 8
    return packet[at:end] if kind == 6 else None


# Up from TCP.


@dataclass
class _Half:
    """The data that one end of a connection has sent.

    Segments wait by their offset in the stream, which does not wrap as sequence numbers do. The heap of the offsets
    makes the time for each segment independent of their number: after a lost segment a capture of small packets can
    have a hundred thousand.
    """

    expected: int | None = None  # the next sequence number
    offset: int = 0  # of that number
    waiting: dict[int, tuple[float, bytes, int]] = field(default_factory=dict)  # by offset
    order: list[int] = field(default_factory=list)  # the same offsets, as a heap
    size: int = 0
    ended: bool = False

    def start(self, sequence: int) -> None:
        """Expect a sequence number, after a SYN."""
        if self.expected is not None:
            self.offset += _distance(sequence, self.expected)
        self.expected = sequence

    def add(self, sequence: int, time: float, data: bytes, flags: int) -> None:
        """Let a segment wait; of two at the same place, the longer one."""
        assert self.expected is not None
        at = self.offset + _distance(sequence, self.expected)
        known = self.waiting.get(at)
        if known is None:
            heappush(self.order, at)
        elif len(known[1]) >= len(data):
            return
        self.waiting[at] = time, data, flags
        self.size += len(data) - (len(known[1]) if known else -_OVERHEAD)

    def take(self) -> tuple[float, bytes, int]:
        """Remove and return the first waiting segment."""
        found = self.waiting.pop(heappop(self.order))
        self.size -= len(found[1]) + _OVERHEAD
        return found

    def advance(self, size: int) -> None:
        """Move on by a number of bytes."""
        assert self.expected is not None
        self.offset += size
        self.expected = self.expected + size & 0xFFFFFFFF

    def clear(self) -> None:
        """Remove the waiting segments."""
        self.waiting.clear()
        self.order.clear()
        self.size = 0


class Piece(NamedTuple):
    """The next event of one direction: "open", "data", "FIN", "RST", or "gap" for missing bytes."""

    connection: int
    from_client: bool
    time: float
    kind: str
    data: bytes


class Streams:
    """The streams of a capture: segments are put in order, by connection."""

    def __init__(self) -> None:
        self._connections: dict[tuple[tuple[str, int], tuple[str, int]], tuple[int, dict[bool, _Half]]] = {}
        self._count = 0
        #: connection -> the client's and the server's address and port.
        self.names: dict[int, tuple[tuple[str, int], tuple[str, int]]] = {}

    def add(self, segment: Segment) -> Iterator[Piece]:
        """Add a segment. Yield the data that it completes."""
        known_before = self._count
        key, from_client = self._find(segment)
        number, halves = self._connections[key]
        if number > known_before:
            yield Piece(number, from_client, segment.time, "open", b"")
        half = halves[from_client]
        sequence = segment.sequence
        if segment.flags & _SYN:
            sequence = sequence + 1 & 0xFFFFFFFF
        if segment.flags & _SYN or half.expected is None:
            half.start(sequence)
        if segment.flags & _RST:
            yield Piece(number, from_client, segment.time, "RST", b"")
            half.ended = True
            return
        if segment.data or segment.flags & _FIN:
            half.add(sequence, segment.time, segment.data, segment.flags)
        yield from self._ready(number, from_client, half)
        if half.size > _MAX_WAITING:
            yield from self._skip(number, from_client, half)

    def finish(self) -> Iterator[Piece]:
        """Stop waiting for missing segments. Yield the waiting data with the gaps."""
        for number, halves in self._connections.values():
            for from_client, half in halves.items():
                while half.waiting:
                    yield from self._skip(number, from_client, half)

    def _find(self, segment: Segment) -> tuple[tuple[tuple[str, int], tuple[str, int]], bool]:
        """Return the connection of a segment as (client, server), and whether the client sent it."""
        ends = segment.source, segment.target
        fresh = segment.flags & (_SYN | _ACK) == _SYN
        for key, from_client in ((ends, True), (ends[::-1], False)):
            if key in self._connections and not (fresh and self._connections[key][1][True].ended):
                return key, from_client
        from_client = fresh or (not segment.flags & _SYN and segment.target[1] <= segment.source[1])
        key = ends if from_client else (ends[1], ends[0])
        self._connections.pop(key, None)
        self._count += 1
        self._connections[key] = self._count, {True: _Half(), False: _Half()}
        self.names[self._count] = key
        return key, from_client

    def _ready(self, number: int, from_client: bool, half: _Half) -> Iterator[Piece]:
        """Yield the data that is in order."""
        while half.order and not half.ended:
            ahead = half.order[0] - half.offset
            if ahead > 0:
                return
            time, data, flags = half.take()
            data = data[-ahead:] if ahead else data
            if data:
                half.advance(len(data))
                yield Piece(number, from_client, time, "data", data)
            if flags & _FIN:
                half.ended = True
                yield Piece(number, from_client, time, "FIN", b"")

    def _skip(self, number: int, from_client: bool, half: _Half) -> Iterator[Piece]:
        """Skip a gap."""
        if half.ended:
            half.clear()
            return
        missing = half.order[0] - half.offset
        if missing > 0:
            yield Piece(number, from_client, half.waiting[half.order[0]][0], "gap", str(missing).encode())
            half.advance(missing)
        yield from self._ready(number, from_client, half)


def _distance(one: int, other: int) -> int:
    """Return how far a sequence number is ahead of another; negative if it is lower. Spec: RFC 9293 §3.4."""
    ahead = one - other & 0xFFFFFFFF
    return ahead - (1 << 32) if ahead >> 31 else ahead
