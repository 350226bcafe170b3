"""Every fault: its effect on the bytes, the rules that select it, and its use from Python, files and replays."""

from __future__ import annotations

import inspect
import re
import socket
import time
from pathlib import Path
from typing import Any

import packet_strategies as some
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger import ROOT
from wire import PATIENCE

import mqttws
from mqttws import ConnAck, Connect, ConnectionRefused, HandshakeRejected, Packet, PubAck, Publish, SubAck, Subscribe
from mqttws.broker import Broker
from mqttws.protocol.frames import binary_frame
from mqttws.tap import SessionReader
from mqttws.testing import Faults, Rules
from mqttws.testing.faults.kinds import KINDS
from mqttws.testing.faults.line import FaultyLine
from mqttws.testing.faults.rules import _CONDITIONS, Rule, Toxic
from mqttws.testing.faults.toxics import TOXICS

REQUEST = b"GET /mqtt HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
RESPONSE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"


class Wire:
    """Both directions of a connection through a line, with a clock that the test sets."""

    def __init__(self, *rules: Rule, toxics: tuple[Toxic, ...] = (), websocket: bool = False, seed: int = 1) -> None:
        self.reader = SessionReader()
        self.decided = Rules(seed)
        self.now = 100.0
        self.line = FaultyLine(Rules(seed, list(rules), list(toxics)), self.reader, self.decided, self.now)
        self.got = {"client": b"", "server": b""}
        self.others: list[tuple[str, str]] = []
        if websocket:
            self.send("client", REQUEST)
            self.send("server", RESPONSE)
            self.got = {"client": b"", "server": b""}

    def send(self, sender: str, data: bytes) -> bytes:
        """Send bytes from one end. Return the bytes that the other end has received since."""
        other = {"client": "server", "server": "client"}[sender]
        before = len(self.got[other])
        records = self.reader.receive_data(sender, data, self.now)
        self.line.receive_data(sender, data, records, self.now)
        self.act()
        return self.got[other][before:]

    def packet(self, sender: str, packet: Packet) -> bytes:
        data = packet.encode()
        if self.reader.upgrade is not None:
            data = binary_frame(data, b"abcd" if sender == "client" else None)
        return self.send(sender, data)

    def act(self, later: float = 0.0) -> None:
        self.now += later
        for what, end, data in self.line.actions(self.now):
            if what == "send":
                self.got[end] += data
            else:
                self.others.append((what, end))


P1 = Publish("a", b"xy", 1, packet_id=7)

#: kind, parameters, packet, sender; the bytes at the other end over TCP, and at a client over WebSocket.
CASES: list[tuple[str, dict[str, Any], Packet, str, str, str]] = [
    ("drop", {}, P1, "server", "", ""),
    ("duplicate", {"copies": 2}, PubAck(1), "server", "40020001" * 3, "820440020001" * 3),
    ("replace", {"packet": "d000"}, P1, "server", "d000", "8202d000"),
    ("replace", {"packet": PubAck(3)}, P1, "client", "40020003", ""),
    ("inject", {"packet": b"\xd0\x00"}, PubAck(1), "server", "40020001d000", "8204400200018202d000"),
    ("truncate", {"size": 3}, P1, "server", "320700", "820932"),
    ("corrupt", {"at": 1, "value": 255}, PubAck(1), "server", "40ff0001", "820440ff0001"),
    ("set_field", {"name": "packet identifier", "value": 9}, PubAck(1), "server", "40020009", "820440020009"),
    ("set_field", {"name": "payload", "value": "00"}, P1, "client", "3207000161000700", ""),
    ("set_flags", {"flags": 6}, P1, "server", "360700016100077879", "8209360700016100077879"),
    ("refuse", {"return_code": 5}, ConnAck(), "server", "20020005", "820420020005"),
    ("fail_subscription", {}, SubAck(1, [0, 1]), "server", "900400018080", "8206900400018080"),
    ("wrong_count", {}, SubAck(1, [1]), "server", "900400010100", "8206900400010100"),
    ("wrong_count", {"more": -1}, SubAck(1, [1, 2]), "server", "9003000101", "82059003000101"),
    ("stranger", {}, PubAck(1), "server", "400203e9", "8204400203e9"),
    ("session_lost", {}, ConnAck(0, True), "server", "20020000", "820420020000"),
    ("session_kept", {}, ConnAck(), "server", "20020100", "820420020100"),
    ("wrong_length", {"more": 3}, PubAck(1), "server", "40050001", "820440050001"),
    ("endless_length", {}, PubAck(1), "server", "40ffffffff010001", "820840ffffffff010001"),
    ("long_length", {}, PubAck(1), "server", "4082000001", "82054082000001"),
    ("split", {"size": 2}, PubAck(1), "server", "40020001", "82024002" + "82020001"),
    ("fragment", {"size": 2}, PubAck(1), "server", "40020001", "02024002" + "80020001"),
    ("fragment", {"size": 2, "pings": True}, PubAck(1), "server", "40020001", "0202400289076265747765656e80020001"),
    ("empty_frames", {"count": 2}, PubAck(1), "server", "40020001", "82008200" + "820440020001"),
    ("text_frame", {}, PubAck(1), "server", "40020001", "810440020001"),
    ("reserved_bits", {}, PubAck(1), "server", "40020001", "c20440020001"),
    ("reserved_opcode", {"opcode": 11}, PubAck(1), "server", "40020001", "8b0440020001"),
    ("close_frame", {"code": 1008, "reason": "no"}, PubAck(1), "server", "", "880403f06e6f"),
    ("ping_flood", {"count": 3}, PubAck(1), "server", "40020001", "890089008900" + "820440020001"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "parameters", "packet", "sender", "tcp", "websocket"), CASES)
