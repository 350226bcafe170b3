"""Every rule about the bytes of a packet, violated by the peer of a real broker and of a real client.

Each violation must close its Network Connection, with the statement in the error, and nothing of it or after it may be
processed [MQTT-4.8.0-1].
"""

from __future__ import annotations

import logging

import pytest

from mqttws import LocalProtocolError, Message, Publish, RemoteProtocolError, Subscribe
from mqttws.broker import Limits

#: Malformed strings: invalid UTF-8, preceded by its length.
ILL_FORMED = {
    "alone": "0001 80",
    "cut off": "0002 e282",
    "overlong": "0002 c0af",
    "overlong U+0000": "0002 c080",
    "surrogate": "0003 eda080",
    "CESU-8": "0006 eda081edb080",
    "beyond U+10FFFF": "0004 f4908080",
}
NUL = {"first": "0003 006161", "middle": "0003 610061", "last": "0003 616100"}


def packet(first: str, *parts: str) -> bytes:
    """Return a packet from its first byte and its body, in hexadecimal."""
    body = bytes.fromhex("".join(parts))
    assert len(body) < 128
    return bytes.fromhex(first) + bytes((len(body),)) + body


def case(data: bytes, says: str, *shows: str, name: str = ""):
    """Return a case: the statement of the error, and the other statements that it verifies."""
    marks = [pytest.mark.statement(one) for one in {says, *shows} if not one.startswith("§")]
    return pytest.param(data, says, marks=marks, id=f"{says} {name or data.hex()[:40]}")


HEAD = "0004 4d515454 04"  # of CONNECT
TAIL = "003c 0001 63"  # keep alive, client identifier "c"

CONNECTS = [
    *(case(packet("10", HEAD, "02 003c", text), "MQTT-1.5.3-1", "MQTT-3.1.3-4", "MQTT-3.1.4-1", name=f"id {name}")
      for name, text in ILL_FORMED.items()),
    *(case(packet("10", HEAD, "06", TAIL, text, "0000"), "MQTT-1.5.3-1", "MQTT-3.1.3-10", name=f"will topic {name}")
      for name, text in ILL_FORMED.items()),
    *(case(packet("10", HEAD, "82", TAIL, text), "MQTT-1.5.3-1", "MQTT-3.1.3-11", name=f"user name {name}")
      for name, text in ILL_FORMED.items()),
    *(case(packet("10", HEAD, "02 003c", text), "MQTT-1.5.3-2", "MQTT-3.1.3-4", name=f"id {name}")
      for name, text in NUL.items()),
    *(case(packet("10", HEAD, "06", TAIL, text, "0000"), "MQTT-1.5.3-2", "MQTT-3.1.3-10", name=f"will topic {name}")
      for name, text in NUL.items()),
    *(case(packet("10", HEAD, "82", TAIL, text), "MQTT-1.5.3-2", "MQTT-3.1.3-11", name=f"user name {name}")
      for name, text in NUL.items()),
    case(packet("10", HEAD, "06", TAIL, "0000 0000"), "MQTT-4.7.3-1", "MQTT-3.1.3-10", name="empty will topic"),
    case(packet("10", HEAD, "06", TAIL, "0001 23 0000"), "MQTT-3.3.2-2", "MQTT-4.7.1-1", name="wildcard will topic"),
    case(packet("10", HEAD, "02 003c"), "§2.2.3", "MQTT-3.1.3-3", "MQTT-3.1.4-1", name="no client identifier"),
    case(packet("10", HEAD, "06", TAIL), "§2.2.3", "MQTT-3.1.2-9", "MQTT-3.1.4-1", name="no will"),
    case(packet("10", HEAD, "06", TAIL, "0001 77"), "§2.2.3", "MQTT-3.1.2-9", name="no will message"),
    case(packet("10", HEAD, "02", TAIL, "0001 77 0000"), "§2.2.3", "MQTT-3.1.2-11", name="a will without its flag"),
    case(packet("10", HEAD, "82", TAIL), "§2.2.3", "MQTT-3.1.2-19", name="no user name"),
    case(packet("10", HEAD, "c2", TAIL, "0000"), "§2.2.3", "MQTT-3.1.2-21", name="no password"),
    case(packet("10", HEAD, "02", TAIL, "0001 75"), "§2.2.3", "MQTT-3.1.2-18", name="a user name without its flag"),
    case(packet("10", HEAD, "82", TAIL, "0001 75 0001 70"), "§2.2.3", "MQTT-3.1.2-20", name="a password without"),
    *(case(packet("10", HEAD, flags, TAIL), "MQTT-3.1.2-3", "MQTT-3.1.4-1") for flags in ("01", "03")),
    *(case(packet("10", HEAD, flags, TAIL), "MQTT-3.1.2-13", "MQTT-3.1.2-11") for flags in ("0a", "12", "1a")),
    case(packet("10", HEAD, "1e", TAIL, "0001 77 0000"), "MQTT-3.1.2-14"),
    case(packet("10", HEAD, "22", TAIL), "MQTT-3.1.2-15", "MQTT-3.1.2-11"),
    case(packet("10", HEAD, "42", TAIL, "0001 70"), "MQTT-3.1.2-22"),
    case(packet("11", HEAD, "02", TAIL), "MQTT-2.2.2-2", name="flags"),
]  # fmt: skip

