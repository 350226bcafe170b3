"""The embedded broker.

    from mqttws.broker import Broker

    with Broker() as broker:
        print(broker.url)           # ws://127.0.0.1:45043/mqtt

From the outside in: `broker` (listeners, threads), `link` (one transport), `handler` (what is done about each event),
`hub` (what connections share: `doors`, who is let in, and `turns`, whose turn it is), `registry` (sessions), `router`
(who gets what) with `routes`, `retained` and `memory`, `archive` (what outlives the process); beside them `hooks` and
`limits`, the words of the embedding program, `origin`, `users`, `figures`, `status` and `notices`.
"""

from __future__ import annotations

from mqttws.broker.broker import Broker
from mqttws.broker.hooks import ALLOWED, DENIED, Accepted, Access, Peer, Refused, Rejection, Verdict
from mqttws.broker.limits import Departures, Limits
from mqttws.broker.subscriber import SessionInfo
from mqttws.broker.users import Users, hash_password

__all__ = [
    "ALLOWED",
    "DENIED",
    "Accepted",
    "Access",
    "Broker",
    "Departures",
    "Limits",
    "Peer",
    "Refused",
    "Rejection",
    "SessionInfo",
    "Users",
    "Verdict",
    "hash_password",
]
