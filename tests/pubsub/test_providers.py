"""Providers, settings, and several providers in one `PubSub`; for threads and asyncio."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pubsub_faces import PATIENCE, Loop, Recorder, Threads

import mqttws
from mqttws.broker import Broker
from pubsub import MqttOverWSProvider, Provider, ProviderError, PublishFailed, PubSub, Sharded
from pubsub.sync.runtime import Notifier

Api = Threads | Loop


def test_adding_a_provider_twice_does_not_publish_twice(api: Api, world: Any) -> None:
    api.ps.add_pluggable(api.ps.providers[0])
    api.ps.add_pluggable(world.provider())
    assert len(api.ps.providers) == 1
    api.call(api.ps.publish, "a", 1, qos=1)
    assert world.published == ["a"]


def test_another_provider_of_the_same_name_is_refused(api: Api) -> None:
    with pytest.raises(ProviderError, match="name=") as refused:
        api.ps.add_pluggable(MqttOverWSProvider("ws://other.example/mqtt"))
    assert isinstance(refused.value, ValueError)
    api.ps.add_pluggable(MqttOverWSProvider("ws://other.example/mqtt", name="other"))
    assert [provider.name for provider in api.ps.providers] == ["MqttOverWSProvider", "other"]


def test_an_invalid_provider_is_refused(api: Api) -> None:
    with pytest.raises(TypeError, match="str"):
        api.ps.add_pluggable("MqttOverWSProvider")
    with pytest.raises(TypeError, match=r"MqttOverWSProvider has no option 'clientId' \(did you mean 'client_id'\?\)"):
        MqttOverWSProvider("ws://broker.example", clientId="c")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="'drop'"):
        MqttOverWSProvider("ws://broker.example", offline="drop")  # type: ignore[arg-type]


def test_a_missing_provider_is_an_error(make: Callable[..., Api]) -> None:
    api = make()
    with pytest.raises(ProviderError, match="add_pluggable"):
        api.call(api.ps.publish, "a", 1)
    with pytest.raises(ProviderError, match="add_pluggable"):
        api.call(api.ps.subscribe("a").subscribe)
    api.ps.add_pluggable(MqttOverWSProvider("ws://127.0.0.1:1/"))
    with pytest.raises(ProviderError, match="'MqttOverWSProvider'"):
        api.call(api.ps.publish, "a", 1, provider="other")
    with pytest.raises(ProviderError):
        api.call(api.ps.remove_pluggable, "other")


def test_a_missing_endpoint_is_an_error(make: Callable[..., Api]) -> None:
    api = make(MqttOverWSProvider())
    with pytest.raises(ProviderError, match="aws_pubsub_endpoint"):
        api.call(api.ps.subscribe("a").subscribe)
    with pytest.raises(PublishFailed, match="aws_pubsub_endpoint"):
        api.call(api.ps.publish, "a", 1)


def test_settings_apply_to_every_provider_and_arguments_prevail(make: Callable[..., Api], world: Any) -> None:
    api = make(MqttOverWSProvider(), world.provider(name="own"))
    api.ps.configure({"aws_pubsub_endpoint": "ws://127.0.0.1:1/"})
    api.ps.configure({"aws_pubsub_endpoint": world.broker.url})
    api.call(api.ps.publish, "a", 1, qos=1)
    assert world.connections == 2
    api.call(api.ps.configure, {"aws_pubsub_endpoint": "ws://127.0.0.1:1/"})
    own = api.ps.providers[1]
    assert own.url() == world.broker.url


def test_settings_apply_to_providers_added_later(make: Callable[..., Api], world: Any) -> None:
    api = make()
    api.ps.configure({"PubSub": {"aws_pubsub_endpoint": world.broker.url}})
    api.ps.add_pluggable(MqttOverWSProvider())
    api.call(api.ps.publish, "a", 1, qos=1)
    assert world.published == ["a"]


def test_settings_are_read_from_amplify_s_files(make: Callable[..., Api], world: Any, tmp_path: Path) -> None:
    exports = tmp_path / "aws-exports.js"
    exports.write_text(f"const config = {{ aws_pubsub_endpoint: '{world.broker.url}', }};\nexport default config;")
    outputs = tmp_path / "amplify_outputs.json"
    outputs.write_text(json.dumps({"custom": {"PubSub": {"endpoint": world.broker.url}}}))
    for number, path in enumerate((exports, str(outputs)), 1):
        api = make(MqttOverWSProvider())
        api.ps.configure(path)
        api.call(api.ps.publish, "a", 1, qos=1)
        assert world.connections == number
    with pytest.raises(OSError, match="nowhere"):
        make().ps.configure(tmp_path / "nowhere.js")


def test_changed_settings_cause_a_reconnect(make: Callable[..., Api], world: Any, recorder: Recorder) -> None:
    other = world.start()
    api = make(MqttOverWSProvider())
    api.ps.configure({"aws_pubsub_endpoint": world.broker.url})
    subscription = api.call(api.ps.subscribe("a", qos=1).subscribe, recorder)
    api.call(subscription.ready, PATIENCE)
    api.ps.configure({"aws_pubsub_endpoint": world.broker.url})
    assert world.connections == 1
    api.call(lambda: api.ps.configure({"aws_pubsub_endpoint": other.url}))
    world.wait(lambda: len(world.subscribed) == 2)
    other.publish("a", b"1", qos=1)
    recorder.wait_for_values(1)


def test_publishing_and_subscribing_with_two_providers(make: Callable[..., Api], world: Any) -> None:
    other = world.start()
    api = make(world.provider(name="one"), MqttOverWSProvider(other.url, name="two"))
    everywhere, one = Recorder(), Recorder()
    subscription = api.call(api.ps.subscribe("a", qos=1).subscribe, everywhere)
    assert api.call(subscription.ready, PATIENCE) == {"a": 1}
    api.call(api.call(api.ps.subscribe("a", provider="one").subscribe, one).ready, PATIENCE)
    api.call(api.ps.publish, "a", "both", qos=1)
    everywhere.wait(lambda: len(everywhere.messages) == 2)
    assert sorted(message.provider for message in everywhere.messages) == ["one", "two"]
    one.wait_for_values("both")
    api.call(api.ps.publish, "a", "two", provider="two", qos=1)
    everywhere.wait(lambda: len(everywhere.messages) == 3)
    assert everywhere.messages[-1].provider == "two"
    assert api.ps.connection_states == {"one": "Connected", "two": "Connected"}
    assert api.ps.connection_state == "Connected"

    api.call(api.ps.remove_pluggable, "two")
    assert api.ps.connection_states == {"one": "Connected"}
    assert everywhere.closes == 0
    assert not subscription.closed
    api.call(api.ps.publish, "a", "one", qos=1)
    everywhere.wait(lambda: len(everywhere.messages) == 4)
    api.call(api.ps.remove_pluggable, api.ps.providers[0])
    assert (everywhere.closes, one.closes) == (1, 1)
    assert api.ps.providers == ()


def test_a_subscription_ends_with_the_last_provider_that_granted_it(
    make: Callable[..., Api], world: Any, recorder: Recorder
) -> None:
    world.forbidden.update(["a", "b"])
    with Broker() as granting:
        api = make(MqttOverWSProvider(granting.url, name="grants"), world.provider(name="refuses"))
        subscription = api.call(api.ps.subscribe(["a", "b", "c"], qos=1).subscribe, recorder)
        alone = Recorder()
        api.call(api.ps.subscribe(["a"], qos=1).subscribe, alone)
        api.call(subscription.ready, PATIENCE)
        recorder.wait(lambda: len(recorder.errors) == 2)
        alone.wait(lambda: alone.errors)
        assert subscription.topics == ("a", "b", "c")
        api.call(api.ps.remove_pluggable, "grants")
    alone.wait(lambda: alone.closes)
    assert subscription.topics == ("c",)
    assert (recorder.closes, subscription.closed) == (0, False)
    api.call(api.ps.publish, "c", 1, qos=1)
    recorder.wait_for_values(1)


def test_a_subscription_without_topics_outlives_one_of_two_providers(
    make: Callable[..., Api], world: Any, recorder: Recorder
) -> None:
    api = make(world.provider(name="one"), world.provider(name="two"))
    subscription = api.call(api.ps.subscribe("a", qos=1).subscribe, recorder)
    api.call(subscription.ready, PATIENCE)
    api.call(subscription.remove, "a")
    api.call(api.ps.remove_pluggable, "one")
    api.call(subscription.add, "b", qos=1)
    assert api.call(subscription.ready, PATIENCE) == {"b": 1}
    assert recorder.closes == 0


def test_removing_a_provider_keeps_the_timers_of_the_other(make: Callable[..., Api], world: Any) -> None:
    class Paced(MqttOverWSProvider):
        subscribe_rate = 10.0  # Topic Filters per second: the later ones wait for a timer

    paced = Sharded(Paced(world.broker.url, name="paced"), (1, 1))
    api = make(paced, world.provider(name="other"))
    api.call(api.ps.connect, timeout=PATIENCE)
    world.wait(lambda: world.connections == 3)
    topics = [f"a/{number}" for number in range(20)]
    subscription = api.call(api.ps.subscribe(topics, provider="paced").subscribe, Recorder())
    api.call(api.ps.remove_pluggable, "other")
    assert api.call(subscription.ready, PATIENCE) == dict.fromkeys(topics, 0)


def test_removing_a_provider_keeps_the_thread_that_ends_freed_iterations(stack: Any, world: Any) -> None:
    api = Threads(world.provider(name="one", client_id="one"), world.provider(name="other"))
    stack.callback(api.end)
    kept = api.ps.subscribe("b", provider="one").subscribe(Recorder())
    messages = iter(api.ps.subscribe("a", provider="one"))
    messages.ready(PATIENCE)
    kept.ready(PATIENCE)
    api.ps.remove_pluggable("other")
    del messages
    deadline = time.monotonic() + PATIENCE
    while next(each for each in world.broker.sessions() if each.client_id == "one").subscriptions != {"b": 0}:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_call_that_is_posted_while_the_notifier_ends_is_made() -> None:
    called, posted = threading.Event(), threading.Event()

    class Timers(list[Any]):
        """The notifier clears its timers when it ends: meanwhile another thread posts a call."""

        def clear(self) -> None:
            super().clear()
            other.start()
            posted.wait(0.5)  # in vain if the call needs the lock to start the thread again

    def post() -> None:
        notifier.put(called.set)
        posted.set()

    other = threading.Thread(target=post)
    notifier = Notifier(lambda: None)
    notifier._timers = Timers()
    notifier.begin()
    notifier.finish(PATIENCE, lambda: False)
    other.join(PATIENCE)
    assert called.wait(PATIENCE)
    notifier._timers = []
    notifier.finish(PATIENCE, lambda: False)
    assert notifier._thread is None


def test_a_failing_provider_does_not_affect_the_other(make: Callable[..., Api], world: Any, recorder: Recorder) -> None:
    api, states = make(world.provider(name="good"), MqttOverWSProvider("ws://127.0.0.1:1/", name="bad")), Recorder()
    api.call(api.ps.connection_state_changes.subscribe, states)
    subscription = api.call(api.ps.subscribe("a", qos=1).subscribe, recorder)
    assert api.call(subscription.ready, PATIENCE) == {"a": 1}
    recorder.wait(lambda: recorder.errors)
    assert recorder.closes == 0
    with pytest.raises(PublishFailed) as failed:
        api.call(api.ps.publish, ["a", "b"], 1, qos=1)
    assert set(failed.value.errors) == {"a", "b"}
    recorder.wait_for_values(1)
    states.wait(lambda: api.ps.connection_states == {"good": "Connected", "bad": "Disconnected"})
    assert api.ps.connection_state == "Disconnected"


def test_options_are_passed_to_the_driver(make: Callable[..., Api], world: Any) -> None:
    seen: list[Any] = []
    broker = world._stack.enter_context(
        __import__("mqttws").broker.Broker(authenticator=lambda peer, connect: seen.append((peer, connect)) is None)
    )
    api = make(
        MqttOverWSProvider(
            broker.url, client_id="c1", username="u", password="p", keep_alive=7, headers=[("X-One", "1")]
        )
    )
    api.call(api.ps.connect)
    [(peer, connect)] = seen
    assert (connect.client_id, connect.username, connect.password, connect.keep_alive) == ("c1", "u", b"p", 7)
    assert peer.header("x-one") == "1"


@pytest.mark.parametrize("options", [{"tls": True}, {"headers": {"X-One": "1"}}])
def test_tls_and_headers_that_no_endpoint_uses_are_refused(
    make: Callable[..., Api], world: Any, options: dict[str, Any]
) -> None:
    broker = world._stack.enter_context(Broker())
    api = make(MqttOverWSProvider(broker.url_of("mqtt"), **options))
    with pytest.raises(mqttws.ConnectError, match="given, but need"):
        api.call(api.ps.connect)
    assert not broker.sessions()


def test_a_custom_provider(world: Any) -> None:
    class Nearest(Provider):
        kind = "Nearest"

        def url(self) -> str:
            return str(world.broker.url)

    with PubSub(Nearest()) as ps:
        ps.publish("a", 1, qos=1)
        assert ps.providers[0].name == "Nearest"
    assert world.published == ["a"]


def test_settings_of_one_pubsub_do_not_change_those_of_another(make: Callable[..., Api], world: Any) -> None:
    other, provider = world.start(), MqttOverWSProvider(name="shared")
    first, second = make(), make()
    first.ps.configure({"aws_pubsub_endpoint": world.broker.url})
    for api in first, second:
        api.ps.add_pluggable(provider)
    with pytest.raises(PublishFailed, match="no endpoint"):
        second.call(second.ps.publish, "a", 1, qos=1)
    second.ps.configure({"aws_pubsub_endpoint": other.url})
    assert [api.ps.providers[0].url() for api in (first, second)] == [world.broker.url, other.url]
    first.call(first.ps.publish, "a", 1, qos=1)
    assert world.published == ["a"]
    assert other.metrics()["clients/connected"] == 0
    with pytest.raises(ProviderError, match="no endpoint"):
        provider.url()


def test_settings_of_the_connections_of_one_pubsub_do_not_change_those_of_another(make: Callable[..., Api]) -> None:
    provider = Sharded(MqttOverWSProvider(), 1)
    first, second = make(provider), make(provider)
    first.ps.configure({"aws_pubsub_endpoint": "ws://first.example/mqtt"})
    second.ps.configure({"aws_pubsub_endpoint": "ws://second.example/mqtt"})
    second.ps.resize((2, 3))
    [one], [two] = first.ps.providers, second.ps.providers
    assert (one.url(), one.connections) == ("ws://first.example/mqtt", 1)
    assert (two.url(), two.connections) == ("ws://second.example/mqtt", (2, 3))
    assert one.budget is two.budget  # the rate of CONNECTs holds for all connections of the provider


def test_a_provider_that_refuses_the_settings_is_not_added(make: Callable[..., Api]) -> None:
    class Choosy(MqttOverWSProvider):
        def configure(self, settings: Any) -> bool:
            if settings.get("region") == "nowhere":
                raise ProviderError("there is no such region")
            return super().configure(settings)

    api, provider = make(), Choosy("ws://127.0.0.1:1/")
    api.ps.configure({"region": "nowhere"})
    for _ in range(2):
        with pytest.raises(ProviderError, match="no such region"):
            api.ps.add_pluggable(provider)
        assert api.ps.providers == ()
    api.ps.configure({"region": "here"})
    api.ps.add_pluggable(provider)
    assert len(api.ps.providers) == 1


class Tokens(MqttOverWSProvider):
    """A provider whose endpoint and user callback are methods of it, with the state that it keeps."""

    def __init__(self, url: str) -> None:
        self.made = 0
        self.errors: list[Exception] = []
        self.token: str | None = None
        self.source = self.fresh
        self._plain = url
        super().__init__(self.fresh, on_error=self.note)

    def fresh(self) -> str:
        if self.token is None:
            self.made += 1
            self.token = f"t{self.made}"
        return f"{self._plain}?token={self.token}"

    def note(self, error: Exception) -> None: ...

    def reauthenticate(self) -> None:
        self.token = None


def test_methods_of_a_provider_that_it_passes_on_are_those_of_the_copy(make: Callable[..., Api], world: Any) -> None:
    provider = Tokens(world.broker.url)
    api, other = make(provider), make(provider)
    [own], [another] = api.ps.providers, other.ps.providers
    api.call(api.ps.publish, "a", 1, qos=1)
    assert (own.made, own.source.__self__, own.client_options()["on_error"].__self__) == (1, own, own)
    api.call(api.ps.close)
    api.ps.reauthenticate()
    assert own.url() == f"{world.broker.url}?token=t2"
    assert (provider.made, another.made) == (0, 0)
    api.ps.add_pluggable(provider)
    api.ps.add_pluggable(own)
    assert api.ps.providers == (own,)


class Slotted(MqttOverWSProvider):
    __slots__ = ("__hidden", "shown", "unset")

    def __init__(self) -> None:
        super().__init__("ws://127.0.0.1:1/")
        self.__hidden, self.shown = 1, 2
        self.unset: int

    def values(self) -> tuple[int, int, bool]:
        return self.__hidden, self.shown, hasattr(self, "unset")


class Unpicklable(MqttOverWSProvider):
    def __init__(self) -> None:
        super().__init__("ws://127.0.0.1:1/")

    def __getstate__(self) -> Any:
        raise TypeError("do not pickle it")

    def __reduce__(self) -> Any:
        raise TypeError("do not pickle it")


class Created(MqttOverWSProvider):
    def __new__(cls, name: str, *, more: int) -> Any:
        return super().__new__(cls)

    def __init__(self, name: str, *, more: int) -> None:
        super().__init__("ws://127.0.0.1:1/", name=name)


class Delegating(MqttOverWSProvider):
    def __init__(self) -> None:
        self._inner = object()
        super().__init__("ws://127.0.0.1:1/")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.mark.parametrize("provider", [Slotted(), Unpicklable(), Created("name", more=1), Delegating()])
def test_a_provider_of_any_class_can_be_added(make: Callable[..., Api], provider: Provider) -> None:
    api = make(provider)
    api.ps.add_pluggable(provider)
    [own] = api.ps.providers
    assert type(own) is type(provider)
    assert vars(own) == vars(provider)
    if isinstance(own, Slotted):
        assert own.values() == (1, 2, False)


def test_copies_of_a_provider_have_their_own_options(make: Callable[..., Api]) -> None:
    class Named(MqttOverWSProvider):
        def configure(self, settings: Any) -> bool:
            if "client" in settings:
                self._options["client_id"] = settings["client"]
            return super().configure(settings)

    provider = Named("ws://127.0.0.1:1/")
    first, second = make(provider), make(provider)
    first.ps.configure({"client": "one"})
    second.ps.configure({"client": "two"})
    names = [api.ps.providers[0].client_options()["client_id"] for api in (first, second)]
    assert names == ["one", "two"]
    assert "client_id" not in provider.client_options()


def test_adding_the_same_provider_again_has_no_effect_after_resizing(make: Callable[..., Api]) -> None:
    provider = Sharded(MqttOverWSProvider("ws://127.0.0.1:1/"), 2)
    api = make(provider)
    api.ps.resize(4)
    api.ps.add_pluggable(provider)
    [own] = api.ps.providers
    assert own.connections == 4
    with pytest.raises(ProviderError, match="another provider named"):
        api.ps.add_pluggable(Sharded(MqttOverWSProvider("ws://127.0.0.1:1/"), 3))


def test_next_is_not_called_after_the_end_that_came_while_the_message_was_decoded(world: Any) -> None:
    decoding, ended, decoded = (threading.Event() for _ in range(3))

    class Slow:
        name = "slow"

        def encode(self, value: Any) -> bytes:
            return bytes(value)

        def decode(self, payload: bytes) -> bytes:
            decoding.set()
            assert ended.wait(PATIENCE)
            if payload == b"bad":
                raise ValueError("bad")
            return payload

    for payload in (b"good", b"bad"):
        for event in (decoding, ended, decoded):
            event.clear()
        recorder = Recorder()
        with PubSub(MqttOverWSProvider(world.broker.url)) as ps:
            subscription = ps.subscribe("a", qos=1, codec=Slow()).subscribe(recorder)
            subscription.ready(PATIENCE)
            other = ps.subscribe("b", qos=1).subscribe(lambda message: decoded.set())
            other.ready(PATIENCE)
            ps.publish("a", payload, qos=1, codec=Slow())
            assert decoding.wait(PATIENCE)
            subscription.unsubscribe(PATIENCE)
            ended.set()
            ps.publish("b", "later", qos=1)  # it is delivered after the first message was handled
            assert decoded.wait(PATIENCE)
        assert (recorder.messages, recorder.errors, recorder.closes) == ([], [], 1)


def test_a_topic_that_is_removed_while_it_is_added_is_not_subscribed_to(world: Any) -> None:
    inside, removed = threading.Event(), threading.Event()

    class Thoughtful(MqttOverWSProvider):
        def objections_to_subscribe(self, wanted: Any, standing: Any) -> Any:
            if "x" in wanted:
                inside.set()
                assert removed.wait(PATIENCE)
            return super().objections_to_subscribe(wanted, standing)

    with PubSub(Thoughtful(world.broker.url, client_id="me")) as ps:
        subscription = ps.subscribe("a", qos=1).subscribe(print)
        subscription.ready(PATIENCE)
        adding = threading.Thread(target=subscription.add, args=("x",))
        adding.start()
        assert inside.wait(PATIENCE)
        subscription.remove("x")
        removed.set()
        adding.join(PATIENCE)
        assert subscription.topics == ("a",)
        ps.subscribe("b", qos=1).subscribe(print).ready(PATIENCE)  # the server has handled what was sent before
        (session,) = [each for each in world.broker.sessions() if each.client_id == "me"]
        assert set(session.subscriptions) == {"a", "b"}
