"""The pace at which a resumed session gets the messages that were stored for it; see `Limits.stored_rate`.

They leave one by one, at even intervals, and newer messages of QoS 1 and 2 only after them: messages keep their order
[MQTT-4.6.0-6]. The packets that were in flight have been sent again already [MQTT-4.4.0-1]; they count as well, so the
first of the others waits until their time has passed.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mqttws.protocol.sending import Sender


class StoredPace:
    """The pace of one connection, from now until all stored messages are sent, or to `stop`.

    Args:
        loop: The event loop.
        sender: The messages of the session. Nothing has been sent on this connection but those in flight.
        rate: Messages per second, above 0.
        wake: Schedules a write.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sender: Sender, rate: float, wake: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._sender = sender
        self._interval = 1 / rate
        self._wake = wake
        self._newer = sender.next_token()  # what is enqueued from now on is not stored
        sender.allowance = 0.0
        self._timer = loop.call_later(sender.in_flight * self._interval, self._next)

    def _next(self) -> None:
        """Let one message leave, or all if no stored one is left."""
        first = self._sender.first_waiting
        if first is None or first > self._newer:
            self._sender.allowance = inf
        else:
            self._sender.allowance = 1.0
            self._timer = self._loop.call_later(self._interval, self._next)
        self._wake()

    def stop(self) -> None:
        """Let the session's messages leave without this pace, on its next connection."""
        self._timer.cancel()
        self._sender.allowance = inf
