"""The pytest plugin in a project that installs the distribution, with pytest in a separate process."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from mqttws import Connect, ConnectionRefused, Message, aio, compiled, connect
from mqttws.broker import Peer
from pubsub.testing import Recorded, Recorder, RecordingBroker

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.setenv("PYTEST_ADDOPTS", "")
    return pytester


def run(project: pytest.Pytester, text: str, *options: str) -> pytest.RunResult:
    project.makepyfile(test_it=text)
    return project.runpytest_subprocess("-p", "no:cacheprovider", "-W", "error", *options, timeout=300)


def test_the_examples_of_the_page_pass(project: pytest.Pytester) -> None:
    """The blocks of docs/guide/pytest.md pass when pasted into a file."""
    page = (ROOT / "docs" / "guide" / "pytest.md").read_text()
    blocks = [block.partition("```")[0] for block in page.split("```python\n")[1:]]
    result = run(project, "\n".join(blocks))
    result.assert_outcomes(passed=sum(block.count("def test_") for block in blocks))


def test_nothing_of_mqtt_is_imported_until_a_fixture_is_used(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
        import sys

        def test_it():
            loaded = {name.partition(".")[0] for name in sys.modules}
            assert "mqttws" not in loaded and "wsproto" not in loaded and "h11" not in loaded
        """,
    )
    result.assert_outcomes(passed=1)


def test_each_test_has_a_fresh_broker_and_the_run_has_one(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
        import pytest

        seen = set(), set()

        @pytest.mark.parametrize("number", range(3))
        def test_it(number, mqtt_broker, mqtt_broker_session, mqtt_client):
            assert not list(mqtt_broker.messages)
            mqtt_client.publish("a", str(number), qos=1)
            seen[0].add(mqtt_broker.url)
            seen[1].add(mqtt_broker_session.url)

        def test_both():
            assert len(seen[1]) == 1
            assert len(seen[0]) >= 1
        """,
    )
    result.assert_outcomes(passed=4)


def test_a_client_left_open_is_named(project: pytest.Pytester) -> None:
    text = """
        import mqttws

        kept = []

        def test_it(mqtt_broker):
            kept.append(mqttws.connect(mqtt_broker.url, client_id="forgotten"))
            kept[0].subscribe("a")
        """
    result = run(project, text)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*the test left clients open: forgotten at 127.0.0.1:*"])
    project.makeini("[pytest]\nmqtt_clients_left_open = ignore")
    run(project, text).assert_outcomes(passed=1)


def test_the_report_of_a_failure_shows_the_last_packets_of_its_broker(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
        def test_it(mqtt_broker, mqtt_client):
            mqtt_client.subscribe("a/+", 1)
            mqtt_client.publish("a/b", b'{"n": 1}', qos=1, retain=True)
            mqtt_broker.messages.assert_published("a/b", {"n": 2}, timeout=0)
        """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*what was published to 'a/b' differs:",
            "*-{'n': 2}",
            "*+{'n': 1}",
            "*MQTT at ws://*",
            "* -> Connect(*",
            "* <- ConnAck(return_code=0*",
            "* -> Subscribe(*a/+*",
            "* -> Publish(topic='a/b'*",
            "* <- Publish(topic='a/b'*",
        ]
    )


def test_under_xdist(project: pytest.Pytester) -> None:
    if importlib.util.find_spec("xdist") is None:
        pytest.skip("pytest-xdist is not installed")
    text = """
        import pytest

        @pytest.mark.parametrize("number", range(6))
        def test_it(number, mqtt_broker, mqtt_client, pubsub_client):
            mqtt_client.publish("a", str(number), qos=1)
            assert mqtt_broker.messages.wait_for("#")[0].payload == str(number).encode()
        """
    run(project, text, "-n", "2").assert_outcomes(passed=6)


def test_with_plugins_for_asyncio(project: pytest.Pytester) -> None:
    text = """
        import pytest

        pytestmark = pytest.mark.anyio

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        async def test_it(mqtt_broker, mqtt_client_async, pubsub_client_async):
            async with mqtt_client_async as client, pubsub_client_async as ps:
                await client.publish("a", b"1", qos=1)
                await ps.publish("b", 2, qos=1)
            assert [message.value for message in mqtt_broker.messages] == [1, 2]
        """
    if importlib.util.find_spec("anyio") is None:
        pytest.skip("anyio is not installed")
    run(project, text, "-p", "anyio").assert_outcomes(passed=1)


