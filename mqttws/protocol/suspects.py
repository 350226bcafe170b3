"""What a server ends the connection over: a message, or a Topic Filter of a request, found by sending it alone.

A server may close the connection on what it will not process (§4.8): a message that is too large for it, a topic that
a policy forbids. Sent again on each connection, as QoS 1 asks for, such a message would end them all, and with them
everything else. So the ends of connections are taken as evidence::

    ended with X unanswered                         X is one of many: everything is sent again as usual
    ended so again                                  from here on what is unanswered is sent alone, each after the
                                                    answer to the one before; the first after the answer to a PINGREQ
    ended with X alone unanswered, a first time     X is sent alone once more
    ended with X alone unanswered, a second time    X is rejected by name and leaves the session

Only an end that the server or the network made counts, and none that names another reason: a restart, a take-over, a
time-out. The PINGREQ shows that the connection worked a moment before. Messages keep their order throughout.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mqttws.errors import ConnectionBroken, ConnectionClosed, MQTTError

# What is asked for a Topic Filter.
SUBSCRIBE: Final = "subscribe"
UNSUBSCRIBE: Final = "unsubscribe"

#: What may be suspected: a message by its token; a request by what it asks and for which Topic Filter.
Key = int | tuple[str, str]

#: How often something must have been alone unanswered at the end of a connection.
ENOUGH = 2
#: WebSocket close codes by which a server speaks of itself: it goes away, restarts, is overloaded.
_OF_THE_SERVER = frozenset({1001, 1012, 1013})


def is_evidence(error: MQTTError | None) -> bool:
    """Return whether the end of a connection may have been caused by a message or request that was sent."""
    return type(error) in (ConnectionClosed, ConnectionBroken) and getattr(error, "code", None) not in _OF_THE_SERVER


class Suspects:
    """The evidence of one session, over its connections.

    Attributes:
        cautious: whether to send unanswered messages and requests one at a time.
        closed_over: the Topic Filters whose SUBSCRIBE was identified as the cause, until one is granted.
    """

    __slots__ = ("_before", "_counts", "cautious", "closed_over")

    def __init__(self) -> None:
        self.cautious = False
        self.closed_over: set[str] = set()
        self._before: frozenset[Key] = frozenset()  # what was unanswered when the last connection ended
        self._counts: dict[Key, int] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._before

    def note_end(self, unanswered: Iterable[Key], alone: Key | None) -> bool:
        """Note that the server or the network ended a connection.

        Args:
            unanswered: what was.
            alone: the one that was sent alone; None for none.

        Returns:
            Whether that one is to be given up.
        """
        now = frozenset(unanswered)
        self.cautious = self.cautious or bool(self._before & now)
        self._before = now
        if alone is None:
            return False
        count = self._counts[alone] = self._counts.get(alone, 0) + 1
        if count < ENOUGH:
            return False
        del self._counts[alone]
        return True

    def clear(self) -> None:
        """Note that everything that was suspected has been answered."""
        self.cautious = False
        self._before = frozenset()
        self._counts.clear()
