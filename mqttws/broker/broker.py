"""The embedded broker: its listeners, its life, and the two ways to run it.

In an event loop of the caller's: `async with Broker() as broker`. Anywhere else: `with Broker() as broker`, which runs
an event loop in a thread of its own. Sessions and retained messages live in the object, in memory: a broker that is
stopped and started again has them still, and listens at the same ports; a new object begins afresh. With a store they
outlive the process, and nothing is acknowledged before it is stored; see `archive` for what is not kept.

Spec: the whole of MQTT 3.1.1, as a server
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future, wait
from typing import Self, TypeVar

from mqttws.broker.archive import Archive
from mqttws.broker.hooks import (
    Authenticator,
    Authorizer,
    ConnectedHook,
    DisconnectedHook,
    Hooks,
    PublishedHook,
    UpgradeHook,
)
from mqttws.broker.hub import Hub
from mqttws.broker.limits import Departures, Limits
from mqttws.broker.link import Link
from mqttws.broker.registry import Registry
from mqttws.broker.router import Router
from mqttws.broker.subscriber import SessionInfo
from mqttws.codec.publishing import Message
from mqttws.errors import ConnectionClosed
from mqttws.protocol.store import Store

T = TypeVar("T")

#: Connections that wait in the system to be accepted, and those that are accepted in one turn of the event loop.
_BACKLOG = 512
_ACCEPTED_AT_ONCE = 16
#: Turns of the event loop that asyncio takes from accepting a connection to telling its protocol.
_ACCEPTING = 3


class Broker:
    """An MQTT 3.1.1 broker over WebSocket and plain TCP, each with or without TLS.

    Args:
        host: the address to listen at. The default takes connections from this machine alone.
        ws_port: of the WebSocket listener; 0 for any free one, None for no such listener.
        tcp_port: of the plain TCP listener.
        wss_port: of the WebSocket listener with TLS.
        mqtts_port: of the TCP listener with TLS.
        tls: the server's context, for those two; a client certificate is asked for as it says.
        paths: the request paths of the WebSocket; the first is that of `url`. Others get 404.
        allowed_origins: of browsers' pages, such as "https://app.example", besides those of the host itself; "*" for
            all. See `mqttws.broker.origin`.
        on_upgrade: see `mqttws.broker.hooks`, as for the other hooks. Without an authenticator everybody is let in,
            without an authorizer every client may do everything.
        authenticator: decides about a CONNECT.
        authorizer: decides about publishing, subscribing and receiving.
        on_connected: called when a client has connected.
        on_disconnected: called when its connection has ended.
        on_published: called with each message that is accepted. Runs of messages are then routed one by one.
        limits: the bounds.
        departures: from the standard.
        sys_interval: seconds from one refreshing of "$SYS" to the next; None for only when a client subscribes to it.
        sys_anonymous: whether clients may read "$SYS" that no authenticator knows by name.
        store: where sessions and retained messages are kept, such as `mqttws.SQLiteStore`; closed by whoever made it,
            after the broker has stopped.

    Raises:
        ValueError: no listener at all; or a TLS port without `tls`, or `tls` without a TLS port.
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
        limits: Limits | None = None,
        departures: Departures | None = None,
        sys_interval: float | None = 10.0,
        sys_anonymous: bool = False,
        store: Store | None = None,
    ) -> None:
        ports = {"ws": ws_port, "wss": wss_port, "mqtt": tcp_port, "mqtts": mqtts_port}
        self._ports = {scheme: port for scheme, port in ports.items() if port is not None}
        if not self._ports:
            raise ValueError("every port is None; a broker needs a listener")
        if (tls is not None) != ("wss" in self._ports or "mqtts" in self._ports):
            raise ValueError("wss_port and mqtts_port need tls, and tls needs one of them")
        self._host = host
        self._tls = tls
        self._paths = tuple(paths)
        self._allowed_origins = tuple(allowed_origins)
        self._sys_interval = sys_interval
        hooks = Hooks(on_upgrade, authenticator, authorizer, on_connected, on_disconnected, on_published)
        self._store = store
        self._recovered = False
        archive = None if store is None else Archive(store)
        self._router = Router(limits, hooks, departures, sys_anonymous, archive)
        self._registry = Registry(self._router)
        self._hub: Hub | None = None
        self._servers: list[asyncio.Server] = []
        self._thread: threading.Thread | None = None
        self._stop_thread: Callable[[], object] = lambda: None

    # Where it is.

    @property
    def urls(self) -> list[str]:
        """One URL for each listener: ws, wss, mqtt, mqtts. Known once it has been started."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return [
            f"{scheme}://{host}:{port}{self._paths[0] if scheme.startswith('ws') else ''}"
            for scheme, port in self._ports.items()
        ]

    @property
    def url(self) -> str:
        """The first of `urls`: that of the WebSocket listener, where there is one."""
        return self.urls[0]

    def url_of(self, scheme: str) -> str:
        """The URL of one listener.

        Raises:
            KeyError: there is no such listener.
        """
        try:
            return self.urls[list(self._ports).index(scheme)]
        except ValueError:
            raise KeyError(f"there is no {scheme} listener; there are {', '.join(self._ports)}") from None

    # Its life, in the caller's event loop.

    async def start_async(self) -> None:
        """Listen, in the running event loop.

        Raises:
            OSError: a port is taken, or the host is not an address of this machine.
            RuntimeError: it runs already.
            StoreError: the store cannot be read.
        """
        if self._hub is not None:
            raise RuntimeError("the broker runs already")
        if not self._recovered:
            self._registry.recover(asyncio.get_running_loop().time())
            self._recovered = True
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
        if not port:  # each address of a name would get another port: the first is listened at
            host = str((await hub.loop.getaddrinfo(host, 0))[0][4][0])
        plain = isinstance(hub.loop, asyncio.SelectorEventLoop)
        backlog = _ACCEPTED_AT_ONCE if plain else _BACKLOG
        server = await hub.loop.create_server(lambda: Link(hub, scheme, tls), host, port, backlog=backlog)
        if plain:  # asyncio takes one number for both: what it accepts in a turn, and what the system holds for it
            for listener in server.sockets:
                with listener.dup() as same:
                    same.listen(_BACKLOG)
        self._servers.append(server)
        self._ports[scheme] = server.sockets[0].getsockname()[1]

    async def stop_async(self) -> None:
        """Close every listener and every connection. Does nothing where it does not run."""
        hub = self._hub
        if hub is None:
            return
        for server in self._servers:
            for listener in server.sockets:
                hub.loop.remove_reader(listener.fileno())
        for _ in range(_ACCEPTING):  # what is being accepted becomes a link: a closed server would drop its socket
            await asyncio.sleep(0)
        for server in self._servers:
            server.close()
        self._servers.clear()
        await hub.stop()
        self._hub = None
        if self._store is not None:
            self._store.commit()

    async def __aenter__(self) -> Self:
        await self.start_async()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop_async()

    # Its life, in a thread of its own.

    def start(self) -> None:
        """Listen, in a thread of its own with its own event loop. Returns once connections are accepted.

        Raises:
            OSError: as for `start_async`.
            RuntimeError: it runs already.
        """
        if self._thread is not None:
            raise RuntimeError("the broker runs already")
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="mqttws-broker", daemon=True)
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._thread.join()
            self._thread = None
            raise

    def stop(self) -> None:
        """Close every listener and every connection, and end the thread. Does nothing where it does not run."""
        thread = self._thread
        if thread is None:
            return
        self._stop_thread()
        thread.join()
        self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _run(self, started: Future[None]) -> None:
        try:
            asyncio.run(self._serve(started))
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _serve(self, started: Future[None]) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._stop_thread = lambda: loop.call_soon_threadsafe(stop.set)
        async with self:
            started.set_result(None)
            await stop.wait()

    # What the embedding program may do, from any thread.

    def publish(self, topic: str, payload: bytes | str = b"", qos: int = 0, retain: bool = False) -> int:
        """Publish a message. Topics that begin with "$" are allowed here.

        Returns:
            The number of subscribers that it was given to.

        Raises:
            LocalProtocolError: the topic or the QoS is ill-formed.
            RuntimeError: the broker does not run.
            StoreError: it could not be stored, and may be lost.
        """
        return self._call(lambda: self._publish(Message(topic, payload, qos, retain)))

    def _publish(self, message: Message) -> int:
        hook = self._router.hooks.on_published
        if hook is not None:
            hook(None, message)
        given = self._router.publish_at_once(message)
        if self._store is not None:
            self._store.commit()
        return given

    def disconnect(self, client_id: str, *, will: bool = True, forget: bool = False) -> bool:
        """Close a client's connection.

        Args:
            client_id: of the client.
            will: whether its will is published.
            forget: whether its session ends, too, if it is one that outlives the connection.

        Returns:
            Whether it was connected.

        Raises:
            RuntimeError: the broker does not run.
        """
        return self._call(lambda: self._disconnect(client_id, will, forget))

    def _disconnect(self, client_id: str, will: bool, forget: bool) -> bool:
        subscriber = self._registry.find(client_id)
        if subscriber is None or subscriber.outlet is None:
            return False
        if not will:
            subscriber.will = None
        subscriber.clean_session = subscriber.clean_session or forget
        subscriber.outlet.end(ConnectionClosed("cut off by the embedding program"))
        return True

    def sessions(self) -> list[SessionInfo]:
        """Return what there is to know of each session, those of clients that are away included.

        Raises:
            RuntimeError: the broker does not run.
        """
        return self._call(lambda: [SessionInfo.of(subscriber) for subscriber in self._router.subscribers.values()])

    def retained(self) -> list[Message]:
        """Return the retained messages, those of "$SYS" aside.

        Raises:
            RuntimeError: the broker does not run.
        """
        return self._call(lambda: list(self._router.retained))

    def figures(self) -> dict[str, int]:
        """Give the figures of now, by what follows "$SYS/broker/" in their topics.

        Raises:
            RuntimeError: the broker does not run.
        """
        hub = self._running()
        return self._call(hub.status.figures)

    def _running(self) -> Hub:
        if self._hub is None:
            raise RuntimeError("the broker does not run; start it first")
        return self._hub

    def _call(self, function: Callable[[], T]) -> T:
        """Call a function in the broker's event loop, and wait for what it returns."""
        loop = self._running().loop
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:  # none runs in this thread
            running = None
        if running is loop:
            return function()
        done: Future[T] = Future()

        def call() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        loop.call_soon_threadsafe(call)
        while not wait([done], timeout=1.0).done:
            if loop.is_closed():
                raise RuntimeError("the broker has stopped meanwhile")
        return done.result()