def test_the_effect_of_each_fault_on_a_packet(
    kind: str, parameters: dict[str, Any], packet: Packet, sender: str, tcp: str, websocket: str
) -> None:
    assert Wire(Rule(kind, parameters)).packet(sender, packet).hex() == tcp
    if sender == "server":
        assert Wire(Rule(kind, parameters), websocket=True).packet(sender, packet).hex() == websocket


def test_faults_that_end_the_connection() -> None:
    for kind, parameters, others in (
        ("reset", {}, [("rst", "client"), ("rst", "server")]),
        ("close", {}, [("fin", "server"), ("fin", "client")]),
        ("truncate", {"size": 1}, [("rst", "client"), ("rst", "server")]),
        ("truncate", {"size": 1, "end": "fin"}, [("fin", "server"), ("fin", "client")]),
        ("refuse", {"return_code": 1}, [("fin", "server"), ("fin", "client")]),
    ):
        wire = Wire(Rule(kind, parameters))
        wire.packet("server", P1)
        assert sorted(wire.others) == sorted(others), kind
        assert wire.packet("client", PubAck(1)) == b""


def test_silence_keeps_the_connection_and_forwards_nothing() -> None:
    wire = Wire(Rule("silence", nth=2))
    assert wire.packet("client", PubAck(1)) == PubAck(1).encode()
    for sender in ("client", "server"):
        assert wire.packet(sender, PubAck(2)) == b""
    wire.line.receive_end("client", False, wire.now)
    wire.act(100.0)
    assert wire.others == []


def test_delay_affects_everything_and_hold_only_its_packet() -> None:
    late, after = PubAck(1), PubAck(2)
    wire = Wire(Rule("delay", {"seconds": 2.0}, packet_id=1))
    assert wire.packet("server", late) + wire.packet("server", after) == b""
    assert wire.line.next_deadline() == wire.now + 2
    wire.act(1.9)
    assert wire.got["client"] == b""
    wire.act(0.2)
    assert wire.got["client"] == late.encode() + after.encode()
    wire = Wire(Rule("hold", {"seconds": 2.0}, packet_id=1))
    assert wire.packet("server", late) + wire.packet("server", after) == after.encode()
    wire.act(2.1)
    assert wire.got["client"] == after.encode() + late.encode()


def test_reorder_and_join() -> None:
    first, second, third = PubAck(1), PubAck(2), PubAck(3)
    for websocket in (False, True):
        wire = Wire(Rule("reorder", packet_id=1), websocket=websocket)
        for packet in (first, second, third):
            wire.packet("server", packet)
        plain = Wire(websocket=websocket)
        for packet in (second, first, third):
            plain.packet("server", packet)
        assert wire.got == plain.got
    wire = Wire(Rule("join", {"count": 2}), websocket=True)
    assert wire.packet("server", first) == b""
    assert wire.packet("server", second).hex() == "8208" + "4002000140020002"


