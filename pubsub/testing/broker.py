"""The embedded broker for tests: it records messages, shows its clients, and refuses or stalls on request."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import mqttws
from mqttws.broker import Broker, Peer, Refused
from pubsub.owned_lock import Condition
from pubsub.testing.messages import Recorded, Recorder

T = TypeVar("T")

#: Seconds within which closing clients must be disconnected after a test.
GRACE = 1.0
#: The number of lines for the report of a failed test, and the maximum characters of each.
KEEP_LINES = 200
WIDTH = 200


class RecordingBroker(Broker):
    """An embedded broker that records published messages.

    Args:
        **options: The options of `mqttws.broker.Broker`. By default it listens on free ports of the loopback interface.
            Its own hooks record, and call those of the options.

    Attributes:
        messages: The published messages.
        happened: Lines about the latest packets (not with the compiled build) and lost connections.

    Raises:
        ValueError: As for `mqttws.broker.Broker`.
        TypeError: Likewise.

    Examples:
        >>> import mqttws
        >>> from pubsub.testing import RecordingBroker
        >>> with RecordingBroker() as broker, mqttws.connect(broker.url, client_id="t1") as client:
        ...     client.publish("sensors/1", '{"celsius": 21.5}', qos=1)
        ...     message = broker.messages.assert_published("sensors/1", {"celsius": 21.5}, qos=1)
        ...     print(message.client_id, broker.clients)
        t1 ['t1']
    """

    def __init__(self, **options: Any) -> None:
        self.messages = Recorder()
        self.happened: deque[str] = deque(maxlen=KEEP_LINES)
        self._clients: dict[str, Peer] = {}
        self._refusals: list[int] = []
        self._changed = Condition()
        self._pause: object | None = None  # an object of the `with` block that pauses the broker
        self._standing = False  # whether the event loop stands
        self._authenticate = options.pop("authenticator", None)
        self._hook_connected = options.pop("on_connected", None)
        self._hook_disconnected = options.pop("on_disconnected", None)
        self._hook_published = options.pop("on_published", None)
        self._hook_packet = options.pop("on_packet", None)
        Broker(  # only to check them: behind those below, a coroutine function would be called and not awaited
            authenticator=self._authenticate,
            on_connected=self._hook_connected,
            on_disconnected=self._hook_disconnected,
            on_published=self._hook_published,
            on_packet=self._hook_packet,
        )
        super().__init__(
            authenticator=self._on_connect,
            on_connected=self._on_connected,
            on_disconnected=self._on_disconnected,
            on_published=self._on_published,
            on_packet=self._on_packet,
            **options,
        )

    # The state of the broker.

    @property
    def clients(self) -> list[str]:
        """The client identifiers of the connected clients."""
        with self._changed:
            return sorted(self._clients)

    @property
    def subscriptions(self) -> dict[str, dict[str, int]]:
        """The subscriptions: client identifier -> Topic Filter -> granted QoS; including those of kept sessions."""
        return {session.client_id: session.subscriptions for session in self.sessions() if session.subscriptions}

    def wait_for_clients(self, count: int, timeout: float = 5.0) -> list[str]:
        """Wait until exactly this number of clients is connected.

        Args:
            count: The number of clients, 0 or more.
            timeout: Seconds.

        Returns:
            The client identifiers, sorted.

        Raises:
            AssertionError: The number was another one when the time was up.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._clients) == count, timeout):
                raise AssertionError(f"{len(self._clients)} clients, expected {count}: {sorted(self._clients)}")
            return sorted(self._clients)

    # Faults on request.

    def refuse_next(self, return_code: int = 3, times: int = 1) -> None:
        """Refuse the next CONNECTs.

        Args:
            return_code: The return code of the CONNACK, 1 to 5.
            times: The number of CONNECTs to refuse.

        Raises:
            ValueError: The return code is out of its range.

        Spec: §3.2.2.3
        """
        Refused(return_code)
        self._refusals += [return_code] * times

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Stall the broker during a `with` block: it reads nothing and sends nothing.

        Its state can still be read: `clients`, `subscriptions`, `sessions`, `retained` and `metrics` answer. `publish`,
        `disconnect` and another `pause` raise RuntimeError. `stop` ends the pause.

        Raises:
            RuntimeError: The broker is not running, is paused already, or did not stall within 5 seconds.
        """
        loop, this = self._running().loop, object()
        try:
            with self._changed:
                if self._pause is not None:
                    raise RuntimeError("the broker is paused already")
                self._pause = this
            loop.call_soon_threadsafe(self._stand, this)
            with self._changed:
                if not self._changed.wait_for(lambda: self._standing, 5.0):
                    raise RuntimeError("the broker could not be paused within 5 s")
            yield
        finally:
            if self._pause is this:  # otherwise it has not begun, or `stop` has ended it
                self._resume()

    def _stand(self, pause: object) -> None:
        """Stall the event loop, in its thread, until a pause ends. Do nothing if it has ended."""
        with self._changed:
            if self._pause is pause:
                self._standing = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._pause is not pause)

    def _resume(self) -> None:
        with self._changed:
            self._pause, self._standing = None, False
            self._changed.notify_all()

    def stop(self) -> None:
        """See `mqttws.broker.Broker.stop`. It ends a pause."""
        if self._pause is not None:
            self._resume()
        super().stop()

    def _call(self, function: Callable[[], T]) -> T:
        with self._changed:
            if self._standing:  # and it stands until this lock is released
                return function()
        return super()._call(function)

    def _check_not_paused(self) -> None:
        with self._changed:
            if self._standing:
                raise RuntimeError("the broker is paused and sends nothing; do this after the `with` block")

    def _publish(self, message: mqttws.Message) -> int:
        self._check_not_paused()
        return super()._publish(message)

    def _disconnect(self, client_id: str, will: bool, forget: bool) -> bool:
        self._check_not_paused()
        connected = super()._disconnect(client_id, will, forget)
        with self._changed:  # `_on_disconnected` comes in a later iteration of the event loop
            if self._clients.pop(client_id, None) is not None:
                self._changed.notify_all()
        return connected

    # Hooks, in the broker's thread.

    def _on_connect(self, peer: Peer, connect: mqttws.Connect) -> Any:
        if self._refusals:
            code = self._refusals.pop(0)
            return Refused(code, "requested by the test")
        return True if self._authenticate is None else self._authenticate(peer, connect)

    def _on_connected(self, peer: Peer) -> None:
        with self._changed:
            self._clients[peer.client_id] = peer
            self._changed.notify_all()
        if self._hook_connected is not None:
            self._hook_connected(peer)

    def _on_disconnected(self, peer: Peer, error: mqttws.MQTTError | None) -> None:
        if error is not None:
            self.happened.append(f"{peer.client_id}: connection ended: {error}")
        with self._changed:
            if self._clients.get(peer.client_id) is peer:
                del self._clients[peer.client_id]
            self._changed.notify_all()
        if self._hook_disconnected is not None:
            self._hook_disconnected(peer, error)

    def _on_published(self, peer: Peer | None, message: mqttws.Message) -> None:
        if self._hook_published is not None:
            self._hook_published(peer, message)  # first: a message on which it fails is not published
        client_id = "" if peer is None else peer.client_id
        self.messages.add(Recorded(message.topic, message.payload, message.qos, message.retain, client_id))

    def _on_packet(self, peer: Peer, sent: bool, packet: Any) -> None:
        name = peer.client_id or getattr(packet, "client_id", "") or f"{peer.address[0]}:{peer.address[1]}"
        shown = repr(packet)
        if len(shown) > WIDTH:
            shown = f"{shown[:WIDTH]}..."
        self.happened.append(f"{name} {'<-' if sent else '->'} {shown}")
        if self._hook_packet is not None:
            self._hook_packet(peer, sent, packet)

    def left_open(self) -> list[str]:
        """Return the clients that are still connected, after waiting up to `GRACE` seconds for closing ones."""
        with self._changed:
            self._changed.wait_for(lambda: not self._clients, GRACE)
            return [
                f"{client_id or '(no identifier)'} at {peer.address[0]}:{peer.address[1]}"
                for client_id, peer in self._clients.items()
            ]
