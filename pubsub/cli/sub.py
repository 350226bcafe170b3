"""`pubsub sub URL TOPIC...`: subscribe, and print the messages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

import mqttws
from pubsub.cli import FAILED, OK, TIME_UP, USAGE, Failure, formats
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
    wrong,
)
from pubsub.cli.streams import LOOK, Output, complain

TYPE_CHECKING = False  # importing `typing` for it would delay the first message
if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sub`."""
    add_connection_arguments(parser)
    parser.add_argument("words", metavar="TOPIC", nargs="*", help="Topic Filter; '+' is one level, '#' the rest")
    parser.add_argument("-C", "--count", type=positive(int), metavar="N", help="end after N messages")
    parser.add_argument("-W", "--wait", type=positive(float), metavar="S", help="end after S seconds, exit code 27")
    parser.add_argument("-E", "--exit-after-subscribe", action="store_true", help="end when the server has answered")
    parser.add_argument("-U", "--unsubscribe", action="append", default=[], metavar="TOPIC",
                        help="Topic Filter to unsubscribe from first; may be repeated")  # fmt: skip
    choice = parser.add_argument_group("selection of messages")
    retained = choice.add_mutually_exclusive_group()
    retained.add_argument("-R", "--no-retained", action="store_true", help="omit retained messages")
    retained.add_argument("--retained-only", action="store_true", help="end at the first message that is not retained")
    choice.add_argument("--remove-retained", action="store_true", help="remove each retained message from the server")
    choice.add_argument("-T", "--filter-out", action="append", default=[], metavar="TOPIC",
                        help="omit the messages of this Topic Filter; may be repeated")  # fmt: skip
    choice.add_argument("--random-filter", type=_percent, default=100.0, metavar="PERCENT",
                        help="print this percentage of the messages, chosen at random (default: 100)")  # fmt: skip
    add_format_arguments(parser)


def add_format_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for the output of messages."""
    output = parser.add_argument_group("output")
    form = output.add_mutually_exclusive_group()
    form.add_argument("-v", "--verbose", action="store_true", help="print the topic before each message")
    form.add_argument("--json", action="store_true", help="print each message as a line of JSON")
    form.add_argument(
        "-F", "--format", metavar="FORMAT", help="print each message in this format; see mosquitto_sub(1)"
    )
    output.add_argument("--pretty", action="store_true", help="indent JSON over several lines")
    output.add_argument("-N", "--no-eol", action="store_true", help="print no line end after a message")


def _percent(text: str) -> float:
    try:
        percent = float(text)
    except ValueError:
        percent = -1.0
    if not 0.1 <= percent <= 100.0:
        raise wrong(f"{text!r} is not a percentage; it must be 0.1 to 100")
    return percent


def run(arguments: argparse.Namespace) -> int:
    """Run `sub`."""
    log_to_standard_error(arguments)
    take_server(arguments)
    topics = topics_of(arguments)
    check_topics(topics, mqttws.check_topic_filter)
    for each in arguments.filter_out, arguments.unsubscribe:
        if each:
            check_topics(each, mqttws.check_topic_filter)
    out = Output()
    line = make_line(arguments, out)
    client = make_client(arguments, on_error=lambda error: report(arguments, error))
    end_on_sigterm()
    limit = Limit(arguments)
    try:
        with client.open(limit.wait()):
            subscribe(client, topics, arguments, limit, arguments.unsubscribe)
            if arguments.exit_after_subscribe:
                return OK
            return _print_messages(client, arguments, out, line, limit)
    except KeyboardInterrupt:  # the usual end of a subscription
        return OK
    except expected() as error:
        if limit.left() <= 0:
            return TIME_UP
        raise failure_of(error, arguments) from None


class Limit:
    """The time after which `-W` ends a command, from now."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._timeout: float = arguments.timeout
        self._end = math.inf if arguments.wait is None else time.monotonic() + arguments.wait

    def left(self) -> float:
        """Return the seconds that are left, possibly infinite; 0 or less if the time is up."""
        return self._end - time.monotonic()

    def wait(self) -> float | None:
        """Return the seconds to wait for an answer of the server; None for those of `--timeout`, which is earlier."""
        left = self.left()
        return None if left > self._timeout else max(0.0, left)


