"""`pubsub serve`: the embedded broker, until Ctrl-C.

Standard output gets one line for each listener, its URL alone, as soon as it accepts connections; everything else
goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import logging
import signal
import ssl
import sys
from typing import TYPE_CHECKING, Any

from mqttws import SQLiteStore, StoreError
from mqttws.broker import Broker, Limits, Users
from pubsub.cli import OK, USAGE, Failure
from pubsub.cli.serve_aws import add_aws_arguments, aws_endpoint, aws_lines, aws_notes

if TYPE_CHECKING:
    from pubsub.aws.local.endpoint import LocalIoTEndpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve`."""
    listeners = parser.add_argument_group("listeners", "port 0: any free one")
    listeners.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine)"
    )
    listeners.add_argument("--ws-port", type=_port, default=8083, metavar="PORT", help="WebSocket (default: 8083)")
    listeners.add_argument("--tcp-port", type=_port, default=1883, metavar="PORT", help="plain TCP (default: 1883)")
    listeners.add_argument("--no-ws", action="store_true", help="no WebSocket listener")
    listeners.add_argument("--no-tcp", action="store_true", help="no plain TCP listener")
    listeners.add_argument("--path", action="append", metavar="PATH",
                           help="request path of the WebSocket; may be repeated (default: /mqtt and /)")  # fmt: skip
    tls = parser.add_argument_group("TLS")
    tls.add_argument("--cert", metavar="FILE", help="PEM file of the server's certificate")
    tls.add_argument("--key", metavar="FILE", help="PEM file of its private key (default: in the same file)")
    tls.add_argument("--client-ca", metavar="FILE", help="PEM file of the authority that clients need a certificate of")
    tls.add_argument("--wss-port", type=_port, metavar="PORT", help="WebSocket with TLS; needs --cert")
    tls.add_argument("--mqtts-port", type=_port, metavar="PORT", help="TCP with TLS; needs --cert")
    doors = parser.add_argument_group("who may come in")
    doors.add_argument("--users", metavar="FILE", help="file of users (see pubsub passwd); without it everybody may")
    doors.add_argument("--allow-origin", action="append", default=[], metavar="ORIGIN",
                       help="web origin whose pages may connect, besides the host's own; may be repeated")  # fmt: skip
    bounds = parser.add_argument_group("bounds")
    for name, what in (
        ("max_connections", "connections at once"),
        ("max_packet_size", "bytes of one packet"),
        ("max_queued", "messages that wait for one client"),
        ("max_retained", "retained messages"),
    ):
        default = getattr(Limits(), name)
        bounds.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=default, metavar="N", help=f"{what} (default: {default:,})"
        )
    add_aws_arguments(parser)
    parser.add_argument("--store", metavar="FILE",
                        help="file that sessions and retained messages are kept in (default: in memory)")  # fmt: skip
    parser.add_argument("-v", "--verbose", action="store_true", help="say on standard error who comes and goes")


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; it must be 0 to 65535")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Run `serve`."""
    logging.basicConfig(level=logging.INFO if arguments.verbose else logging.WARNING, format="%(message)s")
    try:
        if arguments.aws_iot:
            if arguments.store is not None:
                raise Failure("--store is for the plain broker; with --aws-iot sessions end with the process", USAGE)
            asyncio.run(_serve_aws(aws_endpoint(arguments)))
        else:
            with contextlib.nullcontext() if arguments.store is None else SQLiteStore(arguments.store) as store:
                asyncio.run(_serve(_make_broker(arguments, store)))
    except StoreError as error:
        raise Failure(str(error)) from None
    except OSError as error:
        raise Failure(f"cannot listen: {error.strerror or error}") from None
    return OK


def _make_broker(arguments: argparse.Namespace, store: SQLiteStore | None) -> Broker:
    """Make the broker of the options.

    Raises:
        Failure: they cannot be used.
    """
    try:
        return _broker(arguments, store)
    except (ValueError, OSError) as error:
        raise Failure(str(error), USAGE) from None


def _broker(arguments: argparse.Namespace, store: SQLiteStore | None) -> Broker:
    options: dict[str, Any] = {}
    if arguments.path:
        if not all(path.startswith("/") for path in arguments.path):
            raise ValueError("a --path begins with '/'")
        options["paths"] = arguments.path
    if arguments.users is not None:
        options["authenticator"] = Users.load(arguments.users)
    bounds = {field.name for field in dataclasses.fields(Limits)} & vars(arguments).keys()
    return Broker(
        arguments.host,
        ws_port=None if arguments.no_ws else arguments.ws_port,
        tcp_port=None if arguments.no_tcp else arguments.tcp_port,
        wss_port=arguments.wss_port,
        mqtts_port=arguments.mqtts_port,
        tls=_server_tls(arguments),
        allowed_origins=arguments.allow_origin,
        limits=Limits(**{name: getattr(arguments, name) for name in bounds}),
        sys_anonymous=arguments.users is None,  # else nobody could read it
        store=store,
        **options,
    )


def _server_tls(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    if arguments.cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=arguments.client_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(arguments.cert, arguments.key)
    if arguments.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def _serve(broker: Broker) -> None:
    """Serve until a signal asks for the end."""
    asked = _asked()
    async with broker:
        print("\n".join(broker.urls), flush=True)
        await asked.wait()


async def _serve_aws(endpoint: LocalIoTEndpoint) -> None:
    """Serve AWS IoT until a signal asks for the end."""
    asked = _asked()
    async with endpoint:
        print("\n".join(aws_notes(endpoint)), file=sys.stderr, flush=True)
        print("\n".join(aws_lines(endpoint)), flush=True)
        await asked.wait()


def _asked() -> asyncio.Event:
    """Give what is set once a signal asks for the end."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    return asked
