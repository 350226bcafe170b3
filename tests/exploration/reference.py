"""The reference set: what `make test` explores to its last state, and what `make explore` does."""

from __future__ import annotations

from exploration.scenarios import delivery, identifiers, sessions, subscriptions, take_over, unsubscribed
from exploration.world import Scenario

#: Over 100,000 states in all.
QUICK: tuple[Scenario, ...] = (
    delivery(0),
    delivery(1),
    delivery(2),
    delivery(1, 1),
    delivery(2, 2),
    delivery(2, 2, 2),
    delivery(0, 1, 2),
    delivery(1, losses=1),
    delivery(2, losses=1),
    delivery(1, crashes=1),
    delivery(2, crashes=1),
    delivery(1, 2, losses=1),
    delivery(1, 1, losses=1),
    delivery(2, 2, losses=1),
    delivery(1, losses=1, crashes=1),
    delivery(2, losses=1, crashes=1),
    delivery(2, losses=2),
    subscriptions("0-1"),
    subscriptions("0-1", "0-2"),
    subscriptions("0-1", "0-2", steps="s"),
    subscriptions("0-1", steps="s", losses=1),
    subscriptions("0-1", steps="s", crashes=1),
    unsubscribed(1, losses=1),
    unsubscribed(1, crashes=1),
    unsubscribed(0, 1, 2, losses=1),
    take_over(1),
    take_over(2, 1),
    identifiers(2, 2, space=1),
    identifiers(2, 1, 1, space=2),
    identifiers(1, 2, 1, 2, space=3),
    identifiers(2, 2, 2, 2, 2, space=3, window=5),
    delivery(1, losses=1, cuts=True),
)

#: What the standard does not promise, and by which bounds it is reached: that, and nothing else.
BEYOND: tuple[tuple[Scenario, set[str]], ...] = (
    (sessions("both kept and stored", 1, losses=1, crashes=1), set()),
    (sessions("both kept and stored", 2, losses=1, crashes=1), set()),
    (sessions("publisher clean", 1, losses=1, publisher_has="store"), set()),
    (sessions("publisher clean", 2, losses=1, publisher_has="store"), {"QoS 2 twice"}),
    (sessions("subscriber clean", 1, losses=1, subscriber_has="store"), {"QoS 1 lost"}),
    (sessions("subscriber clean", 2, losses=1, subscriber_has="store"), {"QoS 2 lost"}),
    (sessions("publisher without a store", 1, crashes=1, publisher_has="kept", crashing=(0,)), set()),
    (
        sessions("publisher without a store", 2, crashes=1, publisher_has="kept", crashing=(0,)),
        {"identifier stays taken"},
    ),
    (
        sessions("publisher without a store", 2, 2, crashes=1, publisher_has="kept", crashing=(0,)),
        {"identifier stays taken", "QoS 2 lost"},
    ),
    (sessions("subscriber without a store", 1, crashes=1, subscriber_has="kept", crashing=(1,)), set()),
    (sessions("subscriber without a store", 2, crashes=1, subscriber_has="kept", crashing=(1,)), {"QoS 2 twice"}),
    (
        sessions("subscriber commits late", 2, crashes=1, subscriber_has="kept store taken late", crashing=(1,)),
        {"QoS 2 twice"},
    ),
    (sessions("broker without a store", 1, crashes=1, broker_durable=False, crashing=(-1,)), {"QoS 1 lost"}),
    (
        sessions("broker without a store", 2, crashes=1, broker_durable=False, crashing=(-1,)),
        {"QoS 2 lost", "QoS 2 twice"},
    ),
    (sessions("session forgotten", 1, losses=1, expiries=1), {"QoS 1 lost"}),
    (sessions("session forgotten", 2, losses=1, expiries=1), {"QoS 2 lost", "QoS 2 twice"}),
)

#: Those of `make explore`, beside the others: over ten million states.
LONG: tuple[Scenario, ...] = (
    delivery(2, losses=1, cuts=True),
    delivery(1, losses=2, crashes=1),
    delivery(1, losses=1, crashes=2),
    delivery(2, losses=2, crashes=1),
    delivery(2, losses=1, crashes=2),
    delivery(2, crashes=2),
    delivery(1, losses=2, crashes=2),
    delivery(2, losses=2, crashes=2),
    delivery(1, 2, losses=2),
    delivery(2, 2, losses=2),
    delivery(2, 2, crashes=1),
    delivery(2, 2, crashes=2),
    delivery(1, 1, losses=1, crashes=1),
    delivery(1, 2, losses=1, crashes=1),
    delivery(2, 2, losses=1, crashes=1),
    delivery(0, 1, 2, losses=1),
    delivery(0, 1, 2, losses=2),
    delivery(0, 1, 2, losses=1, crashes=1),
    delivery(1, 2, 2, losses=1),
    delivery(1, 2, 2, losses=2),
    delivery(2, 2, 2, losses=2),
    subscriptions("0-1", "0-2", losses=1),
    subscriptions("0-1", "", losses=1),
    subscriptions("0-1", "0-2", crashes=1),
    unsubscribed(1, 2, losses=1, crashes=1),
    take_over(1, losses=1),
    take_over(2, crashes=1),
    identifiers(1, 2, 1, 2, space=3, losses=1),
    identifiers(2, 2, 2, 2, space=3, window=5, losses=1),
    take_over(1, 2, losses=1),
    delivery(1, 1, losses=2, crashes=1),
)
