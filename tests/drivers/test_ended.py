"""Calls on a client that has ended, or was not opened: each raises a copy of the reason.

If all raised the same error, its traceback would grow with each call, and keep the frames of all callers and their
arguments in memory.
"""

from __future__ import annotations

import copy
import ssl
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import pytest
from drivers import PATIENCE, States

from mqttws import ConnectError, ConnectionClosed, HandshakeRejected, SubscribeRejected, TimedOut, to_raise
from mqttws.broker import Broker

Make = Callable[..., Any]

CALLS: dict[str, Callable[[Any], object]] = {
    "publish of QoS 0": lambda client: client.publish("a", b"x"),
    "publish of QoS 1": lambda client: client.publish("a", b"x", 1),
    "publish of QoS 2": lambda client: client.publish("a", b"x", 2),
    "publish_nowait of QoS 0": lambda client: client.publish_nowait("a", b"x").result(PATIENCE),
    "publish_nowait of QoS 1": lambda client: client.publish_nowait("a", b"x", 1).result(PATIENCE),
    "subscribe": lambda client: client.subscribe("a"),
    "unsubscribe": lambda client: client.unsubscribe("a"),
    "flush": lambda client: client.flush(PATIENCE),
}


def frames(error: BaseException) -> Iterator[TracebackType]:
    place = error.__traceback__
    while place is not None:
        yield place
        place = place.tb_next


def raised(call: Callable[[], object]) -> Exception:
    with pytest.raises((ConnectionClosed, ConnectError)) as caught:
        call()
    return caught.value


@pytest.fixture
def ended(make: Make) -> Iterator[Any]:
    with Broker() as broker:
        states = States()
        client = make(broker.url, client_id="c", on_state=states, end_on=lambda error: True)
        client.open()
        broker.disconnect("c")
        states.wait("disconnected")
        yield client


@pytest.mark.parametrize("name", CALLS)
def test_the_traceback_does_not_grow_with_the_calls(ended: Any, name: str) -> None:
    errors = [raised(lambda: CALLS[name](ended)) for _ in range(20)]
    assert len({len(list(frames(error))) for error in errors}) == 1
    assert len({id(error) for error in errors}) == 20
    assert {(type(error), str(error)) for error in errors} == {(type(ended.state.error), str(ended.state.error))}
    assert not list(frames(ended.state.error))


def test_an_iteration_raises_a_copy(ended: Any) -> None:
    errors = [raised(lambda: next(iter(ended.messages(timeout=PATIENCE)))) for _ in range(20)]
    assert len({len(list(frames(error))) for error in errors}) == 1


def test_a_client_that_could_not_be_opened_raises_a_copy(make: Make, closed_port: int) -> None:
    client = make(f"mqtt://127.0.0.1:{closed_port}")
    raised(client.open)
    errors = [raised(lambda: client.publish("a", b"x", 1)) for _ in range(20)]
    assert len({len(list(frames(error))) for error in errors}) == 1


@pytest.mark.parametrize(
    "error",
    [
        ConnectionClosed("gone", 1001),
        HandshakeRejected(404, [("a", "b")], b"body"),
        SubscribeRejected("a/#"),
        TimedOut("too late"),
        ConnectionRefusedError(111, "refused"),
        ssl.SSLCertVerificationError(1, "no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_copy_says_what_the_error_says(error: Exception) -> None:
    error.__cause__ = OSError("reset")
    made = to_raise(error)
    assert made is not error
    assert (type(made), str(made), made.args, vars(made)) == (type(error), str(error), error.args, vars(error))
    assert made.__cause__ is error.__cause__


def test_an_error_whose_constructor_does_not_take_its_args_is_copied() -> None:
    class Odd(Exception):
        def __init__(self, *, reason: str) -> None:
            super().__init__(f"it failed: {reason}")
            self.reason = reason

    error = Odd(reason="x")
    with pytest.raises(TypeError):
        copy.copy(error)
    made = to_raise(error)
    assert made is not error
    assert (str(made), made.reason) == ("it failed: x", "x")