def test_a_held_packet_is_not_lost_when_the_connection_ends() -> None:
    for kind in ("reorder", "join", "hold"):
        wire = Wire(Rule(kind, {"seconds": 1.0} if kind == "hold" else {}))
        wire.packet("server", PubAck(1))
        wire.line.receive_end("server", False, wire.now)
        wire.act(2.0)
        assert wire.got["client"] == PubAck(1).encode()
        assert wire.others == [("fin", "client")]


def test_answers_instead_of_the_server() -> None:
    wire = Wire(Rule("answer", {"packet": ConnAck(3)}, on="CONNECT"))
    assert wire.packet("client", Connect("c")) == b""
    assert wire.got["client"] == ConnAck(3).encode()
    wire = Wire(Rule("answer", {"packet": "20020003"}, on="CONNECT"), websocket=True)
    wire.packet("client", Connect("c"))
    assert wire.got["client"].hex() == "820420020003"


def test_answers_of_http() -> None:
    parameters = {"status": 503, "reason": "Busy", "headers": {"Retry-After": "5"}, "body": "no"}
    wanted = b"HTTP/1.1 503 Busy\r\nRetry-After: 5\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    wire = Wire(Rule("http", parameters, on="GET"))
    assert wire.send("client", REQUEST) == b""
    assert wire.got["client"] == wanted
    assert ("fin", "client") in wire.others
    wire = Wire(Rule("http", parameters, on="101"))
    wire.send("client", REQUEST)
    assert wire.send("server", RESPONSE) == wanted
    wire = Wire(Rule("set_header", {"name": "Upgrade"}, on="101"))
    wire.send("client", REQUEST)
    assert wire.send("server", RESPONSE) == RESPONSE.replace(b"Upgrade: websocket\r\n", b"")


def test_masks() -> None:
    wire = Wire(Rule("wrong_mask"), websocket=True)
    assert wire.packet("client", PubAck(1)).hex() == "820440020001"
    assert wire.packet("server", PubAck(1))[:2].hex() == "8284"


def test_garbage_and_chance_depend_on_the_seed() -> None:
    def run(seed: int) -> bytes:
        wire = Wire(Rule("corrupt", chance=0.5), Rule("garbage", {"size": 5}), seed=seed)
        return b"".join(wire.packet("client", PubAck(number)) for number in range(1, 50))

    assert run(1) == run(1)
    assert run(1) != run(2)


# Which units.


@pytest.mark.parametrize(
    ("conditions", "hit"),
    [
        ({"on": "PUBACK", "nth": 3}, [3]),
        ({"every": 2}, [2, 4, 6]),
        ({"times": 2}, [1, 2]),
        ({"packet_id": 5}, [5]),
        ({"sender": "server"}, []),
        ({"on": "PUBREC"}, []),
        ({"connection": 2}, []),
        ({"place": 4}, [5]),  # the CONNECT was the first
        ({"client_id": "me"}, [1, 2, 3, 4, 5, 6]),
        ({"client_id": "other"}, []),
        ({"within": 3.5}, [1, 2, 3, 4]),
        ({"chance": 0.0}, []),
    ],
)
def test_the_units_that_a_rule_matches(conditions: dict[str, Any], hit: list[int]) -> None:
    wire = Wire(Rule("drop", **{"on": "PUBACK", **conditions}))
    wire.packet("client", Connect("me"))
    dropped = []
    for number in range(1, 7):
        wire.now += 1
        if not wire.packet("client", PubAck(number)):
            dropped.append(number)
    if conditions.get("place"):
        assert dropped == [3]
    else:
        assert dropped == hit


def test_topics() -> None:
    wire = Wire(Rule("drop", topic="a/+"))
    assert wire.packet("client", Publish("a/b")) == b""
    assert wire.packet("client", Publish("a/b/c")) != b""
    assert wire.packet("client", Subscribe(1, [("a/b", 0)])) != b""


def test_control_frames() -> None:
    wire = Wire(Rule("drop", on="ping"), websocket=True)
    assert wire.send("server", bytes.fromhex("8900")) == b""
    assert wire.send("server", bytes.fromhex("8a00")).hex() == "8a00"


