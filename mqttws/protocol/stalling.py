"""A client's watch over the acknowledgements that are due on one connection.

A server that answers pings and acknowledges nothing would otherwise go unnoticed, and so would a dead one where the
keep alive is off. Only an acknowledgement counts as progress; any one does, for any message or request.
"""

from __future__ import annotations

from mqttws.protocol.events import Stalled
from mqttws.protocol.session import Session


class StallTimer:
    """The time since the last acknowledgement, while one is due.

    Args:
        session: the session whose acknowledgements are watched.
        timeout: seconds, above 0.
    """

    __slots__ = ("_due", "_reported", "_session", "_since", "_timeout")

    def __init__(self, session: Session, timeout: float) -> None:
        self._session = session
        self._timeout = timeout
        self._due = (0, 0, 0)
        self._since: float | None = None  # None while nothing is due
        self._reported = False

    def sent(self, now: float) -> None:
        """Record that packets were sent. Acknowledgements that are already due keep their deadline."""
        self._due = self._count()
        if self._since is None and any(self._due):
            self._since = now

    def received(self, now: float) -> None:
        """Note that packets came. If one of them was an acknowledgement, the time starts anew."""
        due = self._count()
        if due != self._due:
            self._due = due
            self.restart(now)

    def restart(self, now: float) -> None:
        """Let the time start anew, if anything is due."""
        self._since = now if any(self._due) else None
        self._reported = False

    @property
    def deadline(self) -> float | None:
        """When `expire` has something to report; None for never."""
        return None if self._since is None or self._reported else self._since + self._timeout

    def expire(self, now: float) -> Stalled | None:
        """Return the report that the time is over, once; otherwise None."""
        since, deadline = self._since, self.deadline
        if since is None or deadline is None or now < deadline:
            return None
        self._reported = True
        return Stalled(sum(self._due), now - since)

    def _count(self) -> tuple[int, int, int]:
        """Count the acknowledgements that are due: PUBACK or PUBREC, PUBCOMP, SUBACK or UNSUBACK."""
        return (*self._session.sender.phases, len(self._session.requests_sent))
