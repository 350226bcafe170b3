"""What follows the end of an accepted client's connection: its will is published, and `on_disconnected` is called.

Neither happens where a connection ends. That can be inside the routing of a message, whose recipient the authorizer has
just denied it; and a will or a hook can end further connections, whose clients have wills, too. So the endings wait in
one queue, and are handled once the event that caused them is: when the connection writes its last output, or in a later
turn of the event loop (see `turns`), none inside another.
"""

from __future__ import annotations

import logging
from time import perf_counter
from typing import NamedTuple

from mqttws.broker.hooks import Access, Peer, contain
from mqttws.broker.router import Router
from mqttws.broker.subscriptions import Unfinished
from mqttws.broker.turns import Turns
from mqttws.codec.publishing import Message
from mqttws.errors import MQTTError, StoreError


class Ending(NamedTuple):
    """The end of one connection.

    Attributes:
        peer: The client.
        error: The reason; None if the client disconnected.
        will: The will to publish; None if there is none.
        kept: Whether the session, and the peer with it, outlives the connection.
    """

    peer: Peer
    error: MQTTError | None
    will: Message | None
    kept: bool


class Endings:
    """The queue of endings; see the module's docstring.

    Args:
        router: Publishes the wills.
        turns: The scheduler.
    """

    def __init__(self, router: Router, turns: Turns) -> None:
        self._router = router
        self._turns = turns
        self._left: dict[str, Ending] = {}  # by client identifier, of which the next connection comes after the ending
        self._queued = False  # whether the scheduler will call `work`

    def add(self, ending: Ending) -> None:
        """Add an ending."""
        self._left[ending.peer.client_id] = ending
        if not self._queued:
            self._queued = True
            self._turns.defer(self)

    def work(self, until: float) -> bool:
        """See `turns.Worker.work`."""
        while self._left:
            self._complete(next(iter(self._left)))
            if perf_counter() >= until:
                break
        self._queued = bool(self._left)
        return self._queued

    def make_way(self, client_id: str) -> None:
        """Handle the ending of a client that connects again; if there is none, the oldest.

        So the endings and the connected clients are together never more than the connected clients may be.
        """
        if self._left:
            self._complete(client_id if client_id in self._left else next(iter(self._left)))

    def complete(self, client_id: str) -> None:
        """Handle the ending of a client now, if there is one: before the client can see that it is disconnected."""
        if client_id in self._left:
            self._complete(client_id)

    def complete_all(self) -> None:
        """Handle all endings now."""
        while self._left:
            self._complete(next(iter(self._left)))

    def _complete(self, client_id: str) -> None:
        peer, error, will, kept = self._left.pop(client_id)
        if will is not None:
            self._publish_will(peer, will)
        on_disconnected = self._router.hooks.on_disconnected
        if on_disconnected is not None:
            try:
                on_disconnected(peer, error)
            except BaseException as failure:
                contain(failure)
                text = "client %s: the hook on_disconnected failed"
                self._log("errors in on_disconnected", peer, text, peer, level=logging.ERROR, error=failure)
        if kept:
            peer.leave()  # the session keeps the peer, but not what belongs to the connection

    def _publish_will(self, peer: Peer, will: Message) -> None:
        """Publish the will of a client; in a later turn of the event loop if the lookup of its recipients takes long.

        The authorizer allowed the will at the CONNECT, which can be long ago, so it is called again. If a hook fails,
        the will is not published.
        """
        hooks, metrics = self._router.hooks, self._router.metrics
        try:
            verdict = hooks.authorize(peer, Access("publish", will.topic, will.qos, will.retain))
            if verdict.allowed and hooks.on_published is not None:
                hooks.on_published(None, will)
        except BaseException as error:
            contain(error)
            metrics.publish_denied += 1
            text = "client %s: a hook failed, and the will to %r is not published"
            self._log("a hook failed for a will", peer, text, peer, will.topic, error=error)
            return
        if not verdict.allowed:
            metrics.publish_denied += 1
            text = "client %s: the will to %r denied: %s"
            self._log("requests refused", peer, text, peer, will.topic, verdict.reason)
            return
        try:
            self._router.publish(will.topic, will.payload, will.qos, will.retain)
        except Unfinished as unfinished:
            self._turns.defer(_Will(self._router, will, unfinished))
        except StoreError as error:
            text = "client %s: the will to %r is not published: %s"
            self._log("a will is not stored", peer, text, peer, will.topic, error)

    def _log(
        self,
        kind: str,
        peer: Peer,
        text: str,
        *arguments: object,
        level: int = logging.WARNING,
        error: BaseException | None = None,
    ) -> None:
        self._router.notices.log(kind, peer.client_id, text, *arguments, level=level, error=error)


class _Will:
    """A will whose recipients are still being looked up."""

    def __init__(self, router: Router, will: Message, unfinished: Unfinished) -> None:
        self._router = router
        self._will = will
        self._unfinished = unfinished

    def work(self, until: float) -> bool:
        """See `turns.Worker.work`."""
        if not self._router.go_on(self._unfinished, until):
            return True
        will = self._will
        try:
            self._router.publish(will.topic, will.payload, will.qos, will.retain)
        except Exception as error:
            text = "publishing the will to %r failed"
            self._router.notices.log("wills failed", "", text, will.topic, level=logging.ERROR, error=error)
        return False
