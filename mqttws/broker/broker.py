"""The class `Broker`: its listeners, starting and stopping, and the interface for the embedding program.

`async with Broker() as broker` runs it in the caller's event loop. `with Broker() as broker` runs it in a separate
thread with its own event loop. Sessions and retained messages are kept in memory, in the object: a broker that is
stopped and started again still has them and listens on the same ports, but a new object starts empty. With a store they
survive the process, and nothing is acknowledged before it is stored; see `persistence` for what is not stored.

A running broker belongs to the process that started it. In a forked child its methods raise an error, and its sockets
are closed, so that its port and its connections do not outlive the parent.

Spec: the whole of MQTT 3.1.1, as a server
"""

from __future__ import annotations

import asyncio
import os
import ssl
import weakref
from collections.abc import Callable, Collection
from typing import Self, TypeVar

from mqttws.broker.background import Background, Outcome
from mqttws.broker.hooks import (
    Authenticator,
    Authorizer,
    ConnectedHook,
    DisconnectedHook,
    Hooks,
    PacketHook,
    PublishedHook,
    UpgradeHook,
)
from mqttws.broker.hub import Hub
from mqttws.broker.limits import Departures, Limits
from mqttws.broker.link import Link
from mqttws.broker.origin import check_origins
from mqttws.broker.persistence import Persistence
from mqttws.broker.registry import Registry
from mqttws.broker.router import Router
from mqttws.broker.subscriber import SessionInfo
from mqttws.client.options import check_interface
from mqttws.codec.publishing import Message
from mqttws.errors import ConnectionClosed
from mqttws.protocol.store import Store

T = TypeVar("T")

#: The maximum number of connections in the system's queue, and of those accepted in one iteration of the event loop.
_BACKLOG = 512
_ACCEPTED_AT_ONCE = 16
#: Iterations of the event loop from asyncio's accept to `connection_made`.
_ACCEPTING = 3


