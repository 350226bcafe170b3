"""Detection of a server that stops sending acknowledgements, for one connection of a client.

Pings do not detect a server that answers them but acknowledges nothing, nor any failure if the keep alive is off. Only
an acknowledgement counts as progress, but of any message or request.
"""

from __future__ import annotations

from mqttws.protocol.events import Stalled
from mqttws.protocol.session import Session


class StallTimer:
    """The time since the last acknowledgement, while one is due.

    Args:
        session: The session of the messages and requests.
        timeout: Seconds without an acknowledgement after which to report, above 0.
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
        """Record that packets were received. If one was an acknowledgement, restart the time."""
        due = self._count()
        if due != self._due:
            self._due = due
            self.restart(now)

    def restart(self, now: float) -> None:
        """Restart the time, if any acknowledgement is due."""
        self._since = now if any(self._due) else None
        self._reported = False

    @property
    def deadline(self) -> float | None:
        """The time at which `expire` will report; None if it will not."""
        return None if self._since is None or self._reported else self._since + self._timeout

    def expire(self, now: float) -> Stalled | None:
        """Return the event to report if the time has run out, once; otherwise None."""
        since, deadline = self._since, self.deadline
        if since is None or deadline is None or now < deadline:
            return None
        self._reported = True
        return Stalled(sum(self._due), now - since)

    def _count(self) -> tuple[int, int, int]:
        """Return the number of acknowledgements due: PUBACK or PUBREC, PUBCOMP, SUBACK or UNSUBACK."""
        return (*self._session.sender.phases, len(self._session.requests_sent))
