"""The futures of the blocking driver behave as those of `concurrent.futures`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from concurrent.futures import CancelledError, Future, InvalidStateError, as_completed, wait

import pytest

from mqttws.client.sent import HighWaterMark
from mqttws.sync.future import LightFuture, Receipt


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


def test_an_existing_result_is_returned(kind):
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


def test_an_existing_exception_is_raised(kind):
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


def test_a_wait_times_out(kind):
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
                results.append(future.result(30))
            except ValueError as error:
                results.append(error)

        thread = threading.Thread(target=take)
        thread.start()
        assert waiting.wait(30)
        settle(future, outcome)
        thread.join(30)
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


def test_it_is_a_standard_future_and_its_repr_shows_the_state():
    future = LightFuture()
    assert isinstance(future, Future)
    assert "pending" in repr(future)
    future.settle(None)
    assert "finished" in repr(future)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        future.other  # noqa: B018


def test_it_has_the_standard_methods_that_the_client_does_not_use():
    future, called = LightFuture(), []
    future.add_done_callback(called.append)
    assert future.set_running_or_notify_cancel()
    assert future.running()
    future.set_result(7)
    assert not future.running()
    assert future.result(0) == 7
    assert called == [future]
    with pytest.raises(InvalidStateError):
        future.set_result(8)
    failed = LightFuture()
    failed.set_exception(LookupError("no"))
    with pytest.raises(LookupError):
        failed.result(0)


def test_asyncio_awaits_it():
    async def main():
        future, other = LightFuture(), LightFuture()
        threading.Timer(0.01, future.settle, (3,)).start()
        wrapped = asyncio.wrap_future(other)
        wrapped.cancel()
        await asyncio.sleep(0)
        return await asyncio.wrap_future(future), other.cancelled()

    assert asyncio.run(main()) == (3, True)


def test_no_wait_is_lost_in_a_race():
    """A wait that begins while the outcome is stored either sees it or is woken by it."""
    for _ in range(300):
        future, barrier, results = LightFuture(), threading.Barrier(2), []

        def take(future=future, barrier=barrier, results=results):
            barrier.wait(30)
            results.append(future.result(30))

        thread = threading.Thread(target=take)
        thread.start()
        barrier.wait(30)
        future.settle(5)
        thread.join(30)
        assert results == [5]


@pytest.mark.parametrize("ending", ["settled", "cancelled"])
def test_all_waiting_threads_are_woken_before_a_callback_runs(kind, ending):
    make, settle = kind
    future, began, awake = make(), threading.Barrier(4), threading.Barrier(4)

    def take():
        began.wait(30)
        with contextlib.suppress(CancelledError):
            future.result(30)
        awake.wait(30)

    threads = [threading.Thread(target=take) for _ in range(3)]
    future.add_done_callback(lambda done: awake.wait(30))  # fails if the threads still wait
    for thread in threads:
        thread.start()
    began.wait(30)
    future.cancel() if ending == "cancelled" else settle(future, 1)
    for thread in threads:
        thread.join(30)
    assert not awake.broken


def test_no_callback_is_lost_in_a_race():
    for _ in range(300):
        future, barrier, called = LightFuture(), threading.Barrier(2), []

        def add(future=future, barrier=barrier, called=called):
            barrier.wait(30)
            future.add_done_callback(called.append)

        thread = threading.Thread(target=add)
        thread.start()
        barrier.wait(30)
        LightFuture.settle_all([future], None)
        thread.join(30)
        assert called == [future]


def test_a_finished_wait_leaves_nothing_in_the_future():
    future = LightFuture()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            future.result(0.001)
    assert not future.__dict__["_sleepers"]
    future.settle(1)
    assert future.result() == 1


class TestReceipts:
    """The futures of messages of QoS 0. They are not settled one by one: each compares its token with a mark."""

    def test_one_mark_settles_many(self):
        mark = HighWaterMark()
        receipts = [Receipt.make(mark, token) for token in range(1, 5)]
        assert not any(receipt.done() for receipt in receipts)
        assert mark.advance(3) == []
        assert [receipt.done() for receipt in receipts] == [True, True, True, False]
        assert receipts[0].result(0) is receipts[1].exception(0) is None
        with pytest.raises(TimeoutError):
            receipts[3].result(0)

    def test_the_end_fails_messages_not_handed_over(self):
        mark = HighWaterMark()
        sent, unsent, awaited = (Receipt.make(mark, token) for token in (1, 2, 3))
        mark.advance(1)
        with pytest.raises(TimeoutError):
            awaited.result(0)
        error = LookupError("over")
        mark.fail(error, lambda futures: LightFuture.settle_all(futures, error))
        assert sent.result(0) is None
        for receipt in (unsent, awaited):
            with pytest.raises(LookupError):
                receipt.result(0)

    def test_waiting_receipts_are_settled_in_any_order(self):
        mark, called = HighWaterMark(), []
        receipts = [Receipt.make(mark, token) for token in range(1, 5)]
        for number in (2, 0, 3, 1):
            receipts[number].add_done_callback(called.append)
        LightFuture.settle_all(mark.advance(2), None)
        assert called == receipts[:2]
        assert wait(receipts, timeout=0).done == set(receipts[:2])
        LightFuture.settle_all(mark.advance(4), None)
        assert called == receipts
        assert list(as_completed(receipts, timeout=0)) is not None

    def test_watching_a_message_already_handed_over(self):
        mark = HighWaterMark()
        receipt, called = Receipt.make(mark, 1), []
        mark.advance(1)
        receipt.add_done_callback(called.append)
        assert called == [receipt]
        assert not receipt.cancel()
        assert mark.advance(2) in ([], [receipt])  # calling it twice is harmless
        receipt.settle(None)
        assert called == [receipt]

    def test_cancelling(self):
        mark = HighWaterMark()
        receipt = Receipt.make(mark, 1)
        assert receipt.cancel()
        LightFuture.settle_all(mark.advance(1), None)
        assert receipt.cancelled()

    def test_a_message_that_was_withdrawn_is_never_handed_over(self):
        mark = HighWaterMark()
        receipt = Receipt.make(mark, 1)
        receipt.withdrawn()
        mark.advance(2)
        assert not receipt.done()

    def test_watched_receipts_can_be_found_and_forgotten(self):
        mark = HighWaterMark()
        futures = {token: LightFuture() for token in (5, 1, 3)}
        for token, future in futures.items():
            mark.watch(token, future)
        assert [mark.find(future) for future in futures.values()] == [5, 1, 3]
        assert mark.forget(2) is None
        assert mark.forget(3) is futures[3]
        assert mark.find(futures[3]) is mark.forget(3) is None
        assert mark.advance(9) == [futures[1], futures[5]]

    def test_no_wait_is_lost_in_a_race(self):
        """A wait that begins while the message is sent either sees it or is woken by it."""
        for _ in range(300):
            mark, barrier, results = HighWaterMark(), threading.Barrier(2), []
            receipt = Receipt.make(mark, 1)

            def take(receipt=receipt, barrier=barrier, results=results):
                barrier.wait(30)
                results.append(receipt.result(30))

            thread = threading.Thread(target=take)
            thread.start()
            barrier.wait(30)
            LightFuture.settle_all(mark.advance(1), None)
            thread.join(30)
            assert results == [None]

    @pytest.mark.parametrize("step", range(40))
    def test_an_interruption_between_two_steps_loses_no_wait(self, step):
        """Ctrl-C can arrive after each instruction while a future is settled; settling it again then wakes the rest."""
        future, results = LightFuture(), []
        thread = threading.Thread(target=lambda: results.append(future.result(30)))
        thread.start()
        deadline = time.monotonic() + 10
        while "_done_callbacks" not in future.__dict__:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        left = [step]

        def interrupt(frame, event, _):
            if frame.f_code is not LightFuture._wake_sleepers.__code__:
                return interrupt
            frame.f_trace_opcodes = True
            if event == "opcode":
                left[0] -= 1
                if left[0] < 0:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return interrupt

        before = sys.gettrace()
        sys.settrace(interrupt)
        with contextlib.suppress(KeyboardInterrupt):
            future.settle(None)
        sys.settrace(before)
        future.settle(None)
        thread.join(30)
        assert results == [None]
