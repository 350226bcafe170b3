"""The reactions of the broker to the events of one connection.

::

    event                 action
    UpgradeRequested      check the path, the Origin and the hook: 101 or a rejection
    ConnectReceived       call the authenticator and the registry: CONNACK 0 or a refusal
    Publish               pass to the router, then acknowledge
    SubscribeReceived     pass to the router, then SUBACK, then the retained messages
    UnsubscribeReceived   pass to the router, then UNSUBACK
    Closed                inform the registry, and log; the will and the hook follow (see `endings`)

Events that would take longer than a slice are deferred to the connection's next turn, and so is a PUBLISH whose
recipients take long to look up. Reading is paused while an async hook is pending, so nothing accumulates. If a handler
raises an exception, the link closes the connection; other connections are not affected.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from inspect import isawaitable, iscoroutine
from math import inf
from time import perf_counter
from typing import Any, Protocol

from mqttws.broker.endings import Ending
from mqttws.broker.hooks import Accepted, Peer, Refused, Rejection
from mqttws.broker.hub import Hub
from mqttws.broker.notices import Notices
from mqttws.broker.origin import objection_to_origin
from mqttws.broker.router import Review, is_sys
from mqttws.broker.stored import StoredPace
from mqttws.broker.subscriber import IDENTIFIER, Outlet, Subscriber
from mqttws.broker.subscriptions import Unfinished
from mqttws.codec.connecting import Connect
from mqttws.codec.publishing import Publish
from mqttws.errors import (
    AccessDenied,
    ConnectionClosed,
    LimitExceeded,
    MQTTError,
    ProtocolError,
    SessionTakenOver,
    StoreError,
)
from mqttws.protocol.events import (
    Closed,
    ConnectReceived,
    Event,
    SubscribeReceived,
    UnsubscribeReceived,
    UpgradeRequested,
)
from mqttws.protocol.machine import release_frames
from mqttws.protocol.server_connection import ServerConnection

#: The maximum bytes of payloads that are routed in one run: as many as a connection collects before it writes.
_RUN = 64 * 1024
#: The errors that are logged as warnings, because the operator of the client should know about them.
_FAULTS = (ProtocolError, AccessDenied, LimitExceeded, SessionTakenOver, StoreError)


class Line(Outlet, Protocol):
    """The interface of the driver (`Link`) for the handler; also the client's outlet."""

    def act(self, action: Callable[[float], None]) -> None:
        """Call `action`, then handle the resulting events. An error closes the connection.

        Args:
            action: Called with the time in seconds.
        """

    def hold(self, reason: str) -> None:
        """Pause reading until `release` is called with the same reason."""

    def release(self, reason: str) -> None:
        """Resume reading, unless another reason still holds it."""

    @property
    def left(self) -> bool:
        """Whether the client has closed the connection, although what it sent before is still to be handled."""

    def asked(self) -> None:
        """Record that a hook was asked about the CONNECT."""

    def accepted(self) -> None:
        """Record that the client is accepted."""

    def send_retained(self, until: float) -> bool:
        """Send retained messages for new subscriptions, as many as there is space for now.

        Args:
            until: A time of `time.perf_counter`.

        Returns:
            Whether more could be sent now if there were time.
        """


