"""Messages of a kept session that arrive before their observers have subscribed.

A server that has kept a session (`clean_session=False`) sends its stored messages as soon as there is a connection, for
every Topic Filter of that session. A program makes its subscriptions one after the other, so the first messages can
arrive before their observer exists. They are held here, unacknowledged, until it does. No other message is held: one
of QoS 0, or for a Topic Filter from which the program has unsubscribed, is dropped.

Acknowledgements are sent in the order in which the messages arrived [MQTT-4.6.0-2]. So one message that is never
acknowledged would delay all others, until the server sends no more. That is why there is one time limit for all
messages. It begins with the first connection, and a program is expected to have its observers by then. What arrives
later without an observer is not held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

from mqttws import Publish

__all__ = ["Held"]


class Held:
    """The held messages, in the order in which they arrived.

    Args:
        most_bytes: The maximum bytes of topics and payloads. A single message may be larger.
        seconds: The time for which messages are held, from the first connection.
    """

    def __init__(self, most_bytes: int, seconds: float) -> None:
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._until = inf
        self._waiting: deque[Publish] = deque()
        self._bytes = 0

    def begin(self, now: float) -> bool:
        """Start the time limit. Return False if it was started before, or is infinite."""
        if self._until < inf or self._seconds == inf:
            return False
        self._until = now + self._seconds
        return True

    def is_over(self, now: float) -> bool:
        """Return whether the time is up, so that no more messages are held."""
        return now >= self._until

    def add(self, publish: Publish) -> bool:
        """Hold a message. Return False, and change nothing, if there is no space for it."""
        size = _size(publish)
        if self._waiting and self._bytes + size > self._most_bytes:
            return False
        self._waiting.append(publish)
        self._bytes += size
        return True

    def claim(self, is_wanted: Callable[[str], bool]) -> list[Publish]:
        """Remove and return the messages whose topic has a subscription now."""
        claimed, left = [], deque[Publish]()
        for publish in self._waiting:
            if is_wanted(publish.topic):
                claimed.append(publish)
                self._bytes -= _size(publish)
            else:
                left.append(publish)
        self._waiting = left
        return claimed

    def take_all(self) -> list[Publish]:
        """Remove and return all messages."""
        taken = list(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        return taken


def _size(publish: Publish) -> int:
    return len(publish.topic.encode()) + len(publish.payload)
