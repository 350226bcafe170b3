"""The known client identifiers: their sessions, take-over and expiry. It uses no socket, event loop or clock.

A client identifier has one session, whichever listener the client uses [MQTT-3.1.3-2]. A CONNECT that the authenticator
has accepted has this effect::

    known?    connected?    clean session?    effect
    no        -             either            a new session
    yes       yes           either            the old connection is closed first, and its will published
    yes       no            yes               the old session is discarded, a new one made
    yes       no            no                the session is resumed: session present 1

Sessions that are kept after their connections are limited: in total, per user and per address. Beyond a limit, of the
disconnected sessions without queued messages the one that has been disconnected longest is dropped.

If the router has persistence, these sessions survive the process as well.

Spec: §3.1.2.4, §3.1.4
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from math import inf
from time import perf_counter

from mqttws.broker.hooks import Accepted, Access, Peer, Refused
from mqttws.broker.limits import Limits
from mqttws.broker.origin import is_loopback
from mqttws.broker.router import Router
from mqttws.broker.subscriber import Outlet, Subscriber
from mqttws.codec.connecting import Connect
from mqttws.codec.publishing import Message
from mqttws.errors import MQTTError, SessionTakenOver
from mqttws.protocol.claims import Claim, Holder
from mqttws.protocol.session import Session


class Counts:
    """The numbers of kept sessions: in total, per user and per address.

    Args:
        limits: The limits.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._counted: dict[Subscriber, tuple[str | None, str]] = {}  # -> owner and address
        self._by_owner: Counter[str | None] = Counter()
        self._by_address: Counter[str | None] = Counter()

    def add(self, subscriber: Subscriber) -> None:
        """Count a session."""
        owner, address = self._counted[subscriber] = subscriber.owner, subscriber.peer.address[0]
        self._by_owner[owner] += 1
        self._by_address[address] += 1

    def remove(self, subscriber: Subscriber) -> None:
        """Stop counting a session, if it is counted."""
        counted = self._counted.pop(subscriber, None)
        if counted is not None:
            owner, address = counted
            for count, key in ((self._by_owner, owner), (self._by_address, address)):
                count[key] -= 1
                if not count[key]:
                    del count[key]

    def limit_reached(self, owner: str | None, address: str) -> tuple[str, Callable[[Subscriber], bool]] | None:
        """Return a limit that one more session would exceed, and a predicate of the sessions it counts; else None."""
        limits = self._limits
        most = limits.max_sessions_per_user
        if owner is not None and most is not None and self._by_owner[owner] >= most:
            return f"{most:,} sessions of this user are already kept", lambda kept: kept.owner == owner
        most = limits.max_sessions_per_address
        if most is not None and self._by_address[address] >= most and not is_loopback(address):
            return f"{most:,} sessions of this address are already kept", lambda kept: kept.peer.address[0] == address
        if len(self._counted) >= limits.max_sessions:
            return f"{len(self._counted):,} sessions are already kept", lambda kept: True
        return None


