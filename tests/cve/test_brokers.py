"""Published vulnerabilities of other brokers: the same input is harmless here."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from wire import PATIENCE, Wire

from mqttws import Connect, Message, PingReq, PubAck, Publish, PubRec, Subscribe
from mqttws.broker import Accepted, Limits, Users, hash_password
from pubsub.aws.local.policy import Authorizer, ConnectionContext, PolicyDocument

REFUSED = bytes.fromhex("20 02 00 05")


@pytest.fixture
def broker(start):
    return start()


def test_cve_2017_7650_mosquitto_a_client_identifier_that_is_a_wildcard_matches_every_pattern(start, client):
    """Access patterns contained the client's name: a client named "+" or "#" received the topics of all clients."""
    seen = []
    broker = start(authorizer=lambda peer, access: seen.append((peer.client_id, access.topic)) or True)
    client(broker, "+").subscribe(("own/+", 0))
    assert seen == [("+", "own/+")]  # the authorizer receives names and filters separately; nothing is substituted


def test_cve_2017_7651_mosquitto_large_connects_take_memory_before_anybody_is_known(start, wire, client):
    broker = start(limits=Limits(max_pending_bytes=200_000))
    half = Connect("c" * 60_000).encode()[:-1]
    hogs = [wire(broker).send(half) for _ in range(10)]
    client(broker).quiet()
    assert [hog.rest() for hog in hogs[:6]] == [b""] * 6  # the oldest ones were closed


def test_cve_2017_7653_mosquitto_ill_formed_text_is_passed_on_and_ends_whom_it_reaches(broker, wire, client):
    other = client(broker, "other")
    other.subscribe(("#", 0))
    assert client(broker).send("30 04 00 02 c3 28").rest() == b""  # C3 28 is not UTF-8
    other.quiet()


def test_cve_2018_12543_mosquitto_a_topic_that_begins_with_a_dollar_ends_the_process(broker, client):
    client(broker).send(Publish("$", b"x"), Publish("$x/y", b"x"), "c0 00").expect("d0 00")


def test_cve_2018_12546_mosquitto_a_retained_message_is_delivered_to_who_may_not_read_it_any_more(start, client):
    """Access to a topic was checked when a message was retained, not when it was delivered."""
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
def test_cve_2018_12551_mosquitto_an_ill_formed_line_of_the_password_file_grants_access(tmp_path, text):
    path = tmp_path / "users"
    path.write_text(text)
    with pytest.raises(ValueError):
        Users.load(path)


def test_cve_2018_12551_mosquitto_a_blank_line_of_the_password_file_lets_an_empty_name_in(tmp_path, start, wire):
    path = tmp_path / "users"
    path.write_text(f"ann:{hash_password('right')}\n\n")
    broker = start(authenticator=Users.load(path))
    for fields in ({"username": ""}, {"username": "", "password": b""}):
        assert wire(broker).send(Connect("c", **fields)).rest()[3] in (4, 5)


def test_cve_2018_12550_mosquitto_an_empty_file_of_rules_is_taken_for_none(tmp_path, start, wire):
    """An access list of blank lines and comments allowed everything. The equivalent here is the users file."""
    path = tmp_path / "users"
    path.write_text("# no users yet\n\n")
    broker = start(authenticator=Users.load(path))
    assert wire(broker).send(Connect("c", username="ann", password=b"x")).rest()[3] == 4


@pytest.mark.parametrize("topic", ["/" * 65_400, "a/" * 32_000 + "#"])
def test_cve_2019_11779_mosquitto_a_deep_filter_overflows_the_stack(start, wire, client, topic):
    broker = start(limits=Limits(max_topic_levels=65_536, max_subscription_levels=10**6, max_session_bytes=None))
    peer = client(broker)
    peer.subscribe((topic, 0))
    peer.send(Publish(topic.replace("#", "b"), b"x"))
    assert len(peer.messages(1)) == 1
    assert client(start()).send(Subscribe(1, [(topic, 0)])).rest() == b""  # the default limits refuse it before


def test_cve_2021_28166_mosquitto_a_connack_from_a_client_ends_the_process(broker, client):
    assert client(broker).send("20 02 00 00").rest() == b""
    client(broker).quiet()


