"""The options of a client, checked, with their defaults and descriptions.

`ClientOptions` in `option_types` contains the same options for type checkers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from mqttws.client.callbacks import is_coroutine_function, is_generator_function
from mqttws.client.reconnect import END_ON, Reconnect
from mqttws.codec.connecting import Connect
from mqttws.codec.publishing import Message, Publish
from mqttws.hints import TYPE_CHECKING, Any, Unpack, inf
from mqttws.protocol.ages import Age

if TYPE_CHECKING:
    from mqttws.client.option_types import (
        ClientOptions,
        ConnectionOptions,
        Overflow,
        Oversize,
        ServerName,
        Stall,
        UrlOrder,
    )
    from mqttws.client.reconnect import Turns
    from mqttws.client.state import State
    from mqttws.client.url import Endpoint
    from mqttws.errors import ConnectError, MQTTError
    from mqttws.protocol.store import Store

#: Use the proxy from the environment: HTTPS_PROXY for wss://, unless NO_PROXY names the host.
ENVIRONMENT = "environment"

#: The default timeout of `close`, in seconds.
CLOSE_TIMEOUT = 5.0


class Options:
    """The options of a client, the same for both drivers.

    Attributes:
        client_id: 1 to 65,535 bytes of UTF-8; None: "mqttws-" and 16 random hexadecimal digits.
        keep_alive: Seconds, 0 to 65,535; 0 disables.
        clean_session: Whether the server discards the session when the connection ends. In either case, reconnecting
            sends unacknowledged messages again and restores the subscriptions.
        will: The message that the server publishes when the connection ends without a DISCONNECT: a `Message`, or a
            tuple of its arguments, such as ("status", "gone", 1, True).
        username: A str, or bytes of UTF-8; None: from the URL, if it has one.
        password: Bytes, or a str that is sent as UTF-8; None: from the URL, if it has one.
        tls: An `ssl.SSLContext`, see `tls_context`; True: the default context; None: the same, if the URL requires
            TLS. A context and True are refused unless a URL with TLS, wss:// or mqtts://, is among those of the client.
        headers: Additional headers of the WebSocket upgrade request: a mapping, or (name, value) pairs. They are
            refused unless a URL with a WebSocket, ws:// or wss://, is among those of the client.
        reconnect: How to reconnect: a `Reconnect`, True for its defaults, False for no reconnecting.
        connect_budget: Schedules the attempts: a `ConnectBudget` shared by the clients of a process, so that they do
            not all reconnect to a restarted server at the same time. None: attempts start when they are due.
        retry_first: Whether to make further attempts after a failed first attempt, as after a lost connection. `open`
            then returns after the first attempt, even if it failed.
        end_on: The errors that end the client after it has been connected (with `retry_first`, from the start): an
            exception class, a collection of them, or a function that returns whether an error does. All other errors
            lead to another attempt.
        timeout: Seconds, above 0: the timeout of one attempt to connect, and the default of each call that waits.
        connect_timeout: Seconds, above 0, for the TCP connection; None: the `timeout`.
        answer_timeout: Seconds, above 0, from the TCP connection to the CONNACK; None: the rest of `timeout`.
        url_order: With several URLs, the order in which to try those that have not failed recently: "given" or
            "random".
        server: The profile to use: "plain" (no restrictions), "mosquitto", "nats", "rabbitmq" or "aws-iot". Requests
            that this server does not support are refused with `Unsupported` before they are sent, or logged once as a
            warning; see `PROFILES`.
        max_qos: 0 to 2: the maximum QoS of messages, subscriptions and the will. A higher QoS is lowered to it and
            logged once as a warning. A profile can set a lower maximum.
        on_message: Called with each message, instead of an iteration.
        on_state: Called with each `State`.
        on_error: Called with errors that belong to no call, for example a subscription that the server refused to
            restore.
        manual_ack: Whether QoS 1 and 2 messages are acknowledged only by `acknowledge`.
        max_in_flight: The maximum number of unacknowledged QoS 1 and 2 messages, 1 to 65,535.
        max_in_flight_qos2: How many messages may be unacknowledged after one of QoS 2 is sent, at least 1. It must
            not exceed `max_inflight_messages` of a Mosquitto server (20 by default), which loses messages otherwise.
        max_queued: The maximum number of messages that wait to be sent, at least 1.
        max_queued_bytes: The maximum bytes of topics and payloads that wait to be sent.
        overflow: The effect of a message beyond these limits. "block": `publish` waits for space, `publish_nowait`
            raises `QueueFull`; "raise": both raise it; "drop_oldest" and "drop_newest": the oldest waiting message or
            the new one is dropped, and its call fails with `QueueFull`.
        expire_after: Seconds, above 0, that a message may wait to be sent; the default for calls without their own.
            After that time it is dropped, and its call fails with `MessageExpired`. A message that has been sent once
            does not expire: it is delivered with its QoS. With a store, time also passes while no process runs, by the
            system's clock. None: no limit.
        store: Stores QoS 1 and 2 messages, identifiers and subscriptions so that they survive the process, for example
            `SQLiteStore`. A message is stored before it is sent, and before `publish_nowait` returns. The next process
            with the same store and client identifier continues where this one stopped. Requires `client_id`, and
            `clean_session=False`. The caller closes the store after the client. Only one client at a time can use a
            store with the same client identifier. A new client takes it over from one that is not open, which then
            raises `StoreError` when it is opened or publishes; it is refused while another is open.
        max_inbound_bytes: The bytes of received messages that wait for the program, at which the client stops reading
            from the network, including acknowledgements; at least 1. A message counts with its bytes on the network
            and 400 bytes for its objects. The messages of one read, 64 KiB, can exceed the limit.
        max_packet_size: Bytes; a larger message from the server is not buffered.
        oversize: The effect of such a message. "skip": it is acknowledged and dropped, and `on_error` is called with a
            `PacketTooLarge`, which has its topic and size; "end": the client ends with that error.
        max_filters: The maximum number of Topic Filters in one SUBSCRIBE or UNSUBSCRIBE, at least 1.
        ping_timeout: Seconds, above 0; see `ClientMachine`.
        ack_timeout: Seconds, above 0, to wait for an acknowledgement. After that time without any, `on_error` is called
            with a `TimedOut` and the server is pinged, regardless of the keep alive, so that a dead connection is
            detected within `ack_timeout` and `ping_timeout`. None: it is detected by the keep alive only.
        stalled: What to do when the server answers that ping and sends no acknowledgement. "wait": nothing. "leave":
            close the connection as soon as an acknowledgement is overdue, and connect again, to another URL if there
            are several. For clusters: a node that waits for an election answers pings, but loses received messages.
        publish_rate: PUBLISH packets per second, above 0, that the server accepts on one connection in both directions
            together. QoS 1 and 2 messages beyond it are delayed, and at most half a second's worth of them is in
            flight. None or infinity: no limit.
        resend_after: Seconds, above 0, after which an unacknowledged QoS 1 message is sent again on the same
            connection, if the server has acknowledged a later one, or answered a ping and been silent for that time
            again. None: only on the next connection. For servers that drop messages beyond their rate.
        proxy: "environment": HTTPS_PROXY and NO_PROXY, for wss:// only; or the URL of a proxy, http:// or socks5h://,
            for any connection; None: no proxy.
        unix_socket: The path of a Unix socket to connect to, instead of the host and the port of the URL.
        bind_address: The local address to connect from; None: the system chooses.
        recover: Called first when an attempt has failed, including the first one. It returns True if it has changed
            something for the next attempt (for example the offset of a clock, or new credentials), which is then made
            immediately.

    Raises:
        TypeError: An option has the wrong type.
        ValueError: A number is out of its range.
    """

    client_id: str | None = None
    keep_alive: int = 60
    clean_session: bool = True
    will: Any = None
    username: Any = None
    password: str | bytes | None = None
    tls: Any = None
    headers: Any = ()
    reconnect: bool | Reconnect = True
    connect_budget: Turns | None = None
    retry_first: bool = False
    end_on: Any = END_ON
    timeout: float = 30.0
    connect_timeout: float | None = None
    answer_timeout: float | None = None
    url_order: UrlOrder = "given"
    server: ServerName = "plain"
    max_qos: int = 2
    on_message: Callable[[Publish], object] | None = None
    on_state: Callable[[State], object] | None = None
    on_error: Callable[[MQTTError], object] | None = None
    manual_ack: bool = False
    max_in_flight: int = 100
    max_in_flight_qos2: int = 20
    max_queued: int = 10_000
    max_queued_bytes: int = 64 * 1024 * 1024
    overflow: Overflow = "block"
    expire_after: float | None = None
    store: Store | None = None
    max_inbound_bytes: int = 64 * 1024 * 1024
    max_packet_size: int = 64 * 1024 * 1024
    oversize: Oversize = "skip"
    max_filters: int = 100
    ping_timeout: float | None = None
    ack_timeout: float | None = None
    stalled: Stall = "wait"
    publish_rate: float | None = None
    resend_after: float | None = None
    proxy: str | None = ENVIRONMENT
    unix_socket: str | None = None
    bind_address: str | None = None
    recover: Callable[[ConnectError], bool] | None = None

    def __init__(self, **options: Unpack[ClientOptions]) -> None:
        _check_names("connect and Client have", options, Options.__annotations__)
        self.__dict__.update(options)
        for name, value in options.items():  # the defaults need no check
            if name in _KINDS:
                _check_kind(name, value, _KINDS[name])
        self._convert()
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_in_flight > 65_535:
            raise ValueError(f"max_in_flight is {self.max_in_flight}; there are 65,535 packet identifiers")
        for name in _ABOVE_0:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; it must be above 0, or None")
        if not 0 <= self.max_qos <= 2:
            raise ValueError(f"max_qos is {self.max_qos}; it must be 0, 1 or 2")
        if self.stalled == "leave" and self.ack_timeout is None:
            raise ValueError("stalled='leave' requires an ack_timeout")
        if not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout}; it must be above 0 seconds")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        if self.retry_first and not self.reconnect:
            raise ValueError("retry_first=True needs reconnecting, but reconnect=False disables it")
        if self.store is not None and (self.clean_session or not self.client_id):
            raise ValueError("a store requires a client_id and clean_session=False")

    def _convert(self) -> None:
        """Check the options that have several forms, and convert them."""
        for name in _INTERFACES:
            check_interface(name, getattr(self, name))
        if isinstance(self.will, tuple):
            self.will = _as_will(self.will)
        if isinstance(self.username, bytes):
            self.username = _as_text("username", self.username)
        for name in ("password", "proxy"):
            if isinstance(getattr(self, name), str):
                _check_text(name, getattr(self, name))
        _check_local_addresses(self.bind_address, self.unix_socket)
        if self.tls is not None and self.tls is not True:
            from mqttws.client.tls import check_context

            check_context(self.tls)
        if self.headers is not Options.headers:
            if isinstance(self.headers, Iterator):  # an iterator would be exhausted after the first attempt
                self.headers = tuple(self.headers)
            _check_headers(_as_pairs(self.headers))
        self.end_on = _as_predicate(self.end_on)
        _check_awaits_nothing("recover", self.recover)

    @property
    def has_profile(self) -> bool:
        """Whether messages and Topic Filters are checked before they are sent; see `Guard`."""
        return self.server != "plain" or self.max_qos != 2

    @property
    def header_pairs(self) -> tuple[tuple[str, str], ...]:
        """The headers for the next attempt, as pairs."""
        return _as_pairs(self.headers)

    @property
    def password_bytes(self) -> bytes | None:
        """The password as it is sent."""
        return self.password.encode() if isinstance(self.password, str) else self.password

    def connect(self, client_id: str | None = None, endpoint: Endpoint | None = None) -> Connect:
        """Return the CONNECT packet of a client.

        Args:
            client_id: The client identifier; None: one that is drawn at random.
            endpoint: Has the user name and the password that the options do not have. None: it is not known yet, so
                that a password without a user name is accepted.

        Raises:
            LocalProtocolError: The standard does not allow an option.

        Spec: §3.1
        """
        username, password = self.username, self.password_bytes
        if endpoint is not None:
            username = endpoint.username if username is None else username
            password = endpoint.password if password is None else password
        elif username is None and password is not None:
            username = ""
        named = client_id if client_id is not None else "drawn-at-random"
        return Connect(named, self.clean_session, self.keep_alive, self.will, username, password)

    def check_use(self, endpoints: Collection[Endpoint]) -> None:
        """Check that one of the endpoints at least uses `tls` and `headers`, if they are given.

        They are not ignored: a program that gives a TLS context expects that its password is encrypted.

        Args:
            endpoints: Those of the client; none if they are not known yet.

        Raises:
            ValueError: No endpoint does.
        """
        schemes = ", ".join(sorted({endpoint.scheme for endpoint in endpoints}))
        if schemes and not any(endpoint.tls for endpoint in endpoints) and self.tls is not None:
            raise ValueError(f"tls is given, but needs a URL that begins with wss:// or mqtts://, not {schemes}://")
        if schemes and not any(endpoint.websocket for endpoint in endpoints) and self.header_pairs:
            raise ValueError(f"headers are given, but need a URL that begins with ws:// or wss://, not {schemes}://")

    def age(self, expire_after: float | None, now: float, wall: float) -> Age | None:
        """Return the age of a message that is published now; None if it is not needed.

        Args:
            expire_after: The argument of the call in seconds, above 0; None: that of the client.
            now: The current time in seconds.
            wall: The same moment in seconds since 1970.

        Raises:
            TypeError, ValueError: `expire_after` is not a number above 0.
        """
        if expire_after is None:
            expire_after = self.expire_after
        else:
            _check_kind("expire_after", expire_after, (int, float))
            if not expire_after > 0:
                raise ValueError(f"expire_after is {expire_after}; it must be above 0 seconds")
        if expire_after is None and self.store is None:
            return None
        return Age(now, wall, inf if expire_after is None else expire_after)

    @property
    def policy(self) -> Reconnect | None:
        """How to reconnect; None if the client does not."""
        if isinstance(self.reconnect, Reconnect):
            return self.reconnect
        return Reconnect() if self.reconnect else None


_ABOVE_0 = (
    "ping_timeout", "ack_timeout", "publish_rate", "resend_after", "connect_timeout", "answer_timeout", "expire_after",
)  # fmt: skip
_POSITIVE = (
    *("max_in_flight", "max_in_flight_qos2", "max_queued", "max_queued_bytes", "max_inbound_bytes", "max_packet_size"),
    "max_filters",
)
#: Option -> the values of its type in `option_types`.
CHOICES = {
    "overflow": ("block", "raise", "drop_oldest", "drop_newest"),
    "oversize": ("skip", "end"),
    "stalled": ("wait", "leave"),
    "url_order": ("given", "random"),
    "server": ("plain", "mosquitto", "nats", "rabbitmq", "aws-iot"),
}
#: What the upgrade request consists of, and what would give it a body or an extension that the client does not speak.
_HANDSHAKE_HEADERS = {
    *("host", "upgrade", "connection", "content-length", "transfer-encoding"),
    *(f"sec-websocket-{name}" for name in ("key", "version", "protocol", "extensions", "accept")),
}
#: Option -> what it must be, and the methods that it must have.
_INTERFACES = {
    "store": ("a Store, such as SQLiteStore", ("put", "delete", "load", "commit")),
    "connect_budget": ("a ConnectBudget", ("reserve", "begin")),
}
#: Option -> the allowed types.
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("client_id", "proxy", "unix_socket", "bind_address"), (str, type(None))),
    **dict.fromkeys(("username", "password"), (str, bytes, type(None))),
    **dict.fromkeys(("clean_session", "retry_first", "manual_ack"), (bool,)),
    **dict.fromkeys(("max_qos", "keep_alive", *_POSITIVE), (int,)),
    **dict.fromkeys(_ABOVE_0, (int, float, type(None))),
    **dict.fromkeys(("on_message", "on_state", "on_error", "recover"), (Callable, type(None))),  # type: ignore[arg-type]
    "timeout": (int, float),
    "reconnect": (bool, Reconnect),
    "will": (Message, tuple, type(None)),
}


def _check_names(who: str, options: Iterable[str], known: Collection[str], others: Iterable[str] = ()) -> None:
    """Check the names of options; see `check_options`. Values are not shown: they may be secrets."""
    unknown = [name for name in options if name not in known]
    if unknown:
        from difflib import get_close_matches  # needed only for this error

        for position, name in enumerate(unknown):
            nearest = get_close_matches(name, [*known, *others], 1)
            unknown[position] = repr(name) + (f" (did you mean {nearest[0]!r}?)" if nearest else "")
        raise TypeError(f"{who} no option {', '.join(unknown)}")


def check_timeout(timeout: object) -> None:
    """Check the `timeout` of a call: seconds, or None.

    Raises:
        TypeError, ValueError: It is not a number.
    """
    _check_kind("timeout", timeout, (int, float, type(None)))
    if timeout != timeout:  # NaN, of which no deadline would ever pass
        raise ValueError("timeout is nan; it must be a number of seconds")


def _check_kind(name: str, value: object, kinds: tuple[type, ...]) -> None:
    """Check the type of an option. The value is not shown: it may be a secret."""
    if isinstance(value, kinds) and (type(value) is not bool or bool in kinds):
        return
    wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
    raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")


def check_interface(name: str, value: object) -> None:
    """Check that an option with an interface, "store" or "connect_budget", has its methods, or is None.

    Raises:
        TypeError: A method is missing.
    """
    wanted, methods = _INTERFACES[name]
    if value is not None and not all(hasattr(value, method) for method in methods):
        raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")


def _check_text(name: str, value: str) -> None:
    """Check that a str can be encoded in UTF-8: it must not contain lone surrogates. Spec: [MQTT-1.5.3-1]."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        where = f"at character {error.start}"
        raise ValueError(f"{name} contains a lone surrogate {where}, which UTF-8 cannot encode") from None


