"""The clients of `pubsub bench`, made of the options, in this process or in others."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import Any

import mqttws
from mqttws.aio import Client
from pubsub.bench.fleet import MakeClient
from pubsub.bench.part import Part, Slice
from pubsub.bench.plan import Plan
from pubsub.cli import USAGE, Failure
from pubsub.cli.aws_link import aws_provider
from pubsub.cli.options import check_without_aws, client_options, failure_of


def part_of(arguments: argparse.Namespace, plan: Plan, index: int, emit: Callable[[Slice], object]) -> Part:
    """Make one part of a run; this is called in the process of the part.

    Args:
        arguments: The arguments of the command, without questions: see `ask_for_secrets`.
        plan: See `Part`.
        index: See `Part`.
        emit: See `Part`.

    Raises:
        Failure: The options cannot be used.
    """
    if arguments.debug:
        logging.basicConfig(level=logging.DEBUG, format="%(message)s")
    return Part(plan, index, make_clients(arguments, plan), lambda error: failure_of(error, arguments), emit)


def make_clients(arguments: argparse.Namespace, plan: Plan) -> MakeClient:
    """Return the function that creates the clients. Check the options now.

    Raises:
        Failure: The options cannot be used.
    """
    window = plan.window + 1
    options = client_options(arguments) | {
        "max_in_flight": min(window, 65_535),
        "max_in_flight_qos2": plan.window,
        "max_queued": window,
        "max_queued_bytes": window * (plan.size + len(plan.topic_of(plan.publishers).encode()) + 16),
    }
    try:
        if arguments.spread:
            options["reconnect"] = mqttws.Reconnect(spread=arguments.spread)
        if arguments.connect_budget is not None:
            options["connect_budget"] = mqttws.ConnectBudget(max(1e-6, arguments.connect_budget / plan.processes))
    except ValueError as error:
        raise Failure(str(error), USAGE) from None
    if options["tls"] is None and arguments.url.partition("://")[0].lower() in ("wss", "mqtts"):
        options["tls"] = mqttws.tls_context()  # shared: to read the system's authorities for each client takes long

    def make(**more: Any) -> Client:
        return Client(arguments.url, **options, **more)

    if arguments.aws:
        make = _signed_clients(arguments, options)
    else:
        check_without_aws(arguments)
    try:
        make()
    except (ValueError, mqttws.LocalProtocolError) as error:
        raise Failure(str(error), USAGE) from None
    return make


def _signed_clients(arguments: argparse.Namespace, options: dict[str, Any]) -> MakeClient:
    """Return a function that creates clients whose connections are signed for AWS IoT.

    They have no rate limit, so that the benchmark shows what AWS IoT drops beyond its limits.

    Raises:
        Failure: The options contradict each other.
    """
    provider = aws_provider(arguments, {name: value for name, value in options.items() if value is not None})
    arguments.explain = provider.explain

    def make(**more: Any) -> Client:
        signed = provider.client_options() | {"publish_rate": None, "resend_after": None}
        return Client(provider.url_async, recover=provider.recover, **signed, **more)

    return make
