"""What all connections of a broker share: the rooms behind them, who is admitted, and whose turn it is to write.

Writing takes turns: a connection that has something to send says so once (`soon`), and all that have write at the end
of the event loop's turn, each in one piece. A message for a thousand subscribers, or a thousand messages for one, so
cost one write a connection. With a store they also cost one commit: all prepare, the store makes it safe, all write.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from mqttws.broker.hooks import Hooks
from mqttws.broker.limits import Limits
from mqttws.broker.registry import Registry
from mqttws.broker.router import Router
from mqttws.broker.status import Status
from mqttws.errors import ConnectionClosed, StoreError

if TYPE_CHECKING:
    from mqttws.broker.link import Link

log = logging.getLogger("mqttws.broker")

#: How often the sessions of clients that are away are looked through, in seconds.
_SWEEP = 1.0
#: How long a broker that stops lets its connections take to close, in seconds.
_STOP_TIMEOUT = 0.5


class Hub:
    """What the connections of one broker share, from `start` to `stop`.

    Args:
        router: where messages go.
        registry: who is known.
        paths: the request paths of the WebSocket; others get 404.
        allowed_origins: see `origin`.
        sys_interval: seconds from one refreshing of "$SYS" to the next; None for only on demand.
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
        self.figures = router.figures
        self.store = None if router.archive is None else router.archive.store
        self.paths = paths
        self.allowed_origins = allowed_origins
        self.loop = asyncio.get_running_loop()
        self.status = Status(router, registry, self.loop.time())
        self.stopping = False
        self.links: set[Link] = set()
        self._by_address: Counter[str] = Counter()
        self._due: list[Link] = []
        self._empty = asyncio.Event()
        self._empty.set()
        self._duties = [self.loop.create_task(self._every(_SWEEP, self._sweep))]
        if sys_interval is not None:
            self._duties.append(self.loop.create_task(self._every(sys_interval, self.status.refresh)))

    def admit(self, link: Link, host: str) -> str | None:
        """Let a new connection in. Returns why not, where it may not; else `leave` must follow one day."""
        limits = self.limits
        if self.stopping:
            return "the broker is stopping"
        if len(self.links) >= limits.max_connections:
            return f"{len(self.links):,} connections are open already"
        most = limits.max_connections_per_address
        if most is not None and self._by_address[host] >= most:
            return f"{most:,} connections are open from this address already"
        self.links.add(link)
        self._by_address[host] += 1
        self._empty.clear()
        return None

    def leave(self, link: Link, host: str) -> None:
        """Note that a connection that was admitted is gone."""
        self.links.discard(link)
        self._by_address[host] -= 1
        if not self._by_address[host]:
            del self._by_address[host]
        if not self.links:
            self._empty.set()

    def soon(self, link: Link) -> None:
        """Let a connection write at the end of this turn of the event loop. It asks once a turn."""
        if not self._due:
            self.loop.call_soon(self._flush)
        self._due.append(link)

    def _flush(self) -> None:
        due, self._due = self._due, []
        if self.store is not None:
            for link in due:
                link.prepare()
            # Those that have something to say now commit once more themselves, and end where that fails again.
            try:
                self.store.commit()
            except StoreError as error:
                log.error("nothing is acknowledged any more: %s", error)
            except Exception:
                log.exception("committing a turn failed")
        for link in due:
            link.flush()

    def _sweep(self, now: float) -> None:
        self.registry.expire(now)
        if self.store is not None:
            self.store.commit()

    async def _every(self, interval: float, duty: Callable[[float], None]) -> None:
        """Do something now and then; a failure is logged, and does not keep it from being done the next time."""
        while True:
            try:
                duty(self.loop.time())
            except Exception:
                log.exception("the broker's housekeeping failed")
            await asyncio.sleep(interval)

    async def stop(self) -> None:
        """Close every connection: in order, and by force where that takes too long. No wills are published."""
        self.stopping = True
        for duty in self._duties:
            duty.cancel()
        await asyncio.wait(self._duties)
        for link in list(self.links):
            link.end(ConnectionClosed("the broker is stopping"))
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await self._empty.wait()
        except TimeoutError:
            for link in list(self.links):
                link.abort()
            await self._empty.wait()