#: Violations at either role.
BOTH = [
    *(case(packet("30", text), "MQTT-1.5.3-1", "MQTT-3.3.2-1", name=f"topic {name}")
      for name, text in ILL_FORMED.items()),
    *(case(packet("30", text), "MQTT-1.5.3-2", "MQTT-4.7.3-2", name=f"topic {name}") for name, text in NUL.items()),
    case(packet("30", "0005 6161"), "§2.2.3", "MQTT-3.3.2-1", name="topic longer than the packet"),
    case(packet("30", "00"), "§2.2.3", "MQTT-3.3.2-1", name="no topic"),
    *(case(packet("30", text), "MQTT-3.3.2-2", "MQTT-4.7.1-1") for text in ("0001 23", "0003 612f2b", "0002 612b")),
    case(packet("30", "0000"), "MQTT-4.7.3-1", name="empty topic"),
    case(packet("36", "0001 61 0001"), "MQTT-3.3.1-4"),
    case(packet("37", "0001 61"), "MQTT-3.3.1-4"),
    case(packet("38", "0001 61"), "MQTT-3.3.1-2"),
    *(case(packet(first, "0001 61 0000"), "MQTT-2.3.1-1") for first in ("32", "34")),
    *(case(packet(f"6{flags:x}", "0001"), "MQTT-3.6.1-1", "MQTT-2.2.2-2") for flags in range(16) if flags != 2),
    *(case(packet(first, "0001"), "MQTT-2.2.2-2") for first in ("41", "52", "7f")),
    *(case(packet(first), "§2.2.1", name=f"reserved {first}") for first in ("00", "f0")),
    case(bytes.fromhex("30 ff ff ff ff 01"), "§2.2.3", "U-8", name="a remaining length of five bytes"),
    case(bytes.fromhex("c0 80 80 80 80 00"), "§2.2.3", "U-8", name="0 in five bytes"),
]  # fmt: skip

