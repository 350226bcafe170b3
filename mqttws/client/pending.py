"""The futures of a client's incomplete calls: of messages, and of SUBSCRIBE and UNSUBSCRIBE requests.

Each call queues messages or requests in the session, which identifies them by tokens. The future of the call is kept
here and settled when the answer arrives. QoS 0 messages are not acknowledged: their futures compare their tokens with a
`HighWaterMark`. After the end of the client, new futures fail immediately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from mqttws.client.callbacks import WARNING, Callbacks
from mqttws.client.options import Options
from mqttws.client.sent import F, HighWaterMark
from mqttws.codec.publishing import Message, encode_publish
from mqttws.codec.subscribing import FAILURE, Subscribe, Unsubscribe
from mqttws.errors import (
    ConnectionClosed,
    MessageExpired,
    MQTTError,
    PublishRejected,
    QueueFull,
    StoreError,
    SubscribeRejected,
    UnsubscribeRejected,
    to_raise,
)
from mqttws.hints import TYPE_CHECKING, Any, Generic, TypeVar, inf
from mqttws.protocol.outgoing import Run
from mqttws.protocol.session import Session

if TYPE_CHECKING:
    from mqttws.client.driver import Driver
    from mqttws.client.option_types import TopicFilters
    from mqttws.protocol.ages import Age

M = TypeVar("M")
R = TypeVar("R")


class _Request(Generic[F]):
    """A call of `subscribe` or `unsubscribe`, which may need several packets.

    Args:
        future: The future of the call.
        finish: A function that converts the return codes of all packets, in the order of the call, to the outcome.
    """

    def __init__(self, future: F, finish: Callable[[list[int]], object]) -> None:
        self.future = future
        self.codes: dict[int, list[int] | None] = {}  # token of a packet -> its return codes; None: not answered yet
        self.finish = finish


class Pending(Generic[F]):
    """The futures of one client.

    Args:
        options: The options of the client.
        session: The session of the client.
        driver: The driver, which creates and settles futures.
        callbacks: The calls to make outside the lock.

    Attributes:
        sender: The sending half of the session.
        sent: The progress of sending QoS 0 messages.
        dropped: How many messages were dropped because the queue was full; see `Options.overflow`.
        expired: How many messages expired in the queue; see `Options.expire_after`.
        queues_directly: Whether a QoS 0 message needs only `sender.enqueue_packet`: the client has not ended, and
            `QueueFull` is raised when the queue is full, instead of dropping a message.
        flushes: The futures of `flush`, as (token, future) pairs: each waits for messages with lower tokens.
    """

    def __init__(self, options: Options, session: Session, driver: Driver[F], callbacks: Callbacks) -> None:
        self.sent: HighWaterMark[F] = HighWaterMark()
        self.dropped = self.expired = 0
        self._options = options
        self._session = session
        self._driver = driver
        self._callbacks = callbacks
        self.sender = session.sender
        self._make_future = driver.make_future
        self._make_receipt = driver.make_receipt
        self._settle = driver.settle
        self._drops_oldest = options.overflow == "drop_oldest"
        self._drops_newest = options.overflow == "drop_newest"
        self.ended = None
        self._futures: dict[int, F] = {}  # of messages of QoS 1 and 2, by token
        self._requests: dict[int, _Request[F]] = {}  # by token
        self.flushes: list[tuple[int, F]] = []

    @property
    def ended(self) -> Exception | None:
        """The error with which new futures fail, each with a copy; None while the client has not ended."""
        return self._ended

    @ended.setter
    def ended(self, error: Exception | None) -> None:
        self.queues_directly = False  # first: an exception of a signal handler may end this at any line
        self._ended = error
        self.queues_directly = error is None and not self._drops_oldest and not self._drops_newest

    def publish(self, message: Message, age: Age | None = None) -> tuple[int, F]:
        """Queue a message. Return its token, which is 0 if it will not be sent, and its future.

        Args:
            message: The message.
            age: When it was published, and how long it may wait; None for no limit.

        Raises:
            QueueFull: The limit of queued messages or bytes is reached; nothing has changed.
        """
        if not message.qos:
            return self._publish_packet(encode_publish(message.topic, message.payload, 0, message.retain), age)
        if self._ended is not None:
            return 0, self._settled(to_raise(self._ended))
        try:
            enqueue = self.sender.enqueue
            token = self._enqueue(enqueue, message) if self._drops_oldest else enqueue(message)
        except QueueFull as error:
            if not self._drops_newest:
                raise
            return 0, self._drop(error)
        if age is not None:
            self._session.limit_age(token, age)
        future = self._futures[token] = self._make_future()
        return token, future

    def expect(self, token: int) -> F:
        """Return the future of a QoS 1 or 2 message that was not queued; see `Sender.next_alone`."""
        future = self._futures[token] = self._make_future()
        return future

    def publish_message(self, message: Message, age: Age | None) -> F:
        """Queue a message as `publish` does. Return only its future."""
        return self.publish(message, age)[1]

    def publish_packet(self, packet: bytes) -> F:
        """Queue an encoded QoS 0 message. Return its future.

        Args:
            packet: The whole PUBLISH.

        Raises:
            QueueFull: The limit of queued messages or bytes is reached; nothing has changed.
        """
        if self._ended is None and not self._drops_oldest:
            try:
                token = self.sender.enqueue_packet(packet)
            except QueueFull as error:
                if not self._drops_newest:
                    raise
                return self._drop(error)
            return self._make_receipt(self.sent, token)
        return self._publish_packet(packet)[1]

    def _publish_packet(self, packet: bytes, age: Age | None = None) -> tuple[int, F]:
        if self._ended is not None:
            return 0, self._settled(to_raise(self._ended))
        try:
            token = self._enqueue(self.sender.enqueue_packet, packet)
        except QueueFull as error:
            if not self._drops_newest:
                raise
            return 0, self._drop(error)
        expires = age is not None and age.seconds != inf
        if age is not None and expires:
            self._session.limit_age(token, age)
        if not expires and not self._drops_oldest:
            return token, self._make_receipt(self.sent, token)
        future = self._make_future()
        self.sent.watch(token, future)  # so that it can be found and failed when its message is dropped
        return token, future

    def _settled(self, outcome: object) -> F:
        """Return a future that is done."""
        future = self._make_future()
        self._settle([future], outcome)
        return future

    def _drop(self, error: QueueFull) -> F:
        """Count a message that is not queued. Return its failed future."""
        self.dropped += 1
        # Its traceback refers to the caller's frame, which has the future: a cycle for each dropped message.
        return self._settled(error.with_traceback(None))

    def _enqueue(self, enqueue: Callable[[M], R], message: M) -> R:
        """Queue a message. With `overflow="drop_oldest"`, drop older messages if the queue is full."""
        while True:
            try:
                return enqueue(message)
            except QueueFull:
                if not self._drops_oldest:
                    raise
                token = self.sender.first_waiting
                assert token is not None
                # Settled first: an exception of a signal handler leaves no future without its message and its outcome.
                future = self._futures.get(token) or self.sent.watched(token)
                self.resolve(future, QueueFull("the message was dropped to queue newer ones"))
                self._futures.pop(token, None)
                self.sent.forget(token)
                self.dropped += 1
                self.sender.drop_oldest()

    def publish_safe(self, message: Message, age: Age | None = None) -> F:
        """Queue a message as `publish` does; with a store, commit it before returning.

        This also applies after the end of the client: then the future fails, but the message is in the store.

        Raises:
            QueueFull, StoreError: Nothing has changed.
        """
        if self._session.store is None:
            return self.publish(message, age)[1]
        if self._ended is not None and message.qos:
            ended, self.ended = self._ended, None
            try:
                future = self.publish_safe(message, age)
                self._settle([future], _kept(ended, self._options))
            finally:
                self.ended = ended
            return future
        token, future = self.publish(message, age)
        if message.qos and token:
            try:
                self._session.store.commit()
            except StoreError:
                self.withdraw(token)
                raise
        return future

    def withdraw(self, token: int) -> bool:
        """Withdraw a message. Return False if it has been sent, or cannot be deleted from the store."""
        try:
            if not self.sender.withdraw(token):
                return False
            self._futures.pop(token, None)
        except BaseException:  # an exception of a signal handler: a message that is withdrawn keeps no future
            if token not in self.sender.tokens:
                self._futures.pop(token, None)
            raise
        self.sent.forget(token)
        if self.flushes:
            self.check_flushes()
        if self._session.store is not None:
            try:
                self._session.store.commit()
            except StoreError:  # the message stays in the store, and a later process will send it
                return False
        return True

    def withdraw_future(self, future: Any) -> bool:
        """Withdraw the message of a future. Return whether it was possible, as `withdraw` does."""
        mark = getattr(future, "sent", None)
        if isinstance(mark, HighWaterMark):  # a receipt of a QoS 0 message
            if mark is not self.sent or not self.withdraw(future.token):
                return False
            future.withdrawn()
            return True
        # No generator expression: an exception of a signal handler while one is closed is only written to stderr.
        tokens = [token for token, known in self._futures.items() if known is future]
        token = tokens[0] if tokens else self.sent.find(future)
        return token is not None and self.withdraw(token)

    def subscribe(self, topic_filters: TopicFilters, qos: int) -> F:
        """Queue a subscription. Return a future of the granted QoS; for several Topic Filters, of the return codes.

        Raises:
            LocalProtocolError: A Topic Filter or a QoS is not valid; nothing has changed.
            QueueFull: Too many requests are not answered; nothing has changed.
        """
        wanted = [(entry, qos) if isinstance(entry, str) else _as_pair(entry) for entry in as_list(topic_filters)]
        Subscribe(1, tuple(wanted))  # check all of them before any is sent

        def finish(codes: list[int]) -> object:
            if not isinstance(topic_filters, str):
                return tuple(codes)
            return self._refusal(topic_filters) if codes[0] == FAILURE else codes[0]

        return self._request(self._session.subscribe, wanted, finish)

    def _refusal(self, topic_filter: str) -> SubscribeRejected:
        return SubscribeRejected(topic_filter, topic_filter in self._session.suspects.closed_over)

    def unsubscribe(self, topic_filters: str | Sequence[str]) -> F:
        """Queue a request to unsubscribe. Return a future of None.

        Raises:
            LocalProtocolError: A Topic Filter is not valid; nothing has changed.
            QueueFull: Too many requests are not answered; nothing has changed.
        """
        unwanted = as_list(topic_filters)
        Unsubscribe(1, tuple(unwanted))  # check all of them before any is sent

        def finish(codes: list[int]) -> object:
            refused = tuple(name for name, code in zip(unwanted, codes, strict=True) if code == FAILURE)
            return UnsubscribeRejected(refused) if refused else None

        return self._request(self._session.unsubscribe, unwanted, finish)

    def _request(
        self, send: Callable[[list[Any]], int], entries: list[Any], finish: Callable[[list[int]], object]
    ) -> F:
        """Queue the packets for the entries, at most `max_filters` in each. Return the future of them all."""
        request = _Request(self._make_future(), finish)
        if self._ended is not None:
            self._settle([request.future], to_raise(self._ended))
            return request.future
        size = self._options.max_filters
        try:
            for start in range(0, len(entries), size):
                token = send(entries[start : start + size])
                request.codes[token] = None
                self._requests[token] = request
        except QueueFull:
            self.withdraw_request(request.future)
            raise
        return request.future

    def withdraw_request(self, future: Any) -> bool:
        """Withdraw the packets of a request that were not sent. Return whether none of them was sent."""
        # Calls with the same timeout end in the order in which they began, so the first one is nearly always it.
        request = next(filter(lambda request: request.future is future, self._requests.values()), None)
        if request is None:
            return False
        count = 0
        for token in request.codes:
            if token in self._requests and self._session.withdraw_request(token):
                del self._requests[token]
                count += 1
        return count == len(request.codes)

    def flush(self) -> F:
        """Return a future that is done when all messages published so far are sent (QoS 0) or fully acknowledged."""
        future = self._make_future()
        if self._ended is not None:
            self._settle([future], to_raise(self._ended))
            return future
        self.flushes.append((self.sender.next_token(), future))
        self.check_flushes()
        return future

    def check_flushes(self) -> None:
        """Settle the futures of `flush` whose messages are complete."""
        oldest = self.sender.oldest
        done = [future for token, future in self.flushes if oldest is None or token < oldest]
        if done:
            self.flushes = [(token, future) for token, future in self.flushes if future not in done]
            self._callbacks.add(self._settle, done, None)

    # Results from the network.

    def delivered(self, tokens: list[int]) -> None:
        """Record that QoS 1 or 2 messages are completely acknowledged."""
        futures = self._futures
        done = [futures.pop(token) for token in tokens if token in futures]  # others are from an earlier process
        self._callbacks.add(self._settle, done, None)

    def rejected(self, token: int, error: PublishRejected) -> None:
        """Record that a message will not be sent again."""
        future = self._futures.pop(token, None)
        if future is None:  # an earlier process published it
            self.report(error)
        self.resolve(future, error)

    def fail_expired(self, tokens: Sequence[int], queued: bool = False) -> None:
        """Fail the futures of expired messages.

        Args:
            tokens: The tokens of the messages.
            queued: Whether they are still in the queue, and to be removed from it.
        """
        futures = [self._futures.get(token) or self.sent.watched(token) for token in tokens]
        known = [future for future in futures if future is not None]
        if known:
            error = MessageExpired("the message expired before it was sent (expire_after)")
            self._callbacks.add(self._settle, known, error)
        # Only now: an exception of a signal handler leaves no future without its message and its outcome.
        if queued:
            self.sender.take_out(tokens)
        self.expired += len(tokens)
        for token in tokens:
            self._futures.pop(token, None)
            self.sent.forget(token)
        if len(known) < len(tokens):  # the others were in the store, from an earlier process
            count = len(tokens) - len(known)
            self.report(MessageExpired(f"{count:,} stored messages expired before they were sent (expire_after)"))
        if self.flushes:
            self.check_flushes()
        if self._session.store is not None:
            try:
                self._session.store.commit()
            except StoreError:  # they stay in the store, where they expire again for a later process
                pass

    def note_sent(self, token: int) -> None:
        """Record that all QoS 0 messages up to a token were sent."""
        futures = self.sent.advance(token)
        if futures:
            self._callbacks.add(self._settle, futures, None)

    def answered(self, token: int, return_codes: Iterable[tuple[str, int]]) -> None:
        """Record the answer to one packet of a request."""
        request = self._requests.pop(token, None)
        if request is None:  # an exception of a signal handler interrupted the call before it was recorded
            return
        request.codes[token] = [return_code for _, return_code in return_codes]
        answered = [codes for codes in request.codes.values() if codes is not None]
        if len(answered) == len(request.codes):
            self.resolve(request.future, request.finish([code for codes in answered for code in codes]))

    def restored(self, return_codes: Iterable[tuple[str, int]]) -> None:
        """Report the subscriptions that the server refused to restore: there is no call that could fail."""
        for topic_filter, return_code in return_codes:
            if return_code == FAILURE:
                self.report(self._refusal(topic_filter))

    def report(self, error: MQTTError) -> None:
        """Report an error that does not belong to a call: log it, and call `on_error`."""
        self._callbacks.add(self._driver.log, WARNING, ("%s", error))
        if self._options.on_error is not None:
            self._callbacks.add(self._driver.call_back, self._options.on_error, error)

    def fail_lost(self, error: Exception) -> None:
        """Fail the calls whose messages and requests have left the session without an outcome, when a connection ends.

        A failure in this process, such as a `MemoryError`, has prevented or lost the event with the outcome.
        """
        kept = self.sender.tokens
        for token in [token for token in self._futures if token not in kept]:
            self.resolve(self._futures.pop(token), error)
        asked = {request.token for request in (*self._session.requests_sent.values(), *self._session.requests)}
        for token, request in list(self._requests.items()):
            if token not in asked:
                self.resolve(request.future, error)
                del self._requests[token]
        # The messages of a queued run share the mark, so it is kept until they are sent.
        if not any(isinstance(entry, Run) for entry in self.sender.queue):
            self._fail_unsent(error)
        if self.flushes:
            self.check_flushes()

    def _fail_unsent(self, error: Exception) -> None:
        """Fail the futures of all QoS 0 messages that were not sent."""
        self.sent.fail(error, lambda futures: self._callbacks.add(self._settle, futures, error))
        self.sent = HighWaterMark()

    def fail_all(self, error: Exception) -> None:
        """Fail all futures, and all that are created later.

        If an exception of a signal handler interrupts this, it can be called again.
        """
        self.ended = error
        error = to_raise(error)  # the futures share it, and nothing else stores it
        self._session.abandon(keep_sent=not self._options.clean_session)
        self._fail_unsent(error)
        requests = {id(request): request.future for request in self._requests.values()}
        fate = _kept(error, self._options)
        kept = self.sender.tokens
        for token, future in self._futures.items():
            self.resolve(future, fate if token in kept else error)
        for waiting in requests.values():
            self.resolve(waiting, error)
        for _, flushing in self.flushes:
            self.resolve(flushing, error)
        self._futures.clear()
        self._requests.clear()
        self.flushes.clear()

    def take_all(self, error: Exception) -> list[F]:
        """Remove and return all futures. The caller must fail them."""
        requests = {id(request): request.future for request in self._requests.values()}
        futures = [*self._futures.values(), *requests.values()]
        self.sent.fail(error, futures.extend)
        futures += [future for _, future in self.flushes]
        self.flushes.clear()
        self._futures.clear()
        self._requests.clear()
        self.sent = HighWaterMark()
        return futures

    def resolve(self, future: F | None, outcome: object) -> None:
        """Set the outcome of a future, if there is one, outside the lock."""
        if future is not None:
            self._callbacks.add(self._settle, [future], outcome)


def as_list(entries: Any) -> list[Any]:
    """Return the Topic Filters of a call as a list. A mapping is rejected.

    Raises:
        TypeError: The argument is neither a str nor an iterable of Topic Filters.
    """
    if isinstance(entries, str):
        return [entries]
    if isinstance(entries, (bytes, bytearray, Mapping)) or not isinstance(entries, Iterable):
        raise TypeError(f"Topic Filters must be a str or a list, not {type(entries).__name__}")
    return list(entries)


def _as_pair(entry: Any) -> tuple[str, int]:
    if not isinstance(entry, (tuple, list)) or len(entry) != 2:
        raise TypeError(f"each Topic Filter must be a str or a (Topic Filter, QoS) pair, not {entry!r}")
    return entry[0], entry[1]


def _kept(error: Exception, options: Options) -> Exception:
    """Return the error for a message that is not delivered but kept; it states when the message will be sent."""
    if options.store is not None:
        fate = "the store keeps the message, and a client with it will send it"
    else:
        fate = "the session keeps the message, and it is sent again when the client is opened again"
    kind = type(error) if isinstance(error, ConnectionClosed) else ConnectionClosed
    kept = kind(str(error))
    kept.fate, kept.__cause__ = fate, error
    return kept
