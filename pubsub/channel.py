"""The connection of one provider, with its subscriptions: a router on top of a client, blocking or asyncio.

Both clients have the same methods that do not wait, and similar futures. So everything that passes requests on and
handles answers is written once, here. What waits, and the loop that takes the messages, belongs to the runtime.

The requests that the router returns are passed to the client under the same lock, so that SUBSCRIBE and UNSUBSCRIBE
packets are sent in the order of the calls that caused them. The client runs callbacks outside its lock. Publishing
takes no lock of pubsub.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from mqttws import ConnectionClosed, MQTTError, Publish, State, SubscribeRejected, UnsubscribeRejected, WouldDeadlock
from pubsub.errors import NotConnected
from pubsub.held import Held
from pubsub.providers.base import Provider
from pubsub.providers.sharded import Sharded
from pubsub.publishing import Sent
from pubsub.receipt import Receipt
from pubsub.router import REFUSED, Outcome, Request, Router
from pubsub.runtime import DONE, Client, Runtime, logger, settle
from pubsub.states import ConnectionState, ConnectionStateChange, connection_state
from pubsub.subscription import SubscriptionCore
from pubsub.watching import StateChanges

if TYPE_CHECKING:
    from pubsub.pool.core import PoolCore

__all__ = ["Channel"]


class Channel:
    """The connection of one provider, from the first attempt to the end. A channel that has ended is not reused.

    Args:
        runtime: The runtime of the `PubSub`.
        provider: The provider, which determines where and how to connect.
        options: The options of the client; see `Provider.client_options`.
        changes: Receives each change of state.
        forget: Called with this object when it has ended.

    Attributes:
        provider: The provider.
        client: The client, which makes the connection.
        state: The state of the connection, with Amplify's name.
        over: Whether the channel has ended.
        error: The reason for the end, if something went wrong.
        opened: A future that is done when there was a connection for the first time, or the channel has ended.
        is_closing: Whether the channel is being closed.
        overflow: What happens to a message for which the queue has no space; see the option of that name.
        runner: The thread or the task that takes the messages.
        parts: The states of its connections by number, if there are several.
    """

    def __init__(
        self,
        runtime: Runtime,
        provider: Provider,
        options: Mapping[str, Any],
        changes: StateChanges,
        forget: Callable[[Channel], object],
    ) -> None:
        self.provider = provider
        self.state = ConnectionState.DISCONNECTED
        self.over = False
        self.is_closing = False
        self.error: Exception | None = None
        self.opened: Any = runtime.new_future()
        self.overflow: str = options.get("overflow", "block")
        self.runner: Any = None
        self._runtime = runtime
        self._changes = changes
        self._forget = forget
        self._router: Router[SubscriptionCore] = Router()
        self._last_error: Exception | None = None
        self._user_on_error = options.get("on_error")
        self._has_store = options.get("store") is not None
        # Whether messages may come for Topic Filters that an earlier process subscribed to: so it is with a kept
        # session, unless the server reports on connecting that it has none (`_on_state`).
        self._may_precede = not options.get("clean_session", True)
        self._held = Held(provider.hold_bytes, provider.hold_seconds)
        self._returned: deque[Publish] = deque()  # given back to the client for a new observer, in order
        self._put_behind: Publish | None = None  # see `_is_in_turn`
        self._space: Any = None  # a future, while the runner waits for space among the held messages
        self.parts: dict[int, ConnectionState] = {}
        self.client: Client = runtime.new_client(
            provider,
            **{
                **options,
                "manual_ack": True,
                "on_state": self._on_state,
                "on_error": self._on_error,
                "recover": provider.recover,
            },
        )
        if isinstance(provider, Sharded):
            cast("PoolCore", self.client).on_part = self._on_part

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self.state is ConnectionState.CONNECTED

    # For the methods of the `PubSub`.

    def join(self, subscription: SubscriptionCore, wanted: Mapping[str, int]) -> bool:
        """Add a subscription to Topic Filters. Return False if the channel has ended."""
        with self._runtime.lock:
            standing = self._router.topic_filters
        objections = self.provider.objections_to_subscribe(wanted, standing)  # code of the provider: outside the lock
        wanted = {topic_filter: qos for topic_filter, qos in wanted.items() if topic_filter not in objections}
        try:
            with self._runtime.lock:
                if self.over:
                    return False
                if not subscription.joined(self):
                    return True
                wanted = subscription.still_wanted(wanted)
                request = self._router.join(subscription, wanted) if wanted else None
                if request is not None:
                    answer = self.client.subscribe_nowait(request.wanted)
                claimed = self._held.claim(self._router.is_wanted)
                if claimed:
                    self.client.give_back(claimed)
                    self._returned.extendleft(reversed(claimed))
                space, self._space = self._space, None
            if request is not None:
                self._watch(request, answer)
        except BaseException:  # from a signal handler: other subscriptions may wait for the answer to what was not sent
            self._runtime.notify(self._subscribe_again)
            raise
        if space is not None:
            settle(space)
        for topic_filter, objection in objections.items():
            subscription.answered(self.provider.name, topic_filter, REFUSED, objection)
        return True

    def _watch(self, request: Request[SubscriptionCore], answer: Any) -> None:
        answer.add_done_callback(partial(self._answered, request))
        request.is_watched = True

    def _subscribe_again(self) -> None:
        """Send again the SUBSCRIBE that was possibly not sent because of an interrupt."""
        with self._runtime.lock:
            request = None if self.over else self._router.unwatched()
            if request is not None:
                answer = self.client.subscribe_nowait(request.wanted)
        if request is not None:
            self._watch(request, answer)

    def leave(self, subscription: SubscriptionCore, topic_filters: Iterable[str]) -> Any:
        """Remove a subscription from Topic Filters.

        Returns:
            The future of the server's answer. None if other subscriptions use the Topic Filters; also None if there is
            no connection: then the UNSUBSCRIBE is sent on reconnecting.
        """
        with self._runtime.lock:
            unused = self._router.leave(subscription, topic_filters)
            if not unused or self.over:
                return None
            answer = self.client.unsubscribe_nowait(unused)
        answer.add_done_callback(self._left)
        return answer if self.connected else None

    def publish(
        self, topic: str, payload: bytes, qos: int, retain: bool, expire_after: float | None = None
    ) -> Sent | None:
        """Queue a message for publishing. Return None if the channel has ended.

        Raises:
            NotConnected: The connection is lost, and the provider does not queue.
            QueueFull: Too many messages are already waiting.
        """
        if self.over:
            return None
        self.check_online()
        future = self.client.publish_nowait(topic, payload, qos, retain, expire_after=expire_after)
        return Sent(future, partial(self.client.withdraw, future), self.explain_failure)

    def check_online(self) -> None:
        """Check that there is a connection, if the provider does not queue.

        Raises:
            NotConnected: There is no connection.
        """
        if self.provider.offline == "raise" and self.opened.done() and not self.connected:
            raise NotConnected(f"{self.provider.name} is {self.state}: the message was not queued")

    @property
    def stalled(self) -> str:
        """The reason why nothing is read before messages are taken; an empty string while the client reads."""
        return self.client.stalled

    @property
    def unreachable(self) -> str:
        """Why there is no connection: the state, and the latest error; an empty string while there is one."""
        return self.client.unreachable

    def check_progress(self) -> None:
        """Check that a wait of this thread or task can end.

        Raises:
            WouldDeadlock: This is a callback, and nothing is read before it returns.
        """
        stalled = self.stalled
        if stalled and self._runtime.is_current(self.runner):
            raise WouldDeadlock(f"{stalled} before this callback returns; use the _nowait form here")

    def members(self) -> set[SubscriptionCore]:
        """Return all subscriptions that use this channel."""
        with self._runtime.lock:
            return self._router.members()

    # For the runner.

    def may_open(self) -> bool:
        """Return whether to connect. Wait until the start of the runner has succeeded, or was interrupted."""
        with self._runtime.lock:
            return not self.is_closing

    def handle(self, publish: Publish) -> Iterator[Any]:
        """Deliver a message to its subscriptions, or hold it.

        Yields:
            What the runner must wait for before it continues: the result of a callback, or a future.
        """
        # One decision under the lock, so that no observer can join between the lookup of the takers and the holding of
        # a message without takers. The callbacks run afterwards, outside the lock.
        is_held, space = False, None
        with self._runtime.lock:
            if self._returned and not self._is_in_turn(publish):
                self.client.give_back([publish], after=len(self._returned))
                return
            takers = self._router.route(publish)
            if not takers and self._is_to_be_held(publish):
                is_held = self.is_closing or self._held.add(publish)
                if not is_held:
                    # There is no space to hold it. It goes back to the client, and the runner waits for space. This
                    # comes first: if a new observer claims the held messages, they are put before this one.
                    self.client.give_back([publish])
                    space = self._space = self._runtime.new_future()
        if space is not None:
            yield space
            return
        if is_held:  # it stays unacknowledged
            return
        receipt = Receipt(partial(self.client.acknowledge, publish)) if publish.qos else None
        for subscription in takers:
            yield subscription.deliver(publish, self.provider.name, receipt)
        if receipt is not None:
            receipt.release()

    def _is_in_turn(self, publish: Publish) -> bool:
        """Return whether a message is the next one in order of arrival, while messages given back are expected.

        The runner may have taken a message just before others were given back for a new observer. It arrived after
        those, so it is put behind them. If it comes a second time, they are no longer in the client.
        """
        if publish is self._returned[0]:
            self._returned.popleft()
            if not self._returned:
                self._put_behind = None
            return True
        if publish is self._put_behind:
            self._returned.clear()
            return True
        self._put_behind = publish
        return False

    def _is_to_be_held(self, publish: Publish) -> bool:
        if not publish.qos or not self._may_precede or self._held.is_over(time.monotonic()):
            return False
        return not self._router.wanted_before(publish.topic)

    def _stop_holding(self) -> None:
        """Acknowledge and drop the held messages, because they delay all later acknowledgements."""
        with self._runtime.lock:
            dropped = self._held.take_all()
            space, self._space = self._space, None
        for publish in dropped:
            self.client.acknowledge(publish)
        if dropped:
            topics = ", ".join(repr(topic) for topic in sorted({publish.topic for publish in dropped})[:3])
            logger.warning(
                "%s: %d messages of the kept session were dropped, and later ones will be: no observer subscribed to "
                "their topics (%s ...) within %g s. Unsubscribe from topics that are not needed, or raise hold_seconds",
                self.provider.name,
                len(dropped),
                topics,
                self.provider.hold_seconds,
            )
        if space is not None:
            settle(space)

    def closing(self) -> None:
        """Mark the channel as being closed."""
        self.is_closing = True
        with self._runtime.lock:
            space, self._space = self._space, None
        if space is not None:
            settle(space)
        if self.connected:
            self._change(ConnectionState.CONNECTED_PENDING_DISCONNECT, None)

    def ended(self) -> None:
        """End the channel and its subscriptions, with the error that `failed` has recorded, if any.

        The client must have been closed before.
        """
        with self._runtime.lock:
            self.over = True
            members = self._router.members()
            self._held.take_all()
        settle(self.opened)
        self._forget(self)
        for subscription in members:
            subscription.channel_ended(self, self.error)
        self._change(ConnectionState.DISCONNECTED, self.error)

    def abandon(self, error: Exception) -> None:
        """End without using the client, because its process or event loop, its threads and locks no longer exist."""
        self.over, self.error, self.state = True, error, ConnectionState.DISCONNECTED
        self.opened = DONE
        for subscription in self._router.members():
            subscription.abandon(error)

    def failed(self, error: Exception) -> None:
        """Record why the channel is about to end, unless it is being closed. Waiting messages fail with this error."""
        if not self.is_closing:
            self.error = self.explain(error)

    def explain_failure(self, error: Exception) -> Exception:
        """Return the error of a message. If the connection ended, that is the reason for the end, with the `fate`."""
        fate = error.fate if isinstance(error, ConnectionClosed) else ""
        cause = error.__cause__ if fate and isinstance(error.__cause__, Exception) else error
        reason = self.error if type(cause) is ConnectionClosed and self.error is not None else self.explain(cause)
        if not fate:
            return reason
        kept = ConnectionClosed(str(reason))
        kept.fate, kept.__cause__ = fate, reason
        return kept

    def explain(self, error: Exception) -> Exception:
        """Return the provider's explanation of an error, which may be the same error."""
        try:
            return self.provider.explain(error)
        except Exception:
            logger.exception("%s could not explain %r", self.provider.name, error)
            return error

    # Called by the client.

    def _on_state(self, state: State) -> None:
        if state.name == "connected" and self._may_precede and self._held.begin(time.monotonic()):
            self._runtime.later(self.provider.hold_seconds, self._stop_holding)
        if state.session_present is False:
            with self._runtime.lock:
                self._router.session_lost()
                self._may_precede = self._may_precede and self._has_store
        if state.error is not None:
            self._last_error = self.explain(state.error)
        self._change(connection_state(state, self._last_error), self._last_error if state.error is not None else None)
        if state.name == "connected":  # after the change, which `connect` must not overtake in another thread
            settle(self.opened)

    def _on_part(self, index: int, state: State | None) -> None:
        """Record the state of one of several connections; None: the connection was removed."""
        name = f"{self.provider.name}-{index}"
        error = None if state is None or state.error is None else self.explain(state.error)
        previous = self.parts.get(index, ConnectionState.DISCONNECTED)
        if state is None:
            self.parts.pop(index, None)
            return
        now = self.parts[index] = connection_state(state, error or self._last_error)
        if now is not previous:
            self._changes.report(ConnectionStateChange(name, now, previous, error))

    def _on_error(self, error: MQTTError) -> None:
        if isinstance(error, SubscribeRejected):
            with self._runtime.lock:
                outcomes = self._router.refused(error.topic_filter)
            self._report(outcomes, error)
        if self._user_on_error is not None:
            self._runtime.notify(self._runtime.call, self._user_on_error, error)

    def _answered(self, request: Request[SubscriptionCore], answer: Any) -> None:
        if answer.cancelled() or answer.exception() is not None:
            return  # the channel has ended; `ended` reports that to every subscription
        with self._runtime.lock:
            outcomes = self._router.answered(request, answer.result())
        self._report(outcomes)

    def _left(self, answer: Any) -> None:
        """Handle the outcome of an UNSUBSCRIBE. The end of the connection before the answer is not a failure."""
        error = None if answer.cancelled() else answer.exception()
        if isinstance(error, UnsubscribeRejected):  # no call may be waiting for it
            logger.warning("%s: %s", self.provider.name, error)

    def _report(self, outcomes: Iterable[Outcome[SubscriptionCore]], error: MQTTError | None = None) -> None:
        for subscription, topic_filter, return_code in outcomes:
            refusal = self.explain(error or SubscribeRejected(topic_filter)) if return_code == REFUSED else None
            subscription.answered(self.provider.name, topic_filter, return_code, refusal)

    def _change(self, state: ConnectionState, reason: Exception | None) -> None:
        previous, self.state = self.state, state
        if state is not previous:
            self._changes.report(ConnectionStateChange(self.provider.name, state, previous, reason))
