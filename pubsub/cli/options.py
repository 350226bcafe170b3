"""The options for the connection of a command, the client that is made of them, and the exit codes of errors.

The server of `pub`, `sub` and `rr` is given as in Mosquitto's tools (`-h HOST -p PORT`, `-L URL`), or as a URL before
the topics; that of `bench` as a URL.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import sys
from collections.abc import Callable

import mqttws
from pubsub.cli import FAILED, NO_CONNECTION, REFUSED, USAGE, Failure
from pubsub.cli.streams import ask_secret

TYPE_CHECKING = False  # importing `typing` for it would delay the first message
if TYPE_CHECKING:  # imported where it is needed, so that `pub` starts quickly
    import argparse
    import ssl
    from typing import Any

#: The longest time in seconds, over 30 years: the system's clocks and timers have a limit.
LONGEST = 1_000_000_000
PASSWORD, USERNAME, URL = "PUBSUB_PASSWORD", "PUBSUB_USERNAME", "PUBSUB_URL"

#: Option of Mosquitto's tools -> the reason why it is not supported.
_REFUSED = {
    "-D": "properties belong to MQTT 5, and this is MQTT 3.1.1",
    "--property": "properties belong to MQTT 5, and this is MQTT 3.1.1",
    "-x": "a session's expiry belongs to MQTT 5, and this is MQTT 3.1.1",
    "--tls-engine": "Python's ssl has no engines",
    "--tls-engine-kpass-sha1": "Python's ssl has no engines",
    "--keyform": "Python's ssl reads only PEM",
}


#: The options that only a connection with TLS has: who asks for TLS never gets plain text.
_TLS_OPTIONS = (
    *("cafile", "capath", "tls_use_os_certs", "cert", "key", "key_password_file", "ask_key_password", "key_password"),
    *("ciphers", "tls_version", "tls_alpn", "insecure", "psk"),
)

# The types of arguments.


def wrong(message: str) -> Exception:
    """Return the error of a value, for argparse to report."""
    from argparse import ArgumentTypeError

    return ArgumentTypeError(message)


def qos(text: str) -> int:
    """Parse a QoS."""
    if text not in ("0", "1", "2"):
        raise wrong(f"{text!r} is not a QoS; it must be 0, 1 or 2")
    return int(text)


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a function that parses positive numbers; those with a fraction, which may be seconds, up to `LONGEST`."""

    def read(text: str) -> Any:
        try:
            number = kind(text)
        except ValueError:
            number = 0
        if number > LONGEST and kind is float:
            raise wrong(f"{text!r} is too large; the maximum is {LONGEST:,}")
        if not number > 0:
            raise wrong(f"{text!r} is not a number above 0")
        return number

    return read


def whole(text: str) -> int:
    """Parse a whole number, 0 or more."""
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise wrong(f"{text[:40]!r} is not a whole number, 0 or more")
    return int(text)


def port(text: str) -> int:
    """Parse a port, 0 to 65535."""
    if not text.isascii() or not text.isdigit() or len(text) > 6 or int(text) > 65_535:
        raise wrong(f"{text[:40]!r} is not a port; it must be 0 to 65535")
    return int(text)


def documentation(text: str) -> str:
    """Parse the URL of documentation."""
    from pubsub.look.documentation import templates

    try:
        templates(text)
    except ValueError as error:
        raise wrong(str(error)) from None
    return text


def header(text: str) -> tuple[str, str]:
    """Parse a header."""
    name, colon, value = text.partition(":")
    if not colon:
        raise wrong("a header has the form 'Name: value'")
    return name.strip(), value.strip()


def version(text: str) -> str:
    """Parse a version of the protocol: there is only one."""
    if text not in ("mqttv311", "311", "4"):
        raise wrong(f"{text!r} is not supported; this is MQTT 3.1.1 (mqttv311)")
    return text