def test_no_parameter_has_the_name_of_a_condition() -> None:
    """In TOML both are keys of one table."""
    for kind in (*KINDS.values(), *TOXICS.values()):
        assert not set(inspect.signature(kind).parameters) & {*_CONDITIONS, "do"} - {"chance"}


@given(st.lists(some.packets, min_size=1, max_size=5), st.booleans(), st.data())
def test_without_a_match_every_byte_is_unchanged(sent: list[Packet], websocket: bool, data: st.DataObject) -> None:
    wire = Wire(Rule("drop", on="CONNECT", nth=9), websocket=websocket)
    stream = b"".join(packet.encode() for packet in sent)
    if websocket:
        stream = binary_frame(stream[:7], None) + b"\x89\x01x" + binary_frame(stream[7:], None)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        wire.send("server", stream[start:end])
    assert wire.got["client"] == stream


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=5), st.booleans())
def test_bytes_that_are_no_mqtt_are_unchanged(pieces: list[bytes], websocket: bool) -> None:
    wire = Wire(Rule("drop", on="CONNECT", nth=9), websocket=websocket)
    for piece in pieces:
        wire.send("client", piece)
    wire.line.receive_end("client", False, wire.now)
    wire.act()
    assert wire.got["server"] == b"".join(pieces)


# Bytes.


def toxic(kind: str, **parameters: Any) -> Wire:
    return Wire(toxics=(Toxic(kind, parameters),))


def test_the_seven_toxics() -> None:
    assert len(TOXICS) == 7
    wire = toxic("latency", seconds=1.0)
    assert wire.send("server", b"\xd0\x00") == b""
    wire.act(1.0)
    assert wire.got["client"] == b"\xd0\x00"
    assert wire.send("client", b"\xc0\x00") == b"\xc0\x00"

    wire = toxic("bandwidth", rate=1000.0)
    wire.send("server", bytes(500))
    wire.act(0.25)
    assert 200 <= len(wire.got["client"]) <= 250
    wire.act(0.26)
    assert wire.got["client"] == bytes(500)

    wire = toxic("slow_close", seconds=3.0)
    assert wire.send("server", b"\xd0\x00") == b"\xd0\x00"
    wire.line.receive_end("server", False, wire.now)
    wire.act(2.9)
    assert wire.others == []
    wire.act(0.2)
    assert wire.others == [("fin", "client")]

    wire = toxic("timeout", seconds=2.0)
    assert wire.send("server", b"\xd0\x00") == b""
    wire.act(2.1)
    assert sorted(wire.others) == [("fin", "client"), ("fin", "server")]

    wire = toxic("reset_peer", seconds=2.0)
    assert wire.send("server", b"\xd0\x00") == b"\xd0\x00"
    wire.act(2.1)
    assert sorted(wire.others) == [("rst", "client"), ("rst", "server")]

    wire = toxic("slicer", size=2, seconds=1.0)
    assert wire.send("server", PubAck(1).encode()) == b"\x40\x02"
    wire.act(1.0)
    assert wire.got["client"] == PubAck(1).encode()

    wire = toxic("limit_data", size=3)
    assert wire.send("server", PubAck(1).encode()) == b"\x40\x02\x00"
    assert wire.others == [("fin", "client")]
    assert wire.send("server", PubAck(1).encode()) == b""


def test_delayed_bytes_pause_the_sender() -> None:
    wire = toxic("bandwidth", rate=100_000.0)
    wire.send("server", bytes(1_000_000))
    assert wire.others == [("pause", "server")]
    wire.act(9.5)
    assert wire.others == [("pause", "server"), ("resume", "server")]


# Files and replays.


