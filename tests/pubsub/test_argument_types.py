"""Arguments of the wrong type are refused, and the error shows the right call; for threads and asyncio."""

from __future__ import annotations

import asyncio
import copy
import enum
import functools
import pickle
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any
from unittest import mock

import pytest
from generators import GENERATORS
from pubsub_faces import PATIENCE, Loop, Recorder, Threads

import pubsub
from pubsub.observers import Observer, make_observer

Api = Threads | Loop


def used_up() -> Any:
    names = iter(["a"])
    next(names)
    return names


WRONG = [
    pytest.param({"topics": ["a"]}, TypeError, "dict", id="Amplify 6"),
    pytest.param({"a": 1}, TypeError, "dict", id="dict"),
    pytest.param(b"a", TypeError, "bytes", id="bytes"),
    pytest.param(bytearray(b"a"), TypeError, "bytearray", id="bytearray"),
    pytest.param(5, TypeError, "int", id="int"),
    pytest.param(None, TypeError, "NoneType", id="None"),
    pytest.param([b"a"], TypeError, "bytes", id="list of bytes"),
    pytest.param(["a", None], TypeError, "NoneType", id="list with None"),
    pytest.param([("a", 1)], TypeError, "tuple", id="pairs"),
    pytest.param([], ValueError, "no topic", id="empty"),
    pytest.param(used_up(), ValueError, "no topic", id="an iterator that is used up"),
    pytest.param((name for name in ()), ValueError, "no topic", id="an empty generator"),
]


@pytest.mark.parametrize(("topics", "kind", "what"), WRONG)
def test_topics_of_the_wrong_type_are_refused(
    api: Api, world: Any, topics: Any, kind: type[Exception], what: str
) -> None:
    with pytest.raises(kind, match=what):
        api.ps.subscribe(topics)
    for publish in (api.ps.publish, api.ps.publish_nowait):
        with pytest.raises(kind, match=what):
            api.call(publish, topics, 1)
    assert world.connections == 0


def test_errors_for_amplify_6_calls_show_the_python_call(api: Api) -> None:
    with pytest.raises(TypeError, match=r'subscribe\(\["a", "b/#"\]\)'):
        api.ps.subscribe({"topics": ["a"]})
    for publish in (api.ps.publish, api.ps.publish_nowait):
        with pytest.raises(TypeError, match=r'publish\(\["a", "b"\], message\)'):
            api.call(publish, {"topics": ["a"], "message": {"n": 1}})
        with pytest.raises(TypeError, match=r"publish\('a', message\)"):
            api.call(publish, "a")
    with pytest.raises(TypeError, match="next is a dict; expected a function"):
        api.ps.subscribe("a").subscribe({"next": print})


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("message", [None, 0, "", False, []])
def test_falsy_messages_are_published(api: Api, recorder: Recorder, message: Any, connected: bool) -> None:
    if connected:
        api.call(api.call(api.ps.subscribe("a").subscribe, recorder).ready, PATIENCE)
        api.call(api.ps.publish, "a", message)
        recorder.wait_for_values(message)
    else:
        api.call(api.ps.publish, "a", message, qos=1)


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize(
    ("qos", "topic"), [(3, "a"), (True, "a"), ("1", "a"), (None, "a"), (0, "a/+"), (1, ""), (2, "\0")]
)
def test_topic_and_qos_are_checked_before_and_while_there_is_a_connection(
    api: Api, world: Any, connected: bool, qos: Any, topic: str
) -> None:
    from mqttws import LocalProtocolError

    if connected:
        api.call(api.ps.connect)
    for publish in (api.ps.publish, api.ps.publish_nowait):
        with pytest.raises(LocalProtocolError):
            api.call(publish, topic, 1, qos=qos)
    assert world.published == []


class Level(enum.IntEnum):
    AT_MOST_ONCE = 0
    AT_LEAST_ONCE = 1
    EXACTLY_ONCE = 2


class Name(str, enum.Enum):  # noqa: UP042 # formatting a StrEnum gives its value
    ADD = "calculator/add"


@pytest.mark.parametrize("level", Level)
def test_members_of_an_enum_are_numbers_and_text(api: Api, recorder: Recorder, world: Any, level: Level) -> None:
    handle = api.call(api.ps.subscribe(Name.ADD, qos=level).subscribe, recorder)
    assert api.call(handle.ready, PATIENCE) == {"calculator/add": level}
    api.call(api.ps.publish, Name.ADD, 1, qos=level)
    recorder.wait_for_values(1)


