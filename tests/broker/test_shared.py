"""Shared subscriptions: "$share/group/filter", for clients of 3.1.1 as Mosquitto 2 and AWS have them."""

from __future__ import annotations

import pytest

from mqttws import Connect, PubAck, Publish, Session, Unsubscribe
from mqttws.broker import Accepted, Peer
from mqttws.broker.registry import Registry
from mqttws.broker.router import Router
from mqttws.broker.subscriber import Subscriber
from mqttws.broker.subscriptions import Group, Subscriptions


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
    assert (len(group), group.discard(one)) == (2, 2)
    group.set(one, 2)
    for _ in range(2):
        routes.discard("$share/g/a/#", one)
    assert len(routes) == 1
    routes.discard("$share/g/a/#", two)
    assert routes.find("a/b").groups == ()
    assert len(routes._tree) == len(routes) == 0


class Somewhere:
    """Stands in for the connection of a member."""


def test_members_that_are_away_are_looked_at_once_until_they_come_back():
    peer, group = Peer("mqtt", ("127.0.0.1", 1)), Group()
    absent = [Subscriber(f"absent{number}", Session(), None, peer) for number in range(100)]
    here = Subscriber("here", Session(), None, peer)
    here.outlet = Somewhere()
    for member in (*absent, here):
        assert group.set(member, 0)
    assert group.next() == (here, 0)
    assert list(group._members) == [here]  # which the next choice looks at first
    assert [group.next() for _ in range(50)] == [(here, 0)] * 50
    absent[7].outlet = Somewhere()
    group.come_back(absent[7])
    group.come_back(absent[7])
    assert {group.next()[0] for _ in range(2)} == {here, absent[7]}
    assert len(group) == 101


def test_while_all_are_away_those_take_turns_for_which_messages_are_queued():
    peer, group = Peer("mqtt", ("127.0.0.1", 1)), Group()
    members = [Subscriber(str(number), Session(), None, peer) for number in range(4)]
    for number, member in enumerate(members):
        group.set(member, number % 2)
    assert [group.next()[0] for _ in range(4)] == [members[1], members[3], members[1], members[3]]
    for member in (members[1], members[3]):
        group.discard(member)
    assert group.next() == (members[0], 0)
    for member in (members[0], members[2]):
        group.discard(member)
    assert group.next() is None


@pytest.mark.parametrize("run", [True, False])
def test_the_last_member_may_leave_while_messages_are_delivered(run):
    """Here because the delivery to it fails, which ends its connection."""
    router, publisher = Router(), Peer("mqtt", ("127.0.0.1", 2))
    registry = Registry(router)

    class Leaving:
        held = 0

        def send(self, packets):
            registry.detach(member, 0.0, will=False)
            return False

    peer = Peer("mqtt", ("127.0.0.1", 1))
    peer.client_id = "member"
    member, _ = registry.attach(peer, Connect("member"), Accepted(), Leaving())
    router.subscribe(member, [("$share/g/t", 0)])
    if run:
        router.publish_run(publisher, "t", [b"1", b"2", b"3"], first=Publish("t", b"1"))
    else:
        for _ in range(3):
            router.publish_from(publisher, Publish("t", b"x"))
    assert router.subscriptions == 0


def test_a_member_that_may_not_receive_is_passed_over(start, client):
    broker = start(authorizer=lambda peer, access: access.action != "receive" or peer.client_id == "may")
    members = [client(name, broker) for name in ("may", "not")]
    for member in members:
        member.subscribe(("$share/g/t", 1))
    for number in range(4):
        assert broker.publish("t", b"%d" % number, 1) == 1
    assert [message.payload for message in members[0].messages(4)] == [b"0", b"1", b"2", b"3"]
    members[1].send("e0 00").rest()
    members[0].send("e0 00").rest()
    assert broker.publish("t", b"nobody", 1) == 0


def test_each_connected_member_is_asked_once_and_then_a_few_of_those_that_are_away():
    peer, group = Peer("mqtt", ("127.0.0.1", 1)), Group()
    here = [Subscriber(name, Session(), None, peer) for name in "abc"]
    away = [Subscriber(f"away{number}", Session(), None, peer) for number in range(40)]
    for member in (*here, *away):
        group.set(member, 1)
    for member in here:
        member.outlet = Somewhere()
    for _ in range(2):
        choices = [member for member, _ in group.choices()]
        assert set(choices[:3]) == set(here)
        assert len(choices) == 3 + 16
    assert len(set(choices)) == 3 + 16
    assert [member for member, _ in group.choices()][3:] != choices[3:]  # others have their turn
