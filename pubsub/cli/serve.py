"""`pubsub serve`: the embedded broker, until Ctrl-C.

The URL of each listener is printed to standard output, one per line, as soon as it accepts connections. Everything else
goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mqttws import SQLiteStore, StoreError
from mqttws.broker import Broker, Limits, Users
from pubsub.cli import OK, USAGE, Failure
from pubsub.cli.options import documentation, port
from pubsub.cli.serve_aws import add_aws_arguments, aws_endpoint, aws_lines, aws_notes
from pubsub.cli.streams import complain, show

if TYPE_CHECKING:
    from pubsub.aws.local.endpoint import LocalIoTEndpoint


#: The default ports of the broker.
_PORTS = {"ws": 8083, "wss": 8084, "mqtt": 1883, "mqtts": 8883}
_BOUNDS = {
    "max_connections": "open connections",
    "max_packet_size": "bytes of one packet",
    "max_queued": "messages that wait for one client",
    "max_retained": "retained messages",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve`.

    The defaults are None or empty, so that `_check` can refuse options that would have no effect.
    """
    listeners = parser.add_argument_group(
        "listeners", "port 0: any free port. With TLS, listeners without TLS are opened only if their port is given."
    )
    listeners.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)"
    )
    listeners.add_argument("--ws-port", type=port, metavar="PORT", help="WebSocket (default: 8083)")
    listeners.add_argument("--tcp-port", type=port, metavar="PORT", help="plain TCP (default: 1883)")
    listeners.add_argument("--wss-port", type=port, metavar="PORT", help="WebSocket with TLS (with --cert: 8084)")
    listeners.add_argument("--mqtts-port", type=port, metavar="PORT", help="TCP with TLS (with --cert: 8883)")
    listeners.add_argument("--no-ws", action="store_true", help="no WebSocket listener")
    listeners.add_argument("--no-tcp", action="store_true", help="no TCP listener")
    listeners.add_argument("--path", action="append", default=[], metavar="PATH",
                           help="request path of the WebSocket; may be repeated (default: /mqtt and /)")  # fmt: skip
    tls = parser.add_argument_group("TLS")
    tls.add_argument("--cert", metavar="FILE", help="PEM file of the server's certificate")
    tls.add_argument("--key", metavar="FILE", help="PEM file of its private key (default: in the same file)")
    tls.add_argument("--client-ca", metavar="FILE",
                     help="PEM file of the authority; each client needs a certificate issued by it")  # fmt: skip
    tls.add_argument("--tls-dev", action="store_true",
                     help="TLS at --ws-port and --tcp-port, with a new certificate for this run")  # fmt: skip
    tls.add_argument("--ca-out", metavar="FILE", help="file to write that certificate's authority to, for clients")
    tls.add_argument("--name", action="append", default=[], metavar="HOST",
                     help="additional host name in the certificate of --tls-dev; may be repeated")  # fmt: skip
    access = parser.add_argument_group("access")
    access.add_argument(
        "--users", metavar="FILE", help="file of users (see pubsub passwd); without it every client may connect"
    )
    access.add_argument("--allow-origin", action="append", default=[], metavar="ORIGIN",
                        help="web origin whose pages may connect; may be repeated")  # fmt: skip
    bounds = parser.add_argument_group("limits")
    for name, what in _BOUNDS.items():
        default = getattr(Limits(), name)
        bounds.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=f"{what} (default: {default:,})")
    parser.add_argument("--store", metavar="FILE",
                        help="file that stores sessions and retained messages (default: in memory)")  # fmt: skip
    add_aws_arguments(parser)
    parser.add_argument("--look", action="store_true",
                        help="show the broker and its traffic on a web page; its URL goes to standard "
                             "error")  # fmt: skip
    parser.add_argument("--docs", type=documentation, metavar="URL",
                        help="documentation for the links of that page (default: that of the project, if "
                             "published)")  # fmt: skip
    parser.add_argument("-v", "--verbose", action="store_true", help="log connections and disconnections")


