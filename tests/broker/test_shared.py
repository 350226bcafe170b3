"""Shared subscriptions: "$share/group/filter", for clients of 3.1.1 as Mosquitto 2 and AWS have them."""

from __future__ import annotations

import pytest

from mqttws import PubAck, Publish, Session, Unsubscribe
from mqttws.broker import Peer
from mqttws.broker.subscriber import Subscriber
from mqttws.broker.subscriptions import Subscriptions


@pytest.mark.parametrize("qos", [0, 1])
def test_each_message_goes_to_one_of_a_group_in_turn(broker, client, qos):
    members = [client(name) for name in "abc"]
    for member in members:
        assert member.subscribe(("$share/g/t/+", qos)) == (qos,)
    whole = client("whole")
    whole.subscribe(("t/#", 0))
    for number in range(9):
        broker.publish("t/x", b"%d" % number, qos)
    got = [[message.payload for message in member.messages(3)] for member in members]
    assert got == [[b"%d" % number for number in range(start, 9, 3)] for start in range(3)]
    assert len(whole.messages(9)) == 9
    whole.quiet()


def test_a_run_of_one_client_is_shared_message_by_message(client):
    members = [client(name) for name in "ab"]
    for member in members:
        member.subscribe(("$share/g/t", 0))
    client("publisher").send(*(Publish("t", b"%d" % number) for number in range(100)))
    assert [len(member.messages(50)) for member in members] == [50, 50]
    for member in members:
        member.quiet()


def test_groups_and_single_subscriptions_get_a_copy_each(broker, client):
    peer = client("c")
    peer.subscribe(("$share/g/t", 0), ("$share/h/t", 0), ("$share/g/#", 0), ("t", 0))
    assert broker.metrics()["subscriptions/count"] == 4
    assert broker.publish("t", b"x") == 4
    assert peer.messages(4) == [Publish("t", b"x")] * 4
    peer.send(Unsubscribe(2, ["$share/g/t", "$share/h/t", "$share/x/t"])).expect("b0 02 00 02")
    assert broker.publish("t", b"x") == 2
    assert broker.metrics()["subscriptions/count"] == 2


def test_disconnected_members_are_skipped_unless_all_are_disconnected(broker, client):
    away = client("away", clean_session=False)
    here = client("here", clean_session=False)
    for member in (away, here):
        member.subscribe(("$share/g/t", 1))
    away.send("e0 00").rest()
    for number in range(4):
        broker.publish("t", b"%d" % number, 1)
    assert [message.payload for message in here.messages(4)] == [b"0", b"1", b"2", b"3"]
    here.send(*(PubAck(number) for number in range(1, 5)), "e0 00").rest()
    assert broker.publish("t", b"waits", 1) == 1
    back = [client(name, clean_session=False) for name in ("away", "here")]
    assert back[0].messages(1)[0].payload == b"waits"
    back[1].quiet()


def test_an_ended_session_is_no_longer_a_member(broker, client):
    gone, stays = client("gone"), client("stays")
    for member in (gone, stays):
        member.subscribe(("$share/g/t", 1))
    gone.send("e0 00").rest()
    for number in range(4):
        broker.publish("t", b"%d" % number)
    assert len(stays.messages(4)) == 4


def test_shared_subscriptions_get_no_retained_messages(broker, client):
    broker.publish("t", b"kept", retain=True)
    peer = client("c")
    peer.subscribe(("$share/g/t", 0))
    peer.quiet()
    broker.publish("t", b"live", retain=True)
    assert peer.messages(1) == [Publish("t", b"live")]


@pytest.mark.parametrize("name", ["$share/", "$share/g", "$share/g/", "$share//t", "$share/+/t", "$share/g+/t"])
def test_invalid_shared_filters_are_refused(broker, client, name):
    peer = client("c")
    if "g+" in name:  # an invalid Topic Filter in any case
        peer.send(b"\x82" + bytes((5 + len(name),)) + b"\0\1\0" + bytes((len(name),)) + name.encode() + b"\0")
        assert peer.rest() == b""
    else:
        assert peer.subscribe((name, 0), ("t", 0)) == (0x80, 0)


def test_the_authorizer_is_called_with_the_shared_filter(start, client):
    asked = []
    broker = start(authorizer=lambda peer, access: asked.append(access) or access.topic != "denied")
    assert client("c", broker).subscribe(("$share/g/t", 0), ("$share/g/denied", 0), ("t", 1)) == (0, 0x80, 1)
    assert [(access.action, access.group, access.topic) for access in asked] == [
        ("subscribe", "g", "t"),
        ("subscribe", "g", "denied"),
        ("subscribe", "", "t"),
    ]


def test_a_group_is_found_once_and_removed_with_its_last_member():
    routes, peer = Subscriptions(), Peer("mqtt", ("127.0.0.1", 1))
    one, two = (Subscriber(name, Session(), None, peer) for name in "ab")
    routes.set("$share/g/a/#", one, 1, 0)
    routes.set("$share/g/a/#", two, 0, 0)
    routes.set("$share/g/a/#", one, 2, 0)
    assert len(routes) == 2
    (group,) = routes.find("a/b").groups
    assert group.members == {one: 2, two: 0}
    for _ in range(2):
        routes.discard("$share/g/a/#", one)
    assert len(routes) == 1
    routes.discard("$share/g/a/#", two)
    assert routes.find("a/b").groups == ()
    assert len(routes._tree) == len(routes) == 0
