"""The limits of AWS IoT's message broker and its deviations from MQTT 3.1.1, each as a named setting.

    LocalIoTEndpoint(limits=IoTLimits(publish_rate=None, max_payload=1_000))

The local endpoint enforces them. The provider checks messages and Topic Filters against them before they are sent,
because AWS IoT closes the connection of a client that exceeds a limit, without a reason.

The defaults are those that AWS documents, so a program that works with the local endpoint works with AWS IoT. None
removes a limit. A topic is measured without the prefix of Basic Ingest, `$aws/rules/<rule>/`, and a Topic Filter
without that of a shared subscription, `$share/<name>/`.

Spec: "AWS IoT Core endpoints and quotas" in the AWS general reference; "MQTT" in the AWS IoT Core developer guide.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

from pubsub.aws.reserved_topics import filter_of_share, may_publish, may_subscribe, without_prefix

__all__ = ["IoTLimits"]

#: Rates below one message a second would let none through: a token bucket holds one second's worth.
_WHOLE = ("publish_rate", "subscribe_rate", "inbound_rate", "outbound_rate")
_RATES = (*_WHOLE, "connect_rate", "client_connect_rate", "byte_rate", "stored_rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class IoTLimits:
    """The limits of AWS IoT, and its deviations from the standard.

    Args:
        max_payload: The maximum bytes of a payload. Beyond it the connection is closed.
        max_topic_bytes: The maximum bytes of a Topic Name or Topic Filter. Beyond it the connection is closed.
        max_slashes: The maximum number of slashes in a Topic Name or Topic Filter. Beyond it the connection is closed.
        max_client_id_bytes: The maximum bytes of a client id. Beyond it the CONNECT is refused.
        max_filters: The maximum number of Topic Filters in one SUBSCRIBE. Beyond it the connection is closed.
        max_subscriptions: The maximum number of Topic Filters of a connection. Beyond it the return code is 0x80.
        connect_rate: CONNECTs per second of the account. Beyond it the return code is 3.
        client_connect_rate: CONNECTs per second with one client id, with a burst of three (AWS documents no burst).
            Beyond it the return code is 3.
        publish_rate: Messages per second of one connection, sent and received together.
        publish_surplus: What happens to messages beyond `publish_rate`: "discard", without acknowledgement, as in AWS;
            or "delay".
        byte_rate: Bytes per second of one connection, sent and received together. Beyond it the client's data is
            delayed.
        subscribe_rate: Topic Filters per second that the clients of the account subscribe to. Beyond it the return code
            is 0x80.
        inbound_rate: Messages per second that the clients of the account publish. Beyond it they are discarded, without
            acknowledgement.
        outbound_rate: Messages per second that the clients of the account receive. Beyond it they are discarded.
        stored_rate: Stored messages per second that a resumed session receives.
        websocket_life: Seconds after which a WebSocket connection is closed.
        max_qos: The maximum QoS. A subscription is granted no higher one; a message with a higher one closes the
            connection.
        min_keep_alive: Seconds; a shorter keep alive is treated like this one.
        max_keep_alive: Seconds; a longer keep alive, and 0, is treated like this one.
        session_expiry: Seconds after which the persistent session of a disconnected client is deleted.
        max_in_flight: The maximum number of unacknowledged messages of QoS 1 to one client.
        parent_level: Whether `a/#` matches `a`.
        retained_for_wildcards: Whether retained messages are sent for a Topic Filter with a wildcard.
        reserved_topics: Whether topics that begin with `$` are ordinary topics. If not, messages to documented ones go
            to AWS services (there are none here, so they are dropped), and any other use closes the connection.
        close_on_denial: Whether a denied PUBLISH or SUBSCRIBE closes the connection. If not, the PUBLISH is dropped,
            and the return code of the SUBSCRIBE is 0x80.
        lifecycle_events: Whether connections and disconnections are published to `$aws/events/presence/`.

    Raises:
        ValueError: A setting is out of its range.
    """

    max_payload: int | None = 128 * 1024
    max_topic_bytes: int | None = 256
    max_slashes: int | None = 7
    max_client_id_bytes: int = 128
    max_filters: int | None = 8
    max_subscriptions: int = 50
    connect_rate: float | None = 500.0
    client_connect_rate: float | None = 1.0
    publish_rate: float | None = 100.0
    publish_surplus: Literal["discard", "delay"] = "discard"
    byte_rate: float | None = 512.0 * 1024
    subscribe_rate: float | None = 500.0
    inbound_rate: float | None = 20_000.0
    outbound_rate: float | None = 20_000.0
    stored_rate: float | None = 10.0
    websocket_life: float | None = 86_400.0
    max_qos: int = 1
    min_keep_alive: int = 30
    max_keep_alive: int = 1200
    session_expiry: float | None = 3600.0
    max_in_flight: int = 100
    parent_level: bool = False
    retained_for_wildcards: bool = False
    reserved_topics: bool = False
    close_on_denial: bool = True
    lifecycle_events: bool = True

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
                raise ValueError(f"{name} is {value}; expected 0 or more, or None for no limit if that is allowed")
        if self.publish_surplus not in ("discard", "delay"):
            raise ValueError(f"publish_surplus is {self.publish_surplus!r}; expected 'discard' or 'delay'")
        for name in _RATES:
            rate, least = getattr(self, name), 1.0 if name in _WHOLE else 0.0
            if rate is not None and not (rate > 0 and least <= rate < inf):
                raise ValueError(f"{name} is {rate}; expected {least:g} or more a second, or None for no limit")
        if self.websocket_life is not None and not self.websocket_life > 0:
            raise ValueError(f"websocket_life is {self.websocket_life}; expected seconds above 0, or None for no limit")
        if not 0 < self.min_keep_alive <= self.max_keep_alive <= 65_535:
            raise ValueError(
                f"min_keep_alive is {self.min_keep_alive} and max_keep_alive {self.max_keep_alive}; expected two "
                "numbers of seconds from 1 to 65,535, the longer one last"
            )
        if self.max_qos not in (0, 1, 2):
            raise ValueError(f"max_qos is {self.max_qos}; expected 0, 1 or 2")

    def keep_alive(self, asked: int) -> int:
        """Return the effective keep alive in seconds for the one that a client requests (0: disabled)."""
        return self.max_keep_alive if asked == 0 else min(max(asked, self.min_keep_alive), self.max_keep_alive)

    def objection_to_filter(self, topic_filter: str, qos: int = 0) -> str | None:
        """Return why a Topic Filter cannot be subscribed to, or None.

        Args:
            topic_filter: The requested Topic Filter, including `$share/...`.
            qos: The requested QoS.
        """
        if filter_of_share(topic_filter) == "":
            return f"the Topic Filter {_shown(topic_filter)} is malformed; expected $share/<name>/<Topic Filter>"
        objection = self._objection_to_size("the Topic Filter", topic_filter)
        if objection is not None:
            return objection
        if qos > self.max_qos:
            return f"the Topic Filter {_shown(topic_filter)} has QoS {qos}; AWS IoT accepts at most QoS {self.max_qos}"
        if not (self.reserved_topics or may_subscribe(topic_filter)):
            return (
                f"the Topic Filter {_shown(topic_filter)} is reserved; AWS IoT documents no such topic to subscribe to"
            )
        return None

    def objection_to_publish(self, topic: str, payload_size: int | None, qos: int) -> str | None:
        """Return why a message cannot be published, or None.

        Args:
            topic: Its Topic Name.
            payload_size: In bytes; None to skip the check.
            qos: Its QoS.
        """
        objection = self._objection_to_size("the topic", topic)
        if objection is not None:
            return objection
        if qos > self.max_qos:
            return f"the message to {_shown(topic)} has QoS {qos}; AWS IoT accepts at most QoS {self.max_qos}"
        if payload_size is not None and self.max_payload is not None and payload_size > self.max_payload:
            return (
                f"the payload for {_shown(topic)} takes {payload_size:,} bytes; "
                f"AWS IoT accepts at most {self.max_payload:,}"
            )
        if not (self.reserved_topics or may_publish(topic)):
            return f"the topic {_shown(topic)} is reserved; AWS IoT documents no such topic to publish to"
        return None

    def _objection_to_size(self, what: str, topic: str) -> str | None:
        counted = without_prefix(topic)
        slashes = counted.count("/")
        if self.max_slashes is not None and slashes > self.max_slashes:
            return f"{what} {_shown(topic)} has {slashes} slashes; AWS IoT accepts at most {self.max_slashes}"
        size = len(counted.encode())
        if self.max_topic_bytes is not None and size > self.max_topic_bytes:
            return f"{what} {_shown(topic)} takes {size} bytes; AWS IoT accepts at most {self.max_topic_bytes}"
        return None


def _shown(topic: str) -> str:
    return repr(topic) if len(topic) <= 100 else f"{topic[:97]!r}..."
