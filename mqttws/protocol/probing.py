"""A client's connection on which what is suspected is sent alone, one thing after the other; see `suspects`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from mqttws.codec.publishing import Publish
from mqttws.protocol.outgoing import TOKEN, Outgoing
from mqttws.protocol.session import Request, Session
from mqttws.protocol.suspects import Key


class Probing:
    """Sends what is suspected of a session on one connection, one thing after the other.

    Args:
        session: to be sent.
        resends: the messages that are to be sent again, with their tokens, in order.

    Attributes:
        proven: whether the connection has shown that it works.
    """

    __slots__ = ("_alone", "_left", "_resends", "_session", "_waits_for", "proven")

    def __init__(self, session: Session, resends: Iterable[tuple[int, Publish]]) -> None:
        self.proven = False
        self._session = session
        self._resends = deque(resends)
        self._left = len(session.requests)  # those that come later are not suspected
        self._alone: Key | None = None
        self._waits_for: tuple[int, Outgoing | Request] | None = None

    @property
    def alone(self) -> Key | None:
        """What was sent alone and is not answered; None for nothing."""
        return self._alone if self._is_waiting() else None

    @property
    def message(self) -> tuple[int, Outgoing] | None:
        """The message that was sent last, with its packet identifier; None for none, or where that was a request."""
        if self._waits_for is None or isinstance(self._waits_for[1], Request):
            return None
        return self._waits_for[0], self._waits_for[1]

    @property
    def over(self) -> bool:
        """Whether there is nothing left."""
        return not (self._resends or self._left or self._is_waiting())

    def next(self) -> bytes | None:
        """Take the next packet; None where an answer must come first, no identifier is free, or nothing is left."""
        if not self.proven or self._is_waiting():
            return None
        if self._left and (not self._resends or (self._session.requests[0].token or 0) < self._resends[0][0]):
            request = self._next_request()
            if request is not None:
                return request  # without an identifier it waits until a message gives one back
        while self._resends:
            token, publish = self._resends.popleft()
            assert publish.packet_id is not None
            outgoing = self._session.sender.published(publish.packet_id)
            if outgoing is not None and outgoing[TOKEN] == token:  # a late answer may have come to it
                self._alone = token
                self._waits_for = publish.packet_id, outgoing
                return publish.encode()
        return None

    def _next_request(self) -> bytes | None:
        session = self._session
        first = session.requests[0]
        if len(first.subscribe) > 1 and any(name in session.suspects for name, _ in first.subscribe):
            self._left += session.split_request() - 1
        ready = session.next_request()
        if ready is None:
            return None
        packet_id, request = ready
        self._left -= 1
        self._alone = request.subscribe[0][0] if len(request.subscribe) == 1 else None
        self._waits_for = packet_id, request
        return request.packet(packet_id).encode()

    def _is_waiting(self) -> bool:
        if self._waits_for is None:
            return False
        packet_id, sent = self._waits_for
        if isinstance(sent, Request):
            return self._session.requests_sent.get(packet_id) is sent
        return self._session.sender.published(packet_id) == sent