class Handler:
    """The handler of one connection's events.

    Args:
        hub: The shared state of all connections.
        line: The driver, which is also the client's outlet.
        connection: The source of the events.
        peer: The client, as the hooks see it.

    Attributes:
        subscriber: The client, from CONNACK 0 to the end of the connection; None before and after.
    """

    __slots__ = (
        "_allowance",
        "_allowance_at",
        "_asked",
        "_busy",
        "_connect",
        "_connection",
        "_held",
        "_hub",
        "_line",
        "_routing",
        "_stored",
        "_task",
        "_upgrading",
        "peer",
        "subscriber",
    )

    def __init__(self, hub: Hub, line: Line, connection: ServerConnection, peer: Peer) -> None:
        self.peer = peer
        self.subscriber: Subscriber | None = None
        self._hub = hub
        self._line = line
        self._connection = connection
        self._connect: Connect | None = None  # until it is answered
        self._asked: asyncio.Future[Any] | None = None  # a pending async hook
        self._task: asyncio.Task[None] | None = None  # waits for `_asked` and continues with its result
        self._upgrading = False
        self._busy = False  # whether `take_events` is being executed
        rate = hub.limits.publish_rate
        self._allowance = max(1.0, rate or 0.0)  # how many PUBLISH packets are allowed now
        self._allowance_at = 0.0  # when `_allowance` was computed
        self._held = False  # whether reading is paused until the next PUBLISH is allowed
        # An unfinished lookup, what follows it, and the message if it is of QoS 1 or 2.
        self._routing: tuple[Unfinished, Callable[[], None], Publish | None] | None = None
        self._stored: StoredPace | None = None  # of a resumed session, if stored messages have a rate

    def receive_data(self, data: bytes, now: float) -> bool:
        """Handle received bytes.

        Returns:
            Whether this is complete and has no effect on this connection: the bytes were messages of QoS 0, which are
            routed. Otherwise call `take_events`.
        """
        router = self._hub.router
        if not router.in_runs or self._routing is not None:
            self._connection.receive_data(data, now)
            return False
        run = self._connection.receive_run(data, now)
        if run is None:
            return False
        topic, packets, payloads = run
        try:
            router.publish_run(self.peer, topic, payloads, packets)
        except (Unfinished, MQTTError) as problem:
            self._interrupt(problem, partial(router.publish_run, self.peer, topic, payloads, packets), None, now)
            return False
        return True

    def take_events(self, now: float, until: float = inf) -> bool:
        """Handle events until the time `until` of `time.perf_counter`. Return whether there is more to do now.

        An event can end its own connection, which calls this again. The inner call does nothing: the outer one goes on
        with the next event once this one is handled, which keeps their order. Spec: [MQTT-4.6.0-5]
        """
        if self._busy:
            return False
        machine = self._connection.machine
        limited = self._hub.limits.publish_rate is not None
        self._busy = True
        try:
            if self._routing is not None and not self._route(until):
                return True
            while machine.events:
                if limited and type(machine.events[0]) is Publish and not self._may_publish(now):
                    return False
                event = machine.events.popleft()
                handler = _HANDLERS.get(type(event))
                if handler is not None:
                    handler(self, event, now)
                    if self._routing is not None and not self._route(until):
                        return True
                if machine.events and perf_counter() >= until:
                    return True
            return False
        finally:
            self._busy = False

    def handle_timeout(self, now: float) -> None:
        """Handle the deadlines that have passed. While a hook is asked, the only one is that of the opening."""
        deadline = self._connection.next_deadline()
        if self._asked is not None and deadline is not None and now >= deadline:
            self.fail(TimeoutError("the hook has not answered in time"), now)
        else:
            self._connection.handle_timeout(now)

    def fail(self, error: BaseException, now: float) -> None:
        """Close the connection because of an error in the broker or a hook. Spec: [MQTT-3.2.2-6], [MQTT-4.8.0-2]."""
        text = "client %s: closed because of an error in the broker or in a hook"
        self._log("errors in the broker or in a hook", text, self.peer, level=logging.ERROR, error=error)
        if self._upgrading and not self._connection.closed:
            self._upgrading = False
            self._connection.reject_upgrade(500, now)
        self.cut(ConnectionClosed("an error in the broker or in a hook"), now)

    def cut(self, error: MQTTError, now: float) -> None:
        """Close the connection and discard the client's events that have not been handled."""
        if self._routing is not None:
            self._disown(self._routing[2])
            self._routing = None
        if self._hub.router.departures.names_limits and isinstance(error, LimitExceeded) and not error.close_reason:
            error.close_reason = error.message
        events = self._connection.machine.events
        closed = [event for event in events if isinstance(event, Closed)]
        for event in events:
            if isinstance(event, Publish):
                self._disown(event)
        events.clear()
        events.extend(closed)
        self._connection.close(error, now)

    # The upgrade.

    def _on_upgrade(self, event: UpgradeRequested, now: float) -> None:
        peer = self.peer
        peer.target, peer.headers = event.target, event.headers
        self._upgrading = True
        path = event.target.partition("?")[0]
        objection = objection_to_origin(peer, self._hub.allowed_origins)
        if path not in self._hub.paths:
            body = f"MQTT is served at {', '.join(self._hub.paths)}\n".encode()
            self._answer_upgrade(Rejection(404, (), body, "the path is not served"), now)
        elif objection is not None:
            self._answer_upgrade(Rejection(403, (), b"The Origin is not allowed.\n", objection), now)
        elif self._hub.hooks.on_upgrade is None:
            self._answer_upgrade(None, now)
        else:
            self._ask(self._hub.hooks.on_upgrade(peer), self._answer_upgrade, now)

    def _answer_upgrade(self, rejection: Rejection | None, now: float) -> None:
        if self._connection.closed:
            return
        if rejection is not None and not isinstance(rejection, Rejection):
            raise TypeError(f"on_upgrade returned {type(rejection).__name__}; expected a Rejection or None")
        self._upgrading = False
        if rejection is None:
            self._connection.accept_upgrade(now)
            return
        self._hub.metrics.connections_refused += 1
        text = "client %s: upgrade rejected with %d: %s"
        self._log("upgrades rejected", text, self.peer, rejection.status, rejection.reason)
        self._connection.reject_upgrade(rejection.status, now, rejection.headers, rejection.body)

    # The CONNECT.

    def _on_connect(self, event: ConnectReceived, now: float) -> None:
        connect = self._connect = event.connect
        self.peer.client_id = connect.client_id
        self.peer.username = connect.username
        authenticator = self._hub.hooks.authenticator
        if authenticator is None:
            self._answer_connect(True, now)
        else:
            self._ask(authenticator(self.peer, connect), self._answer_connect, now)

    def _answer_connect(self, answer: object, now: float) -> None:
        """Accept or refuse. Spec: §3.1.4, [MQTT-3.1.3-6], [MQTT-3.1.3-9]."""
        connection, registry, peer, connect = self._connection, self._hub.registry, self.peer, self._connect
        self._connect = None
        if connection.closed:
            return
        assert connect is not None
        if isinstance(answer, bool):
            answer = Accepted() if answer else Refused()
        if not isinstance(answer, Accepted | Refused):
            given = type(answer).__name__
            raise TypeError(f"the authenticator returned {given}; expected a bool, Accepted or Refused")
        if isinstance(answer, Accepted):
            peer.client_id = answer.client_id or connect.client_id or f"auto-{secrets.token_hex(12)}"
            answer = registry.objection_to(peer, connect, answer, now) or answer
        if isinstance(answer, Refused):
            self._hub.metrics.connections_refused += 1
            text = "client %s: refused with return code %d: %s"
            self._log("clients refused", text, peer, answer.return_code, answer.reason)
            connection.refuse(answer.return_code, now)
            return
        known = registry.find(peer.client_id)
        if self._line.left and known is not None and known.outlet is not None:
            self.cut(ConnectionClosed("the client has connected again meanwhile"), now)
            return
        registry.take_over(peer)
        self._hub.endings.make_way(peer.client_id)
        subscriber, session_present = registry.attach(peer, connect, answer, self._line)
        self.subscriber = subscriber
        review = self._hub.router.review(subscriber)
        if review is None:
            self._pace_stored(subscriber)
        else:
            subscriber.session.sender.allowance = 0.0
            self._hub.turns.defer(_Reviewing(review, partial(self._reviewed, subscriber)))
        connection.accept(self.subscriber.session, session_present, now, keep_alive=answer.keep_alive)
        connection.machine.trim()
        self._line.accepted()
        self._log("clients connected", "client %s: connected", peer, level=logging.INFO)
        if self._hub.hooks.on_connected is not None:
            self._hub.hooks.on_connected(peer)

    def _reviewed(self, subscriber: Subscriber) -> None:
        """Send the stored messages, which the authorizer has permitted."""
        subscriber.session.sender.allowance = inf
        self._pace_stored(subscriber)
        self._line.wake()

    def _pace_stored(self, subscriber: Subscriber) -> None:
        """Limit the rate of the stored messages, if there is such a limit."""
        sender, rate = subscriber.session.sender, self._hub.limits.stored_rate
        if rate is not None and sender.waiting:
            self._stored = StoredPace(self._hub.loop, sender, rate, self._line.wake)

    # The hooks that may be asynchronous.

    def _ask(self, answer: Any, then: Callable[[Any, float], None], now: float) -> None:
        """Call `then` with a hook's answer: immediately, or once an awaitable answer is available."""
        if isawaitable(answer):
            self._line.hold("hook")
            if self._connect is not None:
                self._line.asked()
            self._asked = self._hub.loop.create_task(_contained(answer))
            if iscoroutine(answer):  # if the task is cancelled before it starts, Python would warn of this coroutine
                self._asked.add_done_callback(lambda _: answer.close())
            self._task = self._hub.loop.create_task(self._await(self._asked, then))
        else:
            then(answer, now)

    async def _await(self, answer: asyncio.Task[Any], then: Callable[[Any, float], None]) -> None:
        try:
            # Not `await answer`: its cancellation would wait for a hook that ignores its own.
            await asyncio.wait([answer])
            decided = answer.result()
        except asyncio.CancelledError:
            # The connection has ended. A cancelled task would keep it until the garbage collector runs: in Python 3.14
            # its exception refers to frames of `asyncio.wait`, and these refer to the task.
            return
        except Exception as error:
            self._task = self._asked = None
            self._line.release("hook")
            self._line.act(partial(self.fail, error))
            release_frames(error)
            return
        self._task = self._asked = None
        self._line.release("hook")
        self._line.act(lambda now: then(decided, now))

    def _abandon(self, asked: asyncio.Future[Any]) -> None:
        """Cancel a hook whose answer is not needed any more."""
        asked.add_done_callback(partial(_log_failure, self._hub.notices, self.peer))
        asked.cancel()

    # The connected client.

    def _on_publish(self, publish: Publish, now: float) -> None:
        router = self._hub.router
        if router.in_runs and not (publish.qos or publish.retain):
            payloads = self._take_run(publish)
            try:
                router.publish_run(self.peer, publish.topic, payloads, first=publish)
            except (Unfinished, MQTTError) as problem:
                rest = partial(router.publish_run, self.peer, publish.topic, payloads, first=publish)
                self._interrupt(problem, rest, None, now)
            return
        try:
            if publish.qos == 2:
                self._check_unreleased()
            taken = router.publish_from(self.peer, publish)
        except (Unfinished, MQTTError) as problem:
            self._interrupt(problem, partial(self._publish_at_last, publish), publish, now)
        except BaseException:
            self._disown(publish)
            raise
        else:
            (self._connection.acknowledge if taken else self._connection.discard)(publish)

    def _check_unreleased(self) -> None:
        """Check how many packet identifiers of QoS 2 the client has not released. Each takes memory.

        Raises:
            LimitExceeded: There are too many, or all sessions use too much memory and this one more than its share.
        """
        subscriber = self.subscriber
        assert subscriber is not None
        unreleased = len(subscriber.session.receiver)
        if unreleased > self._hub.limits.max_unreleased or not self._hub.router.memory.allows(subscriber, IDENTIFIER):
            raise LimitExceeded(f"the client has not released {unreleased:,} packet identifiers of QoS 2")

    def _interrupt(
        self, problem: Unfinished | MQTTError, deliver: Callable[[], None], publish: Publish | None, now: float
    ) -> None:
        """Keep a PUBLISH whose recipients are still to be looked up; close the connection for any other problem."""
        if isinstance(problem, Unfinished):
            self._routing = problem, deliver, publish
        else:
            self._disown(publish)
            self.cut(problem, now)

    def _disown(self, publish: Publish | None) -> None:
        """Forget a message that was not routed, so that it is routed when the client sends it again.

        Spec: [MQTT-4.4.0-1], [MQTT-4.3.3-2]
        """
        if publish is not None and publish.qos and self.subscriber is not None:
            self.subscriber.session.receiver.discard(publish)

    def _publish_at_last(self, publish: Publish) -> None:
        """Route and acknowledge a PUBLISH that has passed all checks."""
        self._hub.router.publish(publish.topic, publish.payload, publish.qos, publish.retain)
        self._connection.acknowledge(publish)

    def _route(self, until: float) -> bool:
        """Continue the lookup of a PUBLISH, and deliver it once that is complete. Return whether it is."""
        assert self._routing is not None
        unfinished, deliver, publish = self._routing
        if not self._hub.router.go_on(unfinished, until):
            return False
        self._routing = None
        try:
            deliver()
        except MQTTError as error:
            self._disown(publish)
            self.cut(error, self._hub.now())
        except BaseException:
            self._disown(publish)
            raise
        return True

    def _take_run(self, publish: Publish) -> list[bytes]:
        """Take the QoS 0 messages to the same topic that directly follow `publish`. Return the payloads of all."""
        events = self._connection.machine.events
        topic, payloads, size = publish.topic, [publish.payload], len(publish.payload)
        while events and size < _RUN:
            event = events[0]
            if type(event) is not Publish or event.qos or event.retain or event.topic != topic:
                break
            payloads.append(event.payload)
            size += len(event.payload)
            events.popleft()
        return payloads

    def _may_publish(self, now: float) -> bool:
        """Return whether to handle a PUBLISH. If the rate does not allow it yet, pause reading until it does."""
        if self._connection.closed:  # the peer can send no more
            return True
        rate = self._hub.limits.publish_rate
        if rate is None or self._held:
            return not self._held
        self._allowance = min(max(1.0, rate), self._allowance + (now - self._allowance_at) * rate)
        self._allowance_at = now
        if self._allowance >= 1:
            self._allowance -= 1
            return True
        self._held = True
        self._line.hold("rate")
        self._hub.loop.call_later((1 - self._allowance) / rate, self._go_on)
        return False

    def _go_on(self) -> None:
        self._held = False
        self._line.release("rate")
        self._line.act(lambda now: None)

    def _on_subscribe(self, event: SubscribeReceived, now: float) -> None:
        subscribe, subscriber = event.subscribe, self.subscriber
        assert subscriber is not None
        if any("$SYS" in topic_filter and is_sys(topic_filter) for topic_filter, _ in subscribe.topic_filters):
            self._hub.status.refresh(now)
        try:
            return_codes = self._hub.router.subscribe(subscriber, subscribe.topic_filters)
        except MQTTError as error:
            self.cut(error, now)
            return
        self._connection.suback(subscribe.packet_id, return_codes)
        self._connection.machine.trim()
        self._line.send_retained(perf_counter())

    def _on_unsubscribe(self, event: UnsubscribeReceived, now: float) -> None:
        assert self.subscriber is not None
        try:
            self._hub.router.unsubscribe(self.subscriber, event.unsubscribe.topic_filters)
        except MQTTError as error:
            self.cut(error, now)
            return
        self._connection.unsuback(event.unsubscribe.packet_id)

    # The end of the connection.

    def _on_closed(self, event: Closed, now: float) -> None:
        subscriber = self.subscriber
        if subscriber is not None:  # first: whatever fails below, the client is no longer connected
            wanted = event.error is not None and not self._hub.stopping
            will = self._hub.registry.detach(subscriber, now, will=wanted)
            self._hub.endings.add(Ending(self.peer, event.error, will, not subscriber.clean_session))
            subscriber.session.sender.allowance = inf  # an incomplete review ends with the connection, too
        if self._task is not None and self._asked is not None:
            self._abandon(self._asked)  # explicitly: a task that has not started would never await it
            self._task.cancel()
            self._task = self._asked = None
            self._line.release("hook")  # so that the client's part of the closing handshake is read
        level = logging.WARNING if isinstance(event.error, _FAULTS) else logging.INFO
        kind = "faults" if level == logging.WARNING else "connections closed"
        self._log(kind, "client %s: closed: %s", self.peer, event.error or "the client disconnected", level=level)
        self.subscriber = None
        if self._stored is not None:
            self._stored.stop()

    def _log(
        self,
        kind: str,
        text: str,
        *arguments: object,
        level: int = logging.WARNING,
        error: BaseException | None = None,
    ) -> None:
        """Log a line about this client; before it is accepted, and after its end, about its address."""
        client = self.peer.address[0] if self.subscriber is None else self.peer.client_id
        self._hub.notices.log(kind, client, text, *arguments, level=level, error=error)