def test_a_file_of_rules_round_trip() -> None:
    rules = Rules(
        9,
        [
            Rule("delay", {"seconds": 0.5, "jitter": 0.1}, on="PUBACK", nth=3, sender="server", chance=0.5),
            Rule("answer", {"packet": "20020003"}, on="CONNECT", within=5.0, client_id='a"\\\x00\u202eb'),
            Rule("http", {"status": 403, "headers": {"Date": "Thu, 01 Jan 1970 00:00:00 GMT"}}, on="GET"),
        ],
        [Toxic("latency", {"seconds": 0.1}, "client", 2, 0.25)],
    )
    again = Rules.from_toml(rules.to_toml())
    assert again == rules


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = 1", "'x' is unknown"),
        ("seed = 'a'", "whole number"),
        ("rule = 1", "rule must be [[rule]]"),
        ("[[rule]]\non = 'PUBACK'", "rule 1 has no `do`"),
        ("[[rule]]\ndo = 'explode'", "rule 1: there is no fault 'explode'"),
        ("[[rule]]\ndo = 'drop'\nsize = 1", "rule 1: the fault 'drop' takes no parameters; given: size"),
        ("[[rule]]\ndo = 'delay'", "the fault 'delay' takes seconds, [jitter]; given: none"),
        ("[[rule]]\ndo = 'drop'\non = 'PUBAK'", "rule 1: no unit is named 'PUBAK'; did you mean 'PUBACK'?"),
        ("[[rule]]\ndo = 'drop'\non = 'Publish'", "did you mean 'PUBLISH'?"),
        ("[[rule]]\ndo = 'drop'\non = '1010'", "no unit is named '1010'"),
        ("[[rule]]\ndo = 'drop'\ntopic = 'a/#/b'", "the topic is 'a/#/b'; it must be a Topic Filter"),
        ("[[rule]]\ndo = 'delay'\nseconds = -1", "seconds of the fault 'delay' is -1"),
        ("[[rule]]\ndo = 'delay'\nseconds = inf", "it must be a number, 0 or more"),
        ("[[rule]]\ndo = 'delay'\nseconds = '1'", "it must be a number, 0 or more"),
        ("[[rule]]\ndo = 'delay'\nseconds = true", "it must be a number, 0 or more"),
        ("[[rule]]\ndo = 'answer'\npacket = '2'", "packet of the fault 'answer' is '2'"),
        ("[[rule]]\ndo = 'answer'\npacket = 7", "it must be a packet: an object, bytes, or hexadecimal digits"),
        ("[[rule]]\ndo = 'split'\nsize = 0", "it must be a whole number from 1"),
        ("[[rule]]\ndo = 'duplicate'\ncopies = 1.5", "it must be a whole number from 0 to 1,000,000"),
        ("[[rule]]\ndo = 'stranger'\noffset = 'a'", "it must be a whole number"),
        ("[[rule]]\ndo = 'truncate'\nsize = 1\nend = 'bang'", "it must be one of rst, fin, silence"),
        ("[[rule]]\ndo = 'close_frame'\ncode = 70000", "it must be a whole number from 0 to 65,535"),
        ("[[rule]]\ndo = 'close_frame'\nreason = 7", "it must be a text"),
        ("[[rule]]\ndo = 'fragment'\npings = 1", "it must be true or false"),
        ("[[rule]]\ndo = 'drop'\nwithin = nan", "within is nan; it must not be negative"),
        ("[[rule]]\ndo = 'drop'\nnth = 'x'", "rule 1: nth is 'x'"),
        ("[[rule]]\ndo = 'drop'\nnth = -1", "must not be negative"),
        ("[[stream]]\ndo = 'bandwidth'\nrate = 0", "the rate is 0; it must be above 0"),
        (
            "[[stream]]\ndo = 'bandwidth'\nrate = nan",
            "rate of the fault 'bandwidth' is nan; it must be a number, 0 or more",
        ),
        ("[[stream]]\ndo = 'reset_peer'\nchance = 7", "the chance is 7; it must be from 0 to 1"),
        ("[[rule]]\ndo = 'drop'\nsender = 'me'", "'client' or 'server'"),
        ("[[stream]]\ndo = 'drop'", "stream 1: there is no fault 'drop'"),
        ("[[rule", "Expected"),
        ("x = " + "[" * 5_000, "it is nested too deeply"),
    ],
)
def test_an_invalid_file_of_rules_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        Rules.from_toml(text)


def test_a_run_is_replayed_from_its_decisions() -> None:
    def run(wire: Wire) -> tuple[dict[str, bytes], list[tuple[str, str]]]:
        for number in range(1, 60):
            wire.packet("client", PubAck(number))
            wire.packet("server", Publish("a", bytes(number), 1, packet_id=number))
            wire.act(0.01)
        wire.act(10.0)
        return wire.got, wire.others

    rules = (
        Rule("delay", {"seconds": 0.05, "jitter": 0.05}, chance=0.2),
        Rule("corrupt", sender="server", chance=0.1),
        Rule("drop", chance=0.3),
        Rule("duplicate", on="PUBACK", every=7),
    )
    first = Wire(*rules, seed=5)
    outcome = run(first)
    again = Rules.from_toml(first.decided.to_toml())
    assert len(again.rules) > 20
    assert all(rule.chance == 1 and rule.place for rule in again.rules)
    assert run(Wire(*again.rules, seed=99)) == outcome