def _check_local_addresses(bind_address: str | None, unix_socket: str | None) -> None:
    """Check the texts that the system would refuse with an error that is no `OSError`."""
    if bind_address is not None and not (bind_address.isascii() and bind_address.isprintable()):
        raise ValueError(f"bind_address is {bind_address!r}; it must be an address of this machine")
    if unix_socket is not None:
        try:
            unix_socket.encode("utf-8", "surrogateescape")  # how a path stands for bytes that are not UTF-8
        except UnicodeEncodeError as error:
            raise ValueError(f"unix_socket contains a lone surrogate at character {error.start}") from None
        if "\0" in unix_socket[1:]:  # at the beginning it marks an abstract name on Linux
            raise ValueError(f"unix_socket is {unix_socket!r}; a path cannot contain U+0000")


def _check_awaits_nothing(name: str, function: object) -> None:
    """Refuse a coroutine function or a generator function: what it returns counts as true."""
    if is_coroutine_function(function):
        raise TypeError(f"{name} is a coroutine function, which no client awaits; it must return a bool")
    if is_generator_function(function):
        raise TypeError(f"{name} is a generator function; it must return a bool")


def _as_text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not UTF-8, which the standard requires") from None


def _as_will(will: tuple[Any, ...]) -> Message:
    """Return the Will Message for a tuple of the arguments of `Message`."""
    if not 1 <= len(will) <= 4:
        raise TypeError(f"will is a tuple of {len(will)}; it must be (topic, payload, qos, retain), the topic at least")
    return Message(*will)


