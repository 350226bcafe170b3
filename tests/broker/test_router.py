"""The pure rooms against naive references: retained messages, and who gets what at which QoS."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqttws import Connect, Decoder, Message, Publish, Session, topic_matches
from mqttws.broker import Accepted, Peer
from mqttws.broker.registry import Registry
from mqttws.broker.retained import Retained
from mqttws.broker.router import Router
from mqttws.broker.routes import MAX_ANSWERS, MAX_LENGTH, Routes
from mqttws.broker.subscriber import Subscriber

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

    def __init__(self, takes: bool = True) -> None:
        self.packets: list[bytes] = []
        self.takes = takes

    def send(self, packets: bytes) -> bool:
        if self.takes:
            self.packets.append(packets)
        return self.takes

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


@given(st.lists(st.tuples(st.integers(0, 2), TOPICS, FILTERS, QOS, st.booleans())))
def test_what_is_remembered_of_the_tree_is_what_it_says_now(steps):
    """After each change of a subscription, and before it, a topic finds those whose filters match it."""
    routes = Routes()
    peer = Peer("mqtt", ("127.0.0.1", 1))
    subscribers = [Subscriber(str(number), Session(), None, peer) for number in range(3)]
    naive: dict[tuple[str, Subscriber], int] = {}
    for number, topic, topic_filter, qos, wanted in steps:
        subscriber = subscribers[number]
        for _ in range(2):  # asked of the tree, then of what is remembered
            expected: dict[Subscriber, int] = {}
            for (held, holder), granted in naive.items():
                if topic_matches(held, topic):
                    expected[holder] = max(granted, expected.get(holder, 0))
            assert routes.find(topic) == expected
        if wanted:
            routes.set(topic_filter, subscriber, qos, 0)
            naive[topic_filter, subscriber] = qos
        else:
            routes.discard(topic_filter, subscriber)
            naive.pop((topic_filter, subscriber), None)
    assert len(routes) == len(naive)


def test_what_is_remembered_is_bounded():
    router = Router()
    registry = Registry(router)
    peer = Peer("mqtt", ("127.0.0.1", 1))
    peer.client_id = "c"
    outlet = Outlet()
    router.subscribe(registry.attach(peer, Connect("c"), Accepted(), outlet)[0], [("#", 0)])
    for number in range(3 * MAX_ANSWERS):
        router.publish_run(peer, f"a/{number}", [b"x"])
        assert len(router._routes._answers) <= MAX_ANSWERS
        assert router._routes._named <= MAX_ANSWERS
        assert len(router._open_topics) <= MAX_ANSWERS
    router.publish_run(peer, "b" * (MAX_LENGTH + 1), [b"x"])
    assert not any(topic.startswith("b") for topic in (*router._routes._answers, *router._open_topics))
    assert len(outlet.packets) == 3 * MAX_ANSWERS + 1


@given(st.lists(st.tuples(TOPICS, st.lists(st.binary(max_size=3), min_size=1))), st.lists(FILTERS, max_size=3))
def test_a_run_is_the_same_as_its_messages_one_by_one(runs, topic_filters):
    came, figures = [], []
    for in_runs in (True, False):
        router = Router()
        outlets = [Outlet(), Outlet(takes=False)]
        for number, outlet in enumerate(outlets):
            peer = Peer("mqtt", ("127.0.0.1", number))
            peer.client_id = str(number)
            subscriber = Registry(router).attach(peer, Connect(str(number)), Accepted(), outlet)[0]
            if topic_filters:
                router.subscribe(subscriber, [(topic_filter, 1) for topic_filter in topic_filters])
        for topic, payloads in runs:
            if in_runs:
                router.publish_run(peer, topic, payloads)
            else:
                for payload in payloads:
                    router.publish_from(peer, Publish(topic, payload))
        came.append([b"".join(outlet.packets) for outlet in outlets])
        figures.append((router.figures.topics(), peer.complaints))
    assert came[0] == came[1]
    assert figures[0] == figures[1]


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
