"""MQTT 3.1.1 over WebSocket and TCP: packets, sans-IO state machines, blocking and asyncio clients, a broker.

This is the one public namespace. What it names is loaded when it is first asked for: `import mqttws` itself loads
neither asyncio nor ssl nor wsproto.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mqttws.codec.connecting import ConnAck, Connect, Disconnect, PingReq, PingResp
    from mqttws.codec.decoder import Decoder
    from mqttws.codec.packet import Packet
    from mqttws.codec.publishing import Message, PubAck, PubComp, Publish, PubRec, PubRel
    from mqttws.codec.subscribing import SubAck, Subscribe, UnsubAck, Unsubscribe
    from mqttws.codec.topics import TopicTree, check_topic, check_topic_filter, topic_matches
    from mqttws.errors import (
        ConnectError,
        ConnectionClosed,
        ConnectionRefused,
        HandshakeRejected,
        KeepAliveTimeout,
        LocalProtocolError,
        MalformedPacket,
        MQTTError,
        ProtocolError,
        QueueFull,
        RemoteProtocolError,
        SessionTakenOver,
        SubscribeRejected,
        WouldDeadlock,
    )
    from mqttws.protocol.client import ClientMachine
    from mqttws.protocol.connection import ClientConnection, ServerConnection
    from mqttws.protocol.reconnect import Reconnect
    from mqttws.protocol.server import ServerMachine
    from mqttws.protocol.session import Session

#: Public name -> the module that holds it.
_WHERE = {
    "ConnAck": "codec.connecting",
    "Connect": "codec.connecting",
    "Disconnect": "codec.connecting",
    "PingReq": "codec.connecting",
    "PingResp": "codec.connecting",
    "Decoder": "codec.decoder",
    "Packet": "codec.packet",
    "Message": "codec.publishing",
    "PubAck": "codec.publishing",
    "PubComp": "codec.publishing",
    "PubRec": "codec.publishing",
    "PubRel": "codec.publishing",
    "Publish": "codec.publishing",
    "SubAck": "codec.subscribing",
    "Subscribe": "codec.subscribing",
    "UnsubAck": "codec.subscribing",
    "Unsubscribe": "codec.subscribing",
    "TopicTree": "codec.topics",
    "check_topic": "codec.topics",
    "check_topic_filter": "codec.topics",
    "topic_matches": "codec.topics",
    "ConnectError": "errors",
    "ConnectionClosed": "errors",
    "ConnectionRefused": "errors",
    "HandshakeRejected": "errors",
    "KeepAliveTimeout": "errors",
    "LocalProtocolError": "errors",
    "MQTTError": "errors",
    "MalformedPacket": "errors",
    "ProtocolError": "errors",
    "QueueFull": "errors",
    "RemoteProtocolError": "errors",
    "SessionTakenOver": "errors",
    "SubscribeRejected": "errors",
    "WouldDeadlock": "errors",
    "ClientMachine": "protocol.client",
    "ClientConnection": "protocol.connection",
    "ServerConnection": "protocol.connection",
    "Reconnect": "protocol.reconnect",
    "ServerMachine": "protocol.server",
    "Session": "protocol.session",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _WHERE:
        raise AttributeError(f"module 'mqttws' has no attribute {name!r}")
    value = getattr(import_module(f"mqttws.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
