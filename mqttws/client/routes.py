"""The callbacks of a client by Topic Filter, and the lookup of those that match a message."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from mqttws.codec.publishing import Publish
from mqttws.codec.topics import TopicTree, check_topic_filter
from mqttws.errors import LocalProtocolError

Callback = Callable[[Publish], object]

_SHARE = "$share/"


class Routes:
    """The callbacks of one client, each for a Topic Filter. Only the owner of the client's core may use it.

    A call that an exception of a signal handler has interrupted can be repeated.
    """

    def __init__(self) -> None:
        self._numbers = count()
        # Topic Filter -> its callbacks, each with the number that gives the order in which they were added.
        self.entries: dict[str, list[tuple[int, Callback]]] = {}
        self._tree: TopicTree[list[tuple[int, Callback]]] = TopicTree()

    def __bool__(self) -> bool:
        """Return whether there are any callbacks."""
        return bool(self.entries)

    def add(self, topic_filter: str, callback: Callback) -> None:
        """Add a callback for a Topic Filter. Adding the same one again has no effect.

        Raises:
            LocalProtocolError: The Topic Filter is not valid.
        """
        matched = _matched(topic_filter)
        entries = self.entries.get(topic_filter, [])
        if all(known != callback for _, known in entries):
            entries.append((next(self._numbers), callback))
        self._tree.set(matched, topic_filter, entries)
        self.entries[topic_filter] = entries

    def remove(self, topic_filter: str, callback: Callback | None) -> None:
        """Remove a callback of a Topic Filter, or all of them (None). Removing an unknown one has no effect.

        Raises:
            LocalProtocolError: The Topic Filter is not valid.
        """
        matched = _matched(topic_filter)
        entries = self.entries.get(topic_filter, [])
        entries[:] = [entry for entry in entries if callback is not None and entry[1] != callback]
        if not entries:
            self._tree.discard(matched, topic_filter)
            self.entries.pop(topic_filter, None)

    def takers(self, topic: str) -> list[Callback]:
        """Return the callbacks that match a topic, each once, in the order in which they were added."""
        callbacks: list[Callback] = []
        for _, callback in sorted(
            (entry for _, entries in self._tree.match(topic) for entry in entries), key=lambda entry: entry[0]
        ):
            if callback not in callbacks:
                callbacks.append(callback)
        return callbacks


def _matched(topic_filter: str) -> str:
    """Return the filter to compare topics with: the last part of a shared subscription, `$share/<group>/<filter>`.

    Raises:
        LocalProtocolError: The Topic Filter is not valid.
    """
    check_topic_filter(topic_filter)
    if not topic_filter.startswith(_SHARE):
        return topic_filter
    group, _, matched = topic_filter.removeprefix(_SHARE).partition("/")
    if not group or not matched or "+" in group or "#" in group:
        raise LocalProtocolError(
            f"{topic_filter!r} is ill-formed: a shared subscription is $share/<group>/<filter>", "MQTT-4.7.1-1"
        )
    return matched