#: Options that only the plain broker has, and those that only the AWS IoT endpoint has.
_PLAIN_ONLY = (
    *("tcp_port", "wss_port", "no_ws", "no_tcp", "path", "cert", "key", "client_ca", "users", "store", "look", "docs"),
    *_BOUNDS,
)
_AWS_ONLY = ("identities", "cognito_port", "explain")
#: Option -> others, one of which it needs.
_NEEDS = {
    "docs": ("look",),
    "key": ("cert",),
    "client_ca": ("cert",),
    "ca_out": ("tls_dev",),
    "name": ("tls_dev",),
    "wss_port": ("cert", "tls_dev"),
    "mqtts_port": ("cert", "tls_dev"),
}
#: Pairs that contradict each other.
_EXCLUDES = (
    ("tls_dev", "cert"),
    ("no_ws", "ws_port"),
    ("no_ws", "wss_port"),
    ("no_ws", "path"),
    ("no_ws", "allow_origin"),
    ("no_tcp", "tcp_port"),
    ("no_tcp", "mqtts_port"),
)


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that would have no effect, because a requested protection must not be missing silently.

    Raises:
        Failure: There is such an option.
    """

    def given(name: str) -> bool:
        value = getattr(arguments, name)
        return value is not None and value is not False and value != []

    def option(name: str) -> str:
        return "--" + name.replace("_", "-")

    for name in _PLAIN_ONLY if arguments.aws_iot else _AWS_ONLY:
        if given(name):
            where = "the plain broker; it has no effect with --aws-iot" if arguments.aws_iot else "--aws-iot"
            raise Failure(f"{option(name)} is for {where}", USAGE)
    for name, others in _NEEDS.items():
        if given(name) and not any(map(given, others)):
            raise Failure(f"{option(name)} needs {' or '.join(map(option, others))}", USAGE)
    for one, other in _EXCLUDES:
        if given(one) and given(other):
            raise Failure(f"{option(one)} and {option(other)} exclude each other", USAGE)
    if arguments.tls_dev and not arguments.aws_iot:
        for plain, tls in (("ws_port", "wss_port"), ("tcp_port", "mqtts_port")):
            if given(plain) and given(tls):
                raise Failure(f"with --tls-dev {option(plain)} has TLS; omit {option(tls)}", USAGE)
    if arguments.client_ca is not None and (given("ws_port") or given("tcp_port")):
        raise Failure("--client-ca requires client certificates, which --ws-port and --tcp-port do not support", USAGE)


def run(arguments: argparse.Namespace) -> int:
    """Run `serve`."""
    _check(arguments)
    logging.basicConfig(level=logging.INFO if arguments.verbose else logging.WARNING, format="%(message)s")
    try:
        with _rare_collections():
            _run(arguments)
    except StoreError as error:
        raise Failure(str(error)) from None
    except UnicodeError:  # of the codec idna, or of a host that is not UTF-8
        raise Failure(f"cannot listen: {arguments.host!r} is not a host", USAGE) from None
    except OSError as error:
        raise Failure(f"cannot listen: {error.strerror or error}") from None
    return OK


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Make full garbage collections rare.

    Each examines all subscriptions and sessions in one turn of the event loop, which takes up to 50 ms with the default
    limits. Connections and sessions do not wait for one: they are freed when they end.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*thresholds[:2], 1_000)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _run(arguments: argparse.Namespace) -> None:
    if arguments.aws_iot:
        asyncio.run(_serve_aws(aws_endpoint(arguments)))
        return
    with contextlib.nullcontext() if arguments.store is None else SQLiteStore(arguments.store) as store:
        if arguments.look:
            asyncio.run(_serve_with_page(arguments, store))
        else:
            asyncio.run(_serve(_make_broker(arguments, store, {**_ports(arguments), "tls": _tls(arguments)})))


def _tls(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    try:
        return _server_tls(arguments)
    except (ValueError, OSError) as error:
        raise Failure(str(error), USAGE) from None


def _make_broker(arguments: argparse.Namespace, store: SQLiteStore | None, listeners: dict[str, Any]) -> Broker:
    """Return the broker for the options.

    Args:
        arguments: The arguments of the command.
        store: See `Broker`.
        listeners: The ports, and the TLS context.

    Raises:
        Failure: The options cannot be used.
    """
    try:
        return _broker(arguments, store, listeners)
    except (ValueError, OSError) as error:
        raise Failure(str(error), USAGE) from None


def _broker(arguments: argparse.Namespace, store: SQLiteStore | None, listeners: dict[str, Any]) -> Broker:
    options: dict[str, Any] = {}
    if arguments.path:
        if not all(path.startswith("/") for path in arguments.path):
            raise ValueError("a --path must begin with '/'")
        options["paths"] = arguments.path
    if arguments.users is not None:
        options["authenticator"] = Users.load(arguments.users)
    bounds = {name: value for name in _BOUNDS if (value := getattr(arguments, name)) is not None}
    return Broker(
        arguments.host,
        **listeners,
        allowed_origins=arguments.allow_origin,
        limits=Limits(**bounds),
        sys_anonymous=arguments.users is None,  # otherwise no client could read it
        store=store,
        **options,
    )


def _ports(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the ports of the listeners. With TLS, a listener without it is opened only if its port is given."""
    ws, tcp = arguments.ws_port, arguments.tcp_port
    wss, mqtts = arguments.wss_port, arguments.mqtts_port
    if arguments.tls_dev:
        wss, ws = ws if wss is None else wss, None
        mqtts, tcp = tcp if mqtts is None else mqtts, None
    if arguments.tls_dev or arguments.cert is not None:
        if wss is None and mqtts is None:
            wss, mqtts = _PORTS["wss"], _PORTS["mqtts"]
    else:
        ws = _PORTS["ws"] if ws is None else ws
        tcp = _PORTS["mqtt"] if tcp is None else tcp
    if arguments.no_ws:
        ws = wss = None
    if arguments.no_tcp:
        tcp = mqtts = None
    return {"ws_port": ws, "tcp_port": tcp, "wss_port": wss, "mqtts_port": mqtts}


