"""Requests and responses: topics, timeouts, bounds, failures, and late, duplicate or unrelated responses."""

from __future__ import annotations

import asyncio
import functools
import gc
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from pubsub_faces import PATIENCE, Loop, Recorder, Threads

import pubsub
from mqttws import LocalProtocolError, QueueFull, TimedOut, WouldDeadlock
from pubsub.errors import RequestFailed, SubscriptionEnded
from pubsub.requests import Requests


class TestRequests:
    """The bookkeeping of requests, without a network."""

    def test_the_topics_of_a_request(self) -> None:
        requests: Requests[str] = Requests("me")
        assert requests.replies == "replies/me/#"
        first, second = requests.begin("calculator/add", "one"), requests.begin("b", "two")
        assert (first.topic, second.topic) == (f"calculator/add/me/{first.number}", f"b/me/{second.number}")
        assert int(second.number) == int(first.number) + 1
        assert requests.take(f"replies/me/{second.number}") == (second, False)
        assert requests.take(f"replies/me/{second.number}") is None  # a copy
        assert requests.take(f"replies/me/{first.number}/failed") == (first, True)
        assert len(requests) == 0

    def test_the_numbers_of_a_chosen_name_differ_from_run_to_run(self) -> None:
        runs: list[Requests[None]] = [Requests("me") for _ in range(20)]
        assert len({run.begin("a", None).number for run in runs for _ in range(10)}) == 200
        by_chance: Requests[None] = Requests()
        assert by_chance.begin("a", None).number == "1"

    @pytest.mark.parametrize(
        "topic",
        ["replies/me/{0}1", "replies/me", "replies/you/{0}", "replies/me/{0}/x", "replies/me/{0}/failed/x", "{0}"],
    )
    def test_invalid_responses_are_ignored(self, topic: str) -> None:
        requests: Requests[None] = Requests("me")
        pending = requests.begin("a", None)
        assert requests.take(topic.format(pending.number)) is None
        assert len(requests) == 1

    def test_each_requester_has_an_unguessable_name(self) -> None:
        names = {Requests().name for _ in range(100)}
        assert len(names) == 100
        assert all(len(name) == 16 for name in names)

    @pytest.mark.parametrize(
        "arguments", [{"name": "a/b"}, {"name": "+"}, {"name": ""}, {"prefix": "#"}, {"prefix": ""}, {"name": "\ud800"}]
    )
    def test_invalid_names_are_refused(self, arguments: dict[str, str]) -> None:
        with pytest.raises(LocalProtocolError):
            Requests(**arguments)

    def test_pending_requests_are_bounded(self) -> None:
        with pytest.raises(ValueError, match="max_pending"):
            Requests(most=0)
        requests: Requests[None] = Requests(most=2)
        asked = [requests.begin("a", None) for _ in range(2)]
        with pytest.raises(QueueFull, match="2 requests wait"):
            requests.begin("a", None)
        requests.forget(asked[0])
        requests.forget(asked[0])
        requests.begin("a", None)
        assert len(requests.take_all()) == 2

    def test_an_invalid_topic_leaves_nothing_pending(self) -> None:
        requests: Requests[None] = Requests()
        with pytest.raises(LocalProtocolError):
            requests.begin("a/+", None)
        assert len(requests) == 0


Make = Callable[..., Threads | Loop]


def responding(mine: Any, topic: str, function: Callable[[pubsub.Message], Any], **options: Any) -> Any:
    handle = mine.call(mine.ps.respond, topic, function, **options)
    mine.call(handle.ready, PATIENCE)
    return handle


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_each_request_gets_its_own_response(make: Make, world: Any, qos: int) -> None:
    service, mine = make(world.provider()), make(world.provider())
    responding(service, "calculator/double", lambda message: message.value * 2, qos=qos)
    requester = mine.call(mine.ps.requester, qos=qos)
    for number in (1, 21, "a"):
        assert mine.call(requester.request, "calculator/double", number, timeout=PATIENCE).value == number * 2
    assert requester.pending == 0
    mine.call(requester.close)


def test_many_concurrent_requests(make: Make, world: Any) -> None:
    service, mine = make(world.provider()), make(world.provider())
    responding(service, "echo", lambda message: message.value)
    requester = mine.call(mine.ps.requester)
    answers: dict[int, Any] = {}

    def ask(number: int) -> None:
        answers[number] = mine.call(requester.request, "echo", number, timeout=PATIENCE).value

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert answers == {number: number for number in range(20)}
    mine.call(requester.close)


