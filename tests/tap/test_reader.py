"""The session reader, from two byte streams to records: layers, parts, states, round trips and violated rules."""

from __future__ import annotations

import os

import packet_strategies as some
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mqttws
from mqttws import (
    ConnAck,
    Connect,
    Disconnect,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)
from mqttws.protocol.frames import binary_frame
from mqttws.tap import Record, SessionReader, summary

KEY = b"\x01\x02\x03\x04"
REQUEST = (
    b"GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)


def packets(records: list[Record]) -> list[Record]:
    return [record for record in records if record.layer == "mqtt"]


def only(records: list[Record]) -> Record:
    (record,) = packets(records)
    return record


def broken(record: Record) -> list[str]:
    return [each.statement for each in record.broken]


class Talk:
    """A session with one packet a second."""

    def __init__(self, connected: bool = True, keep_alive: int = 0) -> None:
        self.reader = SessionReader()
        self.now = 0.0
        if connected:
            self.client(Connect("c", keep_alive=keep_alive))
            self.server(ConnAck())

    def client(self, packet: mqttws.Packet) -> Record:
        return self._send("client", packet)

    def server(self, packet: mqttws.Packet) -> Record:
        return self._send("server", packet)

    def _send(self, sender: str, packet: mqttws.Packet) -> Record:
        self.now += 1.0
        return only(self.reader.receive_data(sender, packet.encode(), self.now))


# Layers.


def opened() -> SessionReader:
    reader = SessionReader()
    reader.receive_data("client", REQUEST, 0.0)
    reader.receive_data("server", RESPONSE, 0.0)
    return reader


def test_the_upgrade_is_read_and_compared() -> None:
    reader = SessionReader()
    piece, request = reader.receive_data("client", REQUEST, 1.0)
    assert (piece.layer, piece.name, piece.size, piece.time) == ("tcp", "data", len(REQUEST), 1.0)
    assert (request.layer, request.name, request.broken) == ("http", "GET", ())
    _, response = reader.receive_data("server", RESPONSE, 2.0)
    assert (response.layer, response.name, response.broken) == ("http", "101", ())


@pytest.mark.parametrize(
    ("old", "new", "statement"),
    [(b"s3pPLMB", b"s3pPLMC", "RFC 6455 §4.2.2"), (b"Protocol: mqtt", b"Protocol: chat", "MQTT-6.0.0-4")],
)
def test_a_wrong_answer_to_the_upgrade_is_marked(old: bytes, new: bytes, statement: str) -> None:
    reader = SessionReader()
    reader.receive_data("client", REQUEST, 1.0)
    _, response = reader.receive_data("server", RESPONSE.replace(old, new), 2.0)
    assert broken(response) == [statement]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Sec-WebSocket-Protocol: mqtt", b"Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: mqtt"),
        (b"Upgrade: websocket", b"Upgrade: h2c\r\nUpgrade: WebSocket"),
        (b"Upgrade: websocket", b"Upgrade: h2c, websocket"),
    ],
)
def test_lines_of_a_list_are_one_list(old: bytes, new: bytes) -> None:
    """Spec: RFC 9110 §5.3"""
    reader = SessionReader()
    _, request = reader.receive_data("client", REQUEST.replace(old, new, 1), 1.0)
    _, response, frame = reader.receive_data("server", RESPONSE + bytes.fromhex("8900"), 2.0)
    assert (broken(request), broken(response), frame.name) == ([], [], "ping")


def test_a_content_length_of_thousands_of_digits() -> None:
    reader = SessionReader()
    head = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: %b\r\n\r\n" % (b"9" * 5000)
    made = reader.receive_data("server", head + b"no", 1.0)
    assert [(record.layer, record.name) for record in made[1:]] == [("http", "401"), ("http", "body")]


@pytest.mark.parametrize(
    ("old", "new", "statement"),
    [
        (b"Protocol: mqtt", b"Protocol: chat", "MQTT-6.0.0-3"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"short", "RFC 6455 §4.1"),
        (b"Version: 13", b"Version: 8", "RFC 6455 §4.1"),
    ],
)
def test_a_wrong_upgrade_is_marked(old: bytes, new: bytes, statement: str) -> None:
    _, request = SessionReader().receive_data("client", REQUEST.replace(old, new), 1.0)
    assert broken(request) == [statement]


def test_several_packets_in_a_frame_and_a_packet_over_frames() -> None:
    reader = opened()
    ping, publish = PingReq().encode(), Publish("a", b"xyz").encode()
    frame = binary_frame(ping + publish[:3], KEY)
    made = reader.receive_data("client", frame, 1.0)
    assert [(record.layer, record.name) for record in made] == [
        ("tcp", "data"),
        ("frame", "binary"),
        ("mqtt", "PINGREQ"),
    ]
    assert made[1].parts == ((made[0].number, 0, len(frame)),)
    assert made[2].parts == ((made[1].number, 6, 2),)
    rest = reader.receive_data("client", binary_frame(publish[3:], KEY), 2.0)
    packet = only(rest)
    assert packet.packet == Publish("a", b"xyz")
    assert packet.parts == ((made[1].number, 8, 3), (rest[1].number, 6, len(publish) - 3))
    assert packet.data == publish


