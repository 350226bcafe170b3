"""What a record means for the state of either end, in a sentence."""

from __future__ import annotations

from typing import Final

from mqttws.codec.connecting import ConnAck
from mqttws.tap.record import FRAME, HTTP, MQTT, OTHER, TCP, Record

#: Packet -> what it means. QoS 0 to 2 of PUBLISH differ.
_PACKETS: Final = {
    "CONNECT": "The client asks for a session; it waits for CONNACK, and may send more meanwhile.",
    "PUBLISH 0": "The message is on its way once; nobody answers, and the sender forgets it.",
    "PUBLISH 1": "The sender keeps the message until PUBACK; without one it sends it again, with DUP.",
    "PUBLISH 2": "The sender keeps the message until PUBREC; the receiver remembers its identifier.",
    "PUBACK": "The receiver owns the message; the sender drops it, and the identifier is free.",
    "PUBREC": "The receiver owns the message; the sender drops it, and keeps its identifier.",
    "PUBREL": "The sender lets the identifier go; the receiver may forget it, and never delivers twice.",
    "PUBCOMP": "Both have forgotten the identifier; it is free.",
    "SUBSCRIBE": "The client asks for messages, and waits for SUBACK.",
    "SUBACK": "The server tells the QoS granted for each Topic Filter, or that it refuses it.",
    "UNSUBSCRIBE": "The client takes Topic Filters back, and waits for UNSUBACK.",
    "UNSUBACK": "The server sends nothing more for these Topic Filters.",
    "PINGREQ": "The client shows that it is there, and asks the server to do so.",
    "PINGRESP": "The server shows that it is there.",
    "DISCONNECT": "The client ends the connection in order: the server drops the will, and closes.",
}
_FRAMES: Final = {
    "binary": "A message of the WebSocket, or the beginning of one, whose payload goes on the stream of MQTT bytes.",
    "continuation": "The next fragment of a message of the WebSocket.",
    "text": "A text message; MQTT must not travel in one, and the receiver must close.",
    "ping": "The sender asks for a pong with the same payload.",
    "pong": "The answer to a ping, or a sign of life that nobody asked for.",
    "close": "The sender ends the WebSocket; the other end answers with a close frame.",
}
_TCP: Final = {
    "open": "The connection is there.",
    "FIN": "This end sends nothing more.",
    "RST": "The connection is gone; what was on its way may be lost.",
}


def meaning(record: Record) -> str:
    """Say what a record means; "" for nothing beyond its parts."""
    if record.layer == MQTT:
        return _of_packet(record)
    if record.layer == HTTP:
        if record.name == "101":
            return "The WebSocket is open: what follows is frames."
        if record.name.isdecimal():
            return "The server does not open the WebSocket."
        return "" if record.name == "body" else "The client asks for a WebSocket, and waits for 101."
    if record.name == "gap":
        return "These bytes were not captured; what follows them cannot be read."
    if record.layer == OTHER:
        return "These bytes are forwarded as they are; they cannot be read as MQTT."
    if "frame" in record.notes:
        return "More of a frame that did not come in one piece."
    return {FRAME: _FRAMES, TCP: _TCP}[record.layer].get(record.name, "")


def _of_packet(record: Record) -> str:
    if record.packet is None:
        return "This packet cannot be read; a receiver must close the connection." if record.broken else ""
    if record.name == "CONNACK":
        if isinstance(record.packet, ConnAck) and record.packet.return_code:
            return "The server refuses, and closes the connection."
        return "The server accepts: both are connected."
    if record.name == "PUBLISH":
        return _PACKETS[f"PUBLISH {record.data[0] >> 1 & 3}"]
    return _PACKETS[record.name]
