"""The futures of the blocking driver against those of the standard library: the same, seen from outside."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future, as_completed, wait

import pytest

from mqttws.transport.future import LightFuture


def settle_standard(future: Future, outcome: object) -> None:
    if future.done() or not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


KINDS = [
    pytest.param((Future, settle_standard), id="standard"),
    pytest.param((LightFuture, LightFuture.settle), id="light"),
]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def test_a_result_that_is_there_already(kind):
    make, settle = kind
    future = make()
    assert not future.done()
    settle(future, 7)
    assert future.done()
    assert not future.running()
    assert not future.cancelled()
    assert not future.cancel()
    assert future.result() == future.result(0) == 7
    assert future.exception() is None


def test_an_exception_that_is_there_already(kind):
    make, settle = kind
    future = make()
    error = LookupError("no")
    settle(future, error)
    assert future.exception(0) is error
    with pytest.raises(LookupError) as caught:
        future.result()
    assert caught.value is error


def test_only_the_first_outcome_counts(kind):
    make, settle = kind
    future = make()
    future.add_done_callback(lambda done: None)
    settle(future, 1)
    settle(future, 2)
    assert future.result() == 1


def test_a_wait_ends_with_its_time(kind):
    make, _ = kind
    for ask in (make().result, make().exception):
        with pytest.raises(TimeoutError):
            ask(0)


def test_a_wait_in_another_thread(kind):
    make, settle = kind
    for outcome in (None, "x", ValueError("y")):
        future, results = make(), []
        waiting = threading.Event()

        def take(future=future, results=results, waiting=waiting):
            waiting.set()
            try:
                results.append(future.result(10))
            except ValueError as error:
                results.append(error)

        thread = threading.Thread(target=take)
        thread.start()
        assert waiting.wait(10)
        settle(future, outcome)
        thread.join(10)
        assert results == [outcome]


def test_callbacks_run_once_whether_early_or_late(kind):
    make, settle = kind
    future, called = make(), []
    future.add_done_callback(called.append)
    settle(future, 1)
    future.add_done_callback(called.append)
    assert called == [future, future]


def test_cancelling(kind):
    make, settle = kind
    future, called = make(), []
    future.add_done_callback(called.append)
    assert future.cancel()
    assert future.cancelled()
    assert future.done()
    settle(future, 1)  # too late, and no error
    assert called == [future]
    with pytest.raises(CancelledError):
        future.result(0)


def test_the_helpers_of_the_standard_library(kind):
    make, settle = kind
    futures = [make() for _ in range(4)]
    settle(futures[0], 0)
    assert wait(futures, timeout=0).done == {futures[0]}
    for number, future in enumerate(futures):
        if number:
            settle(future, number)
    assert sorted(future.result() for future in as_completed(futures, timeout=10)) == [0, 1, 2, 3]


def test_it_is_one_of_theirs_and_shows_its_state():
    future = LightFuture()
    assert isinstance(future, Future)
    assert "pending" in repr(future)
    future.settle(None)
    assert "finished" in repr(future)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        future.other  # noqa: B018


def test_no_wait_is_lost_in_a_race():
    """A wait that begins while the outcome is being stored either sees it or is woken by it."""
    for _ in range(300):
        future, barrier, results = LightFuture(), threading.Barrier(2), []

        def take(future=future, barrier=barrier, results=results):
            barrier.wait(10)
            results.append(future.result(10))

        thread = threading.Thread(target=take)
        thread.start()
        barrier.wait(10)
        future.settle(5)
        thread.join(20)
        assert results == [5]