def test_a_refused_upgrade_and_another_request_on_the_same_connection() -> None:
    reader = SessionReader()
    reader.receive_data("client", REQUEST, 0.0)
    refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"
    made = reader.receive_data("server", refusal, 1.0)
    assert [(record.layer, record.name) for record in made[1:]] == [("http", "401"), ("http", "body")]
    assert [record.name for record in reader.receive_data("client", REQUEST, 2.0)] == ["data", "GET"]
    assert [record.name for record in reader.receive_data("server", RESPONSE, 2.0)] == ["data", "101"]
    assert only(reader.receive_data("client", binary_frame(b"\xc0\x00", KEY), 3.0)).name == "PINGREQ"


@pytest.mark.parametrize(
    ("frame", "statement"),
    [
        ("8200", "RFC 6455 §5.1"),
        ("c28000000000", "RFC 6455 §5.2"),
        ("838000000000", "RFC 6455 §5.2"),
        ("82fe000000000000", "RFC 6455 §5.2"),
        ("098000000000", "RFC 6455 §5.5"),
        ("808000000000", "RFC 6455 §5.4"),
        ("818000000000", "MQTT-6.0.0-1"),
        ("88810000000000", "RFC 6455 §5.5.1"),
    ],
)
def test_rules_of_frames(frame: str, statement: str) -> None:
    made = opened().receive_data("client", bytes.fromhex(frame), 1.0)
    assert statement in broken(made[1])


def test_a_server_that_masks() -> None:
    made = opened().receive_data("server", binary_frame(b"", KEY), 1.0)
    assert broken(made[1]) == ["RFC 6455 §5.1"]


def test_a_new_message_inside_a_fragmented_one() -> None:
    reader = opened()
    reader.receive_data("server", bytes.fromhex("0200"), 1.0)
    ping = reader.receive_data("server", bytes.fromhex("8900"), 1.0)
    assert [(record.name, record.broken) for record in ping[1:]] == [("ping", ())]
    assert broken(reader.receive_data("server", bytes.fromhex("8200"), 1.0)[1]) == ["RFC 6455 §5.4"]


@given(st.lists(some.packets, min_size=1, max_size=6), st.booleans(), st.data())
def test_the_packets_are_the_same_in_any_pieces(
    sent: list[mqttws.Packet], websocket: bool, data: st.DataObject
) -> None:
    reader = opened() if websocket else SessionReader()
    stream = b"".join(packet.encode() for packet in sent)
    if not websocket and sent[0].encode()[0] in range(0x41, 0x5B):
        stream = b"\xc0\x00" + stream  # otherwise it could be the start of an HTTP method
    if websocket:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
        ends = zip([0, *cuts], [*cuts, len(stream)], strict=True)
        stream = b"".join(binary_frame(stream[start:end], KEY) for start, end in ends)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    records = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        records += reader.receive_data("client", stream[start:end], 0.0)
    found = [record.packet for record in packets(records)]
    assert found[-len(sent) :] == sent
    pieces = {record.number: record for record in records}
    for record in records:  # the parts are the bytes
        if (record.parts and record.layer in ("http", "frame")) or (record.layer == "mqtt" and not websocket):
            carried = b"".join(pieces[n].data[start : start + size] for n, start, size in record.parts)
            assert carried == record.data


def test_a_long_packet_is_not_stored_completely_and_the_next_is_found() -> None:
    for websocket in (False, True):
        reader = SessionReader(limit=1000)
        if websocket:
            reader.receive_data("client", REQUEST, 0.0)
        payload = os.urandom(100_000)
        long, after = Publish("a", payload, 1, packet_id=7).encode(), Publish("b", b"2").encode()
        stream = binary_frame(long + after, KEY) if websocket else long + after
        records = []
        for start in range(0, len(stream), 999):
            records += reader.receive_data("client", stream[start : start + 999], 0.0)
        first, second = packets(records)
        assert (first.size, first.data) == (len(long), long[:1000])
        assert first.packet == Publish("a", payload[: 1000 - (len(long) - len(payload))], 1, packet_id=7)
        assert second.packet == Publish("b", b"2")
        assert second.offset == len(long)
        assert sum(len(record.data) for record in records if record.layer == "mqtt") < 5000


