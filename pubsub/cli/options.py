"""The connection of a command: its options, the client that they make, and what its failures mean.

`pub`, `sub` and `rr` take a server as Mosquitto's tools do (`-h HOST -p PORT`, `-L URL`), or as a URL before the
topics; `bench` takes a URL.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mqttws
from pubsub.cli import FAILED, NO_CONNECTION, REFUSED, USAGE, Failure
from pubsub.cli.aws_link import add_aws_link_arguments, aws_provider, check_without_aws
from pubsub.cli.streams import ask_secret
from sigv4 import CredentialsUnavailable

if TYPE_CHECKING:  # imported where it is needed, so that `pub` starts quickly
    import ssl

PASSWORD, USERNAME, URL = "PUBSUB_PASSWORD", "PUBSUB_USERNAME", "PUBSUB_URL"

#: Option of Mosquitto's tools -> why there is none here.
_REFUSED = {
    "-D": "properties belong to MQTT 5, and this is MQTT 3.1.1",
    "--property": "properties belong to MQTT 5, and this is MQTT 3.1.1",
    "-x": "a session's expiry belongs to MQTT 5, and this is MQTT 3.1.1",
    "--tls-engine": "Python's ssl has no engines",
    "--tls-engine-kpass-sha1": "Python's ssl has no engines",
    "--keyform": "Python's ssl reads PEM alone",
}
#: The versions of TLS, by their names in `ssl.TLSVersion`.
_TLS_VERSIONS = {"tlsv1.2": "TLSv1_2", "tlsv1.3": "TLSv1_3"}


# Readers of values.


def qos(text: str) -> int:
    """Read a QoS."""
    if text not in ("0", "1", "2"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a QoS; it must be 0, 1 or 2")
    return int(text)


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make a reader of positive numbers."""

    def read(text: str) -> Any:
        try:
            number = kind(text)
        except ValueError:
            number = 0
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
        return number

    return read


def whole(text: str) -> int:
    """Read a whole number, 0 or more."""
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number, 0 or more")
    return int(text)


def port(text: str) -> int:
    """Read a port, 0 to 65535."""
    if not text.isascii() or not text.isdigit() or len(text) > 6 or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a port; it must be 0 to 65535")
    return int(text)