# `RecordingBroker`.


def test_published_messages_are_recorded_completely() -> None:
    with RecordingBroker() as broker, connect(broker.url, client_id="c", will=None) as client:
        client.publish("a", b"0")
        client.publish("a", b"1", qos=1, retain=True)
        client.publish("b", b"2", qos=2)
        broker.publish("$own", b"3", retain=True)
        assert broker.messages.wait_for("#", 3) == [
            Recorded("a", b"0", 0, False, "c"),
            Recorded("a", b"1", 1, True, "c"),
            Recorded("b", b"2", 2, False, "c"),
        ]
        assert broker.messages.matching("$own") == [Recorded("$own", b"3", 0, True, "")]
        client.subscribe([("x/#", 1), ("y", 0)])
        assert broker.clients == ["c"]
        assert broker.subscriptions == {"c": {"x/#": 1, "y": 0}}
        assert {message.topic: message.payload for message in broker.retained()} == {"a": b"1", "$own": b"3"}
    assert broker.clients == []


def test_a_burst_is_recorded_message_by_message() -> None:
    with RecordingBroker() as broker, connect(broker.url) as client:
        for number in range(500):
            client.publish_nowait("a", str(number))
        client.publish("end", qos=1)
        assert [message.value for message in broker.messages.matching("a")] == list(range(500))


def test_a_will_is_recorded() -> None:
    with RecordingBroker() as broker, connect(broker.url, client_id="c", will=Message("gone", b"bye", 1)):
        broker.disconnect("c")
        assert broker.messages.assert_published("gone", "bye").client_id == ""


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_hooks_of_the_program_are_called_too(asynchronous: bool) -> None:
    called: list[tuple[str, object]] = []

    def note(name: str) -> Callable[..., bool]:
        return lambda peer, *more: called.append((name, peer and peer.client_id)) or True

    async def authenticator(peer: Peer, connect: Connect) -> bool:
        return note("authenticator")(peer)

    async def on_upgrade(peer: Peer) -> None:
        note("on_upgrade")(peer)

    names = ["authorizer", "on_connected", "on_published", "on_disconnected", *(() if compiled else ("on_packet",))]
    hooks = {name: note(name) for name in names} | {"authenticator": note("authenticator")}
    if asynchronous:
        hooks |= {"authenticator": authenticator, "on_upgrade": on_upgrade}
    with RecordingBroker(**hooks) as broker:
        with connect(broker.url, client_id="c", will=None) as client:
            client.publish("a", b"1", qos=1)
            assert broker.clients == ["c"]
        broker.publish("a", b"2")
    assert [(message.payload, message.client_id) for message in broker.messages] == [(b"1", "c"), (b"2", "")]
    assert broker.happened or compiled
    assert {("on_published", "c"), ("on_published", None)} < set(called)
    assert {name for name, _ in called} == set(hooks)


def test_a_message_on_which_the_hook_of_the_program_fails_is_not_recorded() -> None:
    def on_published(peer: Peer | None, message: Message) -> None:
        raise LookupError("planted")

    with RecordingBroker(on_published=on_published) as broker:
        with pytest.raises(LookupError, match="planted"):
            broker.publish("a")
        assert not broker.messages.matching("#")


@pytest.mark.parametrize("hook", ["authorizer", "on_connected", "on_disconnected", "on_published", "on_packet"])
def test_a_hook_that_the_broker_would_not_await_is_refused(hook: str) -> None:
    async def later(*arguments: object) -> None:
        raise AssertionError

    with pytest.raises(TypeError, match=f"{hook} is a coroutine function; only on_upgrade and authenticator are"):
        RecordingBroker(**{hook: later})
    with pytest.raises(TypeError, match=f"{hook} must be a function, not int"):
        RecordingBroker(**{hook: 5})