TO_BROKER = [
    *BOTH,
    *(case(packet(f"8{flags:x}", "0001 0001 61 00"), "MQTT-3.8.1-1", "MQTT-2.2.2-2")
      for flags in range(16) if flags != 2),
    *(case(packet(f"a{flags:x}", "0001 0001 61"), "MQTT-3.10.1-1", "MQTT-2.2.2-2")
      for flags in range(16) if flags != 2),
    *(case(packet(f"e{flags:x}"), "MQTT-3.14.1-1") for flags in range(1, 16)),
    case(packet("e0", "00"), "§2.2.3", "MQTT-3.14.1-1", name="DISCONNECT with a body"),
    case(packet("82", "0000 0001 61 00"), "MQTT-2.3.1-1"),
    case(packet("a2", "0000 0001 61"), "MQTT-2.3.1-1"),
    case(packet("82", "0001"), "MQTT-3.8.3-3"),
    case(packet("a2", "0001"), "MQTT-3.10.3-2"),
    *(case(packet("82", "0001", text, "00"), "MQTT-1.5.3-1", "MQTT-3.8.3-1", name=f"SUBSCRIBE {name}")
      for name, text in ILL_FORMED.items()),
    *(case(packet("82", "0001", text, "00"), "MQTT-1.5.3-2", "MQTT-4.7.3-2", "MQTT-3.8.3-1", name=f"SUBSCRIBE {name}")
      for name, text in NUL.items()),
    *(case(packet("a2", "0001", text), "MQTT-1.5.3-1", "MQTT-3.10.3-1", name=f"UNSUBSCRIBE {name}")
      for name, text in ILL_FORMED.items()),
    *(case(packet("a2", "0001", text), "MQTT-1.5.3-2", "MQTT-4.7.3-2", "MQTT-3.10.3-1", name=f"UNSUBSCRIBE {name}")
      for name, text in NUL.items()),
    case(packet("82", "0001 0001 61"), "§2.2.3", "MQTT-3.8.3-1", name="SUBSCRIBE without its QoS"),
    case(packet("a2", "0001 0001 61 00"), "§2.2.3", "MQTT-3.10.3-1", name="UNSUBSCRIBE with a byte too many"),
    *(case(packet("82", "0001 0001 61 00 0001 62", qos), "MQTT-3.8.3-4") for qos in ("03", "04", "80", "ff")),
    case(packet("82", "0001 0000 00"), "MQTT-4.7.3-1", name="empty filter"),
    case(packet("a2", "0001 0000"), "MQTT-4.7.3-1", name="empty filter"),
    *(case(packet("82", "0001", text, "00"), "MQTT-4.7.1-2") for text in ("0002 6123", "0004 612f6223",
                                                                         "0003 232f61", "0002 2323")),
    *(case(packet("82", "0001", text, "00"), "MQTT-4.7.1-3") for text in ("0002 612b", "0002 2b61", "0002 2b2b",
                                                                         "0004 612f622b")),
]  # fmt: skip

TO_CLIENT = [
    *BOTH,
    *(case(packet("90", "0001", code), "MQTT-3.9.3-2") for code in ("03", "04", "7f", "81", "ff")),
    case(packet("d1"), "MQTT-2.2.2-2"),
    case(packet("b2", "0001"), "MQTT-2.2.2-2"),
]


@pytest.mark.parametrize(("data", "statement"), CONNECTS)
def test_a_malformed_connect_is_closed_without_an_answer(wire, caplog, data, statement):
    caplog.set_level(logging.INFO)
    assert wire().send(data, "c0 00").rest() == b""
    assert f"[{statement}]" in caplog.text


@pytest.mark.statement("MQTT-4.8.0-1")
@pytest.mark.parametrize(("data", "statement"), TO_BROKER)
def test_a_broker_closes_and_processes_nothing_of_it(start, client, data, statement):
    errors = []
    broker = start(on_disconnected=lambda peer, error: errors.append(error))
    other = client("other", broker)
    other.subscribe(("#", 0))
    peer = client("c", broker, will=Message("w", b"violated"))
    assert peer.send(data, Publish("after", b"")).rest() == b""
    assert other.messages(1) == [Publish("w", b"violated")]
    other.quiet()
    assert [getattr(error, "statement", None) for error in errors] == [statement]


