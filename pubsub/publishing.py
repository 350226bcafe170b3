"""One call of `publish`: several messages with one outcome.

`Publication` gathers the futures of the messages, of whichever kind the client makes, into one. It is done when all
are; it fails with `PublishFailed` when at least one has.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from mqttws import MQTTError, QueueFull, TimedOut
from pubsub.errors import PublishFailed
from pubsub.providers.base import Provider
from pubsub.runtime import Future, settle

__all__ = ["FAILURES", "Delivery", "Publication", "Sent"]


#: What makes one message fail. Anything else is not about it, the exception of a signal handler for example.
FAILURES = (MQTTError, OSError)


class Delivery(NamedTuple):
    """One message on its way through one provider."""

    provider: Provider
    topic: str
    payload: bytes
    qos: int
    retain: bool
    expire_after: float | None


class Sent(NamedTuple):
    """A message that was passed to a client.

    Attributes:
        future: Of its delivery.
        withdraw: Takes it back if it has not been sent. Return whether it did.
        explain: Returns what the error of the future means.
    """

    future: Future
    withdraw: Callable[[], bool]
    explain: Callable[[Exception], Exception]

    def failure(self) -> BaseException | None:
        """Return why it failed, once the future is done; None: it did not."""
        if self.future.cancelled():
            return TimedOut("it was cancelled")
        error: BaseException | None = self.future.exception()
        return self.explain(error) if isinstance(error, Exception) else error


class Publication:
    """One call of `publish`.

    Args:
        topics: How many topics the call has.

    Attributes:
        future: Gets the outcome: None, or `PublishFailed`. To be set before `begin`.
    """

    future: Any

    def __init__(self, topics: int) -> None:
        self._topics = topics
        self._errors: dict[str, BaseException] = {}  # topic -> why it failed
        self._pending: list[tuple[str, Sent]] = []
        self._left = 1  # messages without an outcome, and the call itself until `begin`
        self._lock = threading.Lock()

    def add(self, delivery: Delivery, send: Callable[[Delivery], Sent]) -> QueueFull | None:
        """Send one of the messages. What `send` raises is the failure of its topic.

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
        if sent.future.done():  # one that is not asked to call back stays a light one
            failure = sent.failure()
            if failure is not None:
                self.fail(topic, failure)
            return None
        with self._lock:
            self._left += 1
        sent.future.add_done_callback(lambda future: self._done(topic, sent.failure()))
        return None

    def fail(self, topic: str, error: BaseException) -> None:
        """Note that a message failed which was not passed to a client."""
        with self._lock:
            self._errors.setdefault(topic, error)

    def begin(self) -> None:
        """Note that all messages were added. The outcome may come from now on."""
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
        """Cancel what is incomplete, at the time-out or because it cannot complete. Return the failures."""
        fates = {True: "it was not sent and will not be", False: "it was sent, and may still be delivered"}
        withdrawn = self.cancel()
        with self._lock:
            errors = dict(self._errors)
        for topic, taken_back in withdrawn:
            errors[topic] = kind(f"{failure}; {fates[taken_back]}")
        return PublishFailed(errors, self._topics)

    def cancel(self) -> list[tuple[str, bool]]:
        """Withdraw what has not been sent. Return what was incomplete, and whether it was withdrawn."""
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
