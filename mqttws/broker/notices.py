"""Log lines about clients, at a bounded rate.

A client must not be able to fill the log. For each kind of line there is a limit per client and a limit for all
clients: a burst, then a few lines per minute. Suppressed lines are counted. The next line of the same kind and client
contains the count; if there is none for a while, the count gets its own line.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

log = logging.getLogger("mqttws.broker")

#: Lines of one kind about one client: a burst, then one line per interval in seconds.
_BURST = 20
_INTERVAL = 10.0
#: The same for one kind, about all clients together.
_BURST_OF_KIND = 200
_INTERVAL_OF_KIND = 0.2
#: Seconds without a further line of a kind about a client, after which the count of suppressed lines is logged.
_QUIET = 2.0
#: The maximum number of (kind, client) pairs to keep track of.
_MAX_KNOWN = 4_096


class _Bucket:
    """A token bucket of lines, with the number of lines suppressed since the last one."""

    __slots__ = ("at", "left", "omitted")

    def __init__(self, burst: float, now: float) -> None:
        self.left = burst
        self.at = now
        self.omitted = 0

    def fill(self, burst: float, interval: float, now: float) -> bool:
        """Add tokens for the time that has passed. Return whether a line may be written."""
        self.left = min(burst, self.left + (now - self.at) / interval)
        self.at = now
        return self.left >= 1


class Notices:
    """The rate-limited log of one broker.

    Args:
        clock: Returns the time in seconds; must be monotonic.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._kinds: dict[str, _Bucket] = {}
        self._clients: dict[tuple[str, str], _Bucket] = {}

    def log(
        self,
        kind: str,
        client: str,
        text: str,
        *arguments: object,
        level: int = logging.WARNING,
        error: BaseException | None = None,
    ) -> None:
        """Write a line, unless the rate of its kind is exceeded.

        Args:
            kind: A few words that name the kind; also used in the line that counts suppressed lines.
            client: The client identifier, or the address of a client that has none yet.
            text: See `logging`.
            arguments: See `logging`.
            level: See `logging`.
            error: An exception whose traceback to log as well.
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
            text += " (%d earlier lines of this kind about this client were suppressed)"
            arguments += (bucket.omitted,)
            bucket.omitted = 0
        log.log(level, text, *arguments, exc_info=error)

    def sweep(self) -> None:
        """Log the counts of suppressed lines about clients that have been quiet for a while, and forget these."""
        now = self._clock()
        for (kind, client), bucket in list(self._clients.items()):
            if now - bucket.at >= _QUIET:
                self._close(kind, client, bucket)
                if now - bucket.at >= _INTERVAL * _BURST:
                    del self._clients[kind, client]

    def _forget(self) -> None:
        """Drop all entries to make space; log the total of suppressed lines."""
        omitted = sum(bucket.omitted for bucket in self._clients.values())
        self._clients.clear()
        if omitted:
            log.warning("%d lines about several clients were suppressed", omitted)

    @staticmethod
    def _close(kind: str, client: str, bucket: _Bucket) -> None:
        if bucket.omitted:
            log.warning("client %s: %d more lines were suppressed: %s", client, bucket.omitted, kind)
            bucket.omitted = 0