def report(arguments: argparse.Namespace, error: Exception) -> None:
    """Show an error that does not end the command."""
    if not arguments.quiet:
        complain(f"pubsub {arguments.command}: {error}")


def subscribe(
    client: mqttws.Client, topics: list[str], arguments: argparse.Namespace, limit: Limit, old: Sequence[str] = ()
) -> None:
    """Unsubscribe from old topics, then subscribe. A refused topic is reported; it is a failure only if all are."""
    try:
        if old:
            client.unsubscribe(old, timeout=limit.wait())
        codes = client.subscribe(topics, arguments.qos, timeout=limit.wait())
    except TimeoutError:
        client.close(timeout=0.0)  # otherwise it waits for the answer
        raise
    refused = [topic for topic, code in zip(topics, codes, strict=True) if code == 128]
    for topic in refused:
        report(arguments, mqttws.SubscribeRejected(topic))
    if len(refused) == len(topics):
        raise Failure("the server rejected every subscription", FAILED)


def make_line(arguments: argparse.Namespace, out: Output) -> formats.Formatter:
    """Return the function that formats a message as the bytes to print.

    Raises:
        Failure: The format is not valid.
    """
    form: Callable[[mqttws.Publish, int], bytes]
    if arguments.format is not None:
        try:
            form = formats.parse_format(arguments.format, pretty=arguments.pretty, to_terminal=out.is_terminal)
        except ValueError as error:
            raise Failure(str(error), USAGE) from None
    elif arguments.json:
        form = lambda message, now: formats.json_line(  # noqa: E731 - three of a kind
            message, pretty=arguments.pretty, to_terminal=out.is_terminal
        )
    else:
        form = lambda message, now: formats.plain_line(  # noqa: E731
            message, verbose=arguments.verbose, to_terminal=out.is_terminal, in_colour=out.in_colour
        )
    return form if arguments.no_eol else lambda message, now: form(message, now) + b"\n"


def messages(
    client: mqttws.Client, out: Output, limit: Limit, check: Callable[[], object] | None = None
) -> Iterator[mqttws.Publish]:
    """Yield messages until the time is up or the client has ended. Check regularly that the output has a reader.

    Args:
        client: The client.
        out: The output.
        limit: The time.
        check: Also called regularly, and may raise.
    """
    while client.state.name != "disconnected":
        left = min(LOOK, limit.left())
        if left <= 0:
            return
        look = time.monotonic() + left
        received = client.messages(timeout=left)
        for message in received:
            yield message
            if time.monotonic() >= look:  # a stream of messages must not delay the end
                break
        received.close()
        out.check_reader()
        if check is not None:
            check()


def _print_messages(
    client: mqttws.Client, arguments: argparse.Namespace, out: Output, line: formats.Formatter, limit: Limit
) -> int:
    """Print messages until their number or the time is reached. Return the exit code."""
    left = arguments.count
    for message in messages(client, out, limit):
        if arguments.retained_only and not message.retain:
            return OK
        if arguments.remove_retained and message.retain and not _left_out(message, arguments):
            client.publish_nowait(message.topic, b"", 1, True)
        if _left_out(message, arguments) or not _is_chosen(arguments.random_filter):
            continue
        out.write(line(message, time.time_ns()))
        if left is not None:
            left -= 1
            if left == 0:
                return OK
    if client.state.name == "disconnected":
        return FAILED
    return TIME_UP


def _is_chosen(percent: float) -> bool:
    if percent == 100.0:
        return True
    from random import uniform  # slow to import

    return uniform(0, 100) <= percent


def _left_out(message: mqttws.Publish, arguments: argparse.Namespace) -> bool:
    if message.retain and arguments.no_retained:
        return True
    return any(mqttws.topic_matches(each, message.topic) for each in arguments.filter_out)
