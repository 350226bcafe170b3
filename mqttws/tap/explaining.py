"""Explanations of the fields of packets, frames and HTTP heads: a sentence, the rules, the code, and its tests.

The key of a field is "layer/name" or "PACKET/name", as in `Field.key`. Fields that several packets have are under "*".
`tests/tap/test_explain.py` checks that every field that `fields_of` can return is explained, that every function and
test named here exists, and that every statement is in the standard.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mqttws.codec.packets import PACKETS
from mqttws.tap.http import KNOWN_HEADERS


class Explanation(NamedTuple):
    """The explanation of a field.

    Attributes:
        sentence: A description in one sentence.
        section: The section of the standard, such as "§3.1.2.1" or "RFC 6455 §5.2".
        statements: The normative statements about it, such as "MQTT-3.1.2-1".
        reads: The function that reads it, as "module:name".
        writes: The function that writes it; "" if this package never writes it.
        tests: Its tests, by their pytest names.
    """

    sentence: str
    section: str
    statements: tuple[str, ...]
    reads: str
    writes: str
    tests: tuple[str, ...]


_PACKETS_TEST: Final = "tests/codec/test_packets.py::"
_LITERALS: Final = _PACKETS_TEST + "test_literals_both_ways"
_BROKEN: Final = _PACKETS_TEST + "test_each_rule_violated_by_the_peer"

#: Packet -> section, the function that reads its body, the function that writes it.
_CODE: Final = {
    "CONNECT": ("§3.1", "mqttws.codec.connecting:Connect.decode", "mqttws.codec.connecting:Connect.encode"),
    "CONNACK": ("§3.2", "mqttws.codec.connecting:ConnAck.decode", "mqttws.codec.connecting:ConnAck.encode"),
    "PUBLISH": ("§3.3", "mqttws.codec.publishing:Publish.decode", "mqttws.codec.publishing:encode_publish"),
    "PUBACK": ("§3.4", "mqttws.codec.publishing:PubAck.decode", "mqttws.codec.publishing:PubAck.encode"),
    "PUBREC": ("§3.5", "mqttws.codec.publishing:PubRec.decode", "mqttws.codec.publishing:PubRec.encode"),
    "PUBREL": ("§3.6", "mqttws.codec.publishing:PubRel.decode", "mqttws.codec.publishing:PubRel.encode"),
    "PUBCOMP": ("§3.7", "mqttws.codec.publishing:PubComp.decode", "mqttws.codec.publishing:PubComp.encode"),
    "SUBSCRIBE": (
        "§3.8",
        "mqttws.codec.subscribing:Subscribe.decode",
        "mqttws.codec.subscribing:Subscribe.encode",
    ),
    "SUBACK": ("§3.9", "mqttws.codec.subscribing:SubAck.decode", "mqttws.codec.subscribing:SubAck.encode"),
    "UNSUBSCRIBE": (
        "§3.10",
        "mqttws.codec.subscribing:Unsubscribe.decode",
        "mqttws.codec.subscribing:Unsubscribe.encode",
    ),
    "UNSUBACK": ("§3.11", "mqttws.codec.subscribing:UnsubAck.decode", "mqttws.codec.subscribing:UnsubAck.encode"),
    "PINGREQ": ("§3.12", "mqttws.codec.connecting:PingReq.decode", "mqttws.codec.connecting:PingReq.encode"),
    "PINGRESP": ("§3.13", "mqttws.codec.connecting:PingResp.decode", "mqttws.codec.connecting:PingResp.encode"),
    "DISCONNECT": ("§3.14", "mqttws.codec.connecting:Disconnect.decode", "mqttws.codec.connecting:Disconnect.encode"),
}

#: "PACKET/field" or "*/field" -> sentence, section ("" for the packet's), statements, tests beside the common ones.
_FIELDS: Final[dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]]] = {
    "*/packet type and flags": (
        "The high four bits are the packet type; the low four are fixed for each type except PUBLISH.",
        "§2.2.1",
        ("MQTT-2.2.2-1", "MQTT-2.2.2-2"),
        (_PACKETS_TEST + "test_every_type_with_every_nibble",),
    ),
    "PUBLISH/packet type and flags": (
        "The high four bits, 3, are the packet type; then come DUP, two bits of QoS, and RETAIN.",
        "§3.3.1",
        ("MQTT-3.3.1-1", "MQTT-3.3.1-2", "MQTT-3.3.1-4", "MQTT-3.3.1-5"),
        (_PACKETS_TEST + "test_every_type_with_every_nibble",),
    ),
    "*/remaining length": (
        "How many bytes follow, in seven bits per byte, least significant first; the high bit means that one follows.",
        "§2.2.3",
        (),
        ("tests/codec/test_wire.py::test_remaining_length_both_ways",),
    ),
    "*/packet identifier": (
        "The number, never 0, that links a packet to its answers.",
        "§2.3.1",
        ("MQTT-2.3.1-1",),
        (_BROKEN,),
    ),
    "*/not read": (
        "Bytes that were not decoded, because of an error before them, or because the packet is too long.",
        "§4.8",
        ("MQTT-4.8.0-1",),
        (_PACKETS_TEST + "test_every_truncation_is_malformed_or_another_packet",),
    ),
    "CONNECT/protocol name": (
        "The name of the protocol, 'MQTT'; MQTT 3.1 has 'MQIsdp'.",
        "§3.1.2.1",
        ("MQTT-3.1.2-1",),
        (),
    ),
    "CONNECT/protocol level": (
        "The version of the protocol: 4 is MQTT 3.1.1, 3 is MQTT 3.1.",
        "§3.1.2.2",
        ("MQTT-3.1.2-2",),
        (),
    ),
    "CONNECT/connect flags": (
        "Which fields the payload has, the QoS and RETAIN of the will, and whether the session is a clean one.",
        "§3.1.2.3",
        ("MQTT-3.1.2-3", "MQTT-3.1.2-4", "MQTT-3.1.2-11", "MQTT-3.1.2-13", "MQTT-3.1.2-14", "MQTT-3.1.2-22"),
        (_PACKETS_TEST + "test_every_connect_flag_byte",),
    ),
    "CONNECT/keep alive": (
        "The longest silence of the client in seconds, 0 for any; the server closes after one and a half times that.",
        "§3.1.2.10",
        ("MQTT-3.1.2-23", "MQTT-3.1.2-24"),
        (),
    ),
    "CONNECT/client identifier": (
        "The name under which the server keeps the session; if it is empty, the server assigns one.",
        "§3.1.3.1",
        ("MQTT-3.1.3-2", "MQTT-3.1.3-4", "MQTT-3.1.3-6", "MQTT-3.1.3-7"),
        (),
    ),
    "CONNECT/will topic": ("The Topic Name of the will.", "§3.1.3.2", ("MQTT-3.1.3-10",), ()),
    "CONNECT/will message": (
        "The message that the server publishes when the connection ends without a DISCONNECT.",
        "§3.1.3.3",
        ("MQTT-3.1.2-8",),
        (),
    ),
    "CONNECT/user name": ("The user name, which the server can authenticate.", "§3.1.3.4", ("MQTT-3.1.3-11",), ()),
    "CONNECT/password": (
        "The password, any bytes; it is not encrypted, which is why TLS is needed.",
        "§3.1.3.5",
        (),
        (),
    ),
    "CONNACK/acknowledge flags": (
        "Seven bits that are 0, then whether the server has kept a session of this client.",
        "§3.2.2.2",
        ("MQTT-3.2.2-1", "MQTT-3.2.2-2", "MQTT-3.2.2-3", "MQTT-3.2.2-4"),
        (),
    ),
    "CONNACK/return code": (
        "0 accepts the connection; 1 to 5 say why it is refused.",
        "§3.2.2.3",
        ("MQTT-3.2.2-4", "MQTT-3.2.2-5"),
        (),
    ),
    "PUBLISH/Topic Name": (
        "The name of the information channel to which the message is published, without wildcards.",
        "§3.3.2.1",
        ("MQTT-3.3.2-1", "MQTT-3.3.2-2"),
        (),
    ),
    "PUBLISH/payload": ("The Application Message, any bytes; MQTT does not define their format.", "§3.3.3", (), ()),
    "SUBSCRIBE/a Topic Filter": (
        "The requested topics; '+' matches one level, '#' all remaining levels.",
        "§3.8.3",
        ("MQTT-3.8.3-1", "MQTT-3.8.3-3"),
        (),
    ),
    "SUBSCRIBE/requested QoS": (
        "Six bits that are 0, then the maximum QoS with which the client wants to receive the messages.",
        "§3.8.3",
        ("MQTT-3.8.3-4",),
        (_PACKETS_TEST + "test_every_qos_byte_also_in_the_last_filter",),
    ),
    "SUBACK/return codes": (
        "The QoS granted for the Topic Filter at the same position of the SUBSCRIBE; 0x80 refuses it.",
        "§3.9.3",
        ("MQTT-3.8.4-5", "MQTT-3.9.3-1", "MQTT-3.9.3-2"),
        (),
    ),
    "UNSUBSCRIBE/a Topic Filter": (
        "A Topic Filter to unsubscribe from; it is compared with the subscriptions character by character.",
        "§3.10.3",
        ("MQTT-3.10.3-1", "MQTT-3.10.3-2", "MQTT-3.10.4-1"),
        (),
    ),
}
#: The fields that are strings or binary data, each after two bytes of length.
_COUNTED: Final = {
    "CONNECT": ("protocol name", "client identifier", "will topic", "will message", "user name", "password"),
    "PUBLISH": ("Topic Name",),
    "SUBSCRIBE": ("a Topic Filter",),
    "UNSUBSCRIBE": ("a Topic Filter",),
}
_WITH_IDENTIFIER: Final = (
    "PUBLISH",
    "PUBACK",
    "PUBREC",
    "PUBREL",
    "PUBCOMP",
    "SUBSCRIBE",
    "SUBACK",
    "UNSUBSCRIBE",
    "UNSUBACK",
)

_FRAMING: Final = "mqttws.protocol.framing:"
_FRAME_CODE: Final = ("mqttws.protocol.frames:parse_header", "mqttws.protocol.frames:binary_frame")
_FRAME_TESTS: Final = ("tests/protocol/test_frames.py::test_the_fast_path_agrees_with_wsproto",)
_CONTROL_CODE: Final = (_FRAMING + "WebSocketFraming._receive_unusual", _FRAMING + "WebSocketFraming.close")
#: Field of a frame -> sentence, section, statements, the functions that read and write it.
_FRAMES: Final[dict[str, tuple[str, str, tuple[str, ...], tuple[str, str]]]] = {
    "first byte": (
        "Whether this is the last fragment of its message, three bits that are 0, and the kind of frame.",
        "RFC 6455 §5.2",
        ("MQTT-6.0.0-1",),
        _FRAME_CODE,
    ),
    "second byte": (
        "Whether the payload is masked, as a client's must be, and its length; with 126 and 127 the length follows.",
        "RFC 6455 §5.2",
        (),
        _FRAME_CODE,
    ),
    "extended length": ("The length of the payload, in two or eight bytes.", "RFC 6455 §5.2", (), _FRAME_CODE),
    "masking key": (
        "Four bytes, new for each frame; each byte of the payload was combined with one of them, in turn, by XOR.",
        "RFC 6455 §5.3",
        (),
        ("mqttws.protocol.masking:mask", _FRAMING + "WebSocketFraming._next_key"),
    ),
    "payload": (
        "Bytes of MQTT; the boundaries of packets are independent of those of frames.",
        "RFC 6455 §5.6",
        ("MQTT-6.0.0-2",),
        ("mqttws.protocol.masking:mask", _FRAMING + "WebSocketFraming.send"),
    ),
    "control payload": ("The payload of a ping, which its pong repeats.", "RFC 6455 §5.5.2", (), _CONTROL_CODE),
    "close code": ("Why the WebSocket is closed; 1000 means a normal closure.", "RFC 6455 §7.4", (), _CONTROL_CODE),
    "reason": ("Why the WebSocket is closed, as text.", "RFC 6455 §7.1.6", (), _CONTROL_CODE),
    "rest": ("The beginning of a frame whose header is incomplete.", "RFC 6455 §5.2", (), _FRAME_CODE),
}

_REQUEST_CODE: Final = (
    "mqttws.protocol.handshake:ServerWebSocket._receive_handshake",
    "mqttws.protocol.client_handshake:ClientWebSocket",
)
_RESPONSE_CODE: Final = (
    "mqttws.protocol.client_handshake:ClientWebSocket._receive_response",
    "mqttws.protocol.handshake:ServerWebSocket.accept_upgrade",
)
_HEAD_TESTS: Final = (
    "tests/protocol/test_handshake.py::TestClientRequest::test_bytes",
    "tests/protocol/test_handshake.py::TestServer::test_bytes",
)
_RESPONSE_ONLY: Final = frozenset(
    {"status code", "reason", "sec-websocket-accept", "date", "retry-after", "location", "server"}
)
#: Field of a head -> sentence, section, statements.
_HEADS: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "method": ("The method of the request; a WebSocket is opened with GET.", "RFC 6455 §4.1", ()),
    "path": ("The path of the WebSocket on the server.", "RFC 9112 §3.2", ()),
    "query separator": ("The separator between the parts of a query.", "RFC 3986 §3.4", ()),
    "parameter name": (
        "The name of a query parameter, for example of a signature.",
        "RFC 3986 §3.4",
        (),
    ),
    "parameter value": ("The value of a query parameter; in a signed URL it can be a credential.", "RFC 3986 §3.4", ()),
    "version": ("The version of HTTP; a WebSocket needs 1.1.", "RFC 9112 §2.3", ()),
    "status code": ("101 opens the WebSocket; anything else does not.", "RFC 6455 §4.2.2", ()),
    "reason": ("The status as text, for people.", "RFC 9112 §4", ()),
    "space": ("The separator between the parts of the first line.", "RFC 9112 §3", ()),
    "end of line": ("The end of a line: CR, LF.", "RFC 9112 §2.2", ()),
    "blank line": ("The end of the head; frames or a body follow.", "RFC 9112 §2.1", ()),
    "colon": ("The separator between the name of a header and its value.", "RFC 9112 §5", ()),
    "header name": ("The name of a header; its case does not matter.", "RFC 9110 §5.1", ()),
    "header value": ("The value of a header that does not affect the WebSocket.", "RFC 9110 §5.5", ()),
    "rest": ("The beginning of an incomplete line.", "RFC 9112 §2.2", ()),
    "host": ("The host and port of the request.", "RFC 9110 §7.2", ()),
    "upgrade": ("The protocol to change to: websocket.", "RFC 6455 §4.1", ()),
    "connection": ("Upgrade: the connection is to change its protocol.", "RFC 6455 §4.1", ()),
    "sec-websocket-key": ("16 random bytes in base64, from which the server computes its answer.", "RFC 6455 §4.1", ()),
    "sec-websocket-version": ("The version of the WebSocket protocol: 13.", "RFC 6455 §4.1", ()),
    "sec-websocket-protocol": (
        "The subprotocols that the client offers, or the one that the server has chosen: 'mqtt'.",
        "RFC 6455 §1.9",
        ("MQTT-6.0.0-3", "MQTT-6.0.0-4"),
    ),
    "sec-websocket-extensions": ("Extensions, such as compression; none is supported here.", "RFC 6455 §9", ()),
    "sec-websocket-accept": (
        "SHA-1 of the key and a fixed text, in base64: proof that the server has read the key.",
        "RFC 6455 §4.2.2",
        (),
    ),
    "origin": ("The origin of the page that opens the WebSocket in a browser.", "RFC 6455 §10.2", ()),
    "date": ("The server's time, by which a client can detect that its own clock is wrong.", "RFC 9110 §6.6.1", ()),
    "retry-after": ("When to try again, in seconds or as a date.", "RFC 9110 §10.2.3", ()),
    "location": ("The URL of a redirect.", "RFC 9110 §10.2.2", ()),
    "content-length": ("The size of the body in bytes.", "RFC 9110 §8.6", ()),
    "transfer-encoding": ("The encoding of the body, for example chunked.", "RFC 9112 §6.1", ()),
    "server": ("The server's name and version.", "RFC 9110 §10.2.4", ()),
    "user-agent": ("The client's name and version.", "RFC 9110 §10.1.5", ()),
}

_OTHERS: Final = {
    "tcp/data": Explanation(
        "Bytes of one read from the socket; TCP preserves the order of bytes, but not the boundaries of writes.",
        "§4.2",
        (),
        "mqttws.protocol.plain:Framing.receive_data",
        "mqttws.protocol.plain:Framing.data_to_send",
        ("tests/protocol/test_frames.py::test_plain_framing_passes_bytes_unchanged",),
    ),
    "http/body": Explanation(
        "The body of an answer that does not open the WebSocket.",
        "RFC 9112 §6",
        (),
        "mqttws.protocol.client_handshake:ClientWebSocket._rejected",
        "mqttws.protocol.handshake:ServerWebSocket.reject_upgrade",
        ("tests/protocol/test_handshake.py::TestClientRefused::test_with_a_body_at_every_split",),
    ),
    "other/bytes that are not MQTT": Explanation(
        "Bytes that are not MQTT; they are forwarded unchanged.",
        "§4.8",
        ("MQTT-4.8.0-1",),
        "mqttws.codec.decoder:Decoder.feed",
        "",
        ("tests/codec/test_packets.py::test_every_type_with_every_nibble",),
    ),
}


def _of_packets() -> dict[str, Explanation]:
    made = {}
    for kind in PACKETS.values():
        packet = kind.__name__.upper()
        made.update(_of_packet(packet))
    return made


def _of_packet(packet: str) -> dict[str, Explanation]:
    section, reads, writes = _CODE[packet]
    common = (_LITERALS,)
    names = [key.partition("/")[2] for key in _FIELDS if key.startswith(f"{packet}/")]
    names += ["packet type and flags", "remaining length", "not read"]
    if packet in _WITH_IDENTIFIER:
        names.append("packet identifier")
    made = {}
    for name in names:
        sentence, where, statements, tests = _FIELDS.get(f"{packet}/{name}") or _FIELDS[f"*/{name}"]
        reader = reads
        if name == "packet type and flags":
            reader = "mqttws.codec.packets:check_first_byte"
        elif name == "remaining length":
            reader = "mqttws.codec.wire:decode_remaining_length"
        writer = "" if name == "not read" else writes
        made[f"{packet}/{name}"] = Explanation(
            sentence, where or section, statements, reader, writer, (*common, *tests)
        )
    for name in _COUNTED.get(packet, ()):
        what = name.removeprefix("a ")
        made[f"{packet}/length of {name}" if name != what else f"{packet}/length of the {name}"] = Explanation(
            f"The length of the {what} in bytes, as two bytes, most significant first.",
            "§1.5.3",
            (),
            reads,
            writes,
            (_LITERALS, "tests/codec/test_wire.py::test_strings_both_ways"),
        )
    return made


def _of_the_rest() -> dict[str, Explanation]:
    made = dict(_OTHERS)
    for name, (sentence, section, statements, code) in _FRAMES.items():
        made[f"frame/{name}"] = Explanation(sentence, section, statements, *code, _FRAME_TESTS)
    assert _HEADS.keys() >= KNOWN_HEADERS
    for name, (sentence, section, statements) in _HEADS.items():
        code = _RESPONSE_CODE if name in _RESPONSE_ONLY else _REQUEST_CODE
        made[f"HTTP/{name}"] = Explanation(sentence, section, statements, *code, _HEAD_TESTS)
    made["packet/packet type and flags"] = made["packet/not read"] = _OTHERS["other/bytes that are not MQTT"]
    return made


_ALL: dict[str, Explanation] = {}


def explanations() -> dict[str, Explanation]:
    """Return all explanations by key."""
    if not _ALL:
        _ALL.update(_of_packets())
        _ALL.update(_of_the_rest())
    return dict(_ALL)


def explain(key: str) -> Explanation:
    """Return the explanation of a field.

    Args:
        key: See `Field.key`.

    Raises:
        KeyError: There is no such field.
    """
    if not _ALL:
        explanations()
    return _ALL[key]