def test_a_packet_is_reported_before_its_frame_is_complete() -> None:
    """As a peer processes it."""
    reader = opened()
    frame = binary_frame(b"\xc0\x00" + Publish("a", bytes(1000)).encode(), KEY)
    made = reader.receive_data("client", frame[:100], 1.0)
    assert [record.name for record in made] == ["data", "binary", "PINGREQ"]
    assert (made[1].size, made[1].data) == (len(frame), frame[:100])
    assert reader.under_way("client")
    rest = reader.receive_data("client", frame[100:], 2.0)
    assert [record.name for record in rest] == ["data", "rest of binary", "PUBLISH"]
    assert rest[2].packet == Publish("a", bytes(1000))
    assert rest[2].parts == ((made[1].number, 10, 90), (rest[1].number, 0, len(frame) - 100))
    assert not reader.under_way("client")


# What is not MQTT.


def test_bytes_that_are_no_mqtt_are_shown_as_such() -> None:
    hello = bytes.fromhex("16030100c8010000c40303")  # the beginning of TLS
    made = SessionReader().receive_data("client", hello, 0.0)
    assert [(record.layer, record.data) for record in made] == [("tcp", hello), ("other", hello)]
    assert broken(made[1]) == ["MQTT-2.2.2-2"]


def test_a_connect_of_mqtt_3_1_may_have_flags() -> None:
    data = Connect("c", protocol_level=3).encode()
    for size in range(1, len(data)):
        reader = SessionReader()
        made = reader.receive_data("client", b"\x18" + data[1:size], 0.0)
        made += reader.receive_data("client", data[size:], 0.0)
        assert only(made).name == "CONNECT"


def test_after_an_invalid_length_nothing_is_mqtt() -> None:
    reader = SessionReader()
    made = reader.receive_data("client", bytes.fromhex("c000 30ffffffffff 0000"), 0.0)
    assert [record.layer for record in made] == ["tcp", "mqtt", "other"]
    assert broken(made[2]) == ["§2.2.3"]
    assert [record.layer for record in reader.receive_data("client", b"more", 1.0)] == ["tcp", "other"]


def test_a_malformed_packet_is_marked_and_the_next_one_is_read() -> None:
    made = packets(SessionReader().receive_data("client", bytes.fromhex("c000 3602 0000 c000"), 0.0))
    assert [(record.name, record.packet is None) for record in made] == [
        ("PINGREQ", False),
        ("PUBLISH", True),
        ("PINGREQ", False),
    ]
    assert broken(made[1]) == ["MQTT-3.3.1-4"]


def test_another_version_of_mqtt_is_not_decoded() -> None:
    reader = SessionReader()
    connect = bytes.fromhex("10 0e 0004 4d515454 05 02 003c 00 0001 63")
    record = only(reader.receive_data("client", connect, 0.0))
    assert (record.notes["version"], broken(record)) == (5, ["MQTT-3.1.2-2"])
    answer = only(reader.receive_data("server", bytes.fromhex("2003 0000 00"), 1.0))
    assert (answer.name, answer.packet, answer.broken) == ("CONNACK", None, ())


def test_truncated_packets_are_shown() -> None:
    reader = SessionReader()
    reader.receive_data("client", b"\xc0\x00\x30\x05\x00", 0.0)
    cut, fin = reader.receive_end("client", 1.0)
    assert (cut.layer, cut.name, cut.data, cut.parts) == ("other", "cut short", b"\x30\x05\x00", ((1, 2, 3),))
    assert fin.name == "FIN"


# States.


def test_the_connection_at_either_end() -> None:
    talk = Talk(connected=False)
    assert talk.client(Connect("c")).changes == (
        ("client", "connection", "new", "connecting"),
        ("server", "connection", "new", "connecting"),
    )
    answer = talk.server(ConnAck())
    assert [change.after for change in answer.changes] == ["connected", "connected"]
    assert (answer.answers, answer.round_trip) == (2, 1.0)
    assert talk.client(Disconnect()).changes == (("client", "connection", "connected", "closed"),)
    (fin,) = talk.reader.receive_end("server", 9.0)
    assert fin.changes == (("server", "connection", "connected", "closed"),)


def test_the_flows_of_qos_1_and_2() -> None:
    talk = Talk()
    publish = talk.client(Publish("a", b"", 1, packet_id=7))
    assert publish.changes == (("client", "sends 7", "", "published 1"), ("server", "receives 7", "", "published 1"))
    done = talk.server(PubAck(7))
    assert (done.answers, done.round_trip) == (publish.number, 1.0)
    assert [change.after for change in done.changes] == ["", ""]
    steps = [
        talk.server(Publish("a", b"", 2, packet_id=7)), talk.client(PubRec(7)), talk.server(PubRel(7)),
        talk.client(PubComp(7)),
    ]  # fmt: skip
    assert [step.changes[0].after for step in steps] == ["published 2", "received", "released", ""]
    assert [step.answers for step in steps[1:]] == [step.number for step in steps[:-1]]
    assert not any(step.broken for step in steps)
    assert talk.reader.ends.waiting == []


