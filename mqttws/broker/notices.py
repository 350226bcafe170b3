"""Lines in the log about what clients do, at a bounded rate.

A client must not be able to write the log full. Each kind of line has a bound for each client, and one for all clients
together: some at once, then a few a minute. What is left out is counted, and the count stands in the next line of that
    kind
and client, or in a line by itself when nothing more comes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

log = logging.getLogger("mqttws.broker")

#: Lines of one kind about one client: so many at once, then one in so many seconds.
_BURST = 20
_INTERVAL = 10.0
#: The same for one kind, about all clients together.
_BURST_OF_KIND = 200
_INTERVAL_OF_KIND = 0.2
#: Seconds without anything more of a kind about a client after which what was left out is told.
_QUIET = 2.0
#: Kinds and clients that are remembered at once.
_MAX_KNOWN = 4_096


class _Bucket:
    """How many lines may be written now, and how many have been left out since the last one."""

    __slots__ = ("at", "left", "omitted")

    def __init__(self, burst: float, now: float) -> None:
        self.left = burst
        self.at = now
        self.omitted = 0

    def fill(self, burst: float, interval: float, now: float) -> bool:
        """Count the time that has passed. Returns whether a line may be written."""
        self.left = min(burst, self.left + (now - self.at) / interval)
        self.at = now
        return self.left >= 1


class Notices:
    """The lines of one broker.

    Args:
        clock: seconds, of any clock that only goes forward.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._kinds: dict[str, _Bucket] = {}
        self._clients: dict[tuple[str, str], _Bucket] = {}

    def say(
        self,
        kind: str,
        client: str,
        text: str,
        *arguments: object,
        level: int = logging.WARNING,
        error: BaseException | None = None,
    ) -> None:
        """Write a line, unless enough of its kind have been written.

        Args:
            kind: a few words; they also stand in the line that counts what was left out.
            client: whom it is about: a client identifier, or an address where there is none yet.
            text: see `logging`.
            arguments: see `logging`.
            level: see `logging`.
            error: whose traceback is to be written, too.
        """
        if not log.isEnabledFor(level):
            return
        now = self._clock()
        of_kind = self._kinds.get(kind)
        if of_kind is None:
            of_kind = self._kinds[kind] = _Bucket(_BURST_OF_KIND, now)
        bucket = self._clients.get((kind, client))
        if bucket is None:
            if len(self._clients) >= _MAX_KNOWN:
                self._forget()
            bucket = self._clients[kind, client] = _Bucket(_BURST, now)
        may = bucket.fill(_BURST, _INTERVAL, now)
        if not (of_kind.fill(_BURST_OF_KIND, _INTERVAL_OF_KIND, now) and may):
            bucket.omitted += 1
            return
        bucket.left -= 1
        of_kind.left -= 1
        if bucket.omitted:
            text += " (and %d lines of this kind about this client before, left out)"
            arguments += (bucket.omitted,)
            bucket.omitted = 0
        log.log(level, text, *arguments, exc_info=error)

    def sweep(self) -> None:
        """Tell what was left out about clients of whom nothing more has come for a while, and forget them."""
        now = self._clock()
        for (kind, client), bucket in list(self._clients.items()):
            if now - bucket.at >= _QUIET:
                self._close(kind, client, bucket)
                if now - bucket.at >= _INTERVAL * _BURST:
                    del self._clients[kind, client]

    def _forget(self) -> None:
        """Make place for others: one line counts what was left out about all that are forgotten."""
        omitted = sum(bucket.omitted for bucket in self._clients.values())
        self._clients.clear()
        if omitted:
            log.warning("%d lines about many clients were left out", omitted)

    @staticmethod
    def _close(kind: str, client: str, bucket: _Bucket) -> None:
        if bucket.omitted:
            log.warning("client %s: %d more lines were left out: %s", client, bucket.omitted, kind)
            bucket.omitted = 0
