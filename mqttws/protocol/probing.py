"""Probing: a client sends suspect messages and requests one at a time, to find out after which the server closes.

`suspects` describes the procedure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from mqttws.codec.publishing import Publish
from mqttws.protocol.outgoing import TOKEN, Outgoing
from mqttws.protocol.session import Request, Session
from mqttws.protocol.suspects import Key

#: Seconds, and round trips of the PINGREQ, within which a server that does not accept a packet closes the connection.
PROMPT, ROUND_TRIPS = 0.25, 2


class Probing:
    """The suspects of a session that are sent one at a time on one connection.

    Args:
        session: The session.
        resends: The messages to send again, with their tokens, in order.

    Attributes:
        proven: Whether the server has answered a PINGREQ on this connection.
        sent: The last suspect that was sent, with its packet identifier; None before the first.
        late_at: The time from which the end of the connection is late; None before a suspect is sent, and after that
            time.
        is_late: Whether that time has passed for the last suspect.
    """

    __slots__ = ("_left", "_prompt", "_resends", "_session", "_timed", "is_late", "late_at", "proven", "sent")

    def __init__(self, session: Session, resends: Iterable[tuple[int, Publish]]) -> None:
        self.proven = False
        self.sent: tuple[int, Outgoing | Request] | None = None
        self.late_at: float | None = None
        self.is_late = False
        self._prompt = PROMPT
        self._timed: tuple[int, Outgoing | Request] | None = None  # the suspect that `late_at` is for
        self._session = session
        self._resends = deque(resends)
        self._left = len(session.requests)  # later requests are no suspects, unless one of these is withdrawn

    def prove(self, round_trip: float) -> None:
        """Record that the server has answered a PINGREQ within some seconds. Suspects may be sent."""
        self.proven = True
        self._prompt = PROMPT + ROUND_TRIPS * round_trip

    def written(self, now: float) -> None:
        """Record that packets were written. For a suspect among them, the time begins."""
        if self.sent is not self._timed:
            self._timed, self.late_at, self.is_late = self.sent, now + self._prompt, False

    def expire(self, now: float) -> None:
        """Record that time has passed."""
        if self.late_at is not None and now >= self.late_at:
            self.late_at, self.is_late = None, True

    @property
    def alone(self) -> Key | None:
        """The suspect that was sent alone and is not answered; None if there is none."""
        if self.sent is None or not self._is_waiting():
            return None
        _, sent = self.sent
        if not isinstance(sent, Request):
            return sent[TOKEN]
        return sent.keys[0] if len(sent.keys) == 1 else None

    @property
    def over(self) -> bool:
        """Whether all suspects have been answered."""
        return not (self._resends or (self._left and self._session.requests) or self._is_waiting())

    def next(self) -> bytes | None:
        """Return the next packet; None if an answer is due first, no identifier is free, or none is left."""
        if not self.proven or self._is_waiting():
            return None
        requests = self._session.requests if self._left else ()
        if requests and (not self._resends or (requests[0].token or 0) < self._resends[0][0]):
            request = self._next_request()
            if request is not None:
                return request  # otherwise, no identifier is free before a message is acknowledged
        while self._resends:
            _, publish = self._resends.popleft()
            assert publish.packet_id is not None
            outgoing = self._session.sender.published(publish.packet_id)
            if outgoing is not None:  # None if a late answer has arrived
                self.sent = publish.packet_id, outgoing
                return publish.encode()
        return None

    def _next_request(self) -> bytes | None:
        session = self._session
        asked = session.requests[0].keys
        if len(asked) > 1 and any(key in session.suspects for key in asked):
            self._left += session.split_request() - 1
        ready = session.next_request()
        if ready is None:
            return None
        self._left -= 1
        self.sent = packet_id, request = ready
        return request.packet(packet_id).encode()

    def _is_waiting(self) -> bool:
        if self.sent is None:
            return False
        packet_id, sent = self.sent
        if isinstance(sent, Request):
            return packet_id in self._session.requests_sent
        return self._session.sender.published(packet_id) is not None