def test_cve_2021_34432_mosquitto_a_publish_with_an_empty_topic_ends_the_process(broker, client):
    assert client(broker).send("30 02 00 00").rest() == b""
    client(broker).quiet()


def test_cve_2023_0809_mosquitto_a_first_packet_that_is_no_connect_takes_memory(broker, wire):
    """Memory for its announced length was reserved before its type was checked."""
    for first in ("30 ff ff 3f", "82 ff ff 3f 00 01", "10 ff ff 3f"):
        assert wire(broker).send(first).rest() == b""


def test_cve_2023_28366_mosquitto_copies_of_one_qos_2_message_take_memory_each(start, client):
    """Copies were kept where the PUBREC could not be sent at once."""
    broker = start(on_connected=lambda peer: None)
    peer = client(broker, "c", clean_session=False)
    for _ in range(1_000):
        peer.send(Publish("a", bytes(100), 2, packet_id=7)).expect(PubRec(7))
    receiver = broker._registry.find("c").session.receiver
    assert (len(receiver), receiver.unanswered) == (1, False)


def test_cve_2023_3592_mosquitto_a_will_that_is_ill_formed_is_never_given_back(broker, wire):
    """The topic of the will is empty, contains a wildcard or is not UTF-8: the client is refused, and nothing leaks."""
    for topic in ("00 00", "00 01 23", "00 01 ff"):
        rest = bytes.fromhex(f"00 04 4d 51 54 54 04 06 00 3c 00 01 63 {topic} 00 00")
        assert wire(broker).send(bytes((0x10, len(rest))), rest).rest() == b""
    assert broker.metrics()["clients/total"] == 0


def test_cve_2024_8376_mosquitto_requests_around_a_disconnect_end_the_process(broker, wire, client):
    """CONNECT, DISCONNECT, SUBSCRIBE, UNSUBSCRIBE, PUBLISH together: packets after the DISCONNECT are ignored."""
    other = client(broker, "other")
    other.subscribe(("#", 0))
    packets = [Connect("c"), "e0 00", Subscribe(1, [("a", 0)]), "a2 05 00 02 00 01 61", Publish("a", b"x")]
    assert wire(broker).send(*packets).rest() == bytes.fromhex("20 02 00 00")
    other.quiet()
    assert broker.metrics()["subscriptions/count"] == 1


def test_cve_2016_9877_rabbitmq_a_known_name_without_a_password_is_let_in(start, wire):
    broker = start(authenticator=Users({"ann": hash_password("right")}))
    for fields in ({"username": "ann"}, {"username": "ann", "password": b""}):
        assert wire(broker).send(Connect("c", **fields)).rest()[3] in (4, 5)


def test_cve_2021_33175_emqx_and_33176_vernemq_input_that_is_not_trusted_takes_all_memory(broker, client):
    """Packets that announce much and contain little: here the header is refused, or little is buffered."""
    for announced in ("30 ff ff ff 7f", "32 ff ff 7f 00 01 61", "82 ff ff ff 7f"):
        assert client(broker).send(announced).rest() == b""


def test_cve_2019_0222_activemq_a_frame_that_is_corrupt_takes_all_memory(broker, wire, client):
    """A length inside a packet that is larger than the packet."""
    for corrupt in ("30 04 ff ff 61 62", "82 05 00 01 ff ff 61", "10 06 ff ff 4d 51 54 54"):
        peer = wire(broker) if corrupt.startswith("10") else client(broker)
        assert peer.send(corrupt).rest() == b""


def test_cve_2026_21888_nanomq_a_length_of_five_bytes_is_read_beyond_its_end(broker, client):
    """There in the properties of MQTT 5, whose lengths are encoded as the Remaining Length is."""
    assert client(broker).send("30 80 80 80 80 01").rest() == b""


def test_cve_2026_32696_nanomq_credentials_that_are_not_there_end_the_process(start, wire):
    """The authenticator receives None for missing credentials; one that fails on that only refuses the client."""
    broker = start(authenticator=lambda peer, connect: len(connect.username) > 0)
    assert wire(broker).send(Connect("c")).rest() == b""
    assert wire(broker).send(Connect("c", username="ann")).receive().return_code == 0


