"""One call of `publish`: several messages with one outcome.

`Publication` gathers the futures of the messages, of whichever kind the driver makes, into one of the same kind. That
is done when all are; it fails with `PublishFailed` when at least one has.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from pubsub.errors import PublishFailed

__all__ = ["AnyFuture", "Publication", "Sent", "settle"]


class AnyFuture(Protocol):
    """What a `concurrent.futures.Future` and an `asyncio.Future` have in common."""

    def done(self) -> bool:
        """Tell whether there is an outcome."""

    def cancel(self) -> bool:
        """Give up."""

    def cancelled(self) -> bool:
        """Tell whether it was given up."""

    def exception(self) -> BaseException | None:
        """Tell why it failed."""

    def result(self) -> Any:
        """Tell the result."""

    def set_result(self, result: Any, /) -> None:
        """Set the outcome."""

    def set_exception(self, exception: Any, /) -> None:
        """Set the outcome."""

    def add_done_callback(self, function: Callable[[Any], object], /) -> None:
        """Call when there is an outcome."""


def settle(future: AnyFuture, error: BaseException | None = None) -> None:
    """Give a future its outcome; one that was cancelled stays so."""
    claim = getattr(future, "set_running_or_notify_cancel", None)  # where another thread could cancel it meanwhile
    if future.done() or (claim is not None and not claim()):
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


class Sent(NamedTuple):
    """A message that was handed to a driver.

    Attributes:
        future: of its delivery.
        withdraw: takes it back where it has not been sent, and tells whether it could.
    """

    future: AnyFuture
    withdraw: Callable[[], bool]


class Publication:
    """One call of `publish`.

    Args:
        future: that is to have the outcome.
        topics: how many topics the call has.

    Attributes:
        future: has the outcome: None, or `PublishFailed`.
        errors: topic -> why it failed, so far.
    """

    def __init__(self, future: Any, topics: int) -> None:
        self.future = future
        self.errors: dict[str, BaseException] = {}
        self._topics = topics
        self._pending: list[tuple[str, Sent]] = []
        self._left = 1  # the call itself, until `begin`
        self._accepted = 0
        self._lock = threading.Lock()

    def add(self, topic: str, send: Callable[[], Sent], explain: Callable[[Exception], Exception]) -> None:
        """Send one of the messages.

        Args:
            topic: of the message.
            send: sends it; what it raises is this topic's failure.
            explain: tells what an error of the connection is.
        """
        try:
            sent = send()
        except Exception as error:
            self.errors.setdefault(topic, error)
            return
        self._accepted += 1
        self._left += 1
        self._pending.append((topic, sent))
        future = sent.future

        def done(_: object) -> None:
            error: BaseException | None = None
            if future.cancelled():
                error = TimeoutError("it was given up")
            elif (failure := future.exception()) is not None:
                error = explain(failure) if isinstance(failure, Exception) else failure
            self._done(topic, error)

        future.add_done_callback(done)

    def begin(self) -> None:
        """Note that all are sent; from now on the outcome may come.

        Raises:
            PublishFailed: not one message was accepted.
        """
        if not self._accepted:
            raise PublishFailed(self.errors, self._topics)
        self.future.add_done_callback(lambda future: self.cancel() if future.cancelled() else None)
        self._done("", None)

    def expire(self, seconds: float) -> PublishFailed:
        """Give up what is not done, because the time is up, and tell what failed."""
        late = f"not delivered within {seconds:g} s"
        fates = {True: "it was not sent and will not be", False: "it was sent, and may still be delivered"}
        withdrawn = self.cancel()
        with self._lock:
            errors = dict(self.errors)
        for topic, taken_back in withdrawn:
            errors[topic] = TimeoutError(f"{late}; {fates[taken_back]}")
        return PublishFailed(errors, self._topics)

    def cancel(self) -> list[tuple[str, bool]]:
        """Take back what has not been sent. Returns what was not done, and whether it could be taken back."""
        not_done = [(topic, sent) for topic, sent in self._pending if not sent.future.done()]
        withdrawn = [(topic, sent.withdraw()) for topic, sent in not_done]
        for _, sent in not_done:
            sent.future.cancel()
        self.future.cancel()  # nobody is there to be told any more
        return withdrawn

    def _done(self, topic: str, error: BaseException | None) -> None:
        with self._lock:
            self._left -= 1
            if error is not None:
                self.errors.setdefault(topic, error)
            over = self._left == 0
        if over:
            settle(self.future, PublishFailed(self.errors, self._topics) if self.errors else None)
