"""`pubsub dissect HEX...`: show packets, frames and heads byte by byte."""

from __future__ import annotations

import argparse

from mqttws.tap import Record, SessionReader, explain, fields_of, summary
from pubsub.cli import FAILED, OK, USAGE, Failure
from pubsub.cli.streams import chunks_of_input, complain, show
from pubsub.look.ladder import plain
from pubsub.look.reading import MOST_HEX, from_hex, sender_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `dissect`."""
    parser.add_argument("hex", metavar="HEX", nargs="*", default=[],
                        help="bytes in hexadecimal, such as 30 03 00 01 61 or 0x30030001 (default, or -: standard "
                             "input)")  # fmt: skip
    parser.add_argument("--frames", action="store_true", help="the bytes are WebSocket frames (default: detected)")
    parser.add_argument("-v", "--verbose", action="store_true", help="explain each field, with the rules for it")


def run(arguments: argparse.Namespace) -> int:
    """Run `dissect`."""
    words = _input() if arguments.hex in ([], ["-"]) else " ".join(arguments.hex)
    try:
        data = from_hex(words)
    except ValueError as error:
        raise Failure(f"the input is not hexadecimal: {error}", USAGE) from None
    if not data:
        raise Failure("there is no input", USAGE)
    records = [record for record in read(data, arguments.frames) if record.layer != "tcp" and record.data]
    for number, record in enumerate(records):
        if len(records) > 1:
            show(("\n" if number else "") + f"{plain(record.name)}  {plain(summary(record, secrets=True))}".rstrip())
        _show(record, arguments.verbose)
    broken = [f"malformed: {plain(each.message)} [{each.statement}]" for record in records for each in record.broken]
    broken += [
        f"malformed: it ends too early, after {record.size:,} bytes" for record in records if record.name == "cut short"
    ]
    for line in broken[:-1]:
        complain(line)
    if broken:
        raise Failure(broken[-1], FAILED)
    return OK


def _input() -> str:
    """Read standard input."""
    data = bytearray()
    for chunk in chunks_of_input():
        data += chunk
        if len(data) > MOST_HEX:
            raise Failure(f"the input has over {MOST_HEX:,} characters; use pubsub look for a file of bytes", USAGE)
    return data.decode(errors="replace")


def read(data: bytes, frames: bool) -> list[Record]:
    """Parse bytes of one sender: heads, packets or frames. 0x82 can begin a SUBSCRIBE or a frame, so both are tried.

    Args:
        data: The bytes.
        frames: Whether they must be frames.
    """
    made = [] if frames else _read(data, False)
    if frames or _bad(made):
        framed = _read(data, True)
        if frames or not _bad(framed):
            return framed
    return made


def _read(data: bytes, frames: bool) -> list[Record]:
    masked = len(data) > 1 and data[1] > 127
    sender = ("client" if masked else "server") if frames else sender_of(data)
    reader = SessionReader(frames=frames)
    records = reader.receive_data(sender, data, 0.0)
    for record in records:  # ignore violations that depend on the packets before it
        if record.packet is not None:
            record.broken = ()
    return records + (reader.receive_end(sender, 0.0) if reader.under_way(sender) else [])


def _bad(records: list[Record]) -> bool:
    return any(record.broken or record.layer == "other" for record in records)


def _show(record: Record, verbose: bool) -> None:
    for field in fields_of(record):
        # A long field takes several lines. Text from a peer is escaped.
        data = record.data[field.start : field.start + field.size]
        rows = [data[start : start + 8] for start in range(0, len(data), 8)]
        value = str(field.value) if isinstance(field.value, int) or field.bits else repr(field.value)
        show(f"{field.start:6}  {rows[0].hex(' '):23}  {plain(field.name):28}  {plain(value)}")
        for number, row in enumerate(rows[1:], 1):
            show(f"{field.start + 8 * number:6}  {row.hex(' ')}")
        if verbose:
            for name, width, bit in field.bits:
                show(f"{'':8}{f'{bit:0{width}b}':>8}  {name}")
            known = explain(field.key)
            show(f"{'':8}{known.sentence} [{', '.join((known.section, *known.statements))}]")
            show(f"{'':8}read by {known.reads}" + (f", written by {known.writes}" if known.writes else ""))
            show(f"{'':8}shown by {', '.join(known.tests)}")