def _refuse(**settings: Any) -> argparse.Action:
    """Return the action of an option of Mosquitto's tools that is not supported. The error contains the reason."""
    from pubsub.cli.parsers import Refuse

    return Refuse(_REFUSED, **settings)


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
        help=f"password; visible to every user of this machine: prefer {PASSWORD} or --ask-password",
    )
    group.add_argument("--ask-password", action="store_true", help="prompt for the password")
    group.add_argument("-H", "--header", type=header, action="append", default=[], metavar="'NAME: VALUE'",
                       help="additional header of the WebSocket upgrade request; may be repeated")  # fmt: skip
    group.add_argument("--timeout", type=positive(float), default=30.0, metavar="S",
                       help="seconds to connect, and to wait for each answer (default: 30)")  # fmt: skip
    group.add_argument("--proxy", metavar="URL",
                       help="http:// or socks5h://[user:password@]host:port (default: HTTPS_PROXY)")  # fmt: skip
    group.add_argument("-A", "--bind-address", metavar="ADDRESS", help="address of this machine to connect from")
    group.add_argument("--unix", metavar="PATH", help="Unix socket to connect to, instead of host and port")
    tls = parser.add_argument_group("TLS")
    tls.add_argument("--cafile", metavar="FILE", help="PEM file of the authorities to trust (default: the system's)")
    tls.add_argument("--capath", metavar="DIR", help="directory of the authorities to trust, prepared by c_rehash")
    tls.add_argument("--tls-use-os-certs", action="store_true", help="trust the system's authorities (the default)")
    tls.add_argument("--cert", metavar="FILE", help="PEM file of the client's certificate")
    tls.add_argument("--key", metavar="FILE", help="PEM file of its private key (default: in the same file)")
    tls.add_argument("--key-password-file", metavar="FILE", help="file whose first line is the key's password")
    tls.add_argument("--ask-key-password", action="store_true", help="prompt for the key's password")
    tls.add_argument("--ciphers", metavar="LIST", help="ciphers of TLS 1.2, in OpenSSL's format")
    tls.add_argument("--tls-version", choices=("tlsv1.2", "tlsv1.3"), help="only this version (default: 1.2 or later)")
    tls.add_argument("--tls-alpn", action="append", default=[], metavar="NAME",
                     help="application protocol to offer; may be repeated")  # fmt: skip
    tls.add_argument(
        "--insecure", action="store_true", help="trust any server: an intermediary can read and change all data"
    )
    psk = "requires Python 3.13"
    tls.add_argument("--psk", metavar="HEX", help=f"pre-shared key in hexadecimal; {psk}")
    tls.add_argument("--psk-identity", metavar="NAME", help=f"identity of the pre-shared key; {psk}")


def add_connection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the connection of `pub`, `sub` and `rr`."""
    server = parser.add_argument_group(
        "server",
        f"or a URL as the first argument: ws://, wss://, mqtt:// or mqtts://HOST[:PORT][/PATH]; or the variable {URL}",
    )
    server.add_argument("-h", "--host", metavar="HOST", help="name or address (default: localhost)")
    server.add_argument("-p", "--port", type=port, metavar="PORT", help="port (default: 1883, with TLS 8883)")
    server.add_argument("-L", "--url", metavar="URL", help="URL; with mqtt:// and mqtts:// it may end in /TOPIC")
    server.add_argument("-t", "--topic", action="append", default=[], metavar="TOPIC", help="topic; may be repeated")
    add_link_arguments(parser)
    add_aws_link_arguments(parser)
    server.add_argument("--nodelay", action="store_true", help="no effect: TCP_NODELAY is always set")
    server.add_argument("-V", "--protocol-version", type=version, metavar="V", help="mqttv311, the only version")
    for option in _REFUSED:
        # argparse needs only a function that makes the action.
        server.add_argument(option, action=_refuse, nargs="?")  # type: ignore[arg-type]
    parser.add_argument("--quiet", action="store_true", help="print no errors")
    parser.add_argument("-o", metavar="FILE", help="file of options, one per line (default: ~/.config/pubsub/COMMAND)")
    session = parser.add_argument_group("session")
    session.add_argument("-i", "--id", metavar="ID", help="client identifier (default: a random one)")
    session.add_argument("-I", "--id-prefix", metavar="TEXT", help="client identifier: this and the process number")
    session.add_argument(
        "-c", "--disable-clean-session", action="store_true", help="let the server keep the session; requires --id"
    )
    will = parser.add_argument_group("will")
    will.add_argument("--will-topic", metavar="TOPIC", help="topic of the message to publish if the connection is lost")
    will.add_argument("--will-payload", metavar="TEXT", default="", help="payload of the will (default: empty)")
    will.add_argument("--will-qos", type=qos, default=0, help="0, 1 or 2 (default: 0)")
    will.add_argument("--will-retain", action="store_true", help="publish the will as a retained message")


def add_aws_link_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a signed connection."""
    aws = parser.add_argument_group("AWS IoT", "the URL or the host is that of the endpoint")
    aws.add_argument("--aws", action="store_true", help="sign each connection for AWS IoT")
    aws.add_argument("--region", metavar="REGION", help="AWS region (default: that in the endpoint's name)")
    aws.add_argument("--profile", metavar="NAME",
                     help="profile of ~/.aws (default: the environment, then the default profile)")  # fmt: skip
    aws.add_argument("--cognito", metavar="FILE",
                     help="aws-exports.js or amplify_outputs.json: use a guest of its identity pool")  # fmt: skip


