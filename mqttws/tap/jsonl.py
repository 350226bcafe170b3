"""Writing records as lines of JSON, and loading them again. docs/tap.md describes the format.

Only the transferred bytes are loaded: the pieces (layer `tcp`), or if a file has none for a connection, the units of
the lowest layer that it has. All other records are decoded again from these bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any, Final, NamedTuple

from mqttws.codec.publishing import Publish
from mqttws.protocol.masking import mask
from mqttws.tap.fields import fields_of, summary
from mqttws.tap.frame import turned
from mqttws.tap.meanings import meaning
from mqttws.tap.payload import read_payload
from mqttws.tap.reader import LIMIT, SessionReader
from mqttws.tap.record import CLIENT, FRAME, HTTP, LAYERS, MQTT, OTHER, SERVER, TCP, Field, Record, Span

#: The first line of a file.
HEADER: Final = {"mqttws": "tap", "version": 1}
#: The replacement for a secret value, and for each of its bytes.
HIDDEN: Final = "hidden"
_STAR: Final = b"*"
#: The maximum number of invalid lines to report.
_MAX_FAULTS: Final = 1000
#: The last time that a record of a file may have, in seconds since the epoch: the end of the year 9999.
_LATEST: Final = 253_402_300_800
#: The layers that are loaded together.
_SOURCES: Final[tuple[tuple[str, ...], ...]] = ((TCP,), (HTTP, FRAME, OTHER), (MQTT,))


def to_json(record: Record, *, secrets: bool = False, fields: bool = True) -> dict[str, Any]:
    """Return the JSON form of a record.

    Args:
        record: Any record.
        secrets: Whether to show passwords, tokens and signatures; if False, each byte of them becomes `*`.
        fields: Whether to include the fields.
    """
    data = record.data if secrets else hide(record)
    made: dict[str, Any] = {
        "number": record.number,
        "time": round(record.time, 6),
        "connection": record.connection,
        "sender": record.sender,
        "layer": record.layer,
        "name": record.name,
        "offset": record.offset,
        "size": record.size,
        "data": data.hex(),
    }
    if record.parts:
        made["parts"] = [list(part) for part in record.parts]
    text = summary(record, secrets)
    if text:
        made["summary"] = text
    said = meaning(record)
    if said:
        made["meaning"] = said
    if fields and record.layer != TCP:
        made["fields"] = [_field(field, () if secrets else record.hidden) for field in fields_of(record)]
    if isinstance(record.packet, Publish):
        made["payload"] = _payload(record.packet)
    if record.changes:
        made["changes"] = [list(change) for change in record.changes]
    if record.broken:
        made["broken"] = [list(broken) for broken in record.broken]
    if record.answers:
        made["answers"] = record.answers
        made["round_trip"] = round(record.round_trip, 6)
    if record.hidden:
        made["hidden"] = [[span.start, span.size] for span in record.hidden]
    if record.notes:
        made["notes"] = record.notes
    return made


def hide(record: Record) -> bytes:
    """Return the bytes of a record with each secret byte replaced by `*`; in a masked frame, by `*` masked.

    Args:
        record: Any record.
    """
    return _starred(record.data, 0, record.hidden)


def _starred(data: bytes, start: int, hidden: Iterable[Span]) -> bytes:
    """Replace secret bytes by `*`.

    Args:
        data: Some bytes of a record.
        start: The offset of the first one in the record.
        hidden: As in `Record`; without keys if the bytes are unmasked.
    """
    shown = bytearray(data)
    for secret, size, key in hidden:
        first, last = max(0, secret - start), min(len(data), secret + size - start)
        if first < last:
            stars = _STAR * (last - first)
            shown[first:last] = mask(stars, turned(key, first + start - secret)) if key else stars
    return bytes(shown)


def _field(field: Field, hidden: tuple[Span, ...]) -> dict[str, Any]:
    """Return the JSON form of a field, without secrets."""
    made: dict[str, Any] = {"start": field.start, "size": field.size, "name": field.name, "key": field.key}
    value = field.value
    end = field.start + field.size
    if field.secret:
        made["secret"] = True
        value = HIDDEN if hidden else value
    elif isinstance(value, str) and any(span.start < end and field.start < span.start + span.size for span in hidden):
        value = HIDDEN
    elif isinstance(value, bytes) and len(value) == field.size:
        value = _starred(value, field.start, [span._replace(key=b"") for span in hidden])
    made["value"] = _plain(value)
    if field.bits:
        made["bits"] = [list(bit) for bit in field.bits]
    return made


def _payload(packet: Publish) -> dict[str, Any]:
    kind, value = read_payload(packet.payload)
    return {"kind": kind} if kind in ("bytes", "empty") else {"kind": kind, "value": _plain(value)}


def _plain(value: Any) -> Any:
    """Convert a value for JSON; bytes become `{"hex": ...}`."""
    if isinstance(value, (bytes, bytearray)):
        return {"hex": bytes(value).hex()}
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value


def to_line(record: Record, *, secrets: bool = False) -> str:
    """Return the line of a record, without a line end.

    Args:
        record: Any record.
        secrets: Whether to show passwords, tokens and signatures; see `to_json`.
    """
    return json.dumps(to_json(record, secrets=secrets), separators=(",", ":"))


class Loader:
    """A loader of records from the lines of a file, one line at a time.

    Args:
        limit: The bytes of one unit that are kept.

    Attributes:
        faults: The invalid lines, as (line number, reason).
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.faults: list[tuple[int, str]] = []
        self._limit = limit
        self._line = 0
        self._numbers = count(1)
        # Connection -> its reader, and the layers to read: those of its first record. In a file with all layers that
        # is `tcp`, because a piece comes before the records made from it.
        self._readers: dict[int, tuple[SessionReader, tuple[str, ...]]] = {}

    def add(self, line: str | bytes) -> list[Record]:
        """Load the next line. Return the records that it completes. An invalid line is reported in `faults`.

        Args:
            line: The line, with or without its end.
        """
        self._line += 1
        if not line.strip():
            return []
        try:
            piece = _parse(line)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if len(self.faults) < _MAX_FAULTS:
                self.faults.append((self._line, f"this is not a record: {_complaint(error)}"))
            return []
        if piece is None:
            return []
        layer, connection, sender, name, data, time, notes = piece
        if connection not in self._readers:
            chosen = next(source for source in _SOURCES if layer in source)
            self._readers[connection] = SessionReader(connection, self._numbers, self._limit), chosen
        reader, source = self._readers[connection]
        return _replay(reader, sender, name, data, time, notes) if layer in source else []


