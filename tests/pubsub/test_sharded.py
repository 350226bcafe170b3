"""`Sharded`, a pool of connections behind one `PubSub`, with a real broker; for threads and asyncio."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from drivers import core_of
from pubsub_faces import PATIENCE, Loop, Recorder, Threads

import mqttws
from mqttws import ConnectBudget, ConnectionRefused, Reconnect, SubscribeRejected
from mqttws.broker import Broker, Limits
from mqttws.broker.hooks import Peer
from mqttws.client.options import Options
from pubsub import AWSIoTProvider, ConnectionState, MqttOverWSProvider, ProviderError, PublishFailed, Sharded
from pubsub.aws.limits import IoTLimits
from pubsub.aws.local.endpoint import LocalIoTEndpoint
from pubsub.pool.parts import MOST_BYTES
from pubsub.sync.pool import Pool

Api = Threads | Loop
Make = Callable[..., Api]
SOON = Reconnect(initial=0.01, maximum=0.05)


class Server:
    """A broker that records connections, and refuses chosen clients."""

    def __init__(self, stack: ExitStack, **options: Any) -> None:
        self.connected: list[str] = []
        self.gone: list[str] = []
        self.refused: set[str] = set()
        self.changed = threading.Condition()
        self.broker = stack.enter_context(
            Broker(
                authenticator=lambda peer, connect: connect.client_id not in self.refused,
                on_connected=self._connected,
                on_disconnected=self._disconnected,
                sys_interval=None,
                **options,
            )
        )

    def _connected(self, peer: Peer) -> None:
        with self.changed:
            self.connected.append(peer.client_id)
            self.changed.notify_all()

    def _disconnected(self, peer: Peer, error: Exception | None) -> None:
        with self.changed:
            self.gone.append(peer.client_id)
            self.changed.notify_all()

    def wait(self, condition: Callable[[], object]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE), self.connected

    def sharded(self, connections: Any, **options: Any) -> Sharded:
        options.setdefault("client_id", "name")
        options.setdefault("reconnect", SOON)
        return Sharded(MqttOverWSProvider(self.broker.url, **options), connections, connect_rate=500)


@pytest.fixture
def server(stack: ExitStack) -> Server:
    return Server(stack)


class Streams:
    """An observer that records messages by topic, with which a test can wait for their number."""

    def __init__(self) -> None:
        self.values: dict[str, list[Any]] = defaultdict(list)
        self.count = 0
        self._changed = threading.Condition()

    def next(self, message: Any) -> None:
        with self._changed:
            self.values[message.topic].append(message.value)
            self.count += 1
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.count >= count, PATIENCE * 2), self.count


def publish_all(api: Api, topics: int, numbers: range, qos: int = 1) -> None:
    """Publish everything without waiting, number by number, then wait for all acknowledgements."""

    def begin() -> list[Any]:
        return [api.ps.publish_nowait(f"t/{number % topics}", number, qos=qos) for number in numbers]

    async def run() -> None:
        await asyncio.gather(*begin())

    if isinstance(api, Loop):
        api.call(run)
    else:
        for future in begin():
            future.result(PATIENCE)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("qos", [1, 2])
def test_resizing_under_load_neither_loses_nor_duplicates(make: Make, server: Server, qos: int) -> None:
    api = make(server.sharded((2, 2)))
    streams, wide = Streams(), Streams()
    topics = 20
    narrow = api.call(api.ps.subscribe([f"t/{number}" for number in range(topics)], qos=qos).subscribe, streams.next)
    api.call(narrow.ready, PATIENCE)
    overlapping = api.call(api.ps.subscribe("t/#", qos=qos).subscribe, wide.next)
    api.call(overlapping.ready, PATIENCE)
    sizes = [(3, 5), (1, 1), (2, 4), 1]
    for at, size in enumerate(sizes):
        publish_all(api, topics, range(at * 200, at * 200 + 60), qos)
        api.call(api.ps.resize, size)
        publish_all(api, topics, range(at * 200 + 60, at * 200 + 200), qos)
    streams.wait(800)
    wide.wait(800)
    expected = {f"t/{number}": list(range(number, 800, topics)) for number in range(topics)}
    assert streams.values == expected
    assert wide.values == expected
    wait_for(lambda: len(api.ps.connection_states) == 2)
    publish_all(api, topics, range(800, 840), qos)
    streams.wait(840)
    assert streams.count == 840


def test_each_connection_has_an_identifier_and_a_state(make: Make, server: Server) -> None:
    api = make(server.sharded(3))
    changes: list[Any] = []
    api.ps.connection_state_changes.subscribe(changes.append)
    api.call(api.ps.connect, timeout=PATIENCE)
    assert sorted(server.connected) == ["name-0", "name-1", "name-2"]
    name = MqttOverWSProvider.kind
    wait_for(lambda: list(api.ps.connection_states.values()) == [ConnectionState.CONNECTED] * 4)
    assert list(api.ps.connection_states) == [name, f"{name}-0", f"{name}-1", f"{name}-2"]
    assert api.ps.connection_state is ConnectionState.CONNECTED
    api.call(api.ps.close)
    wait_for(lambda: {change.provider for change in changes} == {name, f"{name}-0", f"{name}-1", f"{name}-2"})


def test_the_state_is_the_worst_and_lost_connections_are_restored(make: Make, server: Server) -> None:
    api = make(server.sharded((1, 2), reconnect=Reconnect(initial=0.01, maximum=0.05)))
    streams = Streams()
    subscription = api.call(api.ps.subscribe(["t/0", "t/1"], qos=1).subscribe, streams.next)
    api.call(subscription.ready, PATIENCE)
    changes: list[Any] = []
    api.ps.connection_state_changes.subscribe(changes.append)
    server.refused.add("name-1")
    server.broker.disconnect("name-1")
    wait_for(lambda: api.ps.connection_state is ConnectionState.CONNECTION_DISRUPTED)
    states = api.ps.connection_states
    assert states[f"{MqttOverWSProvider.kind}-2"] is ConnectionState.CONNECTED
    server.refused.clear()
    server.wait(lambda: server.connected.count("name-1") == 2)
    wait_for(lambda: api.ps.connection_state is ConnectionState.CONNECTED)

    def both_came() -> bool:  # the repeated SUBSCRIBE may come later
        for topic in ("t/0", "t/1"):
            api.call(api.ps.publish, topic, "back", qos=1)
        return len(streams.values) == 2

    wait_for(both_came)


def test_a_connection_that_is_closed_before_its_thread_begins_is_not_opened(
    stack: ExitStack, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would stay open, and take over the connection of a later part with the same client identifier."""
    api = Threads(server.sharded((1, 1)))
    stack.callback(api.end)
    api.ps.connect(timeout=PATIENCE)
    late: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(Pool, "_in_background", staticmethod(lambda target, name: late.append(target)))
        api.ps.resize((1, 2))
    api.ps.resize((1, 1))
    wait_for(lambda: len(api.ps.connection_states) == 3)
    (begin,) = late
    (part,) = begin.args
    stack.callback(part.client.close)
    reader = threading.Thread(target=begin, daemon=True)
    reader.start()
    reader.join(PATIENCE)
    assert not reader.is_alive()
    assert not core_of(part.client).running


