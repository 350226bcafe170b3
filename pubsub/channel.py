"""One provider's connection, and all who use it: the hub joined to a driver, blocking or asyncio.

Both drivers have the same verbs that do not wait, and futures alike enough; so everything that only hands requests
over and takes answers is written once, here. What waits, and the loop that takes the messages, belongs to
`pubsub.blocking` and `pubsub.aio`.

What the hub decides is handed to the driver under the same lock, so that SUBSCRIBE and UNSUBSCRIBE leave in the order
in which they were decided. A driver calls back outside of its own lock, so the two never wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mqttws import ConnectionClosed, MQTTError, Publish, SubscribeRejected
from pubsub.errors import NotConnected
from pubsub.hub import Hub, Outcome, Request
from pubsub.publishing import Sent, settle
from pubsub.states import ConnectionState, ConnectionStateChange, connection_state
from pubsub.subscription import SubscriptionCore

if TYPE_CHECKING:
    from mqttws import State
    from pubsub.core import PubSubCore
    from pubsub.providers.base import Provider

__all__ = ["Channel"]


class Channel:
    """One provider's connection, from its first attempt to its end. There is no second life: a new one is made.

    Args:
        core: of the `PubSub` that it belongs to.
        provider: tells where to connect, and how.

    Attributes:
        provider: as given.
        client: the driver.
        state: of the connection, by Amplify's name.
        over: whether it has ended.
        error: why, where something went wrong.
        opened: a future that is done when it has connected for the first time, or has ended.
        is_closing: whether it was asked to end.
        runner: the thread or the task that takes its messages.
    """

    runner: Any

    def __init__(self, core: PubSubCore, provider: Provider) -> None:
        self.provider = provider
        self.client = core.new_client(
            provider,
            manual_ack=True,
            on_state=self._on_state,
            on_error=self._on_error,
            recover=provider.recover,
            **provider.client_options(),
        )
        self.state = ConnectionState.DISCONNECTED
        self.over = False
        self.is_closing = False
        self.error: Exception | None = None
        self.opened: Any = core.new_future()
        self._core = core
        self._hub: Hub[SubscriptionCore] = Hub()
        self._last_error: Exception | None = None
        self._late: list[Any] = []

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self.state is ConnectionState.CONNECTED

    def join(self, subscription: SubscriptionCore, wanted: Mapping[str, int]) -> bool:
        """Let a subscription listen to Topic Filters. Returns False where this connection has ended."""
        with self._core.lock:
            if self.over:
                return False
            if not subscription.joined(self):
                return True
            request = self._hub.join(subscription, wanted)
            if request is None:
                return True
            answer = self.client.subscribe_nowait(request.wanted)
        answer.add_done_callback(partial(self._answered, request))
        return True

    def leave(self, subscription: SubscriptionCore, topic_filters: Iterable[str]) -> Any:
        """Let a subscription no longer listen to Topic Filters.

        Returns:
            The future of the server's answer; None where others listen on, or where nothing is connected that could
            answer: then the server hears of it on reconnecting.
        """
        with self._core.lock:
            unused = self._hub.leave(subscription, topic_filters)
            if not unused or self.over:
                return None
            answer = self._watched(self.client.unsubscribe_nowait(unused))
        answer.add_done_callback(_ignore)
        return answer if self.connected else None

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool) -> Sent | None:
        """Send a message when its turn comes. Returns None where this connection has ended.

        Raises:
            NotConnected: the connection is lost, and the provider is not to queue.
            QueueFull: too many messages wait already.
        """
        with self._core.lock:
            if self.over:
                return None
            if self.provider.offline == "raise" and self.opened.done() and not self.connected:
                raise NotConnected(f"{self.provider.name} is {self.state}: the message was not queued")
            future = self._watched(self.client.publish_nowait(topic, payload, qos, retain))
        return Sent(future, partial(self.client.withdraw, future))

    def route(self, publish: Publish) -> list[SubscriptionCore]:
        """Tell which subscriptions a message is for."""
        with self._core.lock:
            return self._hub.route(publish)

    def members(self) -> set[SubscriptionCore]:
        """Tell who listens through it."""
        with self._core.lock:
            return self._hub.members()

    def closing(self) -> None:
        """Note that it is about to be closed."""
        self.is_closing = True
        if self.connected:
            self._change(ConnectionState.CONNECTED_PENDING_DISCONNECT, None)

    def ended(self, error: Exception | None) -> None:
        """Note that it has ended, and end those who depend on it: for a reason, unless it was asked to.

        The driver must be closed by then.
        """
        with self._core.lock:
            self.over = True
            if error is not None and not self.is_closing:
                self.error = self.provider.explain(error)
            members = self._hub.members()
            settle(self.opened)
        for future in self._late:
            if not future.done():
                settle(future, error or ConnectionClosed("the connection was closed before this was complete"))
        self._core.forget(self)
        for subscription in members:
            subscription.channel_ended(self, self.error)
        self._change(ConnectionState.DISCONNECTED, self.error)

    # What the driver calls.

    def _on_state(self, state: State) -> None:
        if state.name == "connected":
            if not state.session_present:
                with self._core.lock:
                    self._hub.session_lost()
            with self._core.lock:
                settle(self.opened)
        if state.error is not None:
            self._last_error = self.provider.explain(state.error)
        self._change(connection_state(state, self._last_error), self._last_error if state.error is not None else None)

    def _on_error(self, error: MQTTError) -> None:
        if isinstance(error, SubscribeRejected):
            with self._core.lock:
                outcomes = self._hub.refused(error.topic_filter)
            self._tell(outcomes)

    def _answered(self, request: Request[SubscriptionCore], answer: Any) -> None:
        if answer.cancelled() or answer.exception() is not None:
            return  # the connection has ended for good; `ended` tells everybody
        with self._core.lock:
            outcomes = self._hub.answered(request, answer.result())
        self._tell(outcomes)

    def _watched(self, future: Any) -> Any:
        """Remember a future that the driver may never settle: one made just after it gave up."""
        if self.client.state.name == "disconnected":
            self._late.append(future)
        return future

    def _tell(self, outcomes: Iterable[Outcome[SubscriptionCore]]) -> None:
        for subscription, topic_filter, return_code in outcomes:
            subscription.answered(self.provider.name, topic_filter, return_code)

    def _change(self, state: ConnectionState, reason: Exception | None) -> None:
        previous, self.state = self.state, state
        if state is not previous:
            change = ConnectionStateChange(self.provider.name, state, previous, reason)
            self._core.connection_state_changes.tell(change)


def _ignore(answer: Any) -> None:
    """Take the outcome of an UNSUBSCRIBE: that the connection ended first is no failure of it."""
    if not answer.cancelled():
        answer.exception()
