"""`pubsub sub URL TOPIC...`: subscribe, and print what comes."""

from __future__ import annotations

import argparse
import base64
import json
import logging
import signal
import sys
import time
from typing import Any, BinaryIO

import mqttws
from pubsub.cli import FAILED, OK, TIME_UP, USAGE, Failure
from pubsub.cli.options import add_connection_arguments, failure_of, make_client, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sub`."""
    add_connection_arguments(parser)
    parser.add_argument("topics", metavar="TOPIC", nargs="+", help="Topic Filter; '+' is one level, '#' the rest")
    parser.add_argument("-C", "--count", type=positive(int), metavar="N", help="end after N messages")
    parser.add_argument("-W", "--wait", type=positive(float), metavar="S", help="end after S seconds, exit code 27")
    parser.add_argument("-R", "--no-retained", action="store_true", help="leave out retained messages")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("-v", "--verbose", action="store_true", help="print the topic in front of each message")
    form.add_argument("--json", action="store_true", help="print each message as a line of JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run `sub`."""
    if arguments.debug:
        logging.basicConfig(level=logging.DEBUG, format="%(message)s")
    for topic in arguments.topics:
        try:
            mqttws.check_topic_filter(topic)
        except mqttws.LocalProtocolError as error:
            raise Failure(str(error), USAGE) from None
    client = make_client(arguments, on_error=_report)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with client:
            _subscribe(client, arguments.topics, arguments.qos)
            return _print_messages(client, arguments)
    except KeyboardInterrupt:  # the usual end of a subscription
        return OK
    except (mqttws.MQTTError, TimeoutError) as error:
        raise failure_of(error) from None


def _report(error: Exception) -> None:
    print(f"pubsub sub: {error}", file=sys.stderr)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _subscribe(client: mqttws.Client, topics: list[str], qos: int) -> None:
    """Subscribe to all topics; those that are refused are told, and only if all are it is a failure."""
    codes = client.subscribe(topics, qos)
    refused = [topic for topic, code in zip(topics, codes, strict=True) if code == 128]
    for topic in refused:
        _report(mqttws.SubscribeRejected(topic))
    if len(refused) == len(topics):
        raise Failure("the server rejected every subscription", FAILED)


def _print_messages(client: mqttws.Client, arguments: argparse.Namespace) -> int:
    """Print messages until there were enough, or the time is up."""
    end = None if arguments.wait is None else time.monotonic() + arguments.wait
    left = arguments.count
    out = sys.stdout.buffer
    to_terminal = sys.stdout.isatty()
    while True:
        for message in client.messages(timeout=None if end is None else max(0.0, end - time.monotonic())):
            if message.retain and arguments.no_retained:
                continue
            _print(message, arguments, out, to_terminal)
            if left is not None:
                left -= 1
                if left == 0:
                    return OK
        if end is not None and time.monotonic() >= end:
            return TIME_UP
        if client.state.name == "disconnected":
            return FAILED


def _print(message: mqttws.Publish, arguments: argparse.Namespace, out: BinaryIO, to_terminal: bool) -> None:
    if arguments.json:
        line = json.dumps(as_json(message), ensure_ascii=to_terminal).encode()
    elif to_terminal:  # nothing that a peer sent may command the terminal
        line = _printable(message.payload.decode(errors="backslashreplace")).encode()
        if arguments.verbose:
            line = _printable(message.topic).encode() + b" " + line
    else:
        line = message.topic.encode() + b" " + message.payload if arguments.verbose else message.payload
    out.write(line + b"\n")
    out.flush()


def as_json(message: mqttws.Publish) -> dict[str, Any]:
    """Show a message as JSON: the payload as what it is: JSON, else text, else base64."""
    shown: dict[str, Any] = {"topic": message.topic, "qos": message.qos, "retain": message.retain}
    try:
        text = message.payload.decode()
    except UnicodeDecodeError:
        return shown | {"payload_base64": base64.b64encode(message.payload).decode()}
    try:
        return shown | {"payload": json.loads(text)}
    except (ValueError, RecursionError):  # a peer may nest a hundred thousand lists
        return shown | {"payload": text}


def _printable(text: str) -> str:
    """Escape what is no visible character; line ends and tabs stay."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else character.encode("unicode_escape").decode()
        for character in text
    )
