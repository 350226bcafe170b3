"""MQTT 3.1.1 over WebSocket and TCP: packets, sans-IO state machines, blocking and asyncio clients, a broker.

This is the public namespace, together with `mqttws.aio`, `mqttws.broker`, `mqttws.tap` and `mqttws.testing`. Its names
are loaded on first use: `import mqttws` itself loads neither asyncio nor ssl nor wsproto.
"""

from __future__ import annotations

from mqttws.hints import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mqttws.budget import ConnectBudget
    from mqttws.client.callbacks import callback_name, is_coroutine_function, is_generator_function
    from mqttws.client.option_types import ClientOptions, ConnectionOptions
    from mqttws.client.options import check_options
    from mqttws.client.profiles import PROFILES, Profile, Rule
    from mqttws.client.reconnect import Reconnect, Turns
    from mqttws.client.state import State
    from mqttws.client.timings import Timings
    from mqttws.client.tls import tls_context
    from mqttws.client.waiting import Waiting
    from mqttws.codec import compiled as compiled
    from mqttws.codec.connecting import ConnAck, Connect, Disconnect, PingReq, PingResp
    from mqttws.codec.decoder import Decoder
    from mqttws.codec.dissect import Dissection, Field, dissect
    from mqttws.codec.packet import Packet
    from mqttws.codec.publishing import Message, PubAck, PubComp, Publish, PubRec, PubRel
    from mqttws.codec.subscribing import SubAck, Subscribe, UnsubAck, Unsubscribe
    from mqttws.codec.topics import TopicTree, check_topic, check_topic_filter, topic_matches
    from mqttws.errors import (
        AccessDenied,
        CertificateError,
        ConnectError,
        ConnectionBroken,
        ConnectionClosed,
        ConnectionRefused,
        ConnectTimeout,
        HandshakeRejected,
        IllFormedText,
        KeepAliveTimeout,
        LimitExceeded,
        LocalProtocolError,
        MalformedPacket,
        MessageExpired,
        MQTTError,
        PacketTooLarge,
        ProtocolError,
        PublishRejected,
        QueueFull,
        RemoteProtocolError,
        SessionLost,
        SessionTakenOver,
        StoreError,
        SubscribeRejected,
        TakeoverSuspected,
        TimedOut,
        UnsubscribeRejected,
        Unsupported,
        WouldDeadlock,
        to_raise,
    )
    from mqttws.protocol.ages import Age
    from mqttws.protocol.client import ClientMachine
    from mqttws.protocol.client_handshake import ClientWebSocket
    from mqttws.protocol.connection import ClientConnection
    from mqttws.protocol.events import (
        Closed,
        Connected,
        ConnectReceived,
        Delivered,
        Ended,
        Event,
        Expired,
        Opened,
        Rejected,
        Sent,
        Skipped,
        Stalled,
        Subscribed,
        SubscribeReceived,
        Unsubscribed,
        UnsubscribeReceived,
        UpgradeRequested,
    )
    from mqttws.protocol.handshake import ServerWebSocket
    from mqttws.protocol.pacing import TokenBucket
    from mqttws.protocol.plain import Framing
    from mqttws.protocol.server import ServerMachine
    from mqttws.protocol.server_connection import ServerConnection
    from mqttws.protocol.session import Session
    from mqttws.protocol.store import Store
    from mqttws.stores.sqlite import SQLiteStore
    from mqttws.sync.client import Client, connect
    from mqttws.sync.shares import delivers_shared

__version__ = "0.1.0"

