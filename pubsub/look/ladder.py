"""The conversion of records to lines for a terminal: a ladder diagram of both directions, with fields and bytes.

Everything that a peer has sent is escaped by `plain` before it is shown, so no escape sequence reaches the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator

from mqttws.tap import Field, Record, explain, fields_of, hide, summary

#: The colour of each kind of text: the parameters of the escape sequence.
_COLOURS = {"client": "36", "server": "33", "broken": "31;1", "dim": "2", "other": "35"}
#: A flow of packets: the connection, the end that began, and the description with the packet identifier.
Flow = tuple[int, str, str]


def plain(text: str) -> str:
    """Escape unprintable characters: control characters, and those that change the direction of text."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


class Ladder:
    """The converter of records to lines.

    Args:
        verbose: 0: packets, and the start and end of connections; 1: also heads and frames, with fields and bytes; 2:
            also TCP data, and explanations of the fields.
        colour: Whether to colour the lines.
        secrets: Whether to show passwords, tokens and signatures.

    Attributes:
        waiting: An unanswered request -> the record that started it.
    """

    def __init__(self, verbose: int = 0, colour: bool = False, secrets: bool = False) -> None:
        self._verbose = verbose
        self._colour = colour
        self._secrets = secrets
        self._start: float | None = None
        self._chains: dict[Flow, list[int]] = {}
        self.waiting: dict[Flow, Record] = {}

    def lines(self, record: Record) -> Iterator[str]:
        """Yield the lines of a record."""
        if self._start is None:
            self._start = record.time
        chain = self._follow(record)
        if not self._shown(record):
            return
        yield self._line(record, chain)
        for statement, message in record.broken:
            yield self._paint(f"{'':30}! {plain(message)} [{statement}]", "broken")
        if "fault" in record.notes:
            yield self._paint(f"{'':30}* {plain(str(record.notes['fault']))}", "other")
        if self._verbose and record.layer != "tcp":
            yield from self._fields(record)
        elif self._verbose > 1 and record.data:
            yield from self._bytes(0, record.data if self._secrets else hide(record))

    def _shown(self, record: Record) -> bool:
        if record.layer == "tcp":
            return record.name != "data" or self._verbose > 1
        if record.layer == "frame":
            return self._verbose > 0 or record.name in ("close", "ping", "pong") or bool(record.broken)
        return True

    def _line(self, record: Record, chain: list[int]) -> str:
        assert self._start is not None
        arrow = "C ---> S" if record.sender == "client" else "C <--- S"
        if record.name == "open":
            arrow = "C      S"
        text = plain(self._summary(record))
        tail = ""
        if record.answers:
            tail = f"  ({' > '.join(map(str, chain)) or record.answers} in {_span(record.round_trip)})"
        head = f"{record.time - self._start:10.6f} #{record.connection:<3} {record.number:>6}  "
        colour = "other" if record.layer == "other" else "dim" if record.layer in ("tcp", "frame") else record.sender
        return head + self._paint(f"{arrow}  {plain(record.name):12}", colour) + f" {text}" + self._paint(tail, "dim")

    def _summary(self, record: Record) -> str:
        if record.name == "open":
            return ", ".join(f"{name} {value}" for name, value in record.notes.items())
        return summary(record, self._secrets) + (f" ({record.notes['unknown']})" if "unknown" in record.notes else "")

    def _follow(self, record: Record) -> list[int]:
        """Update the chain of each flow, e.g. PUBLISH, PUBREC, PUBREL, PUBCOMP. Return the chain of this record."""
        chain: list[int] = []
        for end, what, _, after in record.changes:
            if not what.startswith(("sends", "requests")):
                continue
            flow = record.connection, end, what
            chain = self._chains.setdefault(flow, [])
            chain.append(record.number)
            if after:
                self.waiting[flow] = record
            else:
                self._chains.pop(flow)
                self.waiting.pop(flow, None)
        if record.name in ("FIN", "RST") and self.waiting:
            for flow in [flow for flow in self.waiting if flow[0] == record.connection and record.name == "RST"]:
                del self.waiting[flow]
        return chain

    # Fields and bytes.

    def _fields(self, record: Record) -> Iterator[str]:
        data = record.data if self._secrets else hide(record)
        for field in fields_of(record):
            value = "hidden" if field.secret and not self._secrets else self._value(field, record, data)
            rows = [
                data[at : min(at + 8, field.start + field.size)]
                for at in range(field.start, field.start + min(field.size, 64), 8)
            ]
            yield f"{'':20}{field.start:6}  {rows[0].hex(' '):23}  {plain(field.name):28}  {plain(value)}"
            for number, row in enumerate(rows[1:], 1):
                yield f"{'':20}{field.start + 8 * number:6}  {row.hex(' ')}"
            if field.size > 64:
                yield f"{'':28}... {field.size - 64:,} more"
            for name, width, bit in field.bits:
                yield self._paint(f"{'':28}{f'{bit:0{width}b}':>8}  {name}", "dim")
            if self._verbose > 1:
                known = explain(field.key)
                rules = ", ".join((known.section, *known.statements))
                yield self._paint(f"{'':28}{known.sentence} [{rules}] {known.reads}", "dim")
        if record.cut:
            yield f"{'':28}... {record.cut:,} bytes more, which are not stored, or not received yet"

    def _value(self, field: Field, record: Record, data: bytes) -> str:
        value = field.value
        if isinstance(value, (bytes, str)):
            end = field.start + field.size
            hidden = () if self._secrets else record.hidden
            if any(span.start < end and field.start < span.start + span.size for span in hidden):
                return "contains a secret"
        if isinstance(value, bytes):
            return repr(value[:64]) + ("..." if len(value) > 64 else "")
        if isinstance(value, int):
            return f"{value:,}"
        return value if field.bits else repr(value)

    def _bytes(self, start: int, data: bytes) -> Iterator[str]:
        for at in range(0, min(len(data), 256), 16):
            row = data[at : at + 16]
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
            yield f"{'':20}{start + at:6}  {row.hex(' '):47}  {text}"
        if len(data) > 256:
            yield f"{'':28}... {len(data) - 256:,} more"

    def _paint(self, text: str, kind: str) -> str:
        return f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m" if self._colour and text else text


def _span(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