def test_a_connection_is_closed_later_if_no_thread_can_be_started(
    stack: ExitStack, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = Threads(server.sharded((1, 2)))
    stack.callback(api.end)
    api.ps.connect(timeout=PATIENCE)
    server.wait(lambda: len(server.connected) == 3)
    start, refused = threading.Thread.start, threading.Event()

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("pubsub closing") and not refused.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with suppress(RuntimeError):
        api.ps.resize((1, 1))
    assert refused.wait(PATIENCE)
    server.wait(lambda: server.gone == ["name-2"])


def test_a_connection_that_is_always_refused_blocks_nothing(make: Make, server: Server) -> None:
    """A new connection gets neither topics nor filters until it is established."""
    api = make(server.sharded((1, 1)))
    streams = Streams()
    subscription = api.call(api.ps.subscribe([f"t/{n}" for n in range(8)], qos=1).subscribe, streams.next)
    api.call(subscription.ready, PATIENCE)
    server.refused |= {"name-2", "name-3"}
    api.call(api.ps.resize, (2, 2))
    wait_for(lambda: api.ps.connection_state is ConnectionState.CONNECTION_DISRUPTED)
    more = api.call(api.ps.subscribe(["u", "v"], qos=1).subscribe, streams.next)
    assert api.call(more.ready, PATIENCE) == {"u": 1, "v": 1}
    publish_all(api, 8, range(80))
    streams.wait(80)
    server.refused.clear()
    wait_for(lambda: api.ps.connection_state is ConnectionState.CONNECTED)
    publish_all(api, 8, range(80, 160))
    streams.wait(160)
    assert streams.values == {f"t/{n}": list(range(n, 160, 8)) for n in range(8)}


def test_a_refused_first_connection_fails_with_the_reason(make: Make, server: Server) -> None:
    server.refused.add("name-0")
    api = make(server.sharded((1, 1)))
    with pytest.raises(ConnectionRefused):
        api.call(api.ps.connect, timeout=PATIENCE)
    server.refused.clear()
    api.call(api.ps.publish, "t/0", 1, qos=1)


def test_a_full_connection_does_not_block_another(make: Make, server: Server) -> None:
    """Its queue and its pacing are separate: topics of the other connection are sent immediately."""
    api = make(server.sharded((2, 1), publish_rate=0.01, max_queued=5, max_in_flight=1, overflow="raise"))
    api.call(api.ps.connect, timeout=PATIENCE)
    wait_for(lambda: len(server.connected) == 3)
    pool = api.ps._channels[MqttOverWSProvider.kind].client
    by_part: dict[int, str] = {}
    for number in range(50):
        slot, part = pool.carrier(f"t/{number}")
        pool.published(slot)
        by_part.setdefault(part.index, f"t/{number}")
    full, free = by_part.values()

    def fill() -> int:
        for number in range(100):
            try:
                api.ps.publish_nowait(full, number, qos=1).add_done_callback(lambda future: future.exception())
            except PublishFailed:
                return number
        raise AssertionError("it is never full")

    async def fill_in_loop() -> int:
        return fill()

    assert api.call(fill_in_loop if isinstance(api, Loop) else fill) < 20
    api.call(api.ps.publish, free, "at once", qos=1, timeout=PATIENCE)  # less than the interval of a paced message
    api.call(api.ps.close, 0.0)


def test_a_slow_observer_leaves_a_bounded_number_of_bytes(make: Make, server: Server) -> None:
    """Beyond `max_inbound_bytes` in the queue of the pool its connections read nothing, as a single one does."""
    api = make(server.sharded((1, 2), max_inbound_bytes=200_000))
    streams, release = Streams(), threading.Event()
    asynchronous = asyncio.Event()

    def observe(message: Any) -> None:
        assert release.wait(PATIENCE)
        streams.next(message)

    async def observe_async(message: Any) -> None:
        await asyncio.wait_for(asynchronous.wait(), PATIENCE)
        streams.next(message)

    observer = observe_async if isinstance(api, Loop) else observe
    filters = [f"t/{number}" for number in range(4)]
    api.call(api.call(api.ps.subscribe(filters).subscribe, observer).ready, PATIENCE)
    for number in range(100):
        server.broker.publish(f"t/{number % 4}", b'"%d %s"' % (number, b"x" * 20_000))
    pool = api.ps._channels[MqttOverWSProvider.kind].client
    wait_for(lambda: all(part.client.stalled for part in pool._parts if part.receives))
    queued = pool._queue.qsize() if isinstance(pool, Pool) else len(pool._queue)
    assert 10 <= queued <= 12  # each connection adds one before it waits
    release.set()
    if isinstance(api, Loop):
        api.call(asynchronous.set)
    streams.wait(100)
    for topic, values in streams.values.items():
        assert [int(value.split()[0]) for value in values] == list(range(int(topic[2:]), 100, 4))


def test_the_default_of_max_inbound_bytes_is_that_of_a_client() -> None:
    assert Options.max_inbound_bytes == MOST_BYTES


def test_retained_messages_arrive_once_for_each_subscription(make: Make, server: Server) -> None:
    api = make(server.sharded((1, 2)))
    for number in range(6):
        api.call(api.ps.publish, f"t/{number}", f"kept {number}", qos=1, retain=True)
    first, second = Streams(), Streams()
    one = api.call(api.ps.subscribe([f"t/{number}" for number in range(6)], qos=1).subscribe, first.next)
    api.call(one.ready, PATIENCE)
    first.wait(6)
    other = api.call(api.ps.subscribe("t/+", qos=1).subscribe, second.next)
    api.call(other.ready, PATIENCE)
    second.wait(6)
    api.call(api.ps.resize, (1, 4))
    server.wait(lambda: "name-4" in server.connected)
    pool = api.ps._channels[MqttOverWSProvider.kind].client
    # Which of the new connections get a filter depends on the order in which they connect.
    wait_for(lambda: pool.moves.is_idle and sum(pool.places.count(part) > 0 for part in pool._receiving()) >= 3)
    publish_all(api, 6, range(6))
    first.wait(12)
    second.wait(12)
    expected = {f"t/{number}": [f"kept {number}", number] for number in range(6)}
    assert first.values == expected
    assert second.values == expected


def test_the_pool_has_one_will(make: Make, server: Server, stack: ExitStack) -> None:
    watch = stack.enter_context(mqttws.connect(server.broker.url))
    watch.subscribe("status", 1)
    api = make(server.sharded(4, will=("status", "gone", 1)))
    api.call(api.ps.connect, timeout=PATIENCE)
    wait_for(lambda: len(server.connected) == 5)
    for number in range(4):
        server.broker.disconnect(f"name-{number}")
    assert next(iter(watch.messages(PATIENCE))).payload == b"gone"
    assert next(iter(watch.messages(0.3)), None) is None


def test_a_refused_filter_is_reported_and_the_others_work(make: Make, stack: ExitStack) -> None:
    server = Server(stack, authorizer=lambda peer, access: access.topic != "secret")
    api = make(server.sharded((1, 2)))
    recorder = Recorder()
    subscription = api.call(api.ps.subscribe(["a", "secret", "b"], qos=1).subscribe, recorder)
    granted = api.call(subscription.ready, PATIENCE)
    assert granted == {"a": 1, "b": 1, "secret": 128}
    recorder.wait(lambda: recorder.errors)
    assert isinstance(recorder.errors[0], SubscribeRejected)
    assert subscription.topics == ("a", "b")


def test_closing_while_it_grows_ends_every_connection(make: Make, server: Server) -> None:
    api = make(server.sharded((1, 1)))
    recorder = Recorder()
    subscription = api.call(api.ps.subscribe([f"t/{n}" for n in range(30)], qos=1).subscribe, recorder)
    api.call(subscription.ready, PATIENCE)
    futures: list[Any] = []

    def publish_and_resize() -> None:
        futures.extend(api.ps.publish_nowait(f"t/{n % 30}", n, qos=1) for n in range(100))
        api.ps.resize((4, 6))

    async def in_loop() -> None:
        publish_and_resize()
        await api.ps.close()

    if isinstance(api, Loop):
        api.call(in_loop)
    else:
        publish_and_resize()
        api.ps.close()
    assert recorder.closes == 1
    assert all(future.done() and future.exception() is None for future in futures), "what waits is sent"
    server.wait(lambda: len(server.gone) == len(server.connected))
    assert api.ps.connection_states == {MqttOverWSProvider.kind: ConnectionState.DISCONNECTED}
    api.call(api.ps.publish, "t/0", "again", qos=1)


def test_topics_of_a_subscription_can_be_added_and_removed(make: Make, server: Server) -> None:
    api = make(server.sharded((1, 3)))
    streams = Streams()
    subscription = api.call(api.ps.subscribe(["t/+", "t/1"], qos=1).subscribe, streams.next)
    api.call(subscription.ready, PATIENCE)
    api.call(subscription.remove, ["t/+"])
    api.call(subscription.add, ["t/2"], qos=1)
    api.call(subscription.ready, PATIENCE)
    pool = api.ps._channels[MqttOverWSProvider.kind].client
    wait_for(lambda: pool.moves.is_idle and len(pool.places) == 2)
    publish_all(api, 4, range(4))
    streams.wait(2)
    assert streams.values == {"t/1": [1], "t/2": [2]}
    api.call(subscription.unsubscribe, PATIENCE)
    assert len(pool.places) == 0


def test_invalid_options_are_refused(make: Make, server: Server) -> None:
    provider = MqttOverWSProvider(server.broker.url, client_id="c", clean_session=False)
    with pytest.raises(ProviderError, match=r"clean_session=False: .* a provider beside this one"):
        Sharded(provider)
    with pytest.raises(TypeError, match="one connection"):
        Sharded(Sharded(MqttOverWSProvider(server.broker.url)))
    with pytest.raises(ValueError, match="most_connections"):
        Sharded(MqttOverWSProvider(server.broker.url), most_connections=1)
    with pytest.raises(ValueError, match="rate"):
        Sharded(MqttOverWSProvider(server.broker.url), connect_rate=0)
    api = make(MqttOverWSProvider(server.broker.url))
    with pytest.raises(ProviderError, match="Sharded"):
        api.call(api.ps.resize, 3)


def test_equal_settings_are_the_same_provider(server: Server) -> None:
    url = server.broker.url
    one = Sharded(MqttOverWSProvider(url), 3)
    assert one.same_as(Sharded(MqttOverWSProvider(url), 3))
    assert not one.same_as(Sharded(MqttOverWSProvider(url), 4))
    assert not one.same_as(MqttOverWSProvider(url))
    assert repr(one) == "<Sharded 'MqttOverWSProvider'>"


class TestAwsLimits:
    def test_more_filters_than_one_connection_takes(self, make: Make, stack: ExitStack) -> None:
        """And more messages a second: nothing is throttled or refused."""
        iot = stack.enter_context(LocalIoTEndpoint())
        provider = AWSIoTProvider(iot.region, iot.url, iot.credentials, client_id="name")
        api = make(Sharded(provider, (3, 3), connect_rate=200))
        streams = Streams()
        subscription = api.call(api.ps.subscribe([f"t/{n}" for n in range(120)], qos=1).subscribe, streams.next)
        assert set(api.call(subscription.ready, PATIENCE).values()) == {1}
        publish_all(api, 120, range(360))
        streams.wait(360)
        assert streams.values == {f"t/{n}": list(range(n, 360, 120)) for n in range(120)}
        assert iot.broker.metrics()["publish/messages/denied"] == 0

    def test_auto_sizes_by_the_filters_within_the_maximum(self, make: Make, stack: ExitStack) -> None:
        iot = stack.enter_context(LocalIoTEndpoint(limits=IoTLimits(max_subscriptions=10)))
        provider = AWSIoTProvider(
            iot.region, iot.url, iot.credentials, client_id="name", limits=IoTLimits(max_subscriptions=10)
        )
        api = make(Sharded(provider, connect_rate=200, most_connections=5))
        recorder = Recorder()
        subscription = api.call(api.ps.subscribe([f"t/{n}" for n in range(41)], qos=1).subscribe, recorder)
        granted = api.call(subscription.ready, PATIENCE)
        assert sorted(granted.values()) == [1] * 40 + [128]
        assert len(api.ps.connection_states) == 1 + 5

    @pytest.mark.parametrize("is_connected", [False, True])
    @pytest.mark.parametrize("connect_rate", [None, 1_000])
    def test_filters_are_subscribed_to_within_the_rate_of_the_account(
        self, make: Make, stack: ExitStack, is_connected: bool, connect_rate: float | None
    ) -> None:
        """Connections subscribe to their filters when they connect, and so do it more slowly; or later, in portions.

        A `connect_budget` of the user applies in addition.
        """
        budget = ConnectBudget(connect_rate) if connect_rate else None
        limits = IoTLimits(subscribe_rate=20.0, max_subscriptions=5)
        iot = stack.enter_context(LocalIoTEndpoint(limits=limits))
        provider = AWSIoTProvider(
            iot.region, iot.url, iot.credentials, client_id="name", limits=limits, connect_budget=budget
        )
        api = make(Sharded(provider, (1, 9), connect_rate=200))
        topics, streams = [f"t/{number}" for number in range(45)], Streams()
        if is_connected:
            api.call(api.ps.connect, timeout=PATIENCE)
            wait_for(lambda: set(api.ps.connection_states.values()) == {ConnectionState.CONNECTED})
        subscription = api.call(api.ps.subscribe(topics, qos=1).subscribe, streams.next)
        assert set(api.call(subscription.ready, PATIENCE).values()) == {1}
        publish_all(api, 45, range(45))
        streams.wait(45)

    def test_an_endpoint_that_is_busy_for_a_while_throttles_nothing_and_gets_nothing_twice(
        self, make: Make, stack: ExitStack
    ) -> None:
        """What is sent meanwhile arrives in one moment; silence does not show that a message was discarded."""
        armed, busy = threading.Event(), threading.Event()

        def clock() -> float:  # of the endpoint, asked at each upgrade: its event loop does nothing else meanwhile
            if armed.is_set():
                armed.clear()
                busy.set()
                time.sleep(2.5)
            return time.time()

        def be_refused() -> None:
            with suppress(mqttws.HandshakeRejected):
                mqttws.connect(iot.url, reconnect=False)

        iot = stack.enter_context(LocalIoTEndpoint(clock=clock))
        provider = AWSIoTProvider(iot.region, iot.url, iot.credentials, client_id="name", resend_after=1.0)
        api = make(Sharded(provider, (2, 6), connect_rate=200))
        streams = Streams()
        subscription = api.call(api.ps.subscribe([f"t/{n}" for n in range(40)], qos=1).subscribe, streams.next)
        api.call(subscription.ready, PATIENCE)
        armed.set()
        visitor = threading.Thread(target=be_refused)
        visitor.start()
        assert busy.wait(PATIENCE)
        publish_all(api, 40, range(800))
        visitor.join(PATIENCE)
        streams.wait(800)
        assert streams.values == {f"t/{n}": list(range(n, 800, 40)) for n in range(40)}
        assert iot.broker.metrics()["publish/messages/denied"] == 0


def test_a_server_with_shared_subscriptions_spreads_one_filter(make: Make, stack: ExitStack) -> None:
    server = Server(stack, limits=Limits())
    api = make(server.sharded((1, 3)))
    streams = Streams()
    subscription = api.call(api.ps.subscribe("$share/g/t/#", qos=1).subscribe, streams.next)
    assert api.call(subscription.ready, PATIENCE) == {"$share/g/t/#": 1}
    wait_for(lambda: len(server.connected) == 4)
    publish_all(api, 3, range(90))
    streams.wait(90)
    assert sorted(number for numbers in streams.values.values() for number in numbers) == list(range(90))
    pool = api.ps._channels[MqttOverWSProvider.kind].client
    assert all(part.processed for part in pool._receiving())