def test_a_missing_response_is_a_timeout(make: Make, world: Any) -> None:
    mine = make(world.provider())
    requester = mine.call(mine.ps.requester, "me", max_pending=1)
    with pytest.raises(TimedOut, match=r"no response to the request to 'unanswered' within 0\.3 s"):
        mine.call(requester.request, "unanswered", 1, timeout=0.3)
    assert requester.pending == 0
    [number] = [topic.rpartition("/")[2] for topic in world.published if topic.startswith("unanswered/me/")]
    mine.call(mine.ps.publish, f"replies/me/{number}", "late", qos=1)  # no request waits for it
    responding(mine_too := make(world.provider()), "device", lambda message: "here")
    assert mine_too is not mine
    assert mine.call(requester.request, "device", 1, timeout=PATIENCE).value == "here"
    mine.call(requester.close)


def test_a_failing_responder_is_an_error(make: Make, world: Any, caplog: pytest.LogCaptureFixture) -> None:
    service, mine = make(world.provider()), make(world.provider())

    def fail(message: pubsub.Message) -> None:
        raise RuntimeError("the canary stays in the log of the responder")

    responding(service, "fails", fail)
    requester = mine.call(mine.ps.requester)
    with pytest.raises(RequestFailed, match="fails") as error:
        mine.call(requester.request, "fails", 1, timeout=PATIENCE)
    assert "canary" not in str(error.value)
    service.call(service.ps.close)
    assert "canary" in caplog.text
    mine.call(requester.close)


@pytest.mark.parametrize("result", [{1, 2}, object(), float], ids=["set", "object", "class"])
def test_a_result_that_cannot_be_encoded_is_a_failure_of_the_responder(make: Make, world: Any, result: object) -> None:
    service, mine = make(world.provider()), make(world.provider())
    responding(service, "odd", lambda message: result)
    requester = mine.call(mine.ps.requester)
    with pytest.raises(RequestFailed, match="odd"):
        mine.call(requester.request, "odd", 1, timeout=PATIENCE)
    responding(service, "fine", lambda message: message.value)
    assert mine.call(requester.request, "fine", 1, timeout=PATIENCE).value == 1
    mine.call(requester.close)


def test_a_responder_that_exits_is_a_failure(world: Any) -> None:
    with pubsub.PubSub(world.provider()) as ps, ps.requester() as requester:
        ps.respond("exits", lambda message: sys.exit(3)).ready(PATIENCE)
        with pytest.raises(RequestFailed, match="exits"):
            requester.request("exits", 1, timeout=PATIENCE)


def test_a_duplicate_request_is_answered_once(make: Make, world: Any) -> None:
    service, mine, calls = make(world.provider()), make(world.provider()), []
    responding(service, "count", lambda message: calls.append(message.topic) or len(calls))  # type: ignore[func-returns-value]
    for _ in range(3):
        mine.call(mine.ps.publish, "count/me/7", 1, qos=1)
    mine.call(mine.ps.publish, "count/me/8", 1, qos=1, retain=True)
    requester = mine.call(mine.ps.requester)
    assert mine.call(requester.request, "count", 1, timeout=PATIENCE).value == 3
    assert calls[:2] == ["count/me/7", "count/me/8"]
    late = make(world.provider())
    responding(late, "count", lambda message: pytest.fail("a retained request is an old one"))
    mine.call(mine.ps.publish, "count/me/8", b"", qos=1, retain=True)
    mine.call(requester.close)


def test_requests_of_a_chosen_name_are_answered_after_a_restart(make: Make, world: Any) -> None:
    responding(make(world.provider()), "double", lambda message: 2 * message.value)
    answers = []
    for value in 21, 100:
        mine = make(world.provider())
        requester = mine.call(mine.ps.requester, "lamp-1")
        answers.append(mine.call(requester.request, "double", value, timeout=PATIENCE).value)
        mine.call(mine.ps.close)
    assert answers == [42, 200]


class Number:
    """A codec of one type, which refuses everything else."""

    def encode(self, value: int) -> bytes:
        return struct.pack("!i", value)

    def decode(self, payload: bytes) -> int:
        number: int = struct.unpack("!i", payload)[0]
        return number