def _server_tls(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    if arguments.tls_dev:
        try:
            from mqttws.testing import mint_authority

            authority = mint_authority("pubsub serve --tls-dev")
        except ModuleNotFoundError:
            raise ValueError("--tls-dev needs the extra 'certs': pip install 'mqttws-pubsub[certs]'") from None
        if arguments.ca_out is not None:
            Path(arguments.ca_out).write_bytes(authority.certificate)
        return authority.issue("localhost", "127.0.0.1", "::1", *arguments.name).server_context()
    if arguments.cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with _names(f"--cert {arguments.cert}" + f" with --key {arguments.key}" * (arguments.key is not None)):
        context.load_cert_chain(arguments.cert, arguments.key, _no_password)
    if arguments.client_ca is not None:
        with _names(f"--client-ca {arguments.client_ca}"):
            context.load_verify_locations(arguments.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _no_password() -> NoReturn:
    """Called by OpenSSL for the password of an encrypted key; without this it would read one from the terminal."""
    raise ValueError("the private key is encrypted; `openssl pkey` decrypts it")


@contextlib.contextmanager
def _names(files: str) -> Iterator[None]:
    """Name the files in the error of a function that does not."""
    try:
        yield
    except ssl.SSLError as error:
        reason = (error.reason or "").replace("_", " ").lower() or "the content is not PEM"
        raise ValueError(f"{files} cannot be used: {reason}") from None
    except OSError as error:
        raise ValueError(f"{files} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"{files} cannot be used: {error}") from None


async def _serve(broker: Broker) -> None:
    """Serve until a signal arrives."""
    asked = _asked()
    async with broker:
        show("\n".join(broker.urls))
        await asked.wait()


async def _serve_with_page(arguments: argparse.Namespace, store: SQLiteStore | None) -> None:
    """Serve, with the page, until a signal arrives."""
    from pubsub.cli.serve_look import serve_with_page

    def make(listeners: dict[str, Any]) -> Broker:
        arguments.host = "127.0.0.1"
        return _make_broker(arguments, store, listeners)

    await serve_with_page(make, _ports(arguments), arguments.host, _tls(arguments), _asked(), arguments.docs)


async def _serve_aws(endpoint: LocalIoTEndpoint) -> None:
    """Serve AWS IoT until a signal arrives."""
    asked = _asked()
    async with endpoint:
        complain("\n".join(aws_notes(endpoint)))
        show("\n".join(aws_lines(endpoint)))
        await asked.wait()


def _asked() -> asyncio.Event:
    """Return an event that a signal sets."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, asked.set)
        except NotImplementedError:  # Windows: Ctrl-C raises KeyboardInterrupt in asyncio.run instead
            pass
    return asked
