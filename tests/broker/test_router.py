"""The router, compared with naive references: retained messages, and deliveries with their QoS."""

from __future__ import annotations

from itertools import product
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttws import Connect, Decoder, Message, Publish, Session, topic_matches
from mqttws.broker import Accepted, Limits, Peer
from mqttws.broker.limits import Departures
from mqttws.broker.registry import Registry
from mqttws.broker.retained import Retained
from mqttws.broker.router import Router
from mqttws.broker.subscriber import Subscriber
from mqttws.broker.subscriptions import Subscriptions, Unfinished
from mqttws.errors import MQTTError

LEVELS = st.sampled_from(["a", "b", "", "$x"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = (
    st.tuples(st.lists(LEVELS | st.just("+"), max_size=4), st.sampled_from([["#"], []]))
    .map(lambda parts: "/".join(parts[0] + parts[1]))
    .filter(bool)
)
QOS = st.integers(0, 2)


class Outlet:
    """An outlet that records packets."""

    def __init__(self, takes: bool = True) -> None:
        self.packets: list[bytes] = []
        self.takes = takes

    def send(self, packets: bytes) -> bool:
        if self.takes:
            self.packets.append(packets)
        return self.takes

    held = 0

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
    assert retained._root.children == {}  # no empty branch is left


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
def test_cached_answers_follow_every_change_of_the_tree(steps):
    """Before and after each change of a subscription, the lookup of a topic finds the matching subscribers."""
    routes = Subscriptions()
    peer = Peer("mqtt", ("127.0.0.1", 1))
    subscribers = [Subscriber(str(number), Session(), None, peer) for number in range(3)]
    naive: dict[tuple[str, Subscriber], int] = {}
    for number, topic, topic_filter, qos, wanted in steps:
        subscriber = subscribers[number]
        for _ in range(2):  # looked up in the tree, then in the cache
            expected: dict[Subscriber, int] = {}
            for (held, holder), granted in naive.items():
                if topic_matches(held, topic):
                    expected[holder] = max(granted, expected.get(holder, 0))
            assert routes.find(topic)[:2] == (expected, ())
        if wanted:
            routes.set(topic_filter, subscriber, qos, 0)
            naive[topic_filter, subscriber] = qos
        else:
            routes.discard(topic_filter, subscriber)
            naive.pop((topic_filter, subscriber), None)
    assert len(routes) == len(naive)


def connected(router: Router, topic_filter: str) -> tuple[Peer, Outlet]:
    """Return a client that has subscribed, and its outlet."""
    peer, outlet = Peer("mqtt", ("127.0.0.1", 1)), Outlet()
    peer.client_id = "c"
    router.subscribe(Registry(router).attach(peer, Connect("c"), Accepted(), outlet)[0], [(topic_filter, 0)])
    return peer, outlet


def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr("mqttws.broker.subscriptions.MAX_ANSWERS", 100)
    monkeypatch.setattr("mqttws.broker.subscriptions.MAX_CHARACTERS", 1_000)
    router = Router()
    peer, outlet = connected(router, "#")
    cache = router._subscriptions.answers
    for number in range(300):
        for _ in range(3):  # the first time from the tree, then it is cached, then from the cache
            router.publish_run(peer, f"a/{number}", [b"x"])
    router.publish_run(peer, "b" * 990, [b"x"])
    router.publish_run(peer, "b" * 990, [b"x"])
    assert list(cache) == [f"a/{number}" for number in range(100)]  # others evict nothing
    long = [f"{number}" + "b" * 400 for number in range(5)]
    for topic in long * (8 * 100):  # a program that uses other topics from now on
        router.publish_run(peer, topic, [b"x"])
    assert set(cache) < set(long)
    assert len(cache) == 2
    assert len(outlet.packets) == 900 + 2 + 4_000


@pytest.mark.parametrize("topic", ["$SYS/uptime", "$private", "a\x01", "/" * 201])
def test_what_the_broker_publishes_opens_no_topic_to_clients(topic):
    router = Router()
    peer, outlet = connected(router, "#")
    for _ in range(3):
        router.publish(topic, b"x")
    assert topic in router._subscriptions.answers
    before = len(outlet.packets)
    if topic.startswith("$"):
        router.publish_run(peer, topic, [b"y"])
        assert router.publish_from(peer, Publish(topic, b"y")) is True
        assert router.metrics.publish_denied == 2
    else:
        with pytest.raises(MQTTError):
            router.publish_run(peer, topic, [b"y"])
        with pytest.raises(MQTTError):
            router.publish_from(peer, Publish(topic, b"y"))
    assert len(outlet.packets) == before


def test_a_topic_is_checked_once_for_clients_also_if_the_broker_publishes_to_it(monkeypatch):
    router = Router()
    peer, outlet = connected(router, "#")
    checked = []
    monkeypatch.setattr(router.limits.__class__, "check_topic", lambda self, topic, what: checked.append(topic))
    for _ in range(3):
        router.publish("a", b"x")
        router.publish_run(peer, "a", [b"x"])
        router.publish_from(peer, Publish("a", b"x"))
    assert router._subscriptions.answers["a"].checked
    assert checked == ["a"]
    assert len(outlet.packets) == 9


def test_topics_with_the_same_filters_share_a_result():
    router = Router()
    peer, outlet = connected(router, "a/+")
    for number in range(100):
        for _ in range(2):  # cached the second time
            router.publish_run(peer, f"a/{number}", [b"x"])
    routes = router._subscriptions
    assert len(routes.answers) == 100
    assert len({id(result) for result in routes.answers.values()}) == len(routes._results) == 1
    assert len(outlet.packets) == 200


def test_the_number_of_levels_is_part_of_what_is_shared():
    """With the departure of AWS IoT, "a/#" does not match "a", though both topics are found at the same nodes."""
    router = Router(departures=Departures(parent_level=False))
    peer, outlet = connected(router, "a/#")
    for topic in ("a/", "a", "a/b", "a/b/c", "a"):
        router.publish_run(peer, topic, [b"x"])
    assert len(outlet.packets) == 3


@pytest.mark.parametrize("topic_filter", ["#", "$share/{}/#"])
def test_results_are_bounded_by_subscribers(monkeypatch, topic_filter):
    """Bounded by subscribers and groups, and by the nodes found; a group of any size counts as one."""
    monkeypatch.setattr("mqttws.broker.subscriptions._MAX_NAMED", 24)
    routes = Subscriptions()
    peer = Peer("mqtt", ("127.0.0.1", 1))
    for number in range(4):
        routes.set(topic_filter.format(number), Subscriber(str(number), Session(), None, peer), 0, 0)
    for number in range(10):
        for _ in range(2):
            assert sum(map(len, routes.find("/" * number)[:2])) == 4
        assert sum(sum(map(len, result[:2])) + len(nodes) for nodes, result in routes._results.items()) <= 24
        assert len(routes._results) <= 4


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
                router.publish_run(peer, topic, payloads, first=Publish(topic, payloads[0]))
            else:
                for payload in payloads:
                    router.publish_from(peer, Publish(topic, payload))
        came.append([b"".join(outlet.packets) for outlet in outlets])
        figures.append(router.metrics.topics())
    assert came[0] == came[1]
    assert figures[0] == figures[1]


def expire(registry: Registry, now: float) -> None:
    """Drop all sessions that have expired."""
    expiry = registry.expire(now)
    assert expiry is None or not expiry.work(inf)


def away(registry: Registry, client_id: str, limits: Accepted | None = None) -> Subscriber:
    """Return a session whose client has disconnected."""
    peer = Peer("mqtt", ("127.0.0.1", 1))
    peer.client_id = client_id
    answer = limits or Accepted()
    subscriber, _ = registry.attach(peer, Connect(client_id, clean_session=False), answer, Outlet())
    registry.detach(subscriber, 0.0, will=False)
    return subscriber


def test_sessions_expire_as_there_is_time_unless_their_clients_come_back():
    router = Router()
    registry = Registry(router)
    for number in range(4):
        away(registry, f"c{number}", Accepted(session_expiry=10.0))
    expiry = registry.expire(10.0)
    assert expiry.work(0.0)  # no time left: one session at a time
    assert len(registry) == 3
    peer = Peer("mqtt", ("127.0.0.1", 1))
    peer.client_id = "c1"
    back, present = registry.attach(peer, Connect("c1", clean_session=False), Accepted(), Outlet())
    assert present
    while expiry.work(0.0):
        pass
    assert list(router.subscribers) == ["c1"]
    assert registry.find("c1") is back
    assert registry.expire(1e9) is None


def test_an_idle_session_is_found_behind_any_number_of_busy_ones():
    router = Router(Limits(max_sessions=2_000))
    registry = Registry(router)
    for number in range(1_999):
        away(registry, f"busy{number}").session.publish(Message("a", b"x", 1))
    away(registry, "idle")
    peer = Peer("mqtt", ("127.0.0.1", 1))
    for number in range(2):
        peer.client_id = f"new{number}"
        connect = Connect(peer.client_id, clean_session=False)
        objection = registry.objection_to(peer, connect, Accepted(), 0.0)
        assert (objection is None) is (number == 0)  # there is one idle session
        if number == 0:
            assert registry.find("idle") is None
            registry.attach(peer, connect, Accepted(), Outlet())


def test_a_lookup_that_began_before_a_subscription_is_not_remembered():
    """[MQTT-3.3.5-1]: the message that caused the lookup came before the subscription, later ones come after it."""
    routes, peer = Subscriptions(), Peer("mqtt", ("127.0.0.1", 1))
    early, late, many = (Subscriber(name, Session(), None, peer) for name in ("early", "late", "many"))
    topic = "/".join("a" * 12)
    routes.set("#", early, 0, 0)
    for levels in product("a+", repeat=10):  # they match nothing, but each is searched for
        routes.set("/".join((*levels, "x", "y")), many, 0, 0)
    with pytest.raises(Unfinished) as caught:
        routes.find(topic)
    routes.set("#", late, 0, 0)
    while not routes.go_on(caught.value):
        pass
    assert early in routes.find(topic).subscribers
    for _ in range(2):
        with pytest.raises(Unfinished) as caught:
            routes.find(topic)
        while not routes.go_on(caught.value):
            pass
        assert set(routes.find(topic).subscribers) == {early, late}
        routes.set("other", many, 0, 0)


def test_bytes_of_retained_messages_are_bytes():
    """Of characters, one of which takes four bytes in UTF-8, Limits.max_retained_bytes would not say how many."""
    retained = Retained(max_bytes=10)
    assert retained.set(Message("\N{THERMOMETER}", b"123456", 0, True))
    assert retained.bytes == 10
    assert not retained.set(Message("a", b"1", 0, True))


def test_a_client_that_comes_back_gets_what_was_retained_while_it_was_away():
    """[MQTT-3.3.1-6]: the search for its new subscription was not complete when its connection broke."""
    router = Router()
    registry = Registry(router)
    for number in range(10):
        router.publish(f"t/{number}", b"old", 0, True)
    peer = Peer("mqtt", ("127.0.0.1", 1))
    peer.client_id = "c"
    connect = Connect("c", clean_session=False)
    subscriber, _ = registry.attach(peer, connect, Accepted(), Outlet())
    router.subscribe(subscriber, [("t/#", 0)])
    assert router.next_retained(subscriber).payload == b"old"
    registry.detach(subscriber, 0.0, will=False)
    for number in range(10):
        router.publish(f"t/{number}", b"new", 0, True)
    subscriber, present = registry.attach(peer, connect, Accepted(), Outlet())
    assert present
    rest = []
    while subscriber.has_retained:
        message = router.next_retained(subscriber)
        if message is not None:
            rest.append((message.topic, message.payload))
    assert rest == [(f"t/{number}", b"new") for number in range(1, 10)]


def test_expiry_examines_only_disconnected_sessions():
    router = Router()
    registry = Registry(router)
    peer = Peer("mqtt", ("127.0.0.1", 1))
    peer.client_id = "c"
    answer = Accepted(session_expiry=10.0)
    for start in (0.0, 100.0):
        subscriber, present = registry.attach(peer, Connect("c", clean_session=False), answer, Outlet())
        assert present is (start > 0)
        expire(registry, start + 1000)  # it is connected, and does not expire
        assert registry.find("c") is subscriber
        registry.detach(subscriber, start, will=True)
        if start == 0.0:
            expire(registry, 9.9)
    expire(registry, 109.9)
    assert registry.find("c") is subscriber
    expire(registry, 110.0)
    assert registry.find("c") is None
    assert router.metrics.sessions_expired == 1


def test_a_session_without_an_expiry_is_kept():
    """None means without expiry, whether the limits or the authenticator return it."""
    registry = Registry(Router(Limits(session_expiry=None)))
    peer = Peer("mqtt", ("127.0.0.1", 1))
    peer.client_id = "c"
    subscriber, _ = registry.attach(peer, Connect("c", clean_session=False), Accepted(), Outlet())
    registry.detach(subscriber, 0.0, will=False)
    expire(registry, 1e12)
    assert registry.find("c") is subscriber


@given(st.lists(st.tuples(TOPICS, st.booleans())), FILTERS, st.data())
def test_a_walk_over_retained_messages_tolerates_changes(published, topic_filter, data):
    """Messages that stay during the walk are found once; those set meanwhile are left to the live delivery."""
    retained = Retained()
    naive: dict[str, Message] = {}
    steps = iter(published)

    def publish(count: int) -> None:
        for topic, keeps in [step for step, _ in zip(steps, range(count), strict=False)]:
            message = naive[topic] = Message(topic, b"x" if keeps else b"", 0, True)
            retained.set(message)
            changed.add(topic)

    changed: set[str] = set()
    publish(data.draw(st.integers(0, len(published))))
    at_first = {topic: message for topic, message in naive.items() if message.payload}
    changed.clear()
    walk, found = retained.walk(topic_filter), []
    while not walk.done:
        message = walk.next(data.draw(st.integers(1, 5)))
        if message is not None:
            assert message is naive[message.topic]  # never one that has been replaced
            found.append(message.topic)
        publish(data.draw(st.integers(0, 2)))
    wanted = {topic for topic in at_first if topic_matches(topic_filter, topic)}
    assert len(found) == len(set(found))
    assert wanted - changed <= set(found) <= wanted


def test_a_retained_message_replaced_during_a_walk_arrives_once():
    router = Router()
    peer = Peer("mqtt", ("127.0.0.1", 1))
    peer.client_id = "c"
    subscriber, _ = Registry(router).attach(peer, Connect("c"), Accepted(), Outlet())
    for topic in "abc":
        router.publish(topic, b"old", retain=True)
    router.subscribe(subscriber, [("+", 0)])
    first = router.next_retained(subscriber)
    assert first is not None
    assert first.topic == "a"
    router.publish("a", b"new", retain=True)
    router.publish("b", b"new", retain=True)
    router.publish("b", b"newer", retain=True)
    rest = []
    while subscriber.has_retained:
        message = router.next_retained(subscriber, 1)
        if message is not None:
            rest.append((message.topic, message.payload))
    assert rest == [("c", b"old")]  # the new messages of "a" and "b" were delivered live


def test_a_long_walk_is_done_in_steps():
    retained = Retained()
    for number in range(1_000):
        retained.set(Message(f"{number}/a", b"x", 0, True))
    walk = retained.walk("+/b")
    turns = 0
    while not walk.done:
        assert walk.next(100) is None
        turns += 1
    assert turns >= 10


def hydra(router: Router, depth: int, most: int) -> Subscriber:
    """Subscribe to "#" and to mixtures of "a" and "+" that match "a/a/.../a" up to the last level."""
    peer = Peer("mqtt", ("127.0.0.1", 1))
    peer.client_id = "hydra"
    subscriber, _ = Registry(router).attach(peer, Connect("hydra"), Accepted(), Outlet())
    for number in range(most):
        levels = ["+" if number >> bit & 1 else "a" for bit in range(depth)]
        router._subscriptions.set("/".join([*levels, "b"]), subscriber, 0, 0)
    router.subscribe(subscriber, [("#", 1)])
    return subscriber


def test_a_topic_that_thousands_of_filters_almost_match_is_looked_up_in_steps():
    router = Router()
    subscriber = hydra(router, 14, 1 << 13)
    topic = "/".join(["a"] * 15)
    with pytest.raises(Unfinished) as caught:
        router.publish_from(subscriber.peer, Publish(topic, b"x", 1, True, packet_id=1))
    assert router.retained.get(topic) is None  # nothing has been done yet
    other = "/".join(["a"] * 14 + ["c"])
    with pytest.raises(Unfinished):
        router.publish_run(subscriber.peer, other, [b"x"])
    assert router.metrics.publish_received == 1
    turns = 1
    while not router.go_on(caught.value, 0.0):
        turns += 1
        router._subscriptions.set(f"x/{turns}", subscriber, 0, 0)  # the tree changes between the steps
    assert turns > 3
    assert router.publish(topic, b"x", 1, True) == 1
    assert subscriber.session.sender.waiting == 1
    assert router.publish_at_once(Message(other, b"x", 1)) == 1


def test_a_subscriber_that_disconnects_during_a_look_up_is_not_found():
    router = Router()
    subscriber = hydra(router, 14, 1 << 13)
    topic = "/".join(["a"] * 15)
    with pytest.raises(Unfinished) as caught:
        router.publish(topic, b"x", 1)
    router.unsubscribe(subscriber, ["#"])
    while not router.go_on(caught.value, 0.0):
        pass
    assert router.publish(topic, b"x", 1) == 0