#: Module -> the public names that it holds.
_HOLDS = {
    "codec": "compiled",
    "codec.connecting": "ConnAck Connect Disconnect PingReq PingResp",
    "codec.decoder": "Decoder",
    "codec.dissect": "Dissection Field dissect",
    "codec.packet": "Packet",
    "codec.publishing": "Message PubAck PubComp PubRec PubRel Publish",
    "codec.subscribing": "SubAck Subscribe UnsubAck Unsubscribe",
    "codec.topics": "TopicTree check_topic check_topic_filter topic_matches",
    "errors": (
        "AccessDenied CertificateError ConnectError ConnectTimeout ConnectionBroken ConnectionClosed "
        "ConnectionRefused HandshakeRejected IllFormedText KeepAliveTimeout LimitExceeded LocalProtocolError "
        "MQTTError MalformedPacket MessageExpired PacketTooLarge ProtocolError PublishRejected QueueFull "
        "RemoteProtocolError SessionLost SessionTakenOver StoreError SubscribeRejected TakeoverSuspected TimedOut "
        "UnsubscribeRejected Unsupported WouldDeadlock to_raise"
    ),
    "protocol.ages": "Age",
    "protocol.client": "ClientMachine",
    "protocol.connection": "ClientConnection",
    "protocol.events": (
        "Closed ConnectReceived Connected Delivered Ended Event Expired Opened Rejected Sent Skipped Stalled "
        "SubscribeReceived Subscribed UnsubscribeReceived Unsubscribed UpgradeRequested"
    ),
    "protocol.plain": "Framing",
    "protocol.client_handshake": "ClientWebSocket",
    "protocol.handshake": "ServerWebSocket",
    "budget": "ConnectBudget",
    "client.callbacks": "callback_name is_coroutine_function is_generator_function",
    "client.profiles": "PROFILES Profile Rule",
    "client.reconnect": "Reconnect Turns",
    "client.timings": "Timings",
    "protocol.pacing": "TokenBucket",
    "protocol.server": "ServerMachine",
    "protocol.server_connection": "ServerConnection",
    "protocol.session": "Session",
    "protocol.store": "Store",
    "sync.client": "Client connect",
    "sync.shares": "delivers_shared",
    "client.option_types": "ClientOptions ConnectionOptions",
    "client.options": "check_options",
    "client.state": "State",
    "client.waiting": "Waiting",
    "stores.sqlite": "SQLiteStore",
    "client.tls": "tls_context",
}
_WHERE = {name: module for module, names in _HOLDS.items() for name in names.split()}
#: Names of 0.1 that have moved; kept for programs that use them.
_WHERE |= dict.fromkeys(("Authority", "Identity", "mint_authority"), "testing.certificates")
_SUBMODULES = frozenset({"aio", "broker", "tap", "testing"})

__all__ = [
    "PROFILES",
    "AccessDenied",
    "Age",
    "CertificateError",
    "Client",
    "ClientConnection",
    "ClientMachine",
    "ClientOptions",
    "ClientWebSocket",
    "Closed",
    "ConnAck",
    "Connect",
    "ConnectBudget",
    "ConnectError",
    "ConnectReceived",
    "ConnectTimeout",
    "Connected",
    "ConnectionBroken",
    "ConnectionClosed",
    "ConnectionOptions",
    "ConnectionRefused",
    "Decoder",
    "Delivered",
    "Disconnect",
    "Dissection",
    "Ended",
    "Event",
    "Expired",
    "Field",
    "Framing",
    "HandshakeRejected",
    "IllFormedText",
    "KeepAliveTimeout",
    "LimitExceeded",
    "LocalProtocolError",
    "MQTTError",
    "MalformedPacket",
    "Message",
    "MessageExpired",
    "Opened",
    "Packet",
    "PacketTooLarge",
    "PingReq",
    "PingResp",
    "Profile",
    "ProtocolError",
    "PubAck",
    "PubComp",
    "PubRec",
    "PubRel",
    "Publish",
    "PublishRejected",
    "QueueFull",
    "Reconnect",
    "Rejected",
    "RemoteProtocolError",
    "Rule",
    "SQLiteStore",
    "Sent",
    "ServerConnection",
    "ServerMachine",
    "ServerWebSocket",
    "Session",
    "SessionLost",
    "SessionTakenOver",
    "Skipped",
    "Stalled",
    "State",
    "Store",
    "StoreError",
    "SubAck",
    "Subscribe",
    "SubscribeReceived",
    "SubscribeRejected",
    "Subscribed",
    "TakeoverSuspected",
    "TimedOut",
    "Timings",
    "TokenBucket",
    "TopicTree",
    "Turns",
    "UnsubAck",
    "Unsubscribe",
    "UnsubscribeReceived",
    "UnsubscribeRejected",
    "Unsubscribed",
    "Unsupported",
    "UpgradeRequested",
    "Waiting",
    "WouldDeadlock",
    "callback_name",
    "check_options",
    "check_topic",
    "check_topic_filter",
    "compiled",
    "connect",
    "delivers_shared",
    "dissect",
    "is_coroutine_function",
    "is_generator_function",
    "tls_context",
    "to_raise",
    "topic_matches",
]


def _module(name: str) -> Any:
    return __import__(f"mqttws.{name}", fromlist=("",))  # `importlib` would delay the first message


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return _module(name)
    if name not in _WHERE:
        raise AttributeError(f"module 'mqttws' has no attribute {name!r}")
    value = getattr(_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