class Loaded(NamedTuple):
    """The contents of a file of records.

    Attributes:
        records: The records, decoded again from the bytes in the file.
        faults: The invalid lines, as (line number, reason).
    """

    records: list[Record]
    faults: list[tuple[int, str]]


def load(lines: Iterable[str | bytes], limit: int = LIMIT) -> Loaded:
    """Load all lines of a file; see `Loader`.

    Args:
        lines: The lines, with or without their ends.
        limit: The bytes of one unit that are kept.

    Returns:
        The records, and the faults of lines that cannot be read.
    """
    loader = Loader(limit)
    records = [record for line in lines for record in loader.add(line)]
    return Loaded(records, loader.faults)


def _replay(
    reader: SessionReader, sender: str, name: str, data: bytes, time: float, notes: dict[str, Any]
) -> list[Record]:
    if name == "open":
        return reader.opened(time, **notes)
    if name in ("FIN", "RST"):
        return reader.receive_end(sender, time, name == "RST")
    return reader.receive_data(sender, data, time)


def _parse(line: str | bytes) -> tuple[str, int, str, str, bytes, float, dict[str, Any]] | None:
    """Parse a line. Return the parts that are needed; None for the header."""
    made = json.loads(line)
    if not isinstance(made, dict):
        raise ValueError("it is not an object")
    if made.get("mqttws") == "tap":
        if made.get("version") != HEADER["version"]:
            raise ValueError(f"the version of the file is {made.get('version')!r}; this reads {HEADER['version']}")
        return None
    layer, connection, sender = made["layer"], made["connection"], made["sender"]
    if layer not in LAYERS or sender not in (CLIENT, SERVER) or type(connection) is not int:
        raise ValueError("its layer, connection or sender is not valid")
    time, notes = made["time"], made.get("notes", {})
    if not isinstance(time, (int, float)) or not 0 <= time <= _LATEST:
        raise ValueError(f"its time is not a number of seconds, 0 to {_LATEST:,}")
    if not isinstance(notes, dict) or not all(isinstance(note, (str, int)) for note in notes.values()):
        raise ValueError("its notes are not an object of texts and numbers")
    return layer, connection, sender, str(made["name"]), bytes.fromhex(made["data"]), float(time), notes


def _complaint(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)[:100]


def lines(records: Iterable[Record], *, secrets: bool = False) -> Iterator[str]:
    """Yield the lines of a file, starting with the header.

    Args:
        records: The records.
        secrets: Whether to show passwords, tokens and signatures; see `to_json`.
    """
    yield json.dumps(HEADER, separators=(",", ":"))
    for record in records:
        yield to_line(record, secrets=secrets)