def _as_pairs(headers: Any) -> tuple[tuple[str, str], ...]:
    """Check headers, and return them as pairs. Values are not shown: they may be secrets."""
    problem = "headers must be a mapping of str to str, or pairs of them"
    if isinstance(headers, (str, bytes)) or not isinstance(headers, Iterable):
        raise TypeError(f"{problem}, not {type(headers).__name__}")
    pairs = tuple(headers.items() if isinstance(headers, Mapping) else headers)
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"{problem}; one of them is {type(pair).__name__}, not a pair")
        if not all(isinstance(part, str) for part in pair):
            raise TypeError(f"{problem}; one of them contains {' and '.join(type(part).__name__ for part in pair)}")
    return tuple((name, value) for name, value in pairs)


def _check_headers(pairs: tuple[tuple[str, str], ...]) -> None:
    """Refuse headers that HTTP does not allow, and those of the handshake. No value is shown: it may be a secret.

    Spec: RFC 9110 §5.1 and §5.5; RFC 6455 §4.1
    """
    for name, value in pairs:
        if not (name.isascii() and name.isprintable() and value.isascii() and value.isprintable()):
            raise ValueError("headers: one of them contains characters other than visible ASCII and spaces")
        if not name or not all(character.isalnum() or character in "!#$%&'*+-.^_`|~" for character in name):
            raise ValueError(f"headers: {name!r} is not the name of a header")
        if name.lower() in _HANDSHAKE_HEADERS:
            raise ValueError(f"headers: {name} belongs to the handshake, and cannot be set")


