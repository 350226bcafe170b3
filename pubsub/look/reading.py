"""Reading records from files: saved sessions, captures, raw streams and hexadecimal.

Records are yielded as they are read, so that a file of any length can be shown. Parts that cannot be read are listed in
`complaints`, and skipped.
"""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import BinaryIO

from mqttws.tap import Loader, Record, SessionReader
from pubsub.look.capture import CutShort, Piece, Streams, is_capture, segments

CLIENT, SERVER = "client", "server"
#: The number of bytes within which a stream must be recognized as MQTT.
_UNDECIDED = 256 * 1024
#: The first bytes of packets that only a server sends: CONNACK, SUBACK, UNSUBACK, PINGRESP.
_OF_A_SERVER = b"\x20\x90\xb0\xd0"
_PIECE = 64 * 1024
_HEX = re.compile(r"[0-9A-Fa-f\s,:;_x\\-]*")
#: The number of characters of a file of hexadecimal that are read into memory.
MOST_HEX = 16 * 1024 * 1024
#: How the files begin that are saved for other programs.
_FORMATS = re.compile(rb'\s*(<!doctype html|\{\s*"qlog_)', re.I)


class Unreadable(Exception):
    """A file with an unknown format."""


class Source:
    """A file that is being read.

    Args:
        name: Its path, or what to call it.
        file: The file; None: open the one with that path.

    Attributes:
        complaints: Messages about the parts that could not be read.
    """

    def __init__(self, name: str, file: BinaryIO | None = None) -> None:
        self.name = name
        self._file = file
        self.complaints: list[str] = []

    def records(self) -> Iterator[Record]:
        """Read the file.

        Raises:
            OSError: The file cannot be read.
            Unreadable: The format is unknown.
        """
        if self._file is not None:
            yield from self._read(self._file)
            return
        with Path(self.name).open("rb") as file:
            yield from self._read(file)

    def _read(self, file: BinaryIO) -> Iterator[Record]:
        buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)  # type: ignore[type-var]
        start = buffered.peek(512)[:512]
        if not start:
            raise Unreadable(f"{self.name} is empty")
        if is_capture(start):
            yield from _Captured(self.complaints).records(buffered)
        elif (own := _FORMATS.match(start)) is not None:
            what = "a web page; open it in a browser" if own[1][:1] == b"<" else "a file for qlog tools, such as qvis"
            raise Unreadable(f"it is {what}; a session that can be read again is saved as .jsonl or .pcapng")
        elif start.lstrip()[:1] == b"{":
            yield from self._lines(buffered)
        elif (data := _as_hex(start, buffered)) is not None:
            yield from _raw([data])
        else:
            yield from _raw(iter(lambda: buffered.read(_PIECE), b""))

    def _lines(self, file: BinaryIO) -> Iterator[Record]:
        loader = Loader()
        for line in _lines(file):
            yield from loader.add(line)
        self.complaints += [f"line {number}: {why}" for number, why in loader.faults]


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Read lines. A line that is longer than any record is truncated, so it is reported as not valid."""
    most = 16 * 1024 * 1024
    while line := file.readline(most):
        if len(line) == most and not line.endswith(b"\n"):
            while (rest := file.readline(most)) and not rest.endswith(b"\n"):
                pass
        yield line


# Hexadecimal and raw streams.


def from_hex(text: str) -> bytes:
    r"""Parse hexadecimal: digits with or without spaces, commas, colons, `0x` or `\\x`.

    Raises:
        ValueError: The text is not hexadecimal.
    """
    if not _HEX.fullmatch(text):
        bad = next(character for character in text if not _HEX.fullmatch(character))
        raise ValueError(f"{bad!r} is not a hexadecimal digit")
    digits = re.sub(r"0x|\\x|[\s,:;_-]", "", text)
    if len(digits) % 2:
        raise ValueError(f"the number of digits, {len(digits)}, is odd")
    return bytes.fromhex(digits)


def _as_hex(start: bytes, file: BinaryIO) -> bytes | None:
    """Read a file of hexadecimal digits; return None if it is something else."""
    try:
        if not _HEX.fullmatch(start.decode("ascii")):
            return None
    except UnicodeDecodeError:
        return None
    try:
        text = file.read(MOST_HEX + 1).decode("ascii")
        if len(text) > MOST_HEX:
            raise Unreadable(f"it holds over {MOST_HEX:,} characters of hexadecimal; save it as bytes")
        return from_hex(text)
    except (UnicodeDecodeError, ValueError) as error:
        raise Unreadable(f"it begins with hexadecimal digits, but is not hexadecimal: {error}") from None


def sender_of(data: bytes) -> str:
    """Return the probable sender of a raw stream, by its first bytes."""
    return SERVER if data[:1] in [bytes((byte,)) for byte in _OF_A_SERVER] or data.startswith(b"HTTP/") else CLIENT


def _raw(pieces: Iterable[bytes]) -> Iterator[Record]:
    """Read a raw stream: the bytes of one sender."""
    reader = SessionReader()
    sender = ""
    for piece in pieces:
        sender = sender or sender_of(piece)
        yield from reader.receive_data(sender, piece, 0.0)
    if reader.under_way(sender):
        yield from reader.receive_end(sender, 0.0)


# Captures.


class _Stream:
    """A connection of a capture. Its records wait until it is recognized as MQTT."""

    def __init__(self, reader: SessionReader) -> None:
        self.reader = reader
        self.waiting: list[Record] | None = []
        self.size = 0
        self.dropped = False


class _Captured:
    """The MQTT connections of a capture.

    Args:
        complaints: The list for messages about parts that could not be read.
    """

    def __init__(self, complaints: list[str]) -> None:
        self._complaints = complaints
        self._numbers = count(1)
        self._streams: dict[int, _Stream] = {}

    def records(self, file: BinaryIO) -> Iterator[Record]:
        """Read the records of all connections that carry MQTT."""
        tcp = Streams()
        try:
            for segment in segments(file):
                for piece in tcp.add(segment):
                    yield from self._add(piece, tcp)
        except CutShort as cut:
            self._complaints.append(f"{cut}; everything before it is shown")
        for piece in tcp.finish():
            yield from self._add(piece, tcp)
        foreign = sum(1 for stream in self._streams.values() if stream.dropped or stream.waiting)
        if foreign:
            self._complaints.append(f"connections without readable MQTT, which are omitted: {foreign}")

    def _add(self, piece: Piece, tcp: Streams) -> Iterator[Record]:
        stream = self._streams.get(piece.connection)
        if stream is None:
            stream = self._streams[piece.connection] = _Stream(SessionReader(piece.connection, self._numbers))
            (client, server) = tcp.names[piece.connection]
            notes = {"client": f"{client[0]} port {client[1]}", "server": f"{server[0]} port {server[1]}"}
            self._keep(stream, stream.reader.opened(piece.time, **notes))
        if stream.dropped or piece.kind == "open":
            return
        sender = CLIENT if piece.from_client else SERVER
        if piece.kind == "gap":
            made = stream.reader.receive_gap(sender, int(piece.data), piece.time)
        elif piece.kind == "data":
            made = stream.reader.receive_data(sender, piece.data, piece.time)
        else:
            made = stream.reader.receive_end(sender, piece.time, piece.kind == "RST")
        yield from self._keep(stream, made)

    def _keep(self, stream: _Stream, made: list[Record]) -> list[Record]:
        """Hold records until one of them is MQTT. Return those that can be shown."""
        if stream.waiting is None:
            return made
        stream.waiting += made
        stream.size += sum(len(record.data) for record in made)
        if any(
            record.layer == "mqtt" and (record.packet is not None or record.notes.get("version")) for record in made
        ):
            ready, stream.waiting = stream.waiting, None
            return ready
        if stream.size > _UNDECIDED or any(record.layer == "other" and record.data for record in made):
            stream.dropped, stream.waiting = True, None
        return []


def read_all(source: Source, keep: int, complain: Callable[[str], None]) -> deque[Record]:
    """Read the last `keep` records of a file, for a comparison."""
    records = deque(source.records(), maxlen=keep)
    for complaint in source.complaints:
        complain(f"{source.name}: {complaint}")
    return records
