"""`pubsub rr URL TOPIC MESSAGE`: publish a request, and print the response.

With `-e` the response is the first message on that topic, as in mosquitto_rr. Without it the response is published
below a topic that belongs to this request, as by the responders of `pubsub.requests`.
"""

from __future__ import annotations

import argparse
import os
import time

import mqttws
from pubsub.cli import FAILED, OK, TIME_UP, USAGE, Failure
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
from pubsub.cli.streams import Output, chunks_of_input, content_of
from pubsub.cli.sub import Limit, add_format_arguments, make_line, messages, report, subscribe
from pubsub.requests import Requests


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rr`."""
    add_connection_arguments(parser)
    parser.add_argument("words", metavar="TOPIC MESSAGE", nargs="*", help="Topic Name, then the message")
    parser.add_argument(
        "-e",
        "--response-topic",
        metavar="TOPIC",
        help="topic whose first message is the response (default: a topic that follows from the topic of the "
        "request, as the responders of pubsub use it)",
    )
    parser.add_argument("-W", "--wait", type=positive(float), metavar="S", help="end after S seconds, exit code 27")
    parser.add_argument("-R", "--no-retained", action="store_true", help="ignore retained messages")
    source = parser.add_argument_group("source of the message").add_mutually_exclusive_group()
    source.add_argument("-m", "--message", metavar="TEXT", help="this text")
    source.add_argument("-s", "--stdin", action="store_true", help="all of standard input")
    source.add_argument("-f", "--file", metavar="FILE", help="the content of a file")
    source.add_argument("-n", "--null", action="store_true", help="an empty message")
    add_format_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run `rr`."""
    log_to_standard_error(arguments)
    take_server(arguments)
    topic, payload = _split(arguments)
    check_topics([topic], mqttws.check_topic)
    requests: Requests[None] = Requests()
    replies = arguments.response_topic
    if replies is None:
        topic, replies = requests.begin(topic, None).topic, requests.replies
    check_topics([replies], mqttws.check_topic_filter)
    out = Output()
    line = make_line(arguments, out)
    client = make_client(arguments, on_error=lambda error: report(arguments, error))
    end_on_sigterm()
    limit = Limit(arguments)
    try:
        with client.open(limit.wait()):
            subscribe(client, [replies], arguments, limit)  # before the request, or the response is missed
            request = client.publish_nowait(topic, payload, arguments.qos)

            def check_request() -> None:
                """Raise the failure of the request: then no response can come."""
                if request.done():
                    request.result()

            for message in messages(client, out, limit, check_request):
                if message.retain and arguments.no_retained:
                    continue
                if arguments.response_topic is None and not _is_response(requests, message):
                    continue
                out.write(line(message, time.time_ns()))
                return OK
            if client.state.name == "disconnected":
                return FAILED
            client.close(timeout=0.0)  # otherwise it waits until the request is acknowledged
            return TIME_UP
    except expected() as error:
        if limit.left() <= 0:
            return TIME_UP
        raise failure_of(error, arguments) from None


def _is_response(requests: Requests[None], message: mqttws.Publish) -> bool:
    """Return whether a message is the response.

    Raises:
        Failure: The responder failed.
    """
    taken = requests.take(message.topic)
    if taken is not None and taken[1]:
        raise Failure("the responder failed", FAILED)
    return taken is not None


def _split(arguments: argparse.Namespace) -> tuple[str, bytes]:
    """Return the topic and the request."""
    words = arguments.words
    if arguments.stdin:
        payload = b"".join(chunks_of_input())
    elif arguments.null:
        payload = b""
    elif arguments.file is not None:
        payload = content_of(arguments.file)
    elif arguments.message is not None:
        payload = os.fsencode(arguments.message)
    elif words and len(arguments.topic + words) == 2:
        payload = os.fsencode(words.pop())
    else:
        raise Failure("a topic and a message are required; use --null for an empty message", USAGE)
    topics = topics_of(arguments)
    if len(topics) != 1:
        raise Failure(f"a request has one topic, not {len(topics)}", USAGE)
    return topics[0], payload