# From arguments to a client.


def take_server(arguments: argparse.Namespace) -> None:
    """Determine the server's URL, and remove it, and a topic at its end, from the positional arguments.

    Afterwards `arguments.url` is the URL, and `arguments.words` contains only topics and messages.

    Raises:
        Failure: The server is given in two ways, or is ill-formed.
    """
    words: list[str] = arguments.words
    named = arguments.host is not None or arguments.port is not None
    if "@" in (arguments.host or ""):  # it is not shown, because it may contain a password
        raise Failure("-h is a name or an address; use -u for the user name, or -L for a URL", USAGE)
    if arguments.url is not None and named:
        raise Failure("-L contains the server; omit -h and -p", USAGE)
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


def topics_of(arguments: argparse.Namespace) -> list[str]:
    """Return the topics, after `take_server`, and after the message has been removed from the positional arguments.

    Raises:
        Failure: A positional argument is a URL, which may contain a password that a topic would publish.
    """
    words: list[str] = arguments.words
    if any("://" in word for word in words):
        raise Failure("a URL after the server; the server is given once, and a topic with '://' needs -t", USAGE)
    topics: list[str] = arguments.topic + words
    return topics


def _asks_for_tls(arguments: argparse.Namespace) -> bool:
    """Return whether there is any TLS option."""
    return any(getattr(arguments, name, None) for name in _TLS_OPTIONS)


def _url_of(arguments: argparse.Namespace) -> str:
    tls = arguments.port == 8883 or _asks_for_tls(arguments)
    host = arguments.host or "localhost"
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{'mqtts' if tls else 'mqtt'}://{host}" + (f":{arguments.port}" if arguments.port is not None else "")


def _split_url(url: str) -> tuple[str, str]:
    """Split off the topic from a URL of MQTT over TCP, as in Mosquitto's tools.

    Raises:
        Failure: The topic is not UTF-8, or a '/' is in the user information.
    """
    scheme, separator, rest = url.partition("://")
    if scheme.lower() not in ("mqtt", "mqtts"):
        return url, ""
    authority, _, topic = rest.partition("/")
    _, colon, port = authority.rpartition("@")[2].rpartition(":")
    if "@" in topic and colon and not port.isdigit() and not port.endswith("]"):  # it is a password, no port to show
        raise Failure("the URL is not valid: a '/' in its user name or password must be percent-encoded", USAGE)
    return scheme + separator + authority, _percent_decoded(topic, "topic")


def _percent_decoded(text: str, what: str) -> str:
    if "%" not in text:
        return text
    from urllib.parse import unquote

    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise Failure(f"the {what} of the URL is not UTF-8 after percent-decoding", USAGE) from None


def _user_information(url: str) -> tuple[str | None, str | None]:
    """Return user name and password of a URL, not decoded. `urlsplit` raises errors that show the password."""
    rest = url.partition("://")[2]
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    information, at, _ = rest[:end].rpartition("@")
    name, colon, password = information.partition(":")
    return name if at else None, password if colon else None


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


def ask_for_secrets(arguments: argparse.Namespace) -> None:
    """Ask now for the passwords for which `client_options` would ask, so that it can be called several times."""
    if arguments.ask_password:
        username, password = _user(arguments)
        arguments.username, arguments.password, arguments.ask_password = username, password, False
    if arguments.ask_key_password:
        from pubsub.cli.tls import key_password

        arguments.key_password, arguments.ask_key_password = key_password(arguments), False


def make_client(arguments: argparse.Namespace, **options: Any) -> mqttws.Client:
    """Return a client for the options.

    Raises:
        Failure: The options contradict each other.
    """
    if arguments.id_prefix is not None:
        if arguments.id is not None:
            raise Failure("-i and -I both set the client identifier; omit one of them", USAGE)
        arguments.id = f"{arguments.id_prefix}{os.getpid()}"
    if arguments.disable_clean_session and not arguments.id:
        raise Failure("--disable-clean-session needs --id, because a session belongs to a client identifier", USAGE)
    if arguments.will_topic is None and (arguments.will_payload or arguments.will_qos or arguments.will_retain):
        raise Failure("--will-payload, --will-qos and --will-retain need --will-topic", USAGE)
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
        from pubsub.cli.aws_link import aws_provider

        provider = aws_provider(arguments, {name: value for name, value in made.items() if value is not None})
        arguments.explain = provider.explain
        return mqttws.Client(provider.url, recover=provider.recover, **provider.client_options(), **options)
    except (ValueError, mqttws.LocalProtocolError) as error:
        raise Failure(str(error), USAGE) from None


