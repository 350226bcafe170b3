"""Messages that came before their observer, of a session that the server had kept.

A server that kept a session (`clean_session=False`) sends what it held as soon as there is a connection, for every
Topic Filter of that session. A program subscribes to one after the other, so the first messages can come before their
observer. They wait here, unacknowledged, until it is there. Nothing else reaches `Held`: a message that the program
itself has unsubscribed from, or one of QoS 0, is dropped.

Acknowledgements leave in the order in which the messages came [MQTT-4.6.0-2], so one message that is never
acknowledged would hold up all others, and at last the server would send no more. That is why the wait is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mqttws import Publish

__all__ = ["Held"]


class Held:
    """The messages that wait, in the order in which they came.

    Args:
        most_bytes: of topics and payloads. A single message may be larger.
        seconds: that a message waits.
    """

    def __init__(self, most_bytes: int, seconds: float) -> None:
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._waiting: deque[tuple[float, Publish]] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, publish: Publish, now: float) -> bool:
        """Keep a message. Returns False, and changes nothing, if there is no space for it."""
        size = _size(publish)
        if self._waiting and self._bytes + size > self._most_bytes:
            return False
        self._waiting.append((now + self._seconds, publish))
        self._bytes += size
        return True

    def claim(self, is_wanted: Callable[[str], bool]) -> list[Publish]:
        """Take out the messages whose topic is wanted now."""
        claimed, left = [], deque[tuple[float, Publish]]()
        for entry in self._waiting:
            if is_wanted(entry[1].topic):
                claimed.append(entry[1])
                self._bytes -= _size(entry[1])
            else:
                left.append(entry)
        self._waiting = left
        return claimed

    def expire(self, now: float) -> list[Publish]:
        """Take out the messages that have waited long enough."""
        expired = []
        while self._waiting and self._waiting[0][0] <= now:
            publish = self._waiting.popleft()[1]
            self._bytes -= _size(publish)
            expired.append(publish)
        return expired

    @property
    def next_deadline(self) -> float | None:
        """When `expire` will take out the next message; None if nothing waits."""
        return self._waiting[0][0] if self._waiting else None

    def clear(self) -> None:
        """Forget all messages: the server sends them again in the next connection."""
        self._waiting.clear()
        self._bytes = 0


def _size(publish: Publish) -> int:
    return len(publish.topic.encode()) + len(publish.payload)
