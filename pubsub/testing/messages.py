"""The record of published messages, for tests: waiting for messages, and assertions with readable failures."""

from __future__ import annotations

import difflib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pprint import pformat
from typing import Any, Final

import mqttws
from pubsub.codecs import JSON
from pubsub.owned_lock import Condition

#: The default maximum number of messages of a recorder.
KEEP = 10_000

_ANY: Final = object()


@dataclass(frozen=True, slots=True)
class Recorded:
    """A published message.

    Attributes:
        topic: The Topic Name.
        payload: The payload.
        qos: The QoS of the PUBLISH: 0, 1 or 2.
        retain: Whether it was published as a retained message.
        client_id: The client identifier of the publisher; "" for a message of the broker, or a will.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    client_id: str = ""

    @property
    def value(self) -> Any:
        """The payload as a JSON value; if it is not JSON, as text; if it is not text, as bytes."""
        return JSON.decode(self.payload)

    def __str__(self) -> str:
        publisher = f" from {self.client_id}" if self.client_id else ""
        return f"{self.topic}  QoS {self.qos}{'  retain' if self.retain else ''}  {self.value!r}{publisher}"


class Recorder:
    """The messages that were published to a broker, in order. Thread-safe.

    It keeps a limited number of messages. A question is an error if it depends on messages that were forgotten.
    Iteration and `len` are about the messages that it keeps.

    Args:
        keep: The maximum number of messages, at least 1; beyond it the oldest are forgotten.

    Raises:
        ValueError: `keep` is below 1.
    """

    def __init__(self, keep: int = KEEP) -> None:
        self._messages: deque[Recorded] = deque()
        self._added = 0  # how many were ever added
        self._cleared = 0  # how many of these when `clear` was called
        self._changed = Condition()
        self.keep = keep

    @property
    def keep(self) -> int:
        """The maximum number of messages. It can be set, before the messages come that are to be kept."""
        return self._keep

    @keep.setter
    def keep(self, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}; it must be at least 1")
        with self._changed:
            self._keep = keep
            self._messages = deque(self._messages, maxlen=keep)

    @property
    def forgotten(self) -> int:
        """The number of messages that were forgotten, since the last `clear` if there was one."""
        with self._changed:
            return self._added - self._cleared - len(self._messages)

    def add(self, message: Recorded) -> None:
        """Record a message.

        Args:
            message: The message.
        """
        with self._changed:
            self._messages.append(message)
            self._added += 1
            self._changed.notify_all()

    def clear(self) -> None:
        """Remove all messages."""
        with self._changed:
            self._messages.clear()
            self._cleared = self._added

    def __iter__(self) -> Iterator[Recorded]:
        with self._changed:
            return iter(list(self._messages))

    def __len__(self) -> int:
        return len(self._messages)

    def matching(self, topic_filter: str) -> list[Recorded]:
        """Return the messages whose topic matches a Topic Filter.

        Args:
            topic_filter: The Topic Filter.

        Raises:
            AssertionError: Messages were forgotten, and could be among them.
            LocalProtocolError: The Topic Filter is not valid.
        """
        search = _Search(self, topic_filter)
        search.look()
        if search.missed:
            raise AssertionError(f"not all messages are known{search.gap()}{self._listing()}")
        return search.found

    def wait_for(self, topic_filter: str, count: int = 1, timeout: float = 5.0) -> list[Recorded]:
        """Wait until a number of messages has been published.

        Args:
            topic_filter: The Topic Filter of the messages.
            count: The number of messages, at least 1.
            timeout: Seconds.

        Returns:
            All messages that match the Topic Filter, without those that were forgotten before the call.

        Raises:
            AssertionError: There were fewer when the time was up, or messages were forgotten that could be among them.
                The message lists the published ones.
            LocalProtocolError: The Topic Filter is not valid.
        """
        deadline = time.monotonic() + timeout
        search = _Search(self, topic_filter)
        search.look()
        while len(search.found) < count and search.wait(deadline):
            search.look()
        if len(search.found) < count:
            raise AssertionError(
                f"{len(search.found)} of {count} messages for {topic_filter!r} within {timeout:g} s"
                f"{search.gap()}{self._listing()}"
            )
        return search.found

    def assert_published(
        self,
        topic: str,
        value: Any = _ANY,
        *,
        qos: int | None = None,
        retain: bool | None = None,
        timeout: float = 5.0,
    ) -> Recorded:
        """Check that a message was published. Wait for it if necessary.

        Args:
            topic: The Topic Name, or a Topic Filter.
            value: The expected payload: bytes, text, or a JSON value; omit it to accept any.
            qos: The expected QoS, 0, 1 or 2; None: any.
            retain: Whether it must be a retained message; None: either.
            timeout: Seconds to wait.

        Returns:
            The first message that matches.

        Raises:
            AssertionError: There was no such message, or messages were forgotten that could be it. The error shows how
                the closest one differs, and lists the published messages.
            LocalProtocolError: The topic is not valid.
        """
        deadline = time.monotonic() + timeout
        search = _Search(self, topic)
        while True:
            for each in search.look():
                if not _differences(each, value, qos, retain):
                    return each
            if not search.wait(deadline):
                break
        gap = search.gap()
        if not search.found:
            raise AssertionError(f"nothing was published to {topic!r}{gap}{self._listing()}")
        nearest = min(search.found, key=lambda message: len(_differences(message, value, qos, retain)))
        found = "\n".join(_differences(nearest, value, qos, retain))
        raise AssertionError(f"what was published to {topic!r} differs{gap}:\n{found}{self._listing()}")

    def assert_nothing_published(self, topic_filter: str = "#") -> None:
        """Check that no message was published so far.

        Args:
            topic_filter: The Topic Filter of the messages.

        Raises:
            AssertionError: A message was published, or messages were forgotten that could be it. The error lists the
                messages.
            LocalProtocolError: The Topic Filter is not valid.
        """
        search = _Search(self, topic_filter)
        search.look()
        if search.found:
            raise AssertionError(f"{len(search.found)} messages were published to {topic_filter!r}{self._listing()}")
        if search.missed:
            raise AssertionError(
                f"whether a message was published to {topic_filter!r} is not known{search.gap()}{self._listing()}"
            )

    def _listing(self, most: int = 20) -> str:
        """Return the list of the last messages, for the end of an error message."""
        messages = list(self)
        if not messages:
            return "; nothing was published at all"
        shown = "".join(f"\n    {message}" for message in messages[-most:])
        return f"\nthe last {min(most, len(messages))} of {len(messages)} messages:{shown}"


class _Search:
    """The search for the messages whose topic matches a Topic Filter. It looks at each message once.

    Args:
        recorder: The messages.
        topic_filter: The Topic Filter.

    Attributes:
        found: The messages that match, of those it has looked at.
        missed: How many messages were forgotten before it could look at them.

    Raises:
        LocalProtocolError: The Topic Filter is not valid.
    """

    def __init__(self, recorder: Recorder, topic_filter: str) -> None:
        mqttws.check_topic_filter(topic_filter)
        self.found: list[Recorded] = []
        self.missed = 0
        self._recorder = recorder
        self._topic_filter = topic_filter
        self._seen = 0  # how many of the messages that were ever added it has seen, or missed

    def look(self) -> list[Recorded]:
        """Look at the messages that have come since the last look. Return those that match."""
        recorder = self._recorder
        with recorder._changed:
            kept, added = recorder._messages, recorder._added
            unseen = added - max(self._seen, recorder._cleared)
            new = list(islice(reversed(kept), unseen))  # from the end, so that it passes over none
        self.missed += unseen - len(new)
        self._seen = added
        matching = [each for each in reversed(new) if mqttws.topic_matches(self._topic_filter, each.topic)]
        self.found += matching
        return matching

    def wait(self, deadline: float) -> bool:
        """Wait until there are messages to look at. Return False if the deadline has passed."""
        recorder = self._recorder
        left = deadline - time.monotonic()
        with recorder._changed:
            return left > 0 and recorder._changed.wait_for(lambda: recorder._added > self._seen, left)

    def gap(self) -> str:
        """Return what is unknown because messages were missed, for an error message; "" if none were."""
        if not self.missed:
            return ""
        return (
            f"; {self.missed:,} older messages were forgotten, because only {self._recorder.keep:,} are kept: "
            "call `clear` earlier, or set `keep` to a higher number"
        )


def _are_equal(found: Any, value: Any) -> bool:
    """Return whether two JSON values are equal. In JSON, unlike in Python, true is not 1 and false not 0."""
    if isinstance(found, dict) and isinstance(value, dict):
        return found.keys() == value.keys() and all(_are_equal(found[name], value[name]) for name in found)
    if isinstance(found, list) and isinstance(value, list):
        return len(found) == len(value) and all(map(_are_equal, found, value))
    if isinstance(value, (int, float)) and isinstance(found, bool) is not isinstance(value, bool):
        return False
    return bool(found == value)


def _differences(message: Recorded, value: Any, qos: int | None, retain: bool | None) -> list[str]:
    """Return the differences between a message and the expected values, as lines of text."""
    lines = []
    if qos is not None and message.qos != qos:
        lines.append(f"    QoS {message.qos}, expected {qos}")
    if retain is not None and message.retain != retain:
        lines.append(f"    retain {message.retain}, expected {retain}")
    if value is not _ANY:
        found = message.payload if isinstance(value, bytes) else message.value
        if isinstance(value, str) and found != value:  # compare "21.5" as text, although the payload is also JSON
            found = message.payload.decode(errors="backslashreplace")
        if not _are_equal(found, value):
            pair = pformat(value).splitlines(), pformat(found).splitlines()
            lines += ["    " + line for line in difflib.unified_diff(*pair, "expected", "published", lineterm="")]
    return lines
