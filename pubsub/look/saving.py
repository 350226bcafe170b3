"""Saving records, as they arrive: as lines of JSON, a capture for Wireshark, events for qlog tools, or a web page.

Secrets are replaced by stars, unless they are requested. Whether bytes are secret is known only when their unit is
complete; until then the records of a connection wait.

Spec: draft-ietf-opsawg-pcapng, draft-ietf-quic-qlog-main-schema-04
"""

from __future__ import annotations

import json
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from mqttws.tap import Record, hide, lines, to_json, to_line
from pubsub.look.page import as_row, saved_parts, to_text

#: The maximum number of records that wait for a unit to be complete.
_MAX_HELD = 4096
#: The largest piece of a segment in a capture.
_SEGMENT = 32 * 1024


class Saver(ABC):
    """A writer of records to a file.

    Args:
        path: The path of the file, which is overwritten.
        secrets: Whether to write passwords, tokens and signatures.
        docs: The target of the links of a page; see `pubsub.look.documentation.templates`.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path, secrets: bool, docs: str | None = None) -> None:
        self._secrets = secrets
        self._docs = docs
        self._file: IO[bytes] = path.open("wb")
        self._held: list[Record] = []
        self._begin()

    def add(self, records: Iterable[Record], settled: bool) -> None:
        """Write records, or hold them until their units are complete.

        Args:
            records: The next records.
            settled: Whether all units of their connection are complete.
        """
        self._held += records
        if settled or len(self._held) > _MAX_HELD:
            held, self._held = self._held, []
            for record in held:
                self._write(record)

    def close(self) -> None:
        """Write the held records, and close the file."""
        self.add((), True)
        self._end()
        self._file.close()

    def _data(self, record: Record) -> bytes:
        return record.data if self._secrets else hide(record)

    @abstractmethod
    def _begin(self) -> None:
        """Write the beginning of the file."""

    @abstractmethod
    def _write(self, record: Record) -> None:
        """Write a record."""

    @abstractmethod
    def _end(self) -> None:
        """Write the end of the file."""


class Lines(Saver):
    """Records as JSON, one per line; see docs/tap.md."""

    def _begin(self) -> None:
        self._file.write(next(lines(())).encode() + b"\n")

    def _write(self, record: Record) -> None:
        self._file.write(to_line(record, secrets=self._secrets).encode() + b"\n")

    def _end(self) -> None:
        pass


class Capture(Saver):
    """A capture (pcapng): the data as TCP segments between invented addresses, without TLS.

    The server's port is the default of the scheme, by which Wireshark selects its dissector.
    """

    def _begin(self) -> None:
        self._sequence: dict[tuple[int, str], int] = {}
        self._ports: dict[int, int] = {}
        self._early: dict[int, Record] = {}
        self._block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
        self._block(1, struct.pack("<HHI", 101, 0, 0))  # raw packets of IP, microseconds

    def _block(self, kind: int, body: bytes) -> None:
        body += bytes(-len(body) % 4)
        size = struct.pack("<I", len(body) + 12)
        self._file.write(struct.pack("<I", kind) + size + body + size)

    def _write(self, record: Record) -> None:
        if record.layer != "tcp":
            return
        number, sender = record.connection, record.sender
        if record.name == "open":
            self._early[number] = record
        elif record.name == "data":
            data = self._data(record)
            if number not in self._ports:
                self._ports[number] = 80 if record.data[:4] == b"GET " else 1883
                self._shake(number, self._early.pop(number, record).time)
            for start in range(0, len(data), _SEGMENT):
                self._segment(number, sender, record.time, 0x18, data[start : start + _SEGMENT])
        elif number in self._ports:
            self._segment(number, sender, record.time, 0x11 if record.name == "FIN" else 0x14, b"")

    def _shake(self, number: int, time: float) -> None:
        for sender, flags in (("client", 0x02), ("server", 0x12), ("client", 0x10)):
            self._segment(number, sender, time, flags, b"")

    def _segment(self, number: int, sender: str, time: float, flags: int, data: bytes) -> None:
        server = self._ports[number]
        client = 49_152 + number % 16_384
        addresses = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
        ports = (client, server) if sender == "client" else (server, client)
        other = "server" if sender == "client" else "client"
        sequence = self._sequence.get((number, sender), 0)
        acknowledged = self._sequence.get((number, other), 0) if flags & 0x10 else 0
        self._sequence[number, sender] = sequence + len(data) + bool(flags & 0x03) & 0xFFFFFFFF
        head = struct.pack(">HHIIBBHHH", *ports, sequence, acknowledged, 0x50, flags, 0xFFFF, 0, 0)
        near, far = addresses if sender == "client" else addresses[::-1]
        checksum = _checksum(near + far + struct.pack(">HH", 6, len(head) + len(data)) + head + data)
        head = head[:16] + struct.pack(">H", checksum) + head[18:]
        packet = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(head) + len(data), 0, 0x4000, 64, 6, 0) + near + far
        packet = packet[:10] + struct.pack(">H", _checksum(packet)) + packet[12:] + head + data
        stamp = min(int(time * 1e6), 2**64 - 1)  # the units of a capture that was read may be longer
        self._block(6, struct.pack("<IIIII", 0, stamp >> 32, stamp & 0xFFFFFFFF, len(packet), len(packet)) + packet)

    def _end(self) -> None:
        pass


def _checksum(data: bytes) -> int:
    """Return the Internet checksum. Spec: RFC 1071."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Qlog(Saver):
    """Events for qlog tools: one for each record except TCP data, in a separate namespace.

    There is one trace, with the connection as the group of each event. qvis cannot open a trace without events.
    """

    def _begin(self) -> None:
        self._start: float | None = None
        head: dict[str, Any] = {"qlog_version": "0.3", "qlog_format": "JSON", "title": "a session of MQTT"}
        self._file.write(_compact({**head, "traces": []}).removesuffix(b"]}"))

    def _write(self, record: Record) -> None:
        if record.layer == "tcp" and record.name == "data":
            return
        if self._start is None:
            self._start = record.time
            vantage = {"name": "mqttws.tap", "type": "network", "flow": "client"}
            self._file.write(_compact({"vantage_point": vantage, "events": []}).removesuffix(b"]}"))
        else:
            self._file.write(b",")
        made = to_json(record, secrets=self._secrets, fields=False)
        data = {name: value for name, value in made.items() if name not in ("time", "layer", "name", "connection")}
        data["raw"] = {"length": record.size, "data": data.pop("data")}
        names = {"tcp": "connectivity", "http": "http", "frame": "websocket", "mqtt": "mqtt", "other": "other"}
        event = {
            "time": round((record.time - self._start) * 1000, 3),
            "name": f"{names[record.layer]}:{_event_name(record.name)}",
            "group_id": str(record.connection),
            "data": data,
        }
        self._file.write(_compact(event))

    def _end(self) -> None:
        if self._start is None:
            self._file.write(_compact({"error_description": "the session has no records"}))
        else:
            common = {"time_format": "relative", "reference_time": round(self._start * 1000, 3)}
            self._file.write(b'],"common_fields":' + _compact(common) + b"}")
        self._file.write(b"]}\n")


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _event_name(name: str) -> str:
    return "".join(character if character.isascii() and character.isalnum() else "_" for character in name.lower())


class Html(Saver):
    """A self-contained web page that shows the session."""

    def _begin(self) -> None:
        before, self._after = saved_parts(self._docs)
        self._separator = ""
        self._file.write(before.encode())

    def _write(self, record: Record) -> None:
        row = as_row(record, shows_secrets=self._secrets, fields=True)
        self._file.write((self._separator + to_text(row)).encode())
        self._separator = ","

    def _end(self) -> None:
        self._file.write(self._after.encode())


#: The extension of a file -> its writer.
SAVERS: dict[str, type[Saver]] = {".jsonl": Lines, ".pcapng": Capture, ".qlog": Qlog, ".html": Html}


def saver_for(name: str, secrets: bool, docs: str | None = None) -> Saver:
    """Return the writer for a file name. The arguments are those of `Saver`.

    Raises:
        ValueError: The extension is unknown.
        OSError: The file cannot be written.
    """
    path = Path(name)
    if path.suffix not in SAVERS:
        raise ValueError(f"{name!r} ends in {path.suffix!r}; the supported extensions are {', '.join(SAVERS)}")
    return SAVERS[path.suffix](path, secrets, docs)