def test_the_topic_of_requests_may_be_a_member_of_an_enum(api: Api) -> None:
    handle = api.call(api.ps.respond, Name.ADD, lambda message: sum(message.value))
    assert set(api.call(handle.ready, PATIENCE)) == {"calculator/add/+/+"}
    requester = api.call(api.ps.requester, prefix=Name.ADD)
    try:
        assert requester._requests.begin(Name.ADD, None).topic.startswith("calculator/add/")
        assert requester._requests.replies.startswith("calculator/add/")
    finally:
        api.call(requester.close)


@pytest.mark.parametrize("topic", [["a"], {"a"}, ("a",), b"a", None, 5])
def test_the_topic_of_requests_is_one_str(api: Api, world: Any, topic: Any) -> None:
    with pytest.raises(TypeError, match="the Topic Name must be a str"):
        api.call(api.ps.respond, topic, id)
    assert world.connections == 0


@pytest.mark.parametrize("callback", GENERATORS)
def test_a_generator_function_is_refused(api: Api, world: Any, callback: Any) -> None:
    """A call of it does not run its body: the message would be acknowledged, and lost."""
    for name in ("next", "error", "close"):
        with pytest.raises(TypeError, match="is a generator function"):
            api.ps.subscribe("a").subscribe(**{name: callback})
    with pytest.raises(TypeError, match="is a generator function"):
        api.ps.connection_state_changes.subscribe(callback)
    with pytest.raises(TypeError, match="is a generator function"):
        api.call(api.ps.respond, "a", callback)
    assert world.connections == 0


def generate(message: object, *, token: str) -> Iterator[None]:
    yield


async def await_it(message: object, *, token: str) -> None: ...


@pytest.mark.parametrize("function", [generate, await_it])
def test_a_refused_callback_is_named_without_its_arguments(api: Api, function: Callable[..., Any]) -> None:
    callback = functools.partial(function, token="s3cret")
    if isinstance(api, Loop) and function is await_it:
        pytest.skip("asyncio awaits it")
    with pytest.raises(TypeError, match=rf"^{__name__}\.{function.__name__} is a ") as caught:
        api.ps.subscribe("a").subscribe(callback)
    assert "s3cret" not in str(caught.value)


def test_a_callback_that_raises_is_logged_without_its_arguments(
    api: Api, world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(message: object, token: str) -> None:
        raise RuntimeError("of the user's own")

    told = threading.Event()
    caplog.handler.addFilter(lambda record: "a callback raised" not in record.getMessage() or told.set() is None)
    api.call(lambda: api.ps.subscribe("a", qos=1).subscribe(functools.partial(fail, token="s3cret")).ready())
    api.call(api.ps.publish, "a", 1, qos=1)
    assert told.wait(PATIENCE)
    assert f"a callback raised an exception: {__name__}.{fail.__qualname__}" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("kind", [mock.Mock, mock.MagicMock])
def test_a_mock_is_called_like_a_function(api: Api, kind: Any) -> None:
    """It has every attribute, those of an observer object too."""
    called = threading.Event()
    taker, error, close = kind(side_effect=lambda message: called.set()), kind(), kind()
    handle = api.call(api.ps.subscribe("a", qos=1).subscribe, taker, error, close)
    api.call(handle.ready, PATIENCE)
    api.call(api.ps.publish, "a", 5, qos=1)
    assert called.wait(PATIENCE)
    api.call(handle.unsubscribe)
    assert [call.args[0].value for call in taker.call_args_list] == [5]
    close.assert_called_once_with()
    error.assert_not_called()


@types.coroutine
def awaitable_generator(argument: object = None) -> Iterator[object]:
    yield from asyncio.sleep(0).__await__()


def test_a_generator_function_that_can_be_awaited_is_a_coroutine_function(api: Api) -> None:
    subscribe = api.ps.connection_state_changes.subscribe
    for callback in (awaitable_generator, functools.partial(awaitable_generator, 1)):
        with pytest.raises(TypeError, match="is a coroutine function") if isinstance(api, Threads) else nullcontext():
            subscribe(callback)


def test_a_class_is_called_like_a_function(api: Api, world: Any) -> None:
    """A call creates an object, and does not call its methods."""
    called = threading.Event()

    class Taken:
        def __init__(self, message: Any) -> None:
            called.set()

        def __call__(self) -> Iterator[object]:
            yield 1

    api.call(api.call(api.ps.subscribe("a", qos=1).subscribe, Taken).ready, PATIENCE)
    api.call(api.ps.publish, "a", 5, qos=1)
    assert called.wait(PATIENCE)


@pytest.mark.parametrize("form", ["object", "class"])
def test_an_observer_object_may_be_callable(form: str) -> None:
    """Its methods are called, and not the object."""

    class Callable:
        def __call__(self, *arguments: object) -> None: ...
        @staticmethod
        def next(message: object) -> str:
            return f"next {message}"

        @staticmethod
        def error(error: object) -> str:
            return f"error {error}"

        @staticmethod
        def close() -> str:
            return "close"

    observer = make_observer(Callable() if form == "object" else Callable)
    assert observer.next is not None
    assert observer.error is not None
    assert observer.close is not None
    assert [observer.next(1), observer.error(2), observer.close()] == ["next 1", "error 2", "close"]


@pytest.mark.parametrize(
    "function", [mock.Mock(), mock.MagicMock(), mock.AsyncMock(), mock.create_autospec(print), print, str.upper]
)
def test_a_function_is_no_observer_object(function: Any) -> None:
    assert make_observer(function) == Observer(function)


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_pubsub_is_not_pickled_or_copied(api: Api, duplicate: Any) -> None:
    with pytest.raises(TypeError, match="a PubSub cannot be pickled or copied; make one in each process"):
        duplicate(api.ps)


def test_module_functions_raise_the_same_errors(world: Any) -> None:
    pubsub.add_pluggable(world.provider(name="of the module"))
    try:
        for publish in (pubsub.publish, pubsub.publish_nowait):
            with pytest.raises(TypeError, match=r'publish\(\["a", "b"\], message\)'):
                publish({"topics": ["a"], "message": 1})
        with pytest.raises(TypeError, match=r'subscribe\(\["a", "b/#"\]\)'):
            pubsub.subscribe({"topics": "a"})
        assert pubsub.pending == 0
    finally:
        pubsub.remove_pluggable("of the module")


async def key_of(message: pubsub.Message) -> object:
    return message.value


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("codec", 5, TypeError),
        ("codec", "json", TypeError),
        ("dedupe", "id", TypeError),
        ("dedupe", key_of, TypeError),
        ("timeout", "5", TypeError),
        ("timeout", True, TypeError),
        ("timeout", float("nan"), ValueError),
    ],
)
def test_options_of_the_wrong_type_are_refused_when_they_are_passed(
    api: Api, option: str, value: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=option):
        api.ps.subscribe("a", **{option: value})
    if option != "dedupe":
        with pytest.raises(kind, match=option):
            type(api.ps)(**{option: value})
    if option == "codec":
        with pytest.raises(kind, match=option):
            api.call(api.ps.publish, "a", 1, codec=value)
        with pytest.raises(kind, match=option):
            api.ps.publish_nowait("a", 1, codec=value)