def check_without_aws(arguments: argparse.Namespace) -> None:
    """Refuse options that have no effect without `--aws`.

    Raises:
        Failure: There is such an option.
    """
    for name in ("region", "profile", "cognito"):
        if getattr(arguments, name, None) is not None:
            raise Failure(f"--{name} requires --aws", USAGE)


def log_to_standard_error(arguments: argparse.Namespace) -> None:
    """With `--debug`, log changes of state and packets, without secrets, to standard error."""
    if arguments.debug and sys.stderr is not None:
        import logging

        logging.basicConfig(level=logging.DEBUG, format="%(message)s")


def _user(arguments: argparse.Namespace) -> tuple[str | None, bytes | None]:
    """Return user name and password, from the options, the URL or the environment, in this order.

    With `--aws` a signature replaces them: what the environment has for other servers is not used.

    Raises:
        Failure: There is a password, and `--aws`.
    """
    if arguments.aws and (arguments.ask_password or arguments.password is not None):
        raise Failure("--aws authenticates the client by a signature; omit user name and password", USAGE)
    username: str | None = arguments.username
    name_in_url, password_in_url = _user_information(arguments.url)
    if username is None and name_in_url is not None:
        username = _percent_decoded(name_in_url, "user name")
    if username is None and not arguments.aws:
        username = os.environ.get(USERNAME)
    if arguments.ask_password:
        return username, ask_secret(f"password of {username or 'the user'}: ").encode()
    password = None if arguments.password is None else os.fsencode(arguments.password)
    if password is None and password_in_url is not None:
        return arguments.username, None  # the client takes from the URL what is missing
    if password is None and username is not None:
        in_environment = os.environ.get(PASSWORD)
        password = None if in_environment is None else os.fsencode(in_environment)
    return username, password


def _tls(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    """Return the TLS context for the options; None if there are none."""
    if (arguments.psk is None) != (arguments.psk_identity is None):
        raise Failure("--psk and --psk-identity need each other", USAGE)
    if not _asks_for_tls(arguments):
        return None
    from pubsub.cli.tls import make_context

    return make_context(arguments)


def end_on_sigterm() -> None:
    """Handle SIGTERM like Ctrl-C, so that the command sends a DISCONNECT.

    `signal` only adds enumerations to `_signal`, whose import would delay the first message.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    _signal.signal(_signal.SIGTERM, interrupt)


def expected() -> tuple[type[Exception], ...]:
    """Return the errors of a client that end a command. `except` calls this only if there is an error."""
    from sigv4 import CredentialsUnavailable

    return mqttws.MQTTError, TimeoutError, CredentialsUnavailable


def failure_of(error: Exception, arguments: argparse.Namespace | None = None) -> Failure:
    """Return the failure of a command for an error of the client.

    Args:
        error: The error.
        arguments: The arguments of the command, which may contain its provider's function `explain`.
    """
    from sigv4 import CredentialsUnavailable

    error = getattr(arguments, "explain", lambda error: error)(error)
    if isinstance(error, CredentialsUnavailable):
        return credentials_failure(error)
    if isinstance(error, (mqttws.ConnectionRefused, mqttws.HandshakeRejected)):
        return Failure(str(error), REFUSED)
    if isinstance(error, mqttws.ConnectError):
        return Failure(str(error), NO_CONNECTION)
    return Failure(str(error) or type(error).__name__, FAILED)


def credentials_failure(error: Exception) -> Failure:
    """Return the failure for missing credentials. An error of Cognito without an HTTP status had no answer."""
    return Failure(str(error), NO_CONNECTION if getattr(error, "status", None) == 0 else REFUSED)


def check_topics(topics: list[str], check: Callable[[str], object]) -> None:
    """Check Topic Names or Topic Filters.

    Raises:
        Failure: One is not valid, or there is none.
    """
    if not topics:
        raise Failure("there is no topic", USAGE)
    for topic in topics:
        try:
            check(topic)
        except (mqttws.LocalProtocolError, ValueError) as error:
            raise Failure(str(error), USAGE) from None
