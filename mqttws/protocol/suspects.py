"""Identification of the message or Topic Filter that makes the server close each connection, by sending it alone.

A server may close the connection instead of processing a packet (§4.8), because a message is too large for it or a
policy forbids the topic. QoS 1 requires that such a message is sent again on each connection, so it would end them all,
and no other message could get through. Therefore each end of a connection is recorded as evidence::

    ended with X unanswered                         X is one of many: everything is sent again as usual
    ended with X unanswered again                   from now on, unanswered messages and requests are sent one at a
                                                    time, each after the answer to the previous one, and the first
                                                    after the answer to a PINGREQ
    ended with only X unanswered, the first time    X is sent alone once more
    ended with only X unanswered, the second time   X is rejected, and removed from the session
    ended with only X unanswered, but late          the same, but X is rejected the 30th time

An end is late if it does not follow X immediately (see `probing`). A cluster without a leader, for example, receives
every message and closes the connection after a time-out: then X is not the cause, and must not be lost.

Only an end caused by the server or the network counts, and only if the server gives no other reason (a restart, a
session takeover, a timeout). The answer to the PINGREQ shows that the connection worked a moment before. The order of
messages never changes.
"""

from __future__ import annotations

from collections.abc import Iterable

from mqttws.errors import ConnectionBroken, ConnectionClosed, MQTTError
from mqttws.hints import Final

# The kind of request for a Topic Filter.
SUBSCRIBE: Final = "subscribe"
UNSUBSCRIBE: Final = "unsubscribe"

#: A suspect: the token of a message; or the kind of a request and a Topic Filter.
Key = int | tuple[str, str]

#: How many connections must have ended with only this suspect unanswered: immediate ends, and late ones.
ENOUGH, ENOUGH_LATE = 2, 30
#: WebSocket close codes with which a server gives a reason of its side: going away, restart, overload.
_OF_THE_SERVER = frozenset({1001, 1012, 1013})


def is_evidence(error: MQTTError | None) -> bool:
    """Return whether the end of a connection may have been caused by a message or request that was sent."""
    return type(error) in (ConnectionClosed, ConnectionBroken) and getattr(error, "code", None) not in _OF_THE_SERVER


class Suspects:
    """The evidence collected from the connections of one session.

    Attributes:
        cautious: Whether to send unanswered messages and requests one at a time.
        closed_over: The Topic Filters whose SUBSCRIBE was identified as the cause, until they are granted.
    """

    __slots__ = ("_before", "_counts", "cautious", "closed_over")

    def __init__(self) -> None:
        self.cautious = False
        self.closed_over: set[str] = set()
        self._before: frozenset[Key] = frozenset()  # what was unanswered when the last connection ended
        self._counts: dict[Key, int] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._before

    def note_end(self, unanswered: Iterable[Key], alone: Key | None, is_late: bool = False) -> bool:
        """Record that the server or the network ended a connection.

        Args:
            unanswered: The keys of the messages and requests that were not answered.
            alone: The key of the suspect that was sent alone; None if there was none.
            is_late: Whether the connection ended later, not immediately after that.

        Returns:
            Whether to reject that suspect.
        """
        now = frozenset(unanswered)
        self.cautious = self.cautious or bool(self._before & now)
        self._before = now
        if alone is None:
            return False
        weight = 1 if is_late else ENOUGH_LATE // ENOUGH
        count = self._counts[alone] = self._counts.get(alone, 0) + weight
        if count < ENOUGH_LATE:
            return False
        del self._counts[alone]
        return True

    def clear(self) -> None:
        """Record that all suspects have been answered."""
        self.cautious = False
        self._before = frozenset()
        self._counts.clear()
