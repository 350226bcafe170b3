"""Published faults of other brokers: each by its cause, and that the same cause does nothing here."""

from __future__ import annotations

import pytest

from mqttws import Connect, Message, PingReq, PubAck, Publish, PubRec, Subscribe
from mqttws.broker import Accepted, Limits, Users, hash_password

REFUSED = bytes.fromhex("20 02 00 05")


@pytest.fixture
def broker(start):
    return start()


def test_cve_2017_7650_mosquitto_a_client_identifier_that_is_a_wildcard_matches_every_pattern(start, client):
    """Access patterns in which the client's name is filled in: one named "+" or "#" got the topics of all."""
    seen = []
    broker = start(authorizer=lambda peer, access: seen.append((peer.client_id, access.topic)) or True)
    client(broker, "+").subscribe(("own/+", 0))
    assert seen == [("+", "own/+")]  # names and filters reach the authorizer apart, and nothing is filled in


def test_cve_2017_7651_mosquitto_large_connects_take_memory_before_anybody_is_known(start, wire, client):
    broker = start(limits=Limits(max_pending_bytes=200_000))
    half = Connect("c" * 60_000).encode()[:-1]
    hogs = [wire(broker).send(half) for _ in range(10)]
    client(broker).quiet()
    assert [hog.rest() for hog in hogs[:6]] == [b""] * 6  # those that came first have made way


def test_cve_2017_7653_mosquitto_ill_formed_text_is_passed_on_and_ends_whom_it_reaches(broker, wire, client):
    other = client(broker, "other")
    other.subscribe(("#", 0))
    assert client(broker).send("30 04 00 02 c3 28").rest() == b""  # C3 28 is no UTF-8
    other.quiet()


def test_cve_2018_12543_mosquitto_a_topic_that_begins_with_a_dollar_ends_the_process(broker, client):
    client(broker).send(Publish("$", b"x"), Publish("$x/y", b"x"), "c0 00").expect("d0 00")


def test_cve_2018_12546_mosquitto_a_retained_message_is_delivered_to_who_may_not_read_it_any_more(start, client):
    """Access to a topic was looked at when a message was retained, not when it was delivered."""
    allowed = {"secret"}
    broker = start(authorizer=lambda peer, access: access.action != "receive" or access.topic in allowed)
    broker.publish("secret", b"kept", retain=True)
    peer = client(broker)
    peer.subscribe(("#", 0))
    assert peer.messages(1) == [Publish("secret", b"kept", 0, True)]
    allowed.clear()
    peer.subscribe(("#", 0))
    broker.publish("secret", b"live")
    peer.quiet()


@pytest.mark.parametrize("text", ["ann", "ann:", ":scrypt$16384$8$1$c2FsdA==$c2FsdA==", "ann:plain"])
def test_cve_2018_12551_mosquitto_an_ill_formed_line_of_the_password_file_lets_somebody_in(tmp_path, text):
    path = tmp_path / "users"
    path.write_text(text)
    with pytest.raises(ValueError):
        Users.load(path)


def test_cve_2018_12550_mosquitto_an_empty_file_lets_everybody_in(tmp_path, start, wire):
    path = tmp_path / "users"
    path.write_text("# nobody yet\n\n")
    broker = start(authenticator=Users.load(path))
    assert wire(broker).send(Connect("c", username="ann", password=b"x")).rest()[3] == 4


@pytest.mark.parametrize("topic", ["/" * 65_400, "a/" * 32_000 + "#"])
def test_cve_2019_11779_mosquitto_a_deep_filter_overflows_the_stack(start, wire, client, topic):
    broker = start(limits=Limits(max_topic_levels=65_536, max_subscription_levels=10**6, max_session_bytes=None))
    peer = client(broker)
    peer.subscribe((topic, 0))
    peer.send(Publish(topic.replace("#", "b"), b"x"))
    assert len(peer.messages(1)) == 1
    assert client(start()).send(Subscribe(1, [(topic, 0)])).rest() == b""  # by default it is not even taken