class Registry:
    """The subscribers of one broker.

    Args:
        router: The router, from which the subscriptions of ended sessions are removed.

    Attributes:
        connected: The number of connected clients.
        holder: Has the claims on the store; active while the broker runs.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self.connected = 0
        self.holder = Holder("broker")
        self._claim: Claim | None = None  # on what no session owns
        self._subscribers = router.subscribers
        self._away: dict[Subscriber, float] = {}  # disconnected, the longest first -> when the session expires
        self._idle: dict[Subscriber, None] = {}  # those of them that may have no queued message, likewise
        self._kept = Counts(router.limits)

    def __len__(self) -> int:
        """Return the number of known client identifiers, connected or not."""
        return len(self._subscribers)

    def recover(self, now: float) -> None:
        """Load the sessions and the retained messages of an earlier process from the store.

        Args:
            now: Seconds; the expiry of the sessions starts here.

        Raises:
            StoreError: A record cannot be read, or a client or another broker uses it; nothing has changed.
        """
        router, persistence = self._router, self._router.persistence
        if persistence is None:
            return
        self._claim = Claim(persistence.store, None, self.holder)
        messages = list(persistence.retained())
        sessions = [(known, self._new_session()) for known in persistence.sessions()]
        for known, session in sessions:
            session.keep_in(persistence.store, known.client_id, holder=self.holder)
        for message in messages:
            router.recover_retained(message)
        for known, session in sessions:
            peer = Peer("store", ("", 0))
            peer.client_id, peer.username = known.client_id, known.username
            subscriber = self._subscribers[known.client_id] = Subscriber(known.client_id, session, known.owner, peer)
            subscriber.clean_session = False
            subscriber.expiry = known.expiry
            subscriber.known = router.hooks.authorizer is None
            self._leave(subscriber, now)
            self._kept.add(subscriber)
            router.recover(subscriber)

    def _new_session(self) -> Session:
        limits = self._router.limits
        return Session(limits.max_in_flight, limits.max_queued, limits.max_queued_bytes)

    def find(self, client_id: str) -> Subscriber | None:
        """Return the subscriber with a client identifier, or None."""
        return self._subscribers.get(client_id)

    def objection_to(self, peer: Peer, connect: Connect, answer: Accepted, now: float) -> Refused | None:
        """Return why a CONNECT must be refused although the authenticator accepted it, or None."""
        limits = self._router.limits
        objection = limits.objection_to_client_id(peer.client_id)
        if objection is not None:
            return Refused(2, objection)
        known = self._subscribers.get(peer.client_id)
        if known is not None and self._away.get(known, now + 1) <= now:
            self._expire(known)
            known = None
        owner = self._owner(connect, answer)
        if known is not None and known.owner != owner:
            return Refused(2, "the client identifier belongs to another user's session")
        if not connect.clean_session and (known is None or known.clean_session):
            objection = self._make_space(owner, peer.address[0], now)
            if objection is not None:
                return Refused(3, objection)
        if not connect.clean_session and connect.username is not None:
            subscriber = known or Subscriber(peer.client_id, Session(), owner, peer)
            counted = "" if known is None or known.clean_session else known.peer.username or ""
            more = len(connect.username.encode()) - len(counted.encode())
            if more > 0 and not self._router.memory.allows(subscriber, more):
                return Refused(3, "the sessions take too much memory to keep the user name")
        return None if connect.will is None else self._objection_to_will(peer, connect.will)

    def _make_space(self, owner: str | None, address: str, now: float) -> str | None:
        """Make space for one more kept session. Return the reason if that is impossible, or None."""
        while (bound := self._kept.limit_reached(owner, address)) is not None:
            objection, counts = bound
            idle = self._oldest_idle(counts, now)
            if idle is None:
                return objection
            self._router.notices.log(
                "sessions dropped", "", "the session of %r is dropped: %s", idle.client_id, objection
            )
            self._expire(idle)
        return None

    def _oldest_idle(self, counts: Callable[[Subscriber], bool], now: float) -> Subscriber | None:
        """Return the session that can be dropped, of those that a limit counts; None if there is none."""
        for subscriber in filter(counts, list(self._idle)):
            if subscriber.empty or self._away[subscriber] <= now:
                return subscriber
            del self._idle[subscriber]  # what is queued stays queued while its client is away
        return None

    def _objection_to_will(self, peer: Peer, will: Message) -> Refused | None:
        router = self._router
        try:
            router.limits.check_topic(will.topic, "the will topic")
            router.limits.check_payload(will.payload, "the will message")
        except MQTTError as error:
            return Refused(5, str(error))
        if router.is_reserved(will.topic):
            return Refused(5, f"the will to {will.topic!r}: topics that begin with '$' are not allowed for clients")
        verdict = router.hooks.authorize(peer, Access("publish", will.topic, will.qos, will.retain))
        return None if verdict.allowed else Refused(5, f"the will to {will.topic!r}: {verdict.reason}")

    def _owner(self, connect: Connect, answer: Accepted) -> str | None:
        """Return the owner of the session. Without an authenticator a user name proves nothing, so there is none."""
        if answer.owner is not None or self._router.hooks.authenticator is None:
            return answer.owner
        return connect.username

    def take_over(self, peer: Peer) -> None:
        """Close the old connection of a client that connects again. Spec: [MQTT-3.1.4-2]."""
        known = self._subscribers.get(peer.client_id)
        if known is not None and known.outlet is not None:
            known.outlet.end(SessionTakenOver(f"the session was taken over by {peer}"))

    def attach(self, peer: Peer, connect: Connect, answer: Accepted, outlet: Outlet) -> tuple[Subscriber, bool]:
        """Connect a client that has passed all checks, after `take_over`; see the module's docstring.

        Returns:
            The subscriber, and whether its session existed before.

        Spec: [MQTT-3.1.2-4], [MQTT-3.1.2-6], [MQTT-3.1.4-3]
        """
        client_id = peer.client_id
        known = self._subscribers.get(client_id)
        if known is not None and connect.clean_session:
            self._forget(known)
            known = None
        limits, persistence = self._router.limits, self._router.persistence
        present = known is not None
        if known is None:
            session = self._new_session()
            if persistence is not None:
                if connect.clean_session:
                    session.store = persistence.store  # its acknowledgements wait for the commit of others' messages
                else:
                    # First: if this fails, there is no session.
                    session.keep_in(persistence.store, client_id, holder=self.holder)
            known = self._subscribers[client_id] = Subscriber(client_id, session, self._owner(connect, answer), peer)
        self._kept.remove(known)
        known.peer = peer
        known.clean_session = connect.clean_session
        if not known.clean_session:
            self._kept.add(known)
        known.will = connect.will
        known.outlet = outlet
        known.expiry = limits.session_expiry if answer.session_expiry is None else answer.session_expiry
        self._away.pop(known, None)
        self._idle.pop(known, None)
        if present:
            self._router.come_back(known)
        if persistence is not None and not connect.clean_session:
            persistence.keep(known)
        metrics = self._router.metrics
        self.connected += 1
        metrics.connections_accepted += 1
        metrics.connected_maximum = max(metrics.connected_maximum, self.connected)
        return known, present

    def detach(self, subscriber: Subscriber, now: float, *, will: bool) -> Message | None:
        """Record that a client's connection has ended. Return its will if that is to be published.

        Args:
            subscriber: The client.
            now: Seconds.
            will: Whether to publish a will: False after a DISCONNECT.

        Spec: [MQTT-3.1.2-8], [MQTT-3.1.2-10], [MQTT-3.14.4-3]
        """
        self.connected -= 1
        subscriber.outlet = None
        message, subscriber.will = subscriber.will, None
        if subscriber.clean_session or subscriber.expiry == 0:
            self._forget(subscriber)
        else:
            self._leave(subscriber, now)
        return message if will else None

    def _leave(self, subscriber: Subscriber, now: float) -> None:
        self._away[subscriber] = inf if subscriber.expiry is None else now + subscriber.expiry
        self._idle[subscriber] = None

    def expire(self, now: float) -> Expiry | None:
        """Return the work of dropping the sessions that have expired; None if there are none."""
        due = [away for away, expires_at in self._away.items() if expires_at <= now]
        return Expiry(self, iter(due), now) if due else None

    def expire_one(self, subscriber: Subscriber, now: float) -> None:
        """Drop a session, unless its client has come back."""
        if self._away.get(subscriber, inf) <= now:
            self._expire(subscriber)

    def _expire(self, subscriber: Subscriber) -> None:
        text = "the session of %r has expired"
        self._router.notices.log("sessions expired", "", text, subscriber.client_id, level=logging.INFO)
        self._router.metrics.sessions_expired += 1
        self._forget(subscriber)

    def _forget(self, subscriber: Subscriber) -> None:
        """End a session. Spec: [MQTT-3.1.2-6]."""
        self._away.pop(subscriber, None)
        self._idle.pop(subscriber, None)
        self._kept.remove(subscriber)
        self._router.forget(subscriber)
        subscriber.session.erase()
        if self._router.persistence is not None:
            self._router.persistence.forget(subscriber.client_id)
        del self._subscribers[subscriber.client_id]


class Expiry:
    """Sessions that have expired, which are dropped as there is time; see `turns.Worker`."""

    def __init__(self, registry: Registry, due: Iterator[Subscriber], now: float) -> None:
        self._registry = registry
        self._due = due
        self._now = now

    def work(self, until: float) -> bool:
        """Drop sessions until the time `until` of `time.perf_counter`. Return whether there are more."""
        for subscriber in self._due:
            self._registry.expire_one(subscriber, self._now)
            if perf_counter() >= until:
                return True
        return False