def test_cve_2025_56352_tinymqtt_a_client_that_is_refused_stays_connected(broker, wire):
    """An empty identifier with a kept session: CONNACK 2, and the connection is closed."""
    assert wire(broker).send("10 0c 00 04 4d 51 54 54 04 00 00 3c 00 00").rest() == bytes.fromhex("20 02 00 02")


def test_cve_2026_58209_nats_what_is_retained_or_waits_is_delivered_though_it_is_denied(start, client):
    """A broad filter is granted, one topic in it denied: live messages were withheld, retained and queued ones not."""
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


def test_cve_2026_58251_nats_a_group_is_a_way_around_a_denied_subject(start, client):
    broker = start(authorizer=lambda peer, access: not access.topic.startswith("secret"))
    codes = client(broker).subscribe(("secret/#", 0), ("$share/g/secret/#", 0), ("$share/g/open", 0))
    assert codes == (0x80, 0x80, 0)


def test_cve_2026_33217_nats_rules_for_topics_do_not_hold_in_the_brokers_own_namespace(start, client):
    broker = start(authenticator=lambda peer, connect: Accepted(), authorizer=lambda peer, access: False)
    peer = client(broker, "c", username="ann")
    assert peer.subscribe(("$SYS/#", 0), ("$SYS/broker/version", 0), ("$share/g/$SYS/#", 0)) == (0x80,) * 3
    peer.send(Publish("$SYS/broker/version", b"forged", retain=True)).quiet()
    assert broker.metrics()["publish/messages/denied"] == 1


def test_cve_2021_34434_mosquitto_a_right_revoked_from_an_offline_client_is_kept(start, client):
    """Its subscriptions were kept, and messages were not authorized. Here the authorizer is called for each message."""
    allowed = {"a"}
    broker = start(authorizer=lambda peer, access: access.action == "subscribe" or access.topic in allowed)
    keep = {"clean_session": False}
    client(broker, "c", **keep).subscribe(("a", 1))
    client(broker, "c", **keep).send("e0 00").rest()
    broker.publish("a", b"before", 1)
    allowed.clear()
    broker.publish("a", b"after", 1)
    peer = client(broker, "c", **keep)
    assert [message.payload for message in peer.messages(1)] == [b"before"]  # it was permitted to read it then
    broker.publish("a", b"live", 1)
    peer.quiet()


@pytest.mark.parametrize("client_id", ["+", "#", "+/x", "x/#"])
def test_cve_2026_85724_moquette_wildcards_in_a_client_identifier_widen_a_rule(client_id):
    """Rules that contain the client's name; here those of the local AWS endpoint."""
    arn = "arn:aws:iot:eu-west-1:123456789012"
    resources = [f"{arn}:{kind}/own/${{iot:ClientId}}/x" for kind in ("topic", "topicfilter")]
    statement = {"Effect": "Allow", "Action": ["iot:Publish", "iot:Subscribe", "iot:Receive"], "Resource": resources}
    document = PolicyDocument.parse({"Version": "2012-10-17", "Statement": [statement]}, name="own")

    def may(name: str) -> Authorizer:
        return Authorizer(
            ConnectionContext(client_id=name, region="eu-west-1", account_id="123456789012"), iot=[document]
        )

    assert may("ann").subscribe("own/ann/x")
    assert not may(client_id).subscribe(f"own/{client_id}/x")
    assert not may(client_id).publish("own/ann/x")
    assert not may(client_id).receive("own/ann/x")


def test_cve_2026_85724_moquette_an_ill_formed_shared_subscription_ends_the_process(broker, client):
    """The exception ended the loop that all sessions share."""
    ill_formed = ("$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a")
    peer = client(broker)
    assert peer.subscribe(*((topic_filter, 0) for topic_filter in ill_formed)) == (0x80,) * len(ill_formed)
    peer.quiet()
    client(broker).quiet()


@pytest.mark.parametrize(
    "words",
    [
        ("--users", "missing"),
        ("--users", "."),
        ("--users", "ill-formed"),
        ("--cert", "missing", "--wss-port", "0"),
        ("--aws-iot", "--identities", "missing"),
        ("--aws-iot", "--identities", "ill-formed"),
    ],
)
def test_cve_2017_7652_mosquitto_settings_that_cannot_be_read_are_replaced_by_defaults(tmp_path, served, words):
    """The file could not be opened because no descriptor was left; here nothing is served, for any reason."""
    (tmp_path / "ill-formed").write_text("ann\n")
    process = served(*words)
    said, _ = process.communicate(timeout=PATIENCE)
    complaint = (tmp_path / "complaints").read_text()
    assert (said, process.returncode) == (b"", 2), complaint
    assert complaint.count("\n") == 1  # one line, no traceback


