"""`pubsub dissect HEX...`: show an MQTT packet byte by byte."""

from __future__ import annotations

import argparse

import mqttws
from pubsub.cli import FAILED, OK, USAGE, Failure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `dissect`."""
    parser.add_argument("hex", metavar="HEX", nargs="+", help="the packet in hexadecimal, such as 30 03 00 01 61")


def run(arguments: argparse.Namespace) -> int:
    """Run `dissect`."""
    try:
        data = bytes.fromhex("".join(arguments.hex))
    except ValueError:
        raise Failure("the packet is not written in hexadecimal, two digits a byte", USAGE) from None
    found = mqttws.dissect(data)
    for field in found.fields:
        # A long field takes several lines; what a peer sent is shown escaped.
        rows = [field.data[start : start + 8] for start in range(0, len(field.data), 8)] or [b""]
        value = field.value if isinstance(field.value, str) and field.name.endswith("flags") else repr(field.value)
        print(f"{field.start:6}  {rows[0].hex(' '):23}  {field.name:28}  {value}")
        for number, row in enumerate(rows[1:], 1):
            print(f"{field.start + 8 * number:6}  {row.hex(' ')}")
    if found.error is not None:
        raise Failure(f"malformed: {found.error}", FAILED)
    return OK