def test_a_disconnected_client_is_not_counted() -> None:
    """In one event loop for all: between `disconnect` and the next statement it does nothing."""

    async def run() -> None:
        async with RecordingBroker() as broker, aio.connect(broker.url, client_id="c"):
            assert broker.disconnect("c")
            assert broker.clients == []
            assert await asyncio.to_thread(broker.wait_for_clients, 1, 30) == ["c"]
            assert not broker.disconnect("d")
            assert broker.clients == ["c"]

    asyncio.run(run())


def test_refusing_connections() -> None:
    with RecordingBroker() as broker:
        broker.refuse_next(5, times=2)
        for _ in range(2):
            with pytest.raises(ConnectionRefused, match="not authorized"):
                connect(broker.url)
        connect(broker.url).close()
        with pytest.raises(ValueError, match="1 to 5"):
            broker.refuse_next(0)


def test_a_paused_broker() -> None:
    with RecordingBroker() as broker, connect(broker.url) as client:
        with broker.pause():
            future = client.publish_nowait("a", qos=1)
            with pytest.raises(TimeoutError):
                future.result(0.2)
        future.result(30)


def within(seconds: float, call: Callable[[], object]) -> object:
    """Return the result of a call, or its exception. Fail if it takes too long."""
    outcomes: list[object] = []

    def run() -> None:
        try:
            outcomes.append(call())
        except Exception as error:
            outcomes.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcomes, f"no answer within {seconds:g} s"
    return outcomes[0]


@pytest.fixture
def kept_broker() -> Iterator[RecordingBroker]:
    """A broker with a client, "c", a subscription and a retained message."""
    with RecordingBroker() as broker, connect(broker.url, client_id="c") as client:
        client.subscribe("a/#", 1)
        client.publish("kept", b"1", qos=1, retain=True)
        yield broker


def test_the_state_of_a_paused_broker_can_be_read(kept_broker: RecordingBroker) -> None:
    with kept_broker.pause():
        assert within(30, lambda: kept_broker.clients) == ["c"]
        assert within(30, lambda: kept_broker.wait_for_clients(1)) == ["c"]
        assert within(30, lambda: kept_broker.subscriptions) == {"c": {"a/#": 1}}
        assert within(30, lambda: [session.client_id for session in kept_broker.sessions()]) == ["c"]
        assert within(30, lambda: [message.topic for message in kept_broker.retained()]) == ["kept"]
        assert within(30, lambda: kept_broker.metrics()["clients/connected"]) == 1


def test_a_paused_broker_refuses_what_it_cannot_do(kept_broker: RecordingBroker) -> None:
    for _ in range(2):
        with kept_broker.pause():
            for call in (lambda: kept_broker.publish("b"), lambda: kept_broker.disconnect("c")):
                error = within(30, call)
                assert isinstance(error, RuntimeError)
                assert "paused" in str(error)
            error = within(30, kept_broker.pause().__enter__)
            assert isinstance(error, RuntimeError)
            assert "paused already" in str(error)
            assert kept_broker.clients == ["c"]
            assert within(30, lambda: kept_broker.subscriptions) == {"c": {"a/#": 1}}
        assert kept_broker.publish("a/b", qos=1) == 1  # at once, although the event loop may not have gone on yet


def test_stopping_a_paused_broker() -> None:
    broker = RecordingBroker()
    with pytest.raises(RuntimeError, match="not running"), broker.pause():
        pass
    broker.start()
    with broker.pause():
        within(30, broker.stop)
    with broker, broker.pause():
        assert within(30, broker.sessions) == []


def test_ready_within_20_ms() -> None:
    """The best of up to 300, because the machine may be busy; this shows that nothing waits."""

    def seconds() -> float:
        begun = time.perf_counter()
        with RecordingBroker() as broker:
            assert broker.url
            return time.perf_counter() - begun

    assert any(seconds() < 0.02 for _ in range(300))


@pytest.mark.parametrize(
    ("payload", "expected"),
    [(b"21.5", 21.5), (b"21.5", "21.5"), (b"21.5", b"21.5"), (b"x y", "x y"), (b"\xff", b"\xff")],
)
def test_values(payload: bytes, expected: object) -> None:
    recorder = Recorder()
    recorder.add(Recorded("a", payload, 1))
    assert recorder.assert_published("a", expected, qos=1, retain=False, timeout=0).payload == payload
    for wrong in ({"qos": 2}, {"retain": True}, {"value": "other"}):
        with pytest.raises(AssertionError, match="differs"):
            recorder.assert_published("a", **wrong, timeout=0)


