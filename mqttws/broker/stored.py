"""A rate limit for sending the messages that were stored for a resumed session; see `Limits.stored_rate`.

Stored messages are sent one by one, at equal intervals. Newer QoS 1 and 2 messages are sent after them, because
messages keep their order [MQTT-4.6.0-6]. The packets that were in flight have been sent again already [MQTT-4.4.0-1];
they count as well, so the first stored message is sent after an interval for each of them.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mqttws.protocol.sending import Sender


class StoredPace:
    """The rate limit of one connection, from now until all stored messages are sent, or until `stop`.

    Args:
        loop: The event loop.
        sender: The messages of the session. On this connection only those in flight have been sent.
        rate: Messages per second, above 0.
        wake: A function that schedules a write.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sender: Sender, rate: float, wake: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._sender = sender
        self._interval = 1 / rate
        self._wake = wake
        self._newer = sender.next_token()  # messages with higher tokens are newer than the stored ones
        sender.allowance = 0.0
        self._timer = loop.call_later(sender.in_flight * self._interval, self._next)

    def _next(self) -> None:
        """Allow the next message, or all if no stored one is left."""
        first = self._sender.first_waiting
        if first is None or first > self._newer:
            self._sender.allowance = inf
        else:
            self._sender.allowance = 1.0
            self._timer = self._loop.call_later(self._interval, self._next)
        self._wake()

    def stop(self) -> None:
        """End the rate limit, so that it does not apply to the session's next connection."""
        self._timer.cancel()
        self._sender.allowance = inf