def test_a_responder_that_is_no_function_is_refused(api: Api) -> None:
    with pytest.raises(TypeError, match="function must be a function, not int"):
        api.ps.respond("a", 5)


@pytest.mark.parametrize("option", [{"name": 5}, {"hold_seconds": "60"}, {"hold_seconds": True}, {"hold_bytes": 1e6}])
def test_options_of_a_provider_are_checked_when_it_is_made(option: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(option))):
        pubsub.MqttOverWSProvider("ws://broker.example/", **option)


def test_arguments_of_the_other_methods(api: Api) -> None:
    with pytest.raises(TypeError, match="the settings must be a dict or the path of a file, not int"):
        api.ps.configure(5)
    with pytest.raises(TypeError, match="expected a provider or its name, not int"):
        api.call(api.ps.remove_pluggable, 5)
    for option, value in (("name", 5), ("prefix", b"a"), ("max_pending", "1")):
        with pytest.raises(TypeError, match=f"{option} must be"):
            api.ps.requester(**{option: value})


@pytest.mark.parametrize(("timeout", "kind"), [("5", TypeError), (True, TypeError), (float("nan"), ValueError)])
@pytest.mark.parametrize("name", ["publish", "ready", "connect", "flush", "request", "remove_pluggable", "close"])
def test_a_timeout_that_is_no_number_is_refused_and_nothing_begins(
    api: Api, name: str, timeout: Any, kind: type[Exception]
) -> None:
    arrived = threading.Event()
    subscription = api.call(api.ps.subscribe("a").subscribe, lambda message: arrived.set())
    api.call(subscription.ready)
    calls = {
        "publish": lambda: api.call(api.ps.publish, "a", 1, timeout=timeout),
        "ready": lambda: api.call(subscription.ready, timeout),
        "request": lambda: api.call(lambda: api.ps.requester().request("q", 1, timeout=timeout)),
        "remove_pluggable": lambda: api.call(api.ps.remove_pluggable, pubsub.MqttOverWSProvider.kind, timeout),
    }
    with pytest.raises(kind, match="timeout"):
        calls.get(name, lambda: api.call(getattr(api.ps, name), timeout=timeout))()
    assert not arrived.is_set()
    api.call(api.ps.publish, "a", 2)  # it still works
    assert arrived.wait(PATIENCE)
