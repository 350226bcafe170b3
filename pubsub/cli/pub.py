"""`pubsub pub URL TOPIC... MESSAGE`: publish a message to topics."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator

import mqttws
from pubsub.cli import OK, USAGE, Failure
from pubsub.cli.options import (
    add_connection_arguments,
    check_topics,
    end_on_sigterm,
    expected,
    failure_of,
    log_to_standard_error,
    make_client,
    positive,
    take_server,
    topics_of,
)
from pubsub.cli.streams import chunks_of_input, complain, content_of, lines_of_input

TYPE_CHECKING = False  # importing `typing` for it would delay the first message
if TYPE_CHECKING:
    import argparse
    from concurrent.futures import Future  # which imports `logging`

#: The maximum number of messages in flight; the client limits their bytes.
WINDOW = 1000
#: Seconds between two lines of progress, if standard error is a terminal.
PROGRESS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pub`."""
    add_connection_arguments(parser)
    parser.add_argument("words", metavar="TOPIC... MESSAGE", nargs="*", help="Topic Names, then the message")
    parser.add_argument("-r", "--retain", action="store_true", help="retain the message for later subscribers")
    group = parser.add_argument_group("source of the message")
    source = group.add_mutually_exclusive_group()
    source.add_argument("-m", "--message", metavar="TEXT", help="this text; then all other arguments are topics")
    source.add_argument("-l", "--stdin-lines", action="store_true", help="each line of standard input")
    source.add_argument("-s", "--stdin", action="store_true", help="all of standard input")
    source.add_argument("-f", "--file", metavar="FILE", help="the content of a file")
    source.add_argument("-n", "--null", action="store_true", help="an empty message; with --retain it removes the "
                        "retained message")  # fmt: skip
    group.add_argument("--repeat", type=positive(int), default=1, metavar="N", help="publish the message N times")
    group.add_argument("--repeat-delay", type=positive(float), default=0.0, metavar="S",
                       help="seconds between repetitions")  # fmt: skip
    delivery = parser.add_argument_group("delivery")
    delivery.add_argument("-M", "--max-inflight", type=positive(int), metavar="N",
                          help="maximum unacknowledged messages (default: 100 at QoS 1, 20 at QoS 2)")  # fmt: skip
    delivery.add_argument("--store", metavar="FILE",
                          help="file that stores messages of QoS 1 and 2 until they are acknowledged; a later `pub` "
                          "with the same file and --id sends those that are left")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Run `pub`."""
    log_to_standard_error(arguments)
    take_server(arguments)
    topics, payloads = _split(arguments)
    check_topics(topics, mqttws.check_topic)
    options: dict[str, object] = {}
    if arguments.max_inflight is not None:
        options = {"max_in_flight": arguments.max_inflight, "max_in_flight_qos2": arguments.max_inflight}
    end_on_sigterm()
    try:
        if arguments.store is not None:
            return _publish_with_store(topics, payloads, arguments, options)
        with make_client(arguments, **options) as client:
            _publish(client, topics, payloads, arguments)
    except expected() as error:
        raise failure_of(error, arguments) from None
    return OK


def _publish_with_store(
    topics: list[str], payloads: Iterable[bytes], arguments: argparse.Namespace, options: dict[str, object]
) -> int:
    """Publish the messages in the store, then the new ones. Messages that cannot be delivered stay in the store.

    Raises:
        Failure: There is no connection; the messages are in the store.
    """
    if not arguments.id:
        raise Failure("--store needs --id, because stored messages belong to a client identifier", USAGE)
    if arguments.qos == 0:
        raise Failure("--store needs QoS 1 or 2: a message of QoS 0 is not acknowledged, so is never stored", USAGE)
    arguments.disable_clean_session = True
    with mqttws.SQLiteStore(arguments.store) as store:
        client = make_client(arguments, store=store, **options)
        try:
            client.open()
        except mqttws.ConnectError as error:
            kept = 0
            for payload in payloads:
                for topic in topics:
                    client.publish_nowait(topic, payload, arguments.qos, arguments.retain)
                    kept += 1
            failure = failure_of(error, arguments)
            raise Failure(f"{failure}; {kept} messages are kept in {arguments.store}", failure.code) from None
        with client:
            _publish(client, topics, payloads, arguments)
            client.flush(arguments.timeout)  # includes the messages of an earlier run
    return OK


def _split(arguments: argparse.Namespace) -> tuple[list[str], Iterable[bytes]]:
    """Return the topics, and an iterable of the messages."""
    if arguments.stdin_lines:
        if arguments.repeat != 1:
            raise Failure("--repeat is for one message; --stdin-lines has many", USAGE)
        return topics_of(arguments), lines_of_input()
    if arguments.stdin:
        payload = b"".join(chunks_of_input())
    elif arguments.null:
        payload = b""
    elif arguments.file is not None:
        payload = content_of(arguments.file)
    elif arguments.message is not None:
        payload = os.fsencode(arguments.message)
    else:
        words = arguments.words
        if len(arguments.topic + words) < 2 or not words:
            raise Failure("a topic and a message are required; use --null for an empty message", USAGE)
        payload = os.fsencode(words.pop())  # the original bytes of the argument, also if they are not UTF-8
    return topics_of(arguments), _repeated(payload, arguments.repeat, arguments.repeat_delay)


def _repeated(payload: bytes, times: int, delay: float) -> Iterator[bytes]:
    for number in range(times):
        if number and delay:
            time.sleep(delay)
        yield payload


def _publish(
    client: mqttws.Client, topics: list[str], payloads: Iterable[bytes], arguments: argparse.Namespace
) -> None:
    """Publish each message to each topic, many at the same time, and wait until all are delivered.

    Input is read only as fast as the server accepts it: while the queue is full, wait for the oldest message.
    """
    under_way: deque[Future[None]] = deque()
    progress = _Progress(arguments)
    for payload in payloads:
        for topic in topics:
            while len(under_way) >= WINDOW:
                _wait(under_way, arguments.timeout)
            while True:
                try:
                    under_way.append(client.publish_nowait(topic, payload, arguments.qos, arguments.retain))
                    break
                except mqttws.QueueFull:
                    if not under_way:
                        raise
                    _wait(under_way, arguments.timeout)
            progress.count()
    while under_way:
        _wait(under_way, arguments.timeout)
    progress.end()


def _wait(under_way: deque[Future[None]], timeout: float) -> None:
    """Wait for the oldest message."""
    future = under_way.popleft()
    try:
        future.result(timeout)
    except TimeoutError:
        if future.done():
            raise
        raise TimeoutError(f"the server has not acknowledged within {timeout:g} s") from None


class _Progress:
    """The progress of `--stdin-lines` on a terminal: the number of published messages, in a line that is updated."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        there = sys.stderr is not None and sys.stderr.isatty()
        self._shows = arguments.stdin_lines and there and not arguments.quiet and not arguments.debug
        self._messages = 0
        self._due = time.monotonic() + PROGRESS

    def count(self) -> None:
        """Count a message."""
        self._messages += 1
        if self._shows and time.monotonic() >= self._due:
            self._due = time.monotonic() + PROGRESS
            complain(f"\x1b[2K\r{self._messages:,} messages\x1b[A")

    def end(self) -> None:
        """Show the total."""
        if self._shows:
            complain(f"\x1b[2K\r{self._messages:,} messages")
