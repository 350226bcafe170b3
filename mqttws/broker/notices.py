"""Log lines that clients cause: their rate and their length are bounded.

A client must not be able to fill the log. For each kind of line there is a limit per client and a limit for all
clients: a burst, then a few lines per minute. Suppressed lines are counted. The next line of the same kind and client
contains the count; if there is none for a while, the count gets its own line, together with those of other clients.
What a line quotes is shortened. Lines that no client can cause are written without `Notices`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from traceback import format_exception

log = logging.getLogger("mqttws.broker")

#: Lines of one kind about one client: a burst, then one line per interval in seconds.
_BURST = 20
_INTERVAL = 10.0
#: The same for one kind, about all clients together.
_BURST_OF_KIND = 200
_INTERVAL_OF_KIND = 0.2
#: Seconds without a further line of a kind about a client, after which the count of suppressed lines is logged.
_QUIET = 2.0
#: The maximum number of characters of each argument of a line, and of a traceback, whose last line can quote a client.
#: Reasons of authorizers have some hundred.
_QUOTED = 1_000
_TRACEBACK = 16_000
#: The maximum number of (kind, client) pairs to keep track of.
_MAX_KNOWN = 4_096


def bounded(text: str, most: int = _QUOTED) -> str:
    """Return a text, with its middle left out if it is too long: its end can be the reason of what it describes.

    Args:
        text: The text, which a client may have chosen.
        most: The maximum number of characters to keep.
    """
    left_out = len(text) - most
    return text if left_out <= 0 else f"{text[: most // 2]}...{left_out:,} characters...{text[-(most // 2) :]}"


class _Quoted:
    """An argument of a line; it is shortened after its characters have been escaped."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return bounded(str(self._value))

    def __repr__(self) -> str:
        return bounded(repr(self._value))


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
            client: The client identifier, or the address of a client that has none yet; "" if the line is about no
                single client.
            text: See `logging`.
            arguments: See `logging`. All but numbers are shortened.
            level: See `logging`.
            error: An exception whose traceback to log as well.
        """
        if not log.isEnabledFor(level):
            return
        now = self._clock()
        client = bounded(client)
        of_kind = self._kinds.get(kind)
        if of_kind is None:
            of_kind = self._kinds[kind] = _Bucket(_BURST_OF_KIND, now)
        bucket = self._clients.get((kind, client))
        if bucket is None:
            if len(self._clients) >= _MAX_KNOWN:
                self._forget()
            bucket = self._clients.setdefault((kind, client), _Bucket(_BURST, now))
        may = bucket.fill(_BURST, _INTERVAL, now)
        if not (of_kind.fill(_BURST_OF_KIND, _INTERVAL_OF_KIND, now) and may):
            bucket.omitted += 1
            return
        bucket.left -= 1
        of_kind.left -= 1
        arguments = tuple(each if isinstance(each, int) else _Quoted(each) for each in arguments)
        if bucket.omitted:
            text += f" (%d earlier lines of this kind{' about this client' if client else ''} were suppressed)"
            arguments += (bucket.omitted,)
            bucket.omitted = 0
        if error is not None and len(trace := "".join(format_exception(error))) > _TRACEBACK:
            text, arguments, error = f"{text}\n%s", (*arguments, bounded(trace, _TRACEBACK)), None
        log.log(level, text, *arguments, exc_info=error)

    def sweep(self) -> None:
        """Log the counts of suppressed lines about clients that have been quiet for a while, and forget these.

        This is one line for each kind: one for each client would be as many lines as a client has identifiers.
        """
        now = self._clock()
        quiet: dict[str, dict[str, int]] = {}
        for (kind, client), bucket in list(self._clients.items()):
            if now - bucket.at >= _QUIET:
                if bucket.omitted:
                    quiet.setdefault(kind, {})[client] = bucket.omitted
                    bucket.omitted = 0
                if now - bucket.at >= _INTERVAL * _BURST:
                    del self._clients[kind, client]
        for kind, counts in quiet.items():
            client, *others = counts
            about = "" if others or not client else f"client {bounded(repr(client))}: "
            log.warning("%s%d more lines were suppressed: %s", about, sum(counts.values()), kind)

    def _forget(self) -> None:
        """Drop all entries to make space, but keep their totals for the next `sweep`."""
        totals: dict[str, int] = {}
        for (kind, _), bucket in self._clients.items():
            totals[kind] = totals.get(kind, 0) + bucket.omitted
        self._clients.clear()
        for kind, omitted in totals.items():
            if omitted:
                total = self._clients[kind, ""] = _Bucket(_BURST, self._clock() - _QUIET)
                total.omitted = omitted
