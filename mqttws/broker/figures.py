"""What a broker counts, and how it shows it under "$SYS".

Plain integers that the other rooms add to; `Figures.topics` gives them the names that Mosquitto has for them, where
it has one, so that dashboards made for it work.
"""

from __future__ import annotations


class Figures:
    """The counters of one broker, from its start on.

    Attributes:
        bytes_received: bytes of MQTT, WebSocket and HTTP, without TLS.
        bytes_sent: the same, outwards.
        publish_received: PUBLISH packets from clients, copies of QoS 2 apart.
        publish_sent: messages handed to clients, those queued for later included.
        publish_dropped: messages that a full queue or a slow reader made the broker drop.
        publish_denied: PUBLISH packets that the authorizer or a rule on topics kept from being routed.
        retained_dropped: messages not retained because of a bound.
        connections_refused: connections beyond a bound, rejected upgrades and refused CONNECTs.
        connections_accepted: CONNACKs of 0.
        connected_maximum: the most clients that were connected at once.
        sessions_expired: sessions dropped because their client stayed away.
    """

    def __init__(self) -> None:
        self.bytes_received = 0
        self.bytes_sent = 0
        self.publish_received = 0
        self.publish_sent = 0
        self.publish_dropped = 0
        self.publish_denied = 0
        self.retained_dropped = 0
        self.connections_refused = 0
        self.connections_accepted = 0
        self.connected_maximum = 0
        self.sessions_expired = 0

    def topics(self) -> dict[str, int]:
        """Give the counters by topic, without the "$SYS/broker/" in front."""
        return {
            "bytes/received": self.bytes_received,
            "bytes/sent": self.bytes_sent,
            "publish/messages/received": self.publish_received,
            "publish/messages/sent": self.publish_sent,
            "publish/messages/dropped": self.publish_dropped,
            "publish/messages/denied": self.publish_denied,
            "retained messages/dropped": self.retained_dropped,
            "connections/refused": self.connections_refused,
            "connections/accepted": self.connections_accepted,
            "clients/maximum": self.connected_maximum,
            "clients/expired": self.sessions_expired,
        }