def test_cve_2021_28166_mosquitto_a_connack_from_a_client_ends_the_process(broker, client):
    assert client(broker).send("20 02 00 00").rest() == b""
    client(broker).quiet()


def test_cve_2021_34432_mosquitto_a_publish_with_an_empty_topic_ends_the_process(broker, client):
    assert client(broker).send("30 02 00 00").rest() == b""
    client(broker).quiet()


def test_cve_2023_0809_mosquitto_a_first_packet_that_is_no_connect_takes_memory(broker, wire):
    """Its announced length was set aside before its type was looked at."""
    for first in ("30 ff ff 3f", "82 ff ff 3f 00 01", "10 ff ff 3f"):
        assert wire(broker).send(first).rest() == b""


def test_cve_2023_28366_mosquitto_copies_of_one_qos_2_message_take_memory_each(start, client):
    broker = start(on_connected=lambda peer: None)
    peer = client(broker, "c", clean_session=False)
    for _ in range(1_000):
        peer.send(Publish("a", bytes(100), 2, packet_id=7)).expect(PubRec(7))
    receiver = broker._registry.find("c").session.receiver
    assert (len(receiver), receiver.unanswered) == (1, False)


def test_cve_2023_3592_mosquitto_a_will_that_is_ill_formed_is_never_given_back(broker, wire):
    """The will's topic is empty, holds a wildcard, or is no UTF-8: nobody is let in, and nothing stays."""
    for topic in ("00 00", "00 01 23", "00 01 ff"):
        rest = bytes.fromhex(f"00 04 4d 51 54 54 04 06 00 3c 00 01 63 {topic} 00 00")
        assert wire(broker).send(bytes((0x10, len(rest))), rest).rest() == b""
    assert broker.figures()["clients/total"] == 0


def test_cve_2024_8376_mosquitto_requests_around_a_disconnect_end_the_process(broker, wire, client):
    """CONNECT, DISCONNECT, SUBSCRIBE, UNSUBSCRIBE, PUBLISH in one piece: what follows the DISCONNECT is not heard."""
    other = client(broker, "other")
    other.subscribe(("#", 0))
    packets = [Connect("c"), "e0 00", Subscribe(1, [("a", 0)]), "a2 05 00 02 00 01 61", Publish("a", b"x")]
    assert wire(broker).send(*packets).rest() == bytes.fromhex("20 02 00 00")
    other.quiet()
    assert broker.figures()["subscriptions/count"] == 1


def test_cve_2016_9877_rabbitmq_a_known_name_without_a_password_is_let_in(start, wire):
    broker = start(authenticator=Users({"ann": hash_password("right")}))
    for fields in ({"username": "ann"}, {"username": "ann", "password": b""}):
        assert wire(broker).send(Connect("c", **fields)).rest()[3] in (4, 5)


def test_cve_2021_33175_emqx_and_33176_vernemq_input_that_is_not_trusted_takes_all_memory(broker, client):
    """Packets that announce much and bring little; here the header alone is refused, or little is held."""
    for announced in ("30 ff ff ff 7f", "32 ff ff 7f 00 01 61", "82 ff ff ff 7f"):
        assert client(broker).send(announced).rest() == b""


def test_cve_2019_0222_activemq_a_frame_that_is_corrupt_takes_all_memory(broker, wire, client):
    """A length inside a packet that says more than the packet holds."""
    for corrupt in ("30 04 ff ff 61 62", "82 05 00 01 ff ff 61", "10 06 ff ff 4d 51 54 54"):
        peer = wire(broker) if corrupt.startswith("10") else client(broker)
        assert peer.send(corrupt).rest() == b""


def test_cve_2026_21888_nanomq_a_length_of_five_bytes_is_read_beyond_its_end(broker, client):
    assert client(broker).send("30 80 80 80 80 01").rest() == b""


