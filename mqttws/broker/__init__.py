"""An embedded MQTT 3.1.1 broker, for tests, tools and small installations.

::

    from mqttws.broker import Broker

    with Broker() as broker:
        print(broker.url)           # ws://127.0.0.1:45043/mqtt

The modules, from the listeners inwards:

- `broker`: listeners and threads; `link`: one transport; `handler`: the reaction to each event of a connection
- `hub`: what the connections share, with `admission` of connections and `turns` (scheduling of work and writes)
- `registry`: sessions, take-over and expiry; `subscriber`: one session
- `router`: delivery, with `subscriptions` (lookup by topic), `retained` (retained messages) and `memory` (a limit on
  the memory of all sessions)
- `persistence`: what survives the process
- `hooks` and `limits`: decisions and limits of the embedding program; `users` and `origin`: built-in checks
- `metrics` and `status`: metrics and "$SYS"; `notices`: rate-limited logging
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
