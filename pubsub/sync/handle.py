"""The handle of a subscription, for programs with threads."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

import mqttws
from mqttws import TimedOut
from pubsub.runtime import late
from pubsub.subscription import Handle
from pubsub.sync.runtime import check_thread, outcome_of

__all__ = ["Subscription"]


class Subscription(Handle):
    """The handle of a subscription. As a context manager it ends the subscription."""

    def ready(self, timeout: float | None = None) -> dict[str, int]:
        """Wait for the server's answer.

        Args:
            timeout: Seconds; None: the `timeout` of the `PubSub`.

        Returns:
            Topic Filter -> the granted QoS, or 128 if the server refused it and granted others.

        Raises:
            SubscribeRejected: The server refused all Topic Filters.
            MQTTError: There is no connection, or the subscription has ended.
            TimedOut: There was no answer in time.
        """
        seconds = self._core.runtime.seconds(timeout)
        try:
            check_thread(self._core.settled, self._core.channels)
            outcome_of(self._core.settled, time.monotonic() + seconds, self._core.channels)
        except TimeoutError:
            raise TimedOut(late("the server has not answered the subscription", seconds, self._core.channels)) from None
        return self._core.granted()

    def unsubscribe(self, timeout: float | None = None) -> None:
        """End the subscription, and wait for the server's answer if one is due. A second call has no effect.

        The observer's `next` is not called any more; its `close` is called before this returns.

        Args:
            timeout: Seconds; None: the `timeout` of the `PubSub`.

        Raises:
            TimedOut: There was no answer in time. The subscription has ended nevertheless.
            UnsubscribeRejected: The server closes the connection because of the UNSUBSCRIBE. It may send further
                messages, which are discarded.
        """
        channels = list(self._core.channels)
        answers = self._core.end()
        seconds = self._core.runtime.seconds(timeout)
        deadline = time.monotonic() + seconds
        for answer in answers:
            try:
                check_thread(answer, channels)
                outcome_of(answer, deadline, ())
            except TimeoutError:
                raise TimedOut(late("there was no answer to the UNSUBSCRIBE", seconds, channels)) from None
            except mqttws.UnsubscribeRejected:
                raise
            except mqttws.MQTTError:
                pass  # the connection has ended, and the subscription with it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.unsubscribe()
        else:
            self._end()  # an exception, such as KeyboardInterrupt, does not wait for the server

    def _end(self) -> None:
        """End the subscription, without waiting for the server's answer."""
        self._core.end()