@pytest.mark.parametrize(("codec", "value"), [(pubsub.TEXT, "a"), (pubsub.BYTES, b"a"), (Number(), 1)])
def test_a_failure_is_reported_whatever_the_codec(make: Make, world: Any, codec: Any, value: Any) -> None:
    def fail(message: pubsub.Message) -> None:
        raise RuntimeError

    service, mine = make(world.provider(), codec=codec), make(world.provider())
    responding(service, "fails", fail, codec=codec)
    responding(service, "fails/by/default", fail)
    requester = mine.call(mine.ps.requester, codec=codec)
    for topic in "fails", "fails/by/default":
        with pytest.raises(RequestFailed):
            mine.call(requester.request, topic, value, timeout=PATIENCE)
    mine.call(requester.close)


def test_a_request_that_cannot_be_decoded_is_a_failure(
    make: Make, world: Any, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    service, mine = make(world.provider()), make(world.provider())
    mine.call(mine.ps.publish, "logged/me/1", b"old", qos=1, retain=True)
    responding(service, "logged", lambda message: 1, codec=Number())
    responding(service, "reported", lambda message: 1, codec=Number(), error=recorder.error)
    requester = mine.call(mine.ps.requester)
    for topic in "logged", "reported":
        with pytest.raises(RequestFailed, match=topic):
            mine.call(requester.request, topic, b"not a number", timeout=PATIENCE)
    recorder.wait(lambda: recorder.errors)
    assert [type(error) for error in recorder.errors] == [pubsub.DecodeFailed]
    assert "the message on 'logged/" in caplog.text
    assert "the message on 'reported/" not in caplog.text
    assert "replies/me/1/failed" not in world.published  # of a retained request, which is old
    with pytest.raises(TypeError, match="error must be a function, not int"):
        mine.call(mine.ps.respond, "a", print, error=3)
    mine.call(requester.close)


def test_a_failure_that_cannot_be_published_is_logged(
    make: Make, world: Any, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    provider = world.provider()
    service, mine = make(provider), make(world.provider())
    service.ps.providers[0].objection_to_publish = lambda topic, payload, qos: QueueFull(f"no {topic}")
    responding(service, "a", lambda message: 1, error=recorder.error)
    mine.call(mine.ps.publish, "a/me/7", 1, qos=1)
    responding(service, "b", lambda message: recorder.next(message))
    mine.call(mine.ps.publish, "b/me/8", 1, qos=1)
    recorder.wait_for_values(1)  # the runner goes on
    assert "no replies/me/7\n" in caplog.text  # the reason
    assert "could not be published to 'replies/me/7/failed': no replies/me/7/failed" in caplog.text


def test_closing_fails_pending_requests(make: Make, world: Any) -> None:
    mine = make(world.provider())
    requester = mine.call(mine.ps.requester)
    outcome: list[Exception] = []

    def ask() -> None:
        try:
            mine.call(requester.request, "unanswered", 1, timeout=PATIENCE)
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    world.wait(lambda: any(topic.startswith("unanswered/") for topic in world.published))
    mine.call(mine.ps.close)
    thread.join(PATIENCE)
    assert [type(error) for error in outcome] == [SubscriptionEnded]
    with pytest.raises(SubscriptionEnded, match=r"^the subscription has ended; "):
        mine.call(requester.request, "unanswered", 1, timeout=PATIENCE)


def test_an_undecodable_response_is_an_error(make: Make, world: Any) -> None:
    class Picky:
        def encode(self, value: Any) -> bytes:
            return bytes(value)

        def decode(self, payload: bytes) -> Any:
            raise ValueError("not this one")

    service, mine = make(world.provider()), make(world.provider())
    responding(service, "a", lambda message: 1)
    requester = mine.call(mine.ps.requester, codec=Picky())
    with pytest.raises(pubsub.DecodeFailed, match="not this one"):
        mine.call(requester.request, "a", b"x", timeout=PATIENCE)
    mine.call(requester.close)


def test_a_refused_response_subscription_is_an_error(make: Make, world: Any) -> None:
    world.forbidden.add("replies/me/#")
    mine = make(world.provider())
    requester = mine.call(mine.ps.requester, "me")
    with pytest.raises(pubsub.errors.MQTTError, match="replies/me/#"):
        mine.call(requester.request, "a", 1, timeout=PATIENCE)


def test_a_request_in_a_callback_of_a_thread(world: Any) -> None:
    seen: list[Any] = []
    done = threading.Event()
    with pubsub.PubSub(world.provider()) as ps, ps.requester() as requester:

        def ask(message: pubsub.Message) -> None:
            try:
                requester.request("a", 1, timeout=PATIENCE)
            except WouldDeadlock as error:
                seen.append(error)
            done.set()

        ps.subscribe("go").subscribe(next=ask).ready(PATIENCE)
        ps.publish("go", 1)
        assert done.wait(PATIENCE)
    assert len(seen) == 1


def test_coroutine_functions_respond_and_request(world: Any) -> None:
    from pubsub.aio import PubSub

    async def main() -> Any:
        async def slowly(message: pubsub.Message) -> Any:
            await asyncio.sleep(0.01)
            if message.value == "fail":
                raise RuntimeError
            return {"answer": object() if message.value == "odd" else message.value}

        async with PubSub(world.provider()) as ps:
            await ps.respond("slow", slowly).ready(PATIENCE)
            async with ps.requester() as requester:
                answers = await asyncio.gather(
                    *(requester.request("slow", number, timeout=PATIENCE) for number in range(5))
                )
                for value in "fail", "odd":
                    with pytest.raises(RequestFailed):
                        await requester.request("slow", value, timeout=PATIENCE)
                waiting = asyncio.ensure_future(requester.request("unanswered", 1, timeout=PATIENCE))
                await asyncio.sleep(0.05)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                assert requester.pending == 0
                return [answer.value["answer"] for answer in answers]

    assert asyncio.run(main()) == list(range(5))


def test_what_a_responder_awaits_may_be_cancelled(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    from pubsub.aio import PubSub

    async def main() -> None:
        def cancelled() -> asyncio.Future[int]:
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            future.cancel()
            return future

        async def answer(message: pubsub.Message) -> int:
            return await cancelled()

        async with PubSub(world.provider()) as ps:
            await ps.respond("awaited", answer).ready(PATIENCE)
            await ps.respond("read", lambda message: cancelled().result()).ready(PATIENCE)
            async with ps.requester() as requester:
                for topic in "awaited", "read":
                    with pytest.raises(RequestFailed):
                        await requester.request(topic, 1, timeout=PATIENCE)

    asyncio.run(main())
    assert "a callback awaited something that was cancelled" in caplog.text
    assert "a callback raised an exception" in caplog.text


def test_closing_while_a_responder_works_leaves_no_exception(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    from pubsub.aio import PubSub

    async def main() -> None:
        started = asyncio.Event()

        async def answer(message: pubsub.Message) -> None:
            started.set()
            await asyncio.sleep(PATIENCE)

        ps = PubSub(world.provider())
        await ps.respond("slow", answer).ready(PATIENCE)
        async with PubSub(world.provider()) as other, other.requester() as requester:
            asked = asyncio.ensure_future(requester.request("slow", 1, timeout=PATIENCE))
            await asyncio.wait_for(started.wait(), PATIENCE)
            await ps.close(0.1)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

    asyncio.run(main())
    gc.collect()
    assert "never retrieved" not in caplog.text
    assert "a responder: publishing failed" in caplog.text


def test_an_awaitable_of_a_responder_with_threads_is_a_failure(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def double(message: pubsub.Message) -> int:
        return 2 * int(message.value)

    with pubsub.PubSub(world.provider()) as ps, ps.requester() as requester:
        ps.respond("double", lambda message: double(message)).ready(PATIENCE)
        with pytest.raises(RequestFailed):
            requester.request("double", 21, timeout=PATIENCE)
    assert "returned a coroutine, which only pubsub.aio awaits" in caplog.text


def test_responders_of_a_shared_subscription_divide_the_requests(make: Make, world: Any) -> None:
    calls: list[int] = []
    for number in range(2):
        service = make(world.provider())
        responding(service, "$share/group/work", lambda message, number=number: calls.append(number) or number)  # type: ignore[misc]
    mine = make(world.provider())
    requester = mine.call(mine.ps.requester)
    answers = [mine.call(requester.request, "work", 1, timeout=PATIENCE).value for _ in range(10)]
    assert answers == calls  # each request is answered once
    assert set(answers) == {0, 1}
    mine.call(requester.close)


def test_a_coroutine_function_is_refused_with_threads(world: Any) -> None:
    """It would never be awaited, and yet its messages would be acknowledged."""

    async def answer(message: pubsub.Message) -> int:
        return 1

    class Callable:
        async def __call__(self, message: pubsub.Message) -> None: ...

    with pubsub.PubSub(world.provider()) as ps:
        with pytest.raises(TypeError, match=r"only pubsub\.aio awaits"):
            ps.respond("a", answer)
        for callback in (answer, Callable(), functools.partial(answer)):
            with pytest.raises(TypeError, match=r"only pubsub\.aio awaits"):
                ps.subscribe("a").subscribe(next=callback)
        with pytest.raises(TypeError, match=r"only pubsub\.aio awaits"):
            ps.subscribe("a").subscribe(next=print, close=answer)