def documentation(text: str) -> str:
    """Read the URL of documentation."""
    from pubsub.look.documentation import templates

    try:
        templates(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def header(text: str) -> tuple[str, str]:
    """Read a header."""
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("a header is of the form 'Name: value'")
    return name.strip(), value.strip()


def version(text: str) -> str:
    """Read a version of the protocol: there is one."""
    if text not in ("mqttv311", "311", "4"):
        raise argparse.ArgumentTypeError(f"{text!r} is not spoken here; this is MQTT 3.1.1 (mqttv311)")
    return text


class _Refuse(argparse.Action):
    """An option of Mosquitto's tools that cannot be had here, with the reason."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: object, values: object, option: Any = None) -> None:
        parser.error(f"{option}: {_REFUSED[option]}")


# Arguments.


def add_link_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for authentication, which do not depend on the server's address."""
    parser.add_argument("-q", "--qos", type=qos, default=0, help="0, 1 or 2 (default: 0)")
    parser.add_argument("-d", "--debug", action="store_true", help="show packets and states on standard error")
    group = parser.add_argument_group("connection")
    group.add_argument(
        "-k", "--keepalive", type=int, default=60, metavar="S", help="keep alive in seconds, 0: none (default: 60)"
    )
    group.add_argument("-u", "--username", metavar="NAME", help=f"user name (default: the URL's, or {USERNAME})")
    group.add_argument(
        "-P",
        "--password",
        metavar="PW",
        help=f"password; every user of this machine can see it here: better set {PASSWORD}, or be asked",
    )
    group.add_argument("--ask-password", action="store_true", help="ask for the password")
    group.add_argument("-H", "--header", type=header, action="append", default=[], metavar="'NAME: VALUE'",
                       help="one more header of the WebSocket's upgrade request; may be repeated")  # fmt: skip
    group.add_argument("--timeout", type=positive(float), default=30.0, metavar="S",
                       help="seconds for connecting, and for each answer (default: 30)")  # fmt: skip
    group.add_argument("--proxy", metavar="URL",
                       help="http:// or socks5h://[user:password@]host:port (default: HTTPS_PROXY)")  # fmt: skip
    group.add_argument("-A", "--bind-address", metavar="ADDRESS", help="address of this machine to connect from")
    group.add_argument("--unix", metavar="PATH", help="Unix socket to connect to, instead of host and port")
    tls = parser.add_argument_group("TLS")
    tls.add_argument("--cafile", metavar="FILE", help="PEM file of the authorities to trust (default: the system's)")
    tls.add_argument("--capath", metavar="DIR", help="folder of the authorities to trust, as c_rehash makes it")
    tls.add_argument("--tls-use-os-certs", action="store_true", help="trust the system's authorities (the default)")
    tls.add_argument("--cert", metavar="FILE", help="PEM file of the client's certificate")
    tls.add_argument("--key", metavar="FILE", help="PEM file of its private key (default: in the same file)")
    tls.add_argument("--key-password-file", metavar="FILE", help="file whose first line is the key's password")
    tls.add_argument("--ask-key-password", action="store_true", help="ask for the key's password")
    tls.add_argument("--ciphers", metavar="LIST", help="ciphers of TLS 1.2, as OpenSSL lists them")
    tls.add_argument("--tls-version", choices=sorted(_TLS_VERSIONS), help="this version alone (default: 1.2 or later)")
    tls.add_argument("--tls-alpn", action="append", default=[], metavar="NAME",
                     help="application protocol to offer; may be repeated")  # fmt: skip
    tls.add_argument(
        "--insecure", action="store_true", help="trust any server: an intermediary can read and change all data"
    )
    psk = "needs Python 3.13"
    tls.add_argument("--psk", metavar="HEX", help=f"pre-shared key in hexadecimal; {psk}")
    tls.add_argument("--psk-identity", metavar="NAME", help=f"identity that goes with it; {psk}")


def add_connection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the one connection of `pub`, `sub` and `rr`."""
    server = parser.add_argument_group(
        "server", f"also a URL before all else: ws://, wss://, mqtt:// or mqtts://HOST[:PORT][/PATH], or {URL}"
    )
    server.add_argument("-h", "--host", metavar="HOST", help="name or address (default: localhost)")
    server.add_argument("-p", "--port", type=port, metavar="PORT", help="default: 1883, with TLS 8883")
    server.add_argument("-L", "--url", metavar="URL", help="URL; that of mqtt:// and mqtts:// may end in /TOPIC")
    server.add_argument("-t", "--topic", action="append", default=[], metavar="TOPIC", help="may be repeated")
    add_link_arguments(parser)
    add_aws_link_arguments(parser)
    server.add_argument("--nodelay", action="store_true", help="send without delay, which is always so here")
    server.add_argument("-V", "--protocol-version", type=version, metavar="V", help="mqttv311, the only one")
    for option in _REFUSED:
        server.add_argument(option, action=_Refuse, nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--quiet", action="store_true", help="print no errors")
    parser.add_argument("-o", metavar="FILE", help="file of options, one a line (default: ~/.config/pubsub/COMMAND)")
    session = parser.add_argument_group("session")
    session.add_argument("-i", "--id", metavar="ID", help="client identifier (default: a random one)")
    session.add_argument("-I", "--id-prefix", metavar="TEXT", help="client identifier: this and the process number")
    session.add_argument(
        "-c", "--disable-clean-session", action="store_true", help="let the server keep the session; needs --id"
    )
    will = parser.add_argument_group("will")
    will.add_argument("--will-topic", metavar="TOPIC", help="where the server publishes if this client vanishes")
    will.add_argument("--will-payload", metavar="TEXT", default="", help="payload of the will (default: empty)")
    will.add_argument("--will-qos", type=qos, default=0, help="0, 1 or 2 (default: 0)")
    will.add_argument("--will-retain", action="store_true", help="the server keeps the will")


# From arguments to a client.


def take_server(arguments: argparse.Namespace) -> None:
    """Find the server's URL, and take it, and a topic that it ends in, from the words.

    Afterwards `arguments.url` is the URL, and `arguments.words` holds topics and messages alone.

    Raises:
        Failure: The server is named in two ways.
    """
    words: list[str] = arguments.words
    named = arguments.host is not None or arguments.port is not None
    if arguments.url is not None and named:
        raise Failure("-L names the server; leave -h and -p out", USAGE)
    if arguments.url is not None:
        arguments.url, topic = _split_url(arguments.url)
        if topic:
            arguments.topic.insert(0, topic)
    elif named:
        arguments.url = _url_of(arguments)
    elif words and "://" in words[0]:
        arguments.url = words.pop(0)
    else:
        arguments.url = os.environ.get(URL) or _url_of(arguments)


def _url_of(arguments: argparse.Namespace) -> str:
    tls = any((arguments.cafile, arguments.capath, arguments.cert, arguments.tls_use_os_certs, arguments.psk,
               arguments.insecure, arguments.tls_version, arguments.tls_alpn, arguments.port == 8883))  # fmt: skip
    host = arguments.host or "localhost"
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{'mqtts' if tls else 'mqtt'}://{host}" + (f":{arguments.port}" if arguments.port is not None else "")


def _split_url(url: str) -> tuple[str, str]:
    """Take the topic from a URL of MQTT over TCP, where Mosquitto's tools write it."""
    scheme, separator, rest = url.partition("://")
    if scheme.lower() not in ("mqtt", "mqtts"):
        return url, ""
    from urllib.parse import unquote

    authority, _, topic = rest.partition("/")
    return scheme + separator + authority, unquote(topic)


def client_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the client options for the arguments of `add_link_arguments`.

    Raises:
        Failure: The files cannot be used.
    """
    username, password = _user(arguments)
    options = {
        "keep_alive": arguments.keepalive,
        "username": username,
        "password": password,
        "headers": arguments.header,
        "tls": _tls(arguments),
        "timeout": arguments.timeout,
    }
    for option, value in (
        ("proxy", arguments.proxy),
        ("bind_address", arguments.bind_address),
        ("unix_socket", arguments.unix),
    ):
        if value is not None:
            options[option] = value
    return options


def make_client(arguments: argparse.Namespace, **options: Any) -> mqttws.Client:
    """Make a client of the options.

    Raises:
        Failure: They do not fit together.
    """
    if arguments.id_prefix is not None:
        if arguments.id is not None:
            raise Failure("-i and -I name the client twice; leave one out", USAGE)
        arguments.id = f"{arguments.id_prefix}{os.getpid()}"
    if arguments.disable_clean_session and not arguments.id:
        raise Failure("--disable-clean-session needs an --id: the server keeps the session under it", USAGE)
    try:
        will = None
        if arguments.will_topic is not None:
            will = mqttws.Message(
                arguments.will_topic, os.fsencode(arguments.will_payload), arguments.will_qos, arguments.will_retain
            )
        made = {
            "client_id": arguments.id,
            "clean_session": not arguments.disable_clean_session,
            "will": will,
            **client_options(arguments),
        }
        if not arguments.aws:
            check_without_aws(arguments)
            return mqttws.Client(arguments.url, **made, **options)
        provider = aws_provider(arguments, {name: value for name, value in made.items() if value is not None})
        arguments.explain = provider.explain
        return mqttws.Client(provider.url, recover=provider.recover, **provider.client_options(), **options)
    except (ValueError, mqttws.LocalProtocolError) as error:
        raise Failure(str(error), USAGE) from None


def log_to_standard_error(arguments: argparse.Namespace) -> None:
    """With `--debug`, show what happens: states, and each packet without its secrets."""
    if arguments.debug and sys.stderr is not None:
        import logging

        logging.basicConfig(level=logging.DEBUG, format="%(message)s")


def _user(arguments: argparse.Namespace) -> tuple[str | None, str | bytes | None]:
    """Find user name and password: in the options, the URL, the environment, in this order."""
    username: str | None = arguments.username
    in_url = None
    if "@" in arguments.url:
        from urllib.parse import unquote, urlsplit

        in_url = urlsplit(arguments.url)
        if username is None and in_url.username is not None:
            username = unquote(in_url.username)
    if username is None:
        username = os.environ.get(USERNAME)
    if arguments.ask_password:
        return username, ask_secret(f"password of {username or 'the user'}: ")
    password: str | bytes | None = None if arguments.password is None else os.fsencode(arguments.password)
    if password is None and arguments.username is None and in_url is not None and in_url.password is not None:
        return None, None  # the client takes both from the URL
    if password is None and username is not None:
        password = os.environ.get(PASSWORD)
    return username, password


def _tls(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    if (arguments.psk is None) != (arguments.psk_identity is None):
        raise Failure("--psk and --psk-identity go together", USAGE)
    given = ("cafile", "capath", "cert", "key", "ciphers", "tls_version", "tls_alpn", "insecure", "psk")
    if not any(getattr(arguments, name) for name in given):
        return None
    if arguments.key and not arguments.cert:
        raise Failure("--key needs --cert, the certificate that it belongs to", USAGE)
    if arguments.url.partition("://")[0].lower() not in ("wss", "mqtts"):
        raise Failure("the options of TLS need a URL with TLS: wss:// or mqtts://", USAGE)
    import ssl

    try:
        context = mqttws.tls_context(
            ca_file=arguments.cafile,
            certificate=arguments.cert,
            key=arguments.key,
            key_password=_key_password(arguments),
            alpn=arguments.tls_alpn,
            insecure_no_verification=arguments.insecure,
        )
        if arguments.capath:
            if not os.path.isdir(arguments.capath):
                raise Failure(f"--capath {arguments.capath!r} is not a folder", USAGE)
            context.load_verify_locations(capath=arguments.capath)
        if arguments.ciphers:
            context.set_ciphers(arguments.ciphers)
        if arguments.tls_version:
            context.minimum_version = context.maximum_version = ssl.TLSVersion[_TLS_VERSIONS[arguments.tls_version]]
        if arguments.psk is not None:
            _use_pre_shared_key(context, arguments)
    except OSError as error:  # an ssl.SSLError is one
        raise Failure(f"the options of TLS cannot be used: {error.strerror or error}", USAGE) from None
    return context


def _key_password(arguments: argparse.Namespace) -> str | None:
    if arguments.ask_key_password:
        return ask_secret("password of the private key: ")
    if arguments.key_password_file is None:
        return None
    with open(arguments.key_password_file) as file:
        return file.readline().rstrip("\n")


def _use_pre_shared_key(context: ssl.SSLContext, arguments: argparse.Namespace) -> None:
    """Prove who the client is by a key that both sides have. Spec: RFC 4279."""
    import ssl

    if not hasattr(context, "set_psk_client_callback"):
        raise Failure("--psk needs Python 3.13 or later", USAGE)
    try:
        key = bytes.fromhex(arguments.psk)
    except ValueError:
        raise Failure("--psk is not written in hexadecimal", USAGE) from None
    context.check_hostname = False  # there is no certificate: the key authenticates the server, too
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # OpenSSL's callback of TLS 1.3 is not Python's
    context.set_ciphers(arguments.ciphers or "PSK")
    for cipher in context.get_ciphers():  # with another one, nothing would prove who the server is
        if cipher["protocol"] != "TLSv1.3" and "PSK" not in cipher["name"]:
            raise Failure(f"--psk takes only ciphers of a pre-shared key, not {cipher['name']}", USAGE)
    context.set_psk_client_callback(lambda hint: (arguments.psk_identity, key))


def end_on_sigterm() -> None:
    """Let SIGTERM end the command as Ctrl-C does: with a DISCONNECT."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def failure_of(error: Exception, arguments: argparse.Namespace | None = None) -> Failure:
    """Return the failure that an error is for the user of a command.

    Args:
        error: Of the client.
        arguments: Of the command, where its provider may know the reason for the error.
    """
    error = getattr(arguments, "explain", lambda error: error)(error)
    if isinstance(error, CredentialsUnavailable):
        return Failure(str(error), REFUSED)
    if isinstance(error, (mqttws.ConnectionRefused, mqttws.HandshakeRejected)):
        return Failure(str(error), REFUSED)
    if isinstance(error, mqttws.ConnectError):
        return Failure(str(error), NO_CONNECTION)
    return Failure(str(error) or type(error).__name__, FAILED)


def check_topics(topics: list[str], check: Callable[[str], object]) -> None:
    """Check Topic Names or Topic Filters.

    Raises:
        Failure: One is ill-formed, or there is none.
    """
    if not topics:
        raise Failure("there is no topic", USAGE)
    for topic in topics:
        try:
            check(topic)
        except (mqttws.LocalProtocolError, ValueError) as error:
            raise Failure(str(error), USAGE) from None
