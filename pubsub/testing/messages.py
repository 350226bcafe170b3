"""The messages published at a broker, for tests: waiting, counting, and readable assertion failures."""

from __future__ import annotations

import difflib
import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pprint import pformat
from typing import Any, Final

import mqttws

#: How many messages a recorder keeps.
KEEP = 10_000

_ANY: Final = object()


@dataclass(frozen=True, slots=True)
class Recorded:
    """A message that was published.

    Attributes:
        topic: Its Topic Name.
        payload: Its bytes.
        qos: As the publisher sent it.
        retain: Whether the broker was to keep it.
        client_id: The publisher's; "" for the broker's own and for a will.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    client_id: str = ""

    @property
    def value(self) -> Any:
        """The payload as JSON, else as text, else as bytes."""
        try:
            text = self.payload.decode()
        except UnicodeDecodeError:
            return self.payload
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text

    def __str__(self) -> str:
        publisher = f" from {self.client_id}" if self.client_id else ""
        return f"{self.topic}  QoS {self.qos}{'  retain' if self.retain else ''}  {self.value!r}{publisher}"


class Recorder:
    """The messages that were published at a broker, in order. Any thread may ask.

    Args:
        keep: How many messages; the oldest are forgotten first.
    """

    def __init__(self, keep: int = KEEP) -> None:
        self._messages: deque[Recorded] = deque(maxlen=keep)
        self._changed = threading.Condition()

    def add(self, message: Recorded) -> None:
        """Record a message."""
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()

    def clear(self) -> None:
        """Forget all messages."""
        with self._changed:
            self._messages.clear()

    def __iter__(self) -> Iterator[Recorded]:
        with self._changed:
            return iter(list(self._messages))

    def __len__(self) -> int:
        return len(self._messages)

    def matching(self, topic_filter: str) -> list[Recorded]:
        """Return the messages whose topic matches a Topic Filter."""
        mqttws.check_topic_filter(topic_filter)
        return [message for message in self if mqttws.topic_matches(topic_filter, message.topic)]

    def wait_for(self, topic_filter: str, count: int = 1, timeout: float = 5.0) -> list[Recorded]:
        """Wait until so many messages have been published, and return them all.

        Args:
            topic_filter: Of their topics.
            count: At least 1.
            timeout: Seconds.

        Raises:
            AssertionError: There were fewer when the time was up; it lists what there was.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while len(found := self.matching(topic_filter)) < count:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
        if len(found) < count:
            raise AssertionError(
                f"{len(found)} of {count} messages for {topic_filter!r} within {timeout:g} s{self._listing()}"
            )
        return found

    def assert_published(
        self,
        topic: str,
        value: Any = _ANY,
        *,
        qos: int | None = None,
        retain: bool | None = None,
        timeout: float = 5.0,
    ) -> Recorded:
        """Check that a message was published, waiting for it. Return it.

        Args:
            topic: Its Topic Name, or a Topic Filter.
            value: Its payload: bytes, text, or what JSON holds; left out: any.
            qos: 0, 1 or 2; None: any.
            retain: None: any.
            timeout: Seconds to wait.

        Raises:
            AssertionError: None was; it shows what differs in the nearest one, and what there was.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                candidates = self.matching(topic)
                for message in candidates:
                    if not _differences(message, value, qos, retain):
                        return message
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
        if not candidates:
            raise AssertionError(f"nothing was published to {topic!r}{self._listing()}")
        nearest = min(candidates, key=lambda message: len(_differences(message, value, qos, retain)))
        found = "\n".join(_differences(nearest, value, qos, retain))
        raise AssertionError(f"what was published to {topic!r} differs:\n{found}{self._listing()}")

    def assert_nothing_published(self, topic_filter: str = "#") -> None:
        """Check that nothing was published so far.

        Raises:
            AssertionError: Something was.
        """
        found = self.matching(topic_filter)
        if found:
            raise AssertionError(f"{len(found)} messages were published to {topic_filter!r}{self._listing()}")

    def _listing(self, most: int = 20) -> str:
        """Show the last messages, for the end of an error."""
        messages = list(self)
        if not messages:
            return "; nothing was published at all"
        shown = "".join(f"\n    {message}" for message in messages[-most:])
        return f"\nthe last {min(most, len(messages))} of {len(messages)} messages:{shown}"


def _differences(message: Recorded, value: Any, qos: int | None, retain: bool | None) -> list[str]:
    """Return the differences between a message and the expected values, as lines of text."""
    lines = []
    if qos is not None and message.qos != qos:
        lines.append(f"    QoS {message.qos}, expected {qos}")
    if retain is not None and message.retain != retain:
        lines.append(f"    retain {message.retain}, expected {retain}")
    if value is not _ANY:
        found = message.payload if isinstance(value, bytes) else message.value
        if isinstance(value, str) and found != value:  # "21.5" is text, though it would be JSON, too
            found = message.payload.decode(errors="backslashreplace")
        if found != value:
            pair = pformat(value).splitlines(), pformat(found).splitlines()
            lines += ["    " + line for line in difflib.unified_diff(*pair, "expected", "published", lineterm="")]
    return lines