def _as_predicate(end_on: Any) -> Callable[[Exception], bool]:
    """Return the option `end_on` as a function."""
    if callable(end_on) and not isinstance(end_on, type):
        _check_awaits_nothing("end_on", end_on)
        return end_on  # type: ignore[no-any-return]
    kinds = (end_on,) if isinstance(end_on, type) else tuple(end_on) if isinstance(end_on, Collection) else (end_on,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"end_on must be exception classes, or a function of an exception; it has {kind!r}")
    return lambda error: isinstance(error, kinds)


def check_options(
    who: str = "connect and Client have", others: Iterable[str] = (), /, **options: Unpack[ConnectionOptions]
) -> None:
    """Check connection options without creating a client, including the rules of the standard for CONNECT.

    Args:
        who: The subject and verb of the error message for an unknown option.
        others: Further names to suggest for an unknown option.
        **options: See `ConnectionOptions`. Headers given as an iterator are exhausted.

    Raises:
        TypeError, ValueError, LocalProtocolError: An option is unknown, has the wrong type, or is out of range, as
            for `Client`.

    Spec: §3.1
    """
    from mqttws.client.option_types import ConnectionOptions

    _check_names(who, options, ConnectionOptions.__annotations__, others)
    made = Options(**options)
    made.connect(made.client_id)