def test_the_two_directions_of_identifiers_are_separate() -> None:
    talk = Talk()
    talk.client(Publish("a", b"", 1, packet_id=1))
    assert talk.server(Publish("a", b"", 1, packet_id=1)).broken == ()
    assert [each[:3] for each in talk.reader.ends.waiting] == [
        ("client", 1, "published 1"),
        ("server", 1, "published 1"),
    ]


def test_requests_and_pings_are_joined_with_their_answers() -> None:
    talk = Talk()
    for request, answer in (
        (Subscribe(1, [("a", 1), ("b", 0)]), SubAck(1, [1, 0x80])),
        (Unsubscribe(2, ["a"]), UnsubAck(2)),
        (PingReq(), PingResp()),
    ):
        asked = talk.client(request)
        answered = talk.server(answer)
        assert (answered.answers, answered.broken) == (asked.number, ())


@pytest.mark.parametrize(
    ("sender", "before", "packet", "statement"),
    [
        ("client", [], Connect("c"), "MQTT-3.1.0-2"),
        ("client", [("client", Disconnect())], PingReq(), "MQTT-3.14.4-2"),
        ("server", [], ConnAck(), "§3.2"),
        ("server", [], PingResp(), "§3.13"),
        ("server", [], Subscribe(1, [("a", 0)]), "§2.2.1"),
        ("server", [], SubAck(9, [0]), "MQTT-3.8.4-2"),
        ("server", [], UnsubAck(9), "MQTT-3.10.4-4"),
        ("server", [("client", Subscribe(1, [("a", 0), ("b", 0)]))], SubAck(1, [0]), "MQTT-3.8.4-5"),
        ("client", [("client", Publish("a", b"", 1, packet_id=1))], Publish("b", b"", 1, packet_id=1), "MQTT-2.3.1-2"),
        ("server", [("server", Publish("a", b"", 1, packet_id=1))], Publish("b", b"", 1, packet_id=1), "MQTT-2.3.1-4"),
        ("server", [("client", Publish("a", b"", 1, packet_id=1))], PubRec(1), "§4.3"),
    ],
)
def test_rules_about_the_order_of_packets(
    sender: str, before: list[tuple[str, mqttws.Packet]], packet: mqttws.Packet, statement: str
) -> None:
    talk = Talk()
    for end, earlier in before:
        assert not getattr(talk, end)(earlier).broken
    assert broken(getattr(talk, sender)(packet)) == [statement]


def test_valid_sessions_are_not_marked() -> None:
    """A re-delivery, late answers, an existing session, and a client that does not wait for the CONNACK."""
    talk = Talk(connected=False)
    talk.client(Connect("c"))
    assert not talk.client(Publish("a", b"", 1, packet_id=1)).broken
    assert not talk.server(ConnAck()).broken
    assert not talk.client(Publish("a", b"", 1, dup=True, packet_id=1)).broken
    for packet in (PubAck(1), PubAck(1)):
        assert not talk.server(packet).broken
    released = talk.client(PubRel(5))
    assert not released.broken
    assert released.changes[0].after == "released"
    assert not talk.server(PubComp(5)).broken


def test_the_first_packets() -> None:
    talk = Talk(connected=False)
    assert broken(talk.client(PingReq())) == ["MQTT-3.1.0-1"]
    assert broken(talk.server(PingResp()))[0] == "MQTT-3.1.0-1"
    talk.client(Connect("c"))
    assert broken(talk.server(SubAck(1, [0])))[0] == "MQTT-3.2.0-1"


def test_session_present_after_a_clean_session_is_marked() -> None:
    talk = Talk(connected=False)
    talk.client(Connect("c", clean_session=True))
    assert broken(talk.server(ConnAck(0, True))) == ["MQTT-3.2.2-1"]


def test_silence_beyond_the_keep_alive() -> None:
    talk = Talk(keep_alive=2)
    assert talk.client(PingReq()).broken == ()
    talk.now += 3.5
    assert broken(talk.client(PingReq())) == ["MQTT-3.1.2-23"]


def test_the_summaries_of_packets() -> None:
    talk = Talk(connected=False)
    assert summary(talk.client(Connect("\x1b[31m", username="token"))) == (
        r"'\x1b[31m', clean session, keep alive 60 s, user name hidden"
    )
    assert summary(talk.server(ConnAck(5))) == "5: not authorized"
    assert summary(Talk().client(Publish("a/b", b'{"x": 1}', 1, True, packet_id=3))) == (
        """'a/b' QoS 1 id 3 RETAIN, 8 bytes of JSON: '{"x": 1}'"""
    )
