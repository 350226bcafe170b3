"""`pubsub pub URL TOPIC... MESSAGE`: publish."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import mqttws
from pubsub.cli import OK, USAGE, Failure
from pubsub.cli.options import add_connection_arguments, failure_of, make_client

#: How many messages of `--stdin-lines` may be on their way at once.
WINDOW = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pub`."""
    add_connection_arguments(parser)
    parser.add_argument("words", metavar="TOPIC... MESSAGE", nargs="+", help="Topic Names, then the message")
    parser.add_argument("-r", "--retain", action="store_true", help="the server keeps it for later subscribers")
    group = parser.add_argument_group("where the message comes from")
    source = group.add_mutually_exclusive_group()
    source.add_argument("-l", "--stdin-lines", action="store_true", help="each line of standard input")
    source.add_argument("-s", "--stdin", action="store_true", help="the whole of standard input")
    source.add_argument("-f", "--file", metavar="FILE", help="the content of a file")
    source.add_argument("-n", "--null", action="store_true", help="nothing; with --retain this removes the kept one")


def run(arguments: argparse.Namespace) -> int:
    """Run `pub`."""
    if arguments.debug:
        logging.basicConfig(level=logging.DEBUG, format="%(message)s")
    topics, payloads = _split(arguments)
    for topic in topics:
        try:
            mqttws.check_topic(topic)
        except mqttws.LocalProtocolError as error:
            raise Failure(str(error), USAGE) from None
    try:
        with make_client(arguments) as client:
            _publish(client, topics, payloads, arguments)
    except (mqttws.MQTTError, TimeoutError) as error:
        raise failure_of(error) from None
    return OK


def _split(arguments: argparse.Namespace) -> tuple[list[str], Iterator[bytes]]:
    """Tell the topics from the message."""
    words = arguments.words
    if arguments.stdin_lines:
        return words, (line.removesuffix(b"\n") for line in sys.stdin.buffer)
    if arguments.stdin:
        return words, iter([sys.stdin.buffer.read()])
    if arguments.null:
        return words, iter([b""])
    if arguments.file is not None:
        try:
            return words, iter([Path(arguments.file).read_bytes()])
        except OSError as error:
            raise Failure(f"the file cannot be read: {error}", USAGE) from None
    if len(words) < 2:
        raise Failure("there is a topic, but no message; an empty one is --null", USAGE)
    return words[:-1], iter([words[-1].encode()])


def _publish(
    client: mqttws.Client, topics: list[str], payloads: Iterator[bytes], arguments: argparse.Namespace
) -> None:
    """Publish each message to each topic, many at a time, and wait until all are delivered."""
    under_way: list[Future[None]] = []
    for payload in payloads:
        for topic in topics:
            under_way.append(client.publish_nowait(topic, payload, arguments.qos, arguments.retain))
        if len(under_way) >= WINDOW:
            _wait(under_way, arguments.timeout)
    _wait(under_way, arguments.timeout)


def _wait(futures: list[Future[None]], timeout: float) -> None:
    for future in futures:
        try:
            future.result(timeout)
        except TimeoutError:
            raise TimeoutError(f"the server has not acknowledged within {timeout:g} s") from None
    futures.clear()
