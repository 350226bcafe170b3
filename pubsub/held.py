"""Messages that came before their observer, of a session that the server had kept.

A server that kept a session (`clean_session=False`) sends what it held as soon as there is a connection, for every
Topic Filter of that session. A program subscribes to one after the other, so the first messages can come before their
observer. They wait here, unacknowledged, until it is there. Nothing else reaches `Held`: a message that the program
itself has unsubscribed from, or one of QoS 0, is dropped.

Acknowledgements leave in the order in which the messages came [MQTT-4.6.0-2], so one message that is never
acknowledged would hold up all others, and at last the server would send no more. That is why there is one time for all
of them, which begins with the first connection: a program has its observers by then. What comes later without an
observer is not held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

from mqttws import Publish

__all__ = ["Held"]


class Held:
    """The messages that wait, in the order in which they came.

    Args:
        most_bytes: Of topics and payloads. A single message may be larger.
        seconds: That messages wait, from the first connection.
    """

    def __init__(self, most_bytes: int, seconds: float) -> None:
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._until = inf
        self._waiting: deque[Publish] = deque()
        self._bytes = 0

    def begin(self, now: float) -> bool:
        """Begin the time. Return False if it had begun, or never ends."""
        if self._until < inf or self._seconds == inf:
            return False
        self._until = now + self._seconds
        return True

    def is_over(self, now: float) -> bool:
        """Return whether no more messages are held."""
        return now >= self._until

    def add(self, publish: Publish) -> bool:
        """Keep a message. Return False, and change nothing, if there is no space for it."""
        size = _size(publish)
        if self._waiting and self._bytes + size > self._most_bytes:
            return False
        self._waiting.append(publish)
        self._bytes += size
        return True

    def claim(self, is_wanted: Callable[[str], bool]) -> list[Publish]:
        """Remove and return the messages whose topic has a subscriber now."""
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
        """Take out all messages."""
        taken = list(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        return taken


def _size(publish: Publish) -> int:
    return len(publish.topic.encode()) + len(publish.payload)
