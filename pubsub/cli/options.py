"""What `sub`, `pub` and `bench` have in common: the options of a connection, and what its failures mean."""

from __future__ import annotations

import argparse
import getpass
import os
from collections.abc import Callable
from typing import Any

import mqttws
from pubsub.cli import FAILED, NO_CONNECTION, REFUSED, USAGE, Failure

VARIABLE = "PUBSUB_PASSWORD"


def qos(text: str) -> int:
    """Read a QoS."""
    if text not in ("0", "1", "2"):
        raise argparse.ArgumentTypeError(f"{text!r} is no QoS; it must be 0, 1 or 2")
    return int(text)


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make a reader of positive numbers."""

    def read(text: str) -> Any:
        try:
            number = kind(text)
        except ValueError:
            number = 0
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
        return number

    return read


def whole(text: str) -> int:
    """Read a whole number, 0 or more."""
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number, 0 or more")
    return int(text)


def header(text: str) -> tuple[str, str]:
    """Read a header."""
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("a header is of the form 'Name: value'")
    return name.strip(), value.strip()


def add_link_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what has to be known to reach a server, and to be let in."""
    parser.add_argument("url", metavar="URL", help="ws://, wss://, mqtt:// or mqtts://HOST[:PORT][/PATH]")
    parser.add_argument("-q", "--qos", type=qos, default=0, help="0, 1 or 2 (default: 0)")
    parser.add_argument("-d", "--debug", action="store_true", help="say on standard error what happens")
    group = parser.add_argument_group("connection")
    group.add_argument(
        "-k", "--keepalive", type=int, default=60, metavar="S", help="keep alive in seconds, 0: none (default: 60)"
    )
    group.add_argument("-u", "--username", metavar="NAME", help="user name")
    group.add_argument(
        "-P",
        "--password",
        metavar="PW",
        help=f"password; every user of this machine can see it here: better set {VARIABLE}, or be asked",
    )
    group.add_argument("--ask-password", action="store_true", help="ask for the password")
    group.add_argument("-H", "--header", type=header, action="append", default=[], metavar="'NAME: VALUE'",
                       help="one more header of the WebSocket's upgrade request; may be repeated")  # fmt: skip
    group.add_argument("--timeout", type=positive(float), default=30.0, metavar="S",
                       help="seconds for connecting, and for each answer (default: 30)")  # fmt: skip
    tls = parser.add_argument_group("TLS")
    tls.add_argument("--cafile", metavar="FILE", help="PEM file of the authorities to trust (default: the system's)")
    tls.add_argument("--cert", metavar="FILE", help="PEM file of the client's certificate")
    tls.add_argument("--key", metavar="FILE", help="PEM file of its private key")
    tls.add_argument(
        "--insecure", action="store_true", help="trust whoever answers: anyone on the way can read and change all"
    )


def add_connection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the one connection of a command."""
    add_link_arguments(parser)
    session = parser.add_argument_group("session")
    session.add_argument("-i", "--id", metavar="ID", help="client identifier (default: a random one)")
    session.add_argument(
        "-c", "--disable-clean-session", action="store_true", help="let the server keep the session; needs --id"
    )
    will = parser.add_argument_group("will")
    will.add_argument("--will-topic", metavar="TOPIC", help="where the server publishes if this client vanishes")
    will.add_argument("--will-payload", metavar="TEXT", default="", help="what it publishes (default: nothing)")
    will.add_argument("--will-qos", type=qos, default=0, help="0, 1 or 2 (default: 0)")
    will.add_argument("--will-retain", action="store_true", help="the server keeps the will")


def client_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the options of a client that `add_link_arguments` asks for.

    Raises:
        Failure: the files cannot be used.
    """
    return {
        "keep_alive": arguments.keepalive,
        "username": arguments.username,
        "password": _password(arguments),
        "headers": arguments.header,
        "tls": _tls(arguments),
        "timeout": arguments.timeout,
    }


def make_client(arguments: argparse.Namespace, **options: Any) -> mqttws.Client:
    """Make a client of the options.

    Raises:
        Failure: they do not fit together.
    """
    if arguments.disable_clean_session and not arguments.id:
        raise Failure("--disable-clean-session needs an --id: the server keeps the session under it", USAGE)
    try:
        will = None
        if arguments.will_topic is not None:
            will = mqttws.Message(
                arguments.will_topic, arguments.will_payload, arguments.will_qos, arguments.will_retain
            )
        return mqttws.Client(
            arguments.url,
            client_id=arguments.id,
            clean_session=not arguments.disable_clean_session,
            will=will,
            **client_options(arguments),
            **options,
        )
    except (ValueError, mqttws.LocalProtocolError) as error:
        raise Failure(str(error), USAGE) from None


def _password(arguments: argparse.Namespace) -> str | None:
    """Find the password; without a user name there is none."""
    if arguments.ask_password:
        return getpass.getpass(f"password of {arguments.username or 'the user in the URL'}: ")
    password: str | None = arguments.password
    if password is None and arguments.username is not None:
        password = os.environ.get(VARIABLE)
    return password


def _tls(arguments: argparse.Namespace) -> Any:
    if not (arguments.cafile or arguments.cert or arguments.insecure):
        return None
    try:
        return mqttws.tls_context(
            ca_file=arguments.cafile,
            certificate=arguments.cert,
            key=arguments.key,
            insecure_no_verification=arguments.insecure,
        )
    except OSError as error:  # an ssl.SSLError is one
        raise Failure(f"the files of --cafile, --cert and --key cannot be used: {error}", USAGE) from None


def failure_of(error: Exception) -> Failure:
    """Say what an error means for whoever called the command."""
    if isinstance(error, (mqttws.ConnectionRefused, mqttws.HandshakeRejected)):
        return Failure(str(error), REFUSED)
    if isinstance(error, mqttws.ConnectError):
        return Failure(str(error), NO_CONNECTION)
    return Failure(str(error) or type(error).__name__, FAILED)