@pytest.mark.statement("MQTT-4.8.0-1")
@pytest.mark.parametrize(("data", "statement"), TO_CLIENT)
def test_a_client_closes_and_delivers_nothing_of_it(subject, data, statement):
    tested = subject()
    end = tested.welcome()
    subscribing = tested.server.soon(tested.client.subscribe, "a", 1)
    end.receive()
    assert end.send(Publish("before", b""), data, Publish("after", b"")).rest() == b""
    error = tested.error()
    assert isinstance(error, RemoteProtocolError)
    assert error.statement == statement
    assert tested.received == [Publish("before", b"")]
    failure = subscribing.exception()
    assert (type(failure), failure.args) == (type(error), error.args)


@pytest.mark.statement("MQTT-4.8.0-1")
def test_over_a_websocket_the_close_code_is_1002_at_both_ends(client, subject):
    peer = client("c", scheme="ws")
    peer.send("36 05 0001 61 0001")
    assert peer.frame() == (8, (1002).to_bytes(2, "big") + b"MQTT-3.3.1-4")
    end = subject("ws").welcome()
    assert end.send("36 05 0001 61 0001").rest() == b""
    assert end.closing == (1002).to_bytes(2, "big") + b"MQTT-3.3.1-4"


#: Invalid calls of a client: the statement, and the call.
FORBIDDEN = [
    ("MQTT-1.5.3-1", lambda client: client.publish("\ud800")),
    ("MQTT-1.5.3-1", lambda client: client.subscribe("\udfff")),
    ("MQTT-1.5.3-2", lambda client: client.publish("a\0")),
    ("MQTT-4.7.3-2", lambda client: client.subscribe("\0a")),
    ("MQTT-4.7.3-2", lambda client: client.unsubscribe("a\0b")),
    ("MQTT-3.3.2-2", lambda client: client.publish("a/+")),
    ("MQTT-4.7.1-1", lambda client: client.publish("#")),
    ("MQTT-3.3.1-4", lambda client: client.publish("a", qos=3)),
    ("MQTT-4.7.3-1", lambda client: client.publish("")),
    ("MQTT-4.7.3-1", lambda client: client.subscribe("")),
    ("MQTT-4.7.3-1", lambda client: client.unsubscribe("")),
    ("MQTT-4.7.3-3", lambda client: client.publish("a" * 65_536)),
    ("MQTT-4.7.3-3", lambda client: client.subscribe("ä" * 32_768)),
    ("MQTT-4.7.1-2", lambda client: client.subscribe("a#")),
    ("MQTT-4.7.1-2", lambda client: client.subscribe("a/#/b")),
    ("MQTT-4.7.1-3", lambda client: client.subscribe("a/b+")),
    ("MQTT-3.8.3-3", lambda client: client.subscribe([])),
    ("MQTT-3.10.3-2", lambda client: client.unsubscribe([])),
]
ALIASES = {"MQTT-4.7.3-2": "MQTT-1.5.3-2", "MQTT-4.7.1-1": "MQTT-3.3.2-2"}  # the same rule, reported by its first id


@pytest.mark.parametrize(
    ("statement", "ask"),
    [
        pytest.param(*entry, marks=pytest.mark.statement(entry[0]), id=f"{entry[0]} {number}")
        for number, entry in enumerate(FORBIDDEN)
    ],
)
def test_a_client_refuses_its_caller_before_anything_is_sent(subject, statement, ask):
    tested = subject()
    end = tested.welcome()
    with pytest.raises(LocalProtocolError) as caught:
        ask(tested.client)
    assert caught.value.statement == ALIASES.get(statement, statement)
    end.quiet()


@pytest.mark.statement("MQTT-4.7.3-3")
def test_topics_and_filters_of_65_535_bytes_are_accepted(start, client):
    peer = client("c", start(limits=Limits(max_packet_size=200_000)))
    topic = "t" * 65_535
    peer.send(Subscribe(1, [(topic, 0)]), Publish(topic, b"x"))
    peer.expect("90 03 00 01 00", Publish(topic, b"x"))