@pytest.mark.parametrize(
    ("payload", "right", "wrong"),
    [
        (b"1", 1, True),
        (b"1.0", 1, True),
        (b"0", 0, False),
        (b"false", False, 0),
        (b"true", mock.ANY, 1.0),
        (b'{"on": 1}', {"on": 1.0}, {"on": True}),
        (b'{"on": [true, null]}', {"on": [True, mock.ANY]}, {"on": [1, None]}),
        (b"[true]", [True], [True, True]),
        (b'{"a": 1}', {"a": 1}, {"b": 1}),
        (b"null", None, False),
    ],
)
def test_values_are_compared_as_json_has_them(payload: bytes, right: object, wrong: object) -> None:
    recorder = Recorder()
    recorder.add(Recorded("a", payload))
    recorder.assert_published("a", right, timeout=0)
    with pytest.raises(AssertionError, match=r"differs:\n.*expected"):
        recorder.assert_published("a", wrong, timeout=0)


def test_the_error_for_too_few_messages() -> None:
    recorder = Recorder(keep=3)
    with pytest.raises(AssertionError, match="nothing was published at all"):
        recorder.wait_for("a", timeout=0)
    for number in range(5):
        recorder.add(Recorded("b", str(number).encode()))
    with pytest.raises(AssertionError, match=r"0 of 2 messages for 'a'.*\n.*the last 3 of 3"):
        recorder.wait_for("a", 2, timeout=0)
    with pytest.raises(AssertionError, match="3 messages were published"):
        recorder.assert_nothing_published()
    recorder.clear()
    recorder.assert_nothing_published()


def test_a_question_about_forgotten_messages_is_an_error() -> None:
    recorder = Recorder(keep=2)
    for topic in ("forgotten", "kept", "kept"):
        recorder.add(Recorded(topic, b"1"))
    assert (len(recorder), recorder.forgotten) == (2, 1)
    for ask in (
        lambda: recorder.assert_nothing_published("forgotten"),
        lambda: recorder.matching("forgotten"),
        lambda: recorder.wait_for("#", 3, timeout=0),
        lambda: recorder.assert_published("forgotten", timeout=0),
        lambda: recorder.assert_published("kept", 2, timeout=0),
    ):
        with pytest.raises(AssertionError, match="1 older messages were forgotten, because only 2 are kept: call"):
            ask()
    assert recorder.assert_published("kept", 1, timeout=0)
    assert len(recorder.wait_for("kept", 2, timeout=0)) == 2
    with pytest.raises(AssertionError, match="2 messages were published to 'kept'"):
        recorder.assert_nothing_published("kept")

    recorder.clear()
    recorder.keep = 4
    for topic in ("a", "b", "b", "b"):
        recorder.add(Recorded(topic, b"1"))
    assert [message.topic for message in recorder.matching("#")] == ["a", "b", "b", "b"]
    recorder.assert_nothing_published("forgotten")
    recorder.keep = 3
    assert (len(recorder), recorder.forgotten) == (3, 1)
    with pytest.raises(AssertionError, match="forgotten"):
        recorder.assert_nothing_published("a")
    for keep in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            recorder.keep = keep
        with pytest.raises(ValueError, match="at least 1"):
            Recorder(keep)


@pytest.mark.parametrize("ask", [Recorder.wait_for, Recorder.assert_published])
def test_a_wait_looks_at_each_message_once(ask: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, seen = Recorder(keep=2), []
    looked = threading.Semaphore(0)

    def matches(topic_filter: str, topic: str) -> bool:
        seen.append(topic)
        looked.release()
        return topic == topic_filter

    monkeypatch.setattr("mqttws.topic_matches", matches)
    thread = threading.Thread(target=ask, args=(recorder, "last"), kwargs={"timeout": 30}, daemon=True)
    thread.start()
    for topic in (*map(str, range(20)), "last"):  # each is looked at before the next comes, which forgets an older one
        recorder.add(Recorded(topic, b""))
        assert looked.acquire(timeout=30)
    thread.join(30)
    assert not thread.is_alive()
    assert seen == [*map(str, range(20)), "last"]