class _Reviewing:
    """The authorizer's review of stored messages as work of its own; see `turns.Worker`."""

    def __init__(self, review: Review, then: Callable[[], None]) -> None:
        self._review = review
        self._then = then

    def work(self, until: float) -> bool:
        """See `turns.Worker.work`."""
        if self._review.work(until):
            return True
        if self._review.complete:
            self._then()
        return False


def _log_failure(notices: Notices, peer: Peer, asked: asyncio.Future[Any]) -> None:
    """Log what a cancelled hook has raised. Nothing else retrieves it."""
    error = None if asked.cancelled() else asked.exception()
    if error is not None:
        text = "client %s: a hook failed after it had been cancelled"
        notices.log("errors in a cancelled hook", peer.address[0], text, peer, level=logging.ERROR, error=error)


async def _contained(answer: Awaitable[Any]) -> Any:
    """Await a hook's answer. What is no `Exception` would end the event loop, or the task that awaits this one."""
    try:
        return await answer
    except (Exception, KeyboardInterrupt, GeneratorExit):  # the last is raised when this coroutine is closed
        raise
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise  # the connection has ended, or the time is up
        raise RuntimeError(f"the hook raised {type(error).__name__}") from error


_HANDLERS: dict[type[Event], Callable[[Handler, Any, float], None]] = {
    Publish: Handler._on_publish,
    UpgradeRequested: Handler._on_upgrade,
    ConnectReceived: Handler._on_connect,
    SubscribeReceived: Handler._on_subscribe,
    UnsubscribeReceived: Handler._on_unsubscribe,
    Closed: Handler._on_closed,
}