# Before a broker.


def test_from_python(broker: Broker) -> None:
    for url in broker.urls:
        if url.startswith(("wss", "mqtts")):
            continue
        with Faults(url) as faults:
            faults.on(PubAck, nth=3).drop()
            with mqttws.connect(faults.url, reconnect=False) as client:
                for _ in range(2):
                    client.publish("a", b"", 1)
                third = client.publish_nowait("a", b"", 1)
                client.publish("a", b"", 1)
                assert not third.done()
                client.close(0.05)
            done = [record.notes["fault"] for record in faults.taken() if "fault" in record.notes]
            assert done == ["drop"]
            assert [(rule.kind, rule.on, rule.connection) for rule in faults.decided.rules] == [("drop", "PUBACK", 1)]


def test_the_client_sees_the_faults_of_the_rules(broker: Broker) -> None:
    with Faults(broker.url) as faults:
        faults.on(Connect, times=1).answer(packet=ConnAck(3))
        with pytest.raises(ConnectionRefused) as refused:
            mqttws.connect(faults.url, reconnect=False).open(PATIENCE)
        assert refused.value.return_code == 3
        faults.clear()
        faults.on("GET", times=1).http(status=403, headers={"Date": "Thu, 01 Jan 1970 00:00:00 GMT"})
        with pytest.raises(HandshakeRejected) as rejected:
            mqttws.connect(faults.url, reconnect=False).open(PATIENCE)
        assert rejected.value.status == 403
        assert ("date", "Thu, 01 Jan 1970 00:00:00 GMT") in rejected.value.headers
        faults.clear()
        faults.on("101").set_header(name="Sec-WebSocket-Accept", value="wrong")
        with pytest.raises(mqttws.ConnectError):
            mqttws.connect(faults.url, reconnect=False).open(PATIENCE)
        faults.clear()
        faults.stream("server").latency(seconds=0.2)
        begun = time.monotonic()
        with mqttws.connect(faults.url):
            assert time.monotonic() - begun >= 0.4  # the upgrade, and the CONNACK


def test_a_reset_follows_the_bytes_before_it(broker: Broker) -> None:
    with Faults(broker.url_of("mqtt")) as faults:
        faults.on(ConnAck).truncate(size=2)
        port = int(faults.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as near:
            near.sendall(Connect("c").encode())
            assert near.recv(10) == b"\x20\x02"
            with pytest.raises(ConnectionResetError):
                near.recv(10)


def test_bytes_after_a_fin_of_the_tap_are_dropped(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    """Further data from one end causes no error at the other."""
    with Faults(broker.url_of("mqtt")) as faults:
        faults.stream("server").limit_data(size=4)
        port = int(faults.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as near:
            near.sendall(Connect("c").encode())
            assert near.recv(10) == ConnAck().encode()
            assert near.recv(10) == b""
            for _ in range(50):
                near.sendall(b"\xc0\x00" * 100)
        assert len([record for record in faults.taken() if record.name == "PINGREQ"]) == 5000
    assert caplog.text == ""


def test_unknown_faults_are_refused(broker: Broker) -> None:
    faults = Faults(broker.url)
    with pytest.raises(AttributeError, match="there is no fault 'explode'"):
        faults.on(PubAck).explode()
    with pytest.raises(ValueError, match="'delay'"):
        faults.on(PubAck).delay()
    with pytest.raises(TypeError):
        faults.on(PubAck, colour="red").drop()
    assert "hold" in dir(faults.on(PubAck))


def test_every_kind_is_tested_and_documented() -> None:
    source = Path(__file__).read_text()
    page = (ROOT / "docs" / "tap.md").read_text()
    assert len(KINDS) >= 25
    for kind in {**KINDS, **TOXICS}:
        assert f'"{kind}"' in source, kind
        assert f"`{kind}`" in page, kind
