"""The pure rooms against naive references: retained messages, and who gets what at which QoS."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqttws import Connect, Decoder, Message, topic_matches
from mqttws.broker import Accepted, Peer
from mqttws.broker.registry import Registry
from mqttws.broker.retained import Retained
from mqttws.broker.router import Router

LEVELS = st.sampled_from(["a", "b", "", "$x"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = (
    st.tuples(st.lists(LEVELS | st.just("+"), max_size=4), st.sampled_from([["#"], []]))
    .map(lambda parts: "/".join(parts[0] + parts[1]))
    .filter(bool)
)
QOS = st.integers(0, 2)


class Outlet:
    """A connection that only notes."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []

    def send(self, packet: bytes) -> bool:
        self.packets.append(packet)
        return True

    def wake(self) -> None:
        pass

    def end(self, error: Exception) -> None:
        raise AssertionError(error)


@given(st.lists(st.tuples(TOPICS, st.sampled_from([b"", b"1", b"22"]))), FILTERS)
def test_retained_messages_are_those_that_match(published, topic_filter):
    retained = Retained()
    naive: dict[str, Message] = {}
    for topic, payload in published:
        message = Message(topic, payload, 0, True)
        assert retained.set(message)
        naive.pop(topic, None)
        if payload:
            naive[topic] = message
    assert len(retained) == len(naive)
    assert retained.bytes == sum(len(m.topic) + len(m.payload) for m in naive.values())
    assert retained.levels == sum(m.topic.count("/") + 1 for m in naive.values())
    found = list(retained.match(topic_filter))
    assert len(found) == len({message.topic for message in found})
    assert {m.topic: m for m in found} == {t: m for t, m in naive.items() if topic_matches(topic_filter, t)}
    for topic in naive:
        retained.set(Message(topic, b"", 0, True))
    assert retained._root.children == {}  # no branch is left bare


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), FILTERS, QOS)),
    st.lists(st.tuples(TOPICS, QOS), max_size=5),
)
def test_each_subscriber_gets_one_copy_at_the_right_qos(requests, published):
    router = Router()
    registry = Registry(router)
    outlets = [Outlet() for _ in range(4)]
    subscribers = []
    for number, outlet in enumerate(outlets):
        peer = Peer("mqtt", ("127.0.0.1", number))
        peer.client_id = str(number)
        subscribers.append(registry.attach(peer, Connect(str(number)), Accepted(), outlet)[0])
    naive: list[dict[str, int]] = [{} for _ in outlets]
    for number, wanted, topic_filter, qos in requests:
        if wanted:
            assert router.subscribe(subscribers[number], [(topic_filter, qos)]) == [qos]
            naive[number][topic_filter] = qos
        else:
            router.unsubscribe(subscribers[number], [topic_filter])
            naive[number].pop(topic_filter, None)
    for count, (topic, qos) in enumerate(published):
        router.publish(topic, b"%d" % count, qos)
    for number, outlet in enumerate(outlets):
        got = []
        for packet in outlet.packets:
            (publish,) = Decoder().feed(packet)
            got.append((publish.topic, publish.payload, publish.qos))
        packets, _ = subscribers[number].session.sender.take_ready()
        got += [(publish.topic, publish.payload, publish.qos) for publish in Decoder().feed(b"".join(packets))]
        expected = []
        for count, (topic, qos) in enumerate(published):
            granted = [maximum for f, maximum in naive[number].items() if topic_matches(f, topic)]
            if granted:
                expected.append((topic, b"%d" % count, min(qos, max(granted))))
        assert sorted(got) == sorted(expected)
    assert router.subscriptions == sum(map(len, naive))
    for subscriber in subscribers:
        assert subscriber.levels == sum(f.count("/") + 1 for f in subscriber.session.subscriptions)
        registry.detach(subscriber, 0.0, will=False)
    assert (router.subscriptions, len(registry), registry.connected) == (0, 0, 0)


def test_a_qos_0_message_is_encoded_once_for_all_its_subscribers():
    router = Router()
    registry = Registry(router)
    outlets = [Outlet() for _ in range(100)]
    for number, outlet in enumerate(outlets):
        peer = Peer("mqtt", ("127.0.0.1", number))
        peer.client_id = str(number)
        router.subscribe(registry.attach(peer, Connect(str(number)), Accepted(), outlet)[0], [("a", 0)])
    assert router.publish("a", b"x") == 100
    assert len({id(outlet.packets[0]) for outlet in outlets}) == 1


def test_expiry_looks_at_those_that_are_away_alone():
    router = Router()
    registry = Registry(router)
    peer = Peer("mqtt", ("127.0.0.1", 1))
    peer.client_id = "c"
    answer = Accepted(session_expiry=10.0)
    for start in (0.0, 100.0):
        subscriber, present = registry.attach(peer, Connect("c", clean_session=False), answer, Outlet())
        assert present is (start > 0)
        registry.expire(start + 1000)  # it is here, and does not expire
        assert registry.find("c") is subscriber
        registry.detach(subscriber, start, will=True)
        if start == 0.0:
            registry.expire(9.9)
    registry.expire(109.9)
    assert registry.find("c") is subscriber
    registry.expire(110.0)
    assert registry.find("c") is None
    assert router.figures.sessions_expired == 1
