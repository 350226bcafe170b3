"""Describe the effect of a record on the state of either end, in one sentence."""

from __future__ import annotations

from typing import Final

from mqttws.codec.connecting import ConnAck
from mqttws.tap.record import FRAME, HTTP, MQTT, OTHER, TCP, Record

#: Packet -> its effect. QoS 0 to 2 of PUBLISH differ.
_PACKETS: Final = {
    "CONNECT": "The client opens a session. It waits for CONNACK, but may already send other packets.",
    "PUBLISH 0": "The message is sent once and not acknowledged; the sender does not keep it.",
    "PUBLISH 1": "The sender keeps the message until PUBACK; otherwise it sends it again, with DUP.",
    "PUBLISH 2": "The sender keeps the message until PUBREC; the receiver stores its identifier.",
    "PUBACK": "The receiver owns the message; the sender discards it, and the identifier is free.",
    "PUBREC": "The receiver owns the message; the sender discards it but keeps the identifier.",
    "PUBREL": "The sender releases the identifier; the receiver may discard it, and never delivers twice.",
    "PUBCOMP": "Both ends have discarded the identifier; it is free.",
    "SUBSCRIBE": "The client requests messages, and waits for SUBACK.",
    "SUBACK": "The server grants a QoS for each Topic Filter, or refuses it.",
    "UNSUBSCRIBE": "The client cancels subscriptions, and waits for UNSUBACK.",
    "UNSUBACK": "The server sends no more messages for these Topic Filters.",
    "PINGREQ": "The client shows that it is connected, and requests an answer.",
    "PINGRESP": "The server shows that it is connected.",
    "DISCONNECT": "The client closes the connection cleanly: the server discards the will and closes.",
}
_FRAMES: Final = {
    "binary": "A WebSocket message, or its beginning; its payload continues the stream of MQTT bytes.",
    "continuation": "The next fragment of a WebSocket message.",
    "text": "A text message. MQTT must be sent in binary messages, so the receiver must close.",
    "ping": "The sender requests a pong with the same payload.",
    "pong": "The answer to a ping, or an unsolicited keep-alive.",
    "close": "The sender closes the WebSocket; the other end answers with a close frame.",
}
_TCP: Final = {
    "open": "The connection is open.",
    "FIN": "This end sends nothing more.",
    "RST": "The connection is reset; data in transit may be lost.",
}


def meaning(record: Record) -> str:
    """Describe the effect of a record; return "" if it has none."""
    if record.layer == MQTT:
        return _of_packet(record)
    if record.layer == HTTP:
        if record.name == "101":
            return "The WebSocket is open; frames follow."
        if record.name.isdecimal():
            return "The server does not open the WebSocket."
        return "" if record.name == "body" else "The client requests a WebSocket, and waits for 101."
    if record.name == "gap":
        return "These bytes were not captured; the data after them cannot be decoded."
    if record.layer == OTHER:
        return "These bytes are not MQTT; they are forwarded unchanged."
    if "frame" in record.notes:
        return "A later part of a frame that did not arrive in one piece."
    return {FRAME: _FRAMES, TCP: _TCP}[record.layer].get(record.name, "")


def _of_packet(record: Record) -> str:
    if record.packet is None:
        return "This packet is malformed; a receiver must close the connection." if record.broken else ""
    if record.name == "CONNACK":
        if isinstance(record.packet, ConnAck) and record.packet.return_code:
            return "The server refuses the connection and closes it."
        return "The server accepts the connection: both ends are connected."
    if record.name == "PUBLISH":
        return _PACKETS[f"PUBLISH {record.data[0] >> 1 & 3}"]
    return _PACKETS[record.name]
