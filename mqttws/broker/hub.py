"""The state that all connections of a broker share from its start to its stop."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection
from contextvars import copy_context
from math import inf
from time import monotonic
from typing import Protocol

from mqttws.broker import admission
from mqttws.broker.endings import Endings
from mqttws.broker.hooks import Hooks
from mqttws.broker.limits import Limits
from mqttws.broker.registry import Expiry, Registry
from mqttws.broker.router import Router
from mqttws.broker.status import Status
from mqttws.broker.turns import Turns
from mqttws.errors import ConnectionClosed, MQTTError

#: Seconds between two searches for expired sessions.
_SWEEP = 1.0
#: How many file descriptors stay free for the rest of the process, such as those of the store and of look-ups.
_SPARE_DESCRIPTORS = 48
#: Seconds that connections may take to close when the broker stops.
_STOP_TIMEOUT = 0.5


class Connection(admission.Connection, Protocol):
    """The interface of a connection for the hub."""

    def end(self, error: MQTTError) -> None:
        """Close the connection gracefully."""

    def abort(self) -> None:
        """Drop the transport immediately."""

    def fileno(self) -> int:
        """Return the descriptor of the socket; -1 if it is closed."""


class Hub:
    """The shared state of the connections of one broker, from `start` to `stop`.

    Args:
        router: Delivers messages.
        registry: The known clients and their sessions.
        paths: The accepted WebSocket request paths; others get 404.
        allowed_origins: See `origin`.
        sys_interval: Seconds between two updates of "$SYS"; None updates it only on demand.

    Attributes:
        now: The clock of the event loop, in seconds.
        context: For the timers of connections, which would each copy one.
        ending: Whether what a client has sent before the broker ended its connection is being handled.
    """

    def __init__(
        self,
        router: Router,
        registry: Registry,
        paths: Collection[str],
        allowed_origins: Collection[str],
        sys_interval: float | None,
    ) -> None:
        self.router = router
        self.registry = registry
        self.hooks: Hooks = router.hooks
        self.limits: Limits = router.limits
        self.metrics = router.metrics
        self.notices = router.notices
        self.persistence = router.persistence
        self.paths = paths
        self.allowed_origins = allowed_origins
        self.loop = asyncio.get_running_loop()
        self.now = _clock(self.loop)
        self.context = copy_context()
        self.status = Status(router, registry, self.now())
        self.stopping = False
        self.ending = False
        self.turns = Turns(self.loop, self.persistence, self.notices)
        self.endings = Endings(router, self.turns)
        self.admission: admission.Admission[Connection] = admission.Admission(self.limits, _descriptors_left())
        self._expiry: Expiry | None = None  # the sessions that are being dropped
        self._empty = asyncio.Event()
        self._empty.set()
        self._duties = [self.loop.create_task(self._every(_SWEEP, self._sweep))]
        if sys_interval is not None:
            self._duties.append(self.loop.create_task(self._every(sys_interval, self.status.refresh)))

    def admit(self, connection: Connection, host: str) -> str | None:
        """Admit a connection. Return the reason for refusing it, or None; call leave() when an admitted one ends."""
        objection = "the broker is stopping" if self.stopping else self.admission.admit(connection, host)
        if objection is None:
            self._empty.clear()
        return objection

    def leave(self, connection: Connection) -> None:
        """Record that an admitted connection has ended."""
        self.admission.leave(connection)
        if not self.admission:
            self._empty.set()

    def _sweep(self, now: float) -> None:
        self.notices.sweep()
        if self._expiry is None:
            expiry = self.registry.expire(now)
            if expiry is not None:
                self._expiry = expiry
                self.turns.defer(self)
        self.turns.commit()

    def work(self, until: float) -> bool:
        """Drop expired sessions; see `turns.Worker.work`."""
        if self.stopping or self._expiry is None:
            return False
        more = self._expiry.work(until)
        self.turns.commit()  # what one slice has changed, so that the commit is short, too
        if not more:
            self._expiry = None
        return more

    async def _every(self, interval: float, duty: Callable[[float], None]) -> None:
        """Call a function periodically. A failure is logged and does not stop the later calls."""
        while True:
            try:
                duty(self.now())
            except Exception as error:
                text = "the broker's housekeeping failed"
                self.notices.log("housekeeping failed", "", text, level=logging.ERROR, error=error)
            await asyncio.sleep(interval)

    async def stop(self) -> None:
        """Close every connection, gracefully or, after `_STOP_TIMEOUT`, by force. No wills are published."""
        self.stopping = True
        for duty in self._duties:
            duty.cancel()
        await asyncio.wait(self._duties)
        for connection in self.admission.all:
            connection.end(ConnectionClosed("the broker is stopping"))
        # Not `asyncio.timeout`: on Python 3.11.2 it raises CancelledError in a task that was cancelled before.
        empty = asyncio.ensure_future(self._empty.wait())
        await asyncio.wait([empty], timeout=_STOP_TIMEOUT)
        if not empty.done():
            for connection in self.admission.all:
                connection.abort()
        await empty
        self.endings.complete_all()


def _descriptors_left() -> float:
    """Return how many connections the process can open with the descriptors that the system allows it."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return inf
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return inf
    try:
        used = len(os.listdir("/dev/fd"))
    except OSError:
        used = 0
    return max(1, most - used - _SPARE_DESCRIPTORS)


def _clock(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return the clock of an event loop; without asyncio's Python function around it, which each read would call."""
    return monotonic if getattr(loop.time, "__func__", None) is asyncio.BaseEventLoop.time else loop.time