def test_cve_2026_32696_nanomq_credentials_that_are_not_there_end_the_process(start, wire):
    """The authenticator is given None for what is missing, and one that stumbles over that refuses alone."""
    broker = start(authenticator=lambda peer, connect: len(connect.username) > 0)
    assert wire(broker).send(Connect("c")).rest() == b""
    assert wire(broker).send(Connect("c", username="ann")).receive().return_code == 0


def test_cve_2025_56352_tinymqtt_a_client_that_is_refused_stays_connected(broker, wire):
    """An empty identifier with a kept session: CONNACK 2, and the connection is closed."""
    assert wire(broker).send("10 0c 00 04 4d 51 54 54 04 00 00 3c 00 00").rest() == bytes.fromhex("20 02 00 02")


def test_ghsa_7qmq_8cc4_hxwg_nats_what_is_retained_or_waits_is_delivered_though_it_is_denied(start, client):
    """A broad filter is granted, one topic in it denied: live messages were held back, retained and queued ones not."""
    broker = start(authorizer=lambda peer, access: access.action != "receive" or access.topic != "a/secret")
    broker.publish("a/secret", b"kept", 1, retain=True)
    broker.publish("a/open", b"kept", 1, retain=True)
    keep = {"clean_session": False}
    peer = client(broker, "c", **keep)
    peer.subscribe(("a/#", 1))
    assert [message.topic for message in peer.messages(1)] == ["a/open"]
    peer.send(PubAck(1), "e0 00").rest()
    for topic in ("a/secret", "a/open"):
        broker.publish(topic, b"waits", 1)
    peer = client(broker, "c", **keep)
    assert [message.topic for message in peer.messages(1)] == ["a/open"]
    peer.send(PubAck(2)).quiet()


def test_ghsa_jx8g_9g95_6322_nats_a_group_is_a_way_around_a_denied_subject(start, client):
    broker = start(authorizer=lambda peer, access: not access.topic.startswith("secret"))
    codes = client(broker).subscribe(("secret/#", 0), ("$share/g/secret/#", 0), ("$share/g/open", 0))
    assert codes == (0x80, 0x80, 0)


def test_cve_2026_33217_nats_rules_for_topics_do_not_hold_in_the_brokers_own_namespace(start, client):
    broker = start(authenticator=lambda peer, connect: Accepted(), authorizer=lambda peer, access: False)
    peer = client(broker, "c", username="ann")
    assert peer.subscribe(("$SYS/#", 0), ("$SYS/broker/version", 0), ("$share/g/$SYS/#", 0)) == (0x80,) * 3
    peer.send(Publish("$SYS/broker/version", b"forged", retain=True)).quiet()
    assert broker.figures()["publish/messages/denied"] == 1


def test_aedes_the_last_will_is_not_checked_against_authorization(start, wire, client):
    """moscajs/aedes issues 211 and 212. The same holds where the rules have changed since the CONNECT."""
    rules = {"denied": True}
    broker = start(authorizer=lambda peer, access: access.action != "publish" or not rules["denied"])
    watcher = client(broker, "watcher")
    watcher.subscribe(("will", 0))
    will = Message("will", b"x")
    assert wire(broker).send(Connect("c", will=will)).rest() == REFUSED
    rules["denied"] = False
    peer = client(broker, "c", will=will)
    rules["denied"] = True
    peer.reset()
    client(broker, "c").send(PingReq()).expect("d0 00")  # by now the broker has seen the end of the first
    watcher.quiet()


def test_sol_an_acknowledgement_before_the_connect_ends_the_process(broker, wire, client):
    """codepr/sol issue 15."""
    for early in ("40 02 00 01", "50 02 00 01", "62 02 00 01", "70 02 00 01", "90 03 00 01 00", "b0 02 00 01"):
        assert wire(broker).send(early).rest() == b""
    client(broker).quiet()
