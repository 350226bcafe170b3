"""The counters of a broker, and their names under "$SYS".

The other modules of the broker increment plain integers. `Metrics.topics` names them as Mosquitto does, where it has a
name, so that dashboards for Mosquitto work.
"""

from __future__ import annotations


class Metrics:
    """The counters of one broker since it was created.

    Attributes:
        bytes_received: Bytes of MQTT, WebSocket and HTTP received, without TLS.
        bytes_sent: The same, sent.
        publish_received: PUBLISH packets from clients, without repeated ones of QoS 2.
        publish_sent: Messages sent to clients or queued for them.
        publish_dropped: Messages dropped because of a full queue or a slow reader.
        publish_denied: PUBLISH packets not routed because of the authorizer or a rule for topics.
        retained_dropped: Messages not retained because of a limit.
        connections_refused: Connections beyond a limit, rejected upgrades and refused CONNECTs.
        connections_accepted: CONNACKs with return code 0.
        connected_maximum: The highest number of clients connected at the same time.
        sessions_expired: Sessions dropped because their client did not return.
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
        """Return the counters by topic, without the prefix "$SYS/broker/"."""
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
