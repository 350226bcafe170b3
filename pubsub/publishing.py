"""One call of `publish`: several messages with one outcome.

`Publication` combines the futures of the messages, of any kind that the client makes, into one. It is done when all
are done, and fails with `PublishFailed` if at least one has failed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mqttws import MQTTError, QueueFull, TimedOut
from pubsub.errors import PublishFailed
from pubsub.owned_lock import OwnedLock
from pubsub.providers.base import Provider
from pubsub.runtime import Future, settle

__all__ = ["FAILURES", "Delivery", "Publication", "Sent"]


#: The exceptions that are the failure of one message. Others, such as those of a signal handler, end the whole call.
FAILURES = (MQTTError, OSError)


class Delivery(NamedTuple):
    """One message to be sent by one provider."""

    provider: Provider
    topic: str
    payload: bytes
    qos: int
    retain: bool
    expire_after: float | None


class Sent(NamedTuple):
    """A message that was passed to a client.

    Attributes:
        future: The future of the delivery.
        withdraw: Withdraws the message if it has not been sent. Returns whether it did.
        explain: Returns the provider's explanation of an error of the future.
    """

    future: Future
    withdraw: Callable[[], bool]
    explain: Callable[[Exception], Exception]

    def failure(self) -> BaseException | None:
        """Return the error of the message, once the future is done; None if it was delivered."""
        if self.future.cancelled():
            return TimedOut("publishing was cancelled")
        error: BaseException | None = self.future.exception()
        return self.explain(error) if isinstance(error, Exception) else error


class Publication:
    """One call of `publish`.

    Args:
        topics: The number of topics of the call.

    Attributes:
        future: Gets the outcome: None, or `PublishFailed`. Must be set before `begin`.
    """

    future: Any

    def __init__(self, topics: int) -> None:
        self._topics = topics
        self._errors: dict[str, BaseException] = {}  # by topic
        self._pending: list[tuple[str, Sent]] = []
        self._left = 1  # messages without an outcome, and the call itself until `begin`
        self._lock: Any = OwnedLock()

    def add(self, delivery: Delivery, send: Callable[[Delivery], Sent]) -> QueueFull | None:
        """Send one of the messages. An exception that `send` raises is the failure of its topic.

        Returns:
            The error if the queue is full: the caller may wait and try again, or pass it to `fail`.
        """
        topic = delivery.topic
        try:
            sent = send(delivery)
        except QueueFull as error:
            return error
        except FAILURES as error:
            self.fail(topic, error)
            return None
        self._pending.append((topic, sent))
        if sent.future.done():  # without a callback the client's future stays cheap
            failure = sent.failure()
            if failure is not None:
                self.fail(topic, failure)
            return None
        with self._lock:
            self._left += 1
        sent.future.add_done_callback(lambda future: self._done(topic, sent.failure()))
        return None

    def fail(self, topic: str, error: BaseException) -> None:
        """Record the failure of a message that was not passed to a client."""
        with self._lock:
            self._errors.setdefault(topic, error)

    def begin(self) -> None:
        """Mark the publication as complete: all messages were added. From now on the future may get its outcome."""
        self._done("", None)

    @property
    def was_accepted(self) -> bool:
        """Whether at least one message was passed to a client."""
        return bool(self._pending)

    def failure(self) -> PublishFailed:
        """Return the failures so far."""
        with self._lock:
            return PublishFailed(self._errors, self._topics)

    def give_up(self, kind: type[MQTTError], failure: str) -> PublishFailed:
        """Cancel the messages without an outcome. Return the failures.

        Args:
            kind: The class of the error of each cancelled message.
            failure: The reason: a time-out, or a wait that could not end.
        """
        fates = {True: "it was not sent and will not be", False: "it was sent, and may still be delivered"}
        withdrawn = self.cancel()
        with self._lock:
            errors = dict(self._errors)
        for topic, was_withdrawn in withdrawn:
            errors[topic] = kind(f"{failure}; {fates[was_withdrawn]}")
        return PublishFailed(errors, self._topics)

    def cancel(self) -> list[tuple[str, bool]]:
        """Withdraw the messages that have not been sent.

        Returns:
            The topics of all messages without an outcome, and for each whether it was withdrawn.
        """
        not_done = [(topic, sent) for topic, sent in self._pending if not sent.future.done()]
        withdrawn = [(topic, sent.withdraw()) for topic, sent in not_done]
        for _, sent in not_done:
            sent.future.cancel()
        self.future.cancel()
        return withdrawn

    def _done(self, topic: str, error: BaseException | None) -> None:
        with self._lock:
            self._left -= 1
            if error is not None:
                self._errors.setdefault(topic, error)
            over, failed = self._left == 0, bool(self._errors)
        if over:
            settle(self.future, self.failure() if failed else None)