def test_cve_2017_7652_mosquitto_descriptors_are_used_up(tmp_path, served, stack):
    """Connected clients are served, passwords are checked, the CPU is idle, and new clients can connect afterwards."""
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("only Linux can set the bound of another process")
    (tmp_path / "users").write_text(f"ann:{hash_password('right')}\n")
    process = served("--no-ws", "--tcp-port", "0", "--users", "users")
    url = process.stdout.readline().decode().strip()
    descriptors = Path(f"/proc/{process.pid}/fd")
    right = {"username": "ann", "password": b"right"}

    def dial() -> Wire:
        return stack.enter_context(Wire(url))

    def cpu() -> float:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    good = dial().connect("good", **right)
    open_before = len(list(descriptors.iterdir()))
    strangers = [dial(), dial()]
    end = time.monotonic() + PATIENCE
    while len(list(descriptors.iterdir())) < open_before + 2:
        assert time.monotonic() < end
    before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    highest = max(int(descriptor.name) for descriptor in descriptors.iterdir())
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (highest + 1, before[1]))
    waiting = [dial() for _ in range(100)]
    began, end = cpu(), time.monotonic() + 1.5
    while time.monotonic() < end:
        good.quiet()
        time.sleep(0.05)
    assert cpu() - began < 0.5
    assert strangers[0].send(Connect("c", username="ann", password=b"wrong")).rest() == bytes.fromhex("20 02 00 04")
    strangers[1].connect("d", **right).quiet()
    for each in waiting:
        each.close()
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
    dial().connect("newcomer", **right).quiet()
    good.quiet()


@pytest.mark.parametrize("answer", [LookupError("no such rule"), None, 1, "yes", Ellipsis])
@pytest.mark.parametrize("hook", ["on_upgrade", "authenticator", "authorizer"])
def test_a_hook_that_fails_or_answers_nonsense_lets_nobody_in(start, wire, hook, answer):
    """A failing plugin counted as permission in several advisories."""

    def decide(*arguments):
        if isinstance(answer, Exception):
            raise answer
        return answer

    broker = start(**{hook: decide})
    if hook == "on_upgrade":
        if answer is None:  # None means permission for this hook
            return
        reply = wire(broker, "ws", upgrade=False).upgrade("/mqtt", "127.0.0.1")
        assert reply.startswith(b"HTTP/1.1 500 ")
    elif hook == "authenticator":
        assert wire(broker).send(Connect("c", username="ann", password=b"x")).rest() in (b"", REFUSED)
    else:
        will = Message("a", b"x")
        assert wire(broker).send(Connect("c", will=will)).rest() in (b"", REFUSED)
        peer = wire(broker).connect("c")
        peer.send(Subscribe(1, [("a", 0)]), Publish("b", b"x", retain=True), "e0 00")
        assert peer.rest() in (b"", bytes.fromhex("90 03 00 01 80"))
    figures = broker.metrics()
    assert (figures["subscriptions/count"], figures["retained messages/count"]) == (0, 0)


def test_aedes_the_last_will_is_not_checked_against_authorization(start, wire, client):
    """moscajs/aedes issues 211 and 212. The same applies if the rules have changed since the CONNECT."""
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
    client(broker, "c").send(PingReq()).expect("d0 00")  # by then the broker has handled the end of the first
    watcher.quiet()


def test_cve_2025_63236_sol_a_packet_before_the_connect_ends_the_process(broker, wire, client):
    """A SUBSCRIBE; in codepr/sol issue 15 also acknowledgements."""
    acknowledgements = "40 02 00 01", "50 02 00 01", "62 02 00 01", "70 02 00 01", "90 03 00 01 00", "b0 02 00 01"
    for early in ("82 06 00 01 00 01 61 00", *acknowledgements):
        assert wire(broker).send(early).rest() == b""
    client(broker).quiet()