class Broker:
    """An MQTT 3.1.1 broker over WebSocket and plain TCP, each with or without TLS.

    Args:
        host: The address to listen on. The default accepts connections from this machine only.
        ws_port: The port of the WebSocket listener, 0 to 65,535; 0 for any free port, None for no such listener.
        tcp_port: The port of the plain TCP listener, likewise.
        wss_port: The port of the WebSocket listener with TLS, likewise.
        mqtts_port: The port of the TCP listener with TLS, likewise.
        tls: The server's context for the TLS listeners; it determines whether client certificates are requested.
        paths: The accepted WebSocket request paths; others get 404. `url` contains the first one.
        allowed_origins: Origins of browser pages, for example "https://app.example", in addition to the host itself;
            "*" allows all. See `mqttws.broker.origin`.
        on_upgrade: Accepts or rejects a WebSocket upgrade. For all hooks see `mqttws.broker.hooks`.
        authenticator: Accepts or refuses a CONNECT; None accepts every client.
        authorizer: Permits or denies publishing, subscribing and receiving; None permits everything.
        on_connected: Called when a client has connected.
        on_disconnected: Called when its connection has ended.
        on_published: Called with each accepted message. Runs of messages are then routed one by one.
        on_packet: Called with each packet that is received or sent, for debugging and tests.
        limits: The limits; by default those of `Limits()`.
        departures: Deviations from the standard; by default none.
        sys_interval: Seconds, above 0, between two updates of "$SYS"; None updates it only when a client subscribes.
        sys_anonymous: Whether clients without an authenticated user name may read "$SYS".
        store: Stores sessions and retained messages, for example `mqttws.SQLiteStore`. The caller closes it after the
            broker has stopped. A client may use the same store, but not with a client identifier of this broker.

    Raises:
        ValueError: `host` is empty; there is no listener; there is a TLS port without `tls`, or `tls` without a TLS
            port; `paths` is empty, or one does not begin with "/"; an entry of `allowed_origins` can match no page; or
            a port or `sys_interval` is out of range.
        TypeError: `paths` or `allowed_origins` is a str, or another argument has the wrong type. A hook that is not
            awaited is a coroutine function.

    Examples:
        >>> import mqttws
        >>> from mqttws.broker import Broker
        >>> with Broker() as broker, mqttws.connect(broker.url, client_id="t1") as client:
        ...     client.subscribe("greenhouse/#")
        ...     print([session.client_id for session in broker.sessions()])
        0
        ['t1']
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        *,
        ws_port: int | None = 0,
        tcp_port: int | None = 0,
        wss_port: int | None = None,
        mqtts_port: int | None = None,
        tls: ssl.SSLContext | None = None,
        paths: Collection[str] = ("/mqtt", "/"),
        allowed_origins: Collection[str] = (),
        on_upgrade: UpgradeHook | None = None,
        authenticator: Authenticator | None = None,
        authorizer: Authorizer | None = None,
        on_connected: ConnectedHook | None = None,
        on_disconnected: DisconnectedHook | None = None,
        on_published: PublishedHook | None = None,
        on_packet: PacketHook | None = None,
        limits: Limits | None = None,
        departures: Departures | None = None,
        sys_interval: float | None = 10.0,
        sys_anonymous: bool = False,
        store: Store | None = None,
    ) -> None:
        for name, given, kind in (
            ("host", host, str),
            ("ws_port", ws_port, int),
            ("tcp_port", tcp_port, int),
            ("wss_port", wss_port, int),
            ("mqtts_port", mqtts_port, int),
            ("tls", tls, ssl.SSLContext),
            ("limits", limits, Limits),
            ("departures", departures, Departures),
        ):
            if given is not None and not isinstance(given, kind):
                raise TypeError(f"{name} must be {kind.__name__}, not {type(given).__name__}")
        check_interface("store", store)
        if not host:
            raise ValueError("host is empty; an empty variable must not open all interfaces: 0.0.0.0 or :: does that")
        ports = {"ws": ws_port, "wss": wss_port, "mqtt": tcp_port, "mqtts": mqtts_port}
        self._ports = {scheme: port for scheme, port in ports.items() if port is not None}
        if not self._ports:
            raise ValueError("every port is None; a broker needs a listener")
        if (tls is not None) != ("wss" in self._ports or "mqtts" in self._ports):
            raise ValueError("wss_port and mqtts_port need tls, and tls needs one of them")
        for scheme, port in self._ports.items():
            if not 0 <= port <= 65_535:
                raise ValueError(f"the port of the {scheme} listener is {port}; it must be 0 to 65,535, or None")
        for name, value in (("paths", paths), ("allowed_origins", allowed_origins)):
            if isinstance(value, str):  # its characters would be taken for the entries
                raise TypeError(f"{name} is the str {value!r}; it must be a collection of str, such as [{value!r}]")
        if not paths:
            raise ValueError("paths is empty; it needs at least one path")
        for path in paths:
            if not (isinstance(path, str) and path.startswith("/")):
                raise ValueError(f"the path {path!r} does not begin with '/'")
        check_origins(allowed_origins)
        if sys_interval is not None and not sys_interval > 0:
            raise ValueError(f"sys_interval is {sys_interval}; it must be above 0 seconds, or None")
        self._host = host
        self._tls = tls
        self._paths = tuple(paths)
        self._allowed_origins = tuple(allowed_origins)
        self._sys_interval = sys_interval
        hooks = Hooks(on_upgrade, authenticator, authorizer, on_connected, on_disconnected, on_published, on_packet)
        self._store = store
        self._recovered = False
        persistence = None if store is None else Persistence(store)
        self._router = Router(limits, hooks, departures, sys_anonymous, persistence)
        self._registry = Registry(self._router)
        self._hub: Hub | None = None
        self._process = 0  # where it was started
        self._servers: list[asyncio.Server] = []
        self._thread: Background | None = None

    # Its URLs.

    @property
    def urls(self) -> list[str]:
        """One URL for each listener, in the order ws, wss, mqtt, mqtts. Valid once the broker has been started."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return [
            f"{scheme}://{host}:{port}{self._paths[0] if scheme.startswith('ws') else ''}"
            for scheme, port in self._ports.items()
        ]

    @property
    def url(self) -> str:
        """The first of `urls`: the URL of the WebSocket listener, if there is one."""
        return self.urls[0]

    def url_of(self, scheme: str) -> str:
        """Return the URL of one listener.

        Args:
            scheme: "ws", "wss", "mqtt" or "mqtts".

        Raises:
            KeyError: There is no such listener.
        """
        try:
            return self.urls[list(self._ports).index(scheme)]
        except ValueError:
            raise KeyError(f"there is no {scheme} listener; there are {', '.join(self._ports)}") from None

    # Start and stop in the caller's event loop.

    async def start_async(self) -> None:
        """Start the broker in the running event loop.

        Raises:
            OSError: A port is in use, or the host is not an address of this machine.
            RuntimeError: The broker is already running, also in the parent of this process.
            StoreError: The store cannot be read, or another broker or a client uses it.
        """
        if self._hub is not None:
            self._running()
            raise RuntimeError("the broker is already running")
        self._registry.holder.activate(asyncio.get_running_loop().is_closed)
        try:
            if not self._recovered:
                self._registry.recover(asyncio.get_running_loop().time())
                self._recovered = True
        except BaseException:
            self._registry.holder.active = False
            raise
        self._process = os.getpid()
        _brokers.add(self)
        hub = self._hub = Hub(self._router, self._registry, self._paths, self._allowed_origins, self._sys_interval)
        try:
            for scheme in self._ports:
                await self._listen(hub, scheme)
        except BaseException:
            await self.stop_async()
            raise

    async def _listen(self, hub: Hub, scheme: str) -> None:
        tls = self._tls if scheme in ("wss", "mqtts") else None
        host, port = self._host, self._ports[scheme]
        if not port:  # with port 0 each address of a name would get another port, so only the first address is used
            host = str((await hub.loop.getaddrinfo(host, 0))[0][4][0])
        plain = isinstance(hub.loop, asyncio.SelectorEventLoop)
        backlog = _ACCEPTED_AT_ONCE if plain else _BACKLOG
        server = await hub.loop.create_server(lambda: Link(hub, scheme, tls), host, port, backlog=backlog)
        if plain:  # asyncio uses `backlog` both for the system's queue and for the accepts per iteration
            for listener in server.sockets:
                with listener.dup() as same:
                    same.listen(_BACKLOG)
        self._servers.append(server)
        self._ports[scheme] = server.sockets[0].getsockname()[1]

    async def stop_async(self) -> None:
        """Close every listener and every connection. Do nothing if the broker is not running."""
        hub = self._hub
        if hub is None or self._process != os.getpid():
            return
        for server in self._servers:
            for listener in server.sockets:
                hub.loop.remove_reader(listener.fileno())
        for _ in range(_ACCEPTING):  # let accepted sockets become links: a closed server would leave them open
            await asyncio.sleep(0)
        for server in self._servers:
            server.close()
        self._servers.clear()
        await hub.stop()
        self._hub = None
        self._registry.holder.active = False
        if self._store is not None:
            self._store.commit()

    async def __aenter__(self) -> Self:
        await self.start_async()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop_async()

    # Start and stop in a separate thread.

    def start(self) -> None:
        """Start the broker in a new thread with its own event loop. Return once it accepts connections.

        Raises:
            OSError: As for `start_async`.
            RuntimeError: The broker is already running, or another thread has stopped it meanwhile.
            StoreError: The store cannot be read, or another broker or a client uses it.
        """
        if self._hub is not None:
            self._running()
        if self._hub is not None or (self._thread is not None and self._thread.is_alive()):
            raise RuntimeError("the broker is already running")
        self._process = os.getpid()
        thread = self._thread = Background(self)
        try:
            thread.start()
            thread.started.wait(lambda: not thread.is_alive())
        except BaseException:
            thread.stop()
            self._thread = None
            raise

    def stop(self) -> None:
        """Close every listener and every connection, and end the thread. Do nothing if the broker is not running.

        Async hooks that are pending are cancelled. Those that ignore that for a second are not waited for. The threads
        that hooks have begun with `asyncio.to_thread` have a second, too.
        """
        thread = self._thread
        if thread is None or self._process != os.getpid():
            return
        thread.stop()
        self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # For the embedding program. These can be called from any thread.

    def publish(self, topic: str, payload: bytes | str = b"", qos: int = 0, retain: bool = False) -> int:
        """Publish a message.

        Args:
            topic: A Topic Name; here it may begin with "$".
            payload: The payload; a str is encoded as UTF-8.
            qos: 0, 1 or 2.
            retain: Whether to retain the message.

        Returns:
            The number of subscribers that it was delivered to or queued for.

        Raises:
            LocalProtocolError: The topic or the QoS is invalid.
            RuntimeError: The broker is not running.
            StoreError: The message could not be stored and may be lost.
        """
        return self._call(lambda: self._publish(Message(topic, payload, qos, retain)))

    def _publish(self, message: Message) -> int:
        hook = self._router.hooks.on_published
        if hook is not None:
            hook(None, message)
        given = self._router.publish_at_once(message)
        if self._router.persistence is not None:
            self._router.persistence.commit()
        return given

    def disconnect(self, client_id: str, *, will: bool = True, forget: bool = False) -> bool:
        """Close a client's connection.

        Args:
            client_id: The client identifier.
            will: Whether to publish the client's will.
            forget: Whether to end its session as well, if the session would outlive the connection.

        Returns:
            Whether the client was connected.

        Raises:
            RuntimeError: The broker is not running.
        """
        return self._call(lambda: self._disconnect(client_id, will, forget))

    def _disconnect(self, client_id: str, will: bool, forget: bool) -> bool:
        subscriber = self._registry.find(client_id)
        if subscriber is None or subscriber.outlet is None:
            return False
        if not will:
            subscriber.will = None
        subscriber.clean_session = subscriber.clean_session or forget
        subscriber.outlet.end(ConnectionClosed("disconnected by the embedding program"))
        return True

    def sessions(self) -> list[SessionInfo]:
        """Return a description of each session, including those of disconnected clients.

        Raises:
            RuntimeError: The broker is not running.
        """
        return self._call(lambda: [SessionInfo.of(subscriber) for subscriber in self._router.subscribers.values()])

    def retained(self) -> list[Message]:
        """Return the retained messages, without those of "$SYS".

        Raises:
            RuntimeError: The broker is not running.
        """
        return self._call(lambda: list(self._router.retained))

    def metrics(self) -> dict[str, int]:
        """Return the current metrics by topic, without the prefix "$SYS/broker/".

        Raises:
            RuntimeError: The broker is not running.
        """
        hub = self._running()
        return self._call(hub.status.metrics)

    def _running(self) -> Hub:
        if self._hub is None:
            raise RuntimeError("the broker is not running; start it first")
        if self._process != os.getpid():
            raise RuntimeError("the broker was started before a fork and belongs to the parent process; make a new one")
        return self._hub

    def _descriptors(self) -> list[int]:
        """Return the descriptors of its listeners and connections."""
        if self._hub is None:
            return []
        listeners = [listener.fileno() for server in self._servers for listener in server.sockets]
        return [each for each in (*listeners, *(link.fileno() for link in self._hub.admission.all)) if each >= 0]

    def _call(self, function: Callable[[], T]) -> T:
        """Call a function in the broker's event loop and return its result."""
        loop = self._running().loop
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:  # there is no event loop in this thread
            running = None
        if running is loop:
            return function()
        outcome: Outcome[T] = Outcome()

        def call() -> None:
            try:
                outcome.set_result(function())
            except BaseException as error:
                outcome.set_exception(error)

        loop.call_soon_threadsafe(call)
        return outcome.wait(loop.is_closed)


_brokers: weakref.WeakSet[Broker] = weakref.WeakSet()


def _close_copies() -> None:
    """Close the copies of sockets in a forked child. The objects that hold them close their descriptors later.

    So each descriptor is replaced by one of a file that does nothing. The parent's selector, which the child shares,
    is not touched.
    """
    copies = [descriptor for broker in list(_brokers) for descriptor in broker._descriptors()]
    if not copies:
        return
    os.close(copies[0])  # first, because the process may have no other descriptor left
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in copies:
        if descriptor != nothing:
            os.dup2(nothing, descriptor, inheritable=False)
    if nothing not in copies:
        os.close(nothing)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)
