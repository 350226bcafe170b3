"""The future of a QoS 0 message in the asyncio driver behaves as `asyncio.Future`."""

from __future__ import annotations

import asyncio
import contextvars
import sys

import pytest

from mqttws.aio.future import Receipt
from mqttws.aio.owner import Owner
from mqttws.client.sent import HighWaterMark


class Standard:
    """An `asyncio.Future`, and the functions that settle it."""

    def __init__(self):
        self.future = asyncio.get_running_loop().create_future()

    def hand_over(self):
        if not self.future.done():
            self.future.set_result(None)

    def fail(self, error):
        self.future.set_exception(error)


class Asking:
    """A receipt, and the functions that settle it as the driver does."""

    def __init__(self, mark=None, token=7):
        self.mark = mark or HighWaterMark()
        self.future = Receipt()
        self.future.loop = asyncio.get_running_loop()
        self.future.sent, self.future.token = self.mark, token
        self.future.future = self.future.callbacks = None

    def hand_over(self):
        Owner.settle(self.mark.advance(8), None)

    def fail(self, error):
        Owner.settle(self.mark.fail(error), error)


@pytest.fixture(params=[Standard, Asking])
def kind(request):
    return request.param


def test_asyncio_accepts_it_as_a_future(kind):
    async def main():
        future = kind().future
        assert asyncio.isfuture(future)
        assert asyncio.ensure_future(future) is future
        assert future.get_loop() is asyncio.get_running_loop()
        assert "pending" in repr(future)

    asyncio.run(main())


@pytest.mark.parametrize("early", [True, False])
def test_awaiting_before_and_after_the_message_is_handed_over(kind, early):
    async def main():
        made = kind()
        assert not made.future.done()
        if early:
            made.hand_over()
        else:
            asyncio.get_running_loop().call_soon(made.hand_over)
        assert await made.future is None
        assert await made.future is None
        assert made.future.done()
        assert not made.future.cancelled()
        assert made.future.result() is made.future.exception() is None
        assert "finished" in repr(made.future)

    asyncio.run(main())


@pytest.mark.parametrize("early", [True, False])
def test_the_end_fails_it(kind, early):
    async def main():
        made, error = kind(), LookupError("over")
        if early:
            made.fail(error)
        else:
            asyncio.get_running_loop().call_soon(made.fail, error)
        with pytest.raises(LookupError):
            await made.future
        assert made.future.exception() is error
        with pytest.raises(LookupError):
            made.future.result()

    asyncio.run(main())


def test_result_before_the_outcome_raises(kind):
    async def main():
        future = kind().future
        for ask in (future.result, future.exception):
            with pytest.raises(asyncio.InvalidStateError):
                ask()

    asyncio.run(main())


def test_callbacks_receive_the_future_early_or_late(kind):
    async def main():
        made, called = kind(), []
        variable = contextvars.ContextVar("variable", default="outside")
        context = contextvars.copy_context()
        context.run(variable.set, "inside")
        made.future.add_done_callback(called.append)
        made.future.add_done_callback(lambda future: called.append(variable.get()), context=context)
        never = called.clear
        made.future.add_done_callback(never)
        assert made.future.remove_done_callback(never) == 1
        assert made.future.remove_done_callback(never) == 0
        made.hand_over()
        made.future.add_done_callback(called.append)
        await asyncio.sleep(0)
        assert called == [made.future, "inside", made.future]

    asyncio.run(main())


@pytest.mark.parametrize("before", ["await", "cancel"])
def test_callbacks_that_were_added_before_a_wait_or_a_cancellation(kind, before):
    async def main():
        made, called = kind(), []
        made.future.add_done_callback(called.append)
        if before == "await":
            asyncio.get_running_loop().call_soon(made.hand_over)
            await made.future
        else:
            assert made.future.cancel()
        made.future.add_done_callback(called.append)
        await asyncio.sleep(0)
        assert called == [made.future] * 2

    asyncio.run(main())


def test_a_failing_callback_is_reported_and_the_next_ones_are_called(kind):
    async def main():
        loop, made, called, reports = asyncio.get_running_loop(), kind(), [], []
        loop.set_exception_handler(lambda loop, report: reports.append(report["exception"]))
        error = LookupError("a defect of the program")

        def fail(future):
            raise error

        for callback in (fail, called.append):
            made.future.add_done_callback(callback)
        made.hand_over()
        await asyncio.sleep(0)
        assert reports == [error]
        assert called == [made.future]

    asyncio.run(main())


def test_a_callback_that_ends_the_loop_leaves_the_others_for_its_next_run(kind):
    called, loop = [], asyncio.new_event_loop()

    async def main():
        made = kind()
        made.future.add_done_callback(called.append)
        made.future.add_done_callback(lambda future: sys.exit())
        made.future.add_done_callback(called.append)
        made.hand_over()
        await asyncio.sleep(0)

    task = loop.create_task(main())
    with pytest.raises(SystemExit):
        loop.run_until_complete(task)
    assert len(called) == 1
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(task)
    loop.close()
    assert len(called) == 2


def test_messages_that_are_sent_together_call_back_in_their_order_and_once():
    async def main():
        mark, called = HighWaterMark(), []
        made = [Asking(mark, token) for token in (3, 1, 2)]
        for each in made:
            each.future.add_done_callback(lambda future: called.append(future.token))
        waiting = asyncio.ensure_future(made[2].future)  # it has a real future
        assert waiting is made[2].future
        made[2].future._real()
        futures = mark.advance(8)
        Owner.settle(futures, None)
        Owner.settle(futures, None)  # as after an interruption
        await asyncio.sleep(0)
        assert called == [1, 2, 3]

    asyncio.run(main())


def test_a_callback_may_remove_another():
    async def main():
        made, called = Asking(), []
        made.future.add_done_callback(lambda future: made.future.remove_done_callback(called.append))
        made.future.add_done_callback(called.append)
        made.future.add_done_callback(lambda future: called.append("last"))
        made.hand_over()
        await asyncio.sleep(0)
        assert called == ["last"]

    asyncio.run(main())


def test_removing_an_unknown_callback(kind):
    async def main():
        assert kind().future.remove_done_callback(print) == 0

    asyncio.run(main())


def test_cancelling(kind):
    async def main():
        made = kind()
        assert not made.future.cancelled()
        assert made.future.cancel("enough")
        assert made.future.cancelled()
        assert made.future.done()
        assert not made.future.cancel()
        made.hand_over()
        with pytest.raises(asyncio.CancelledError):
            await made.future

    asyncio.run(main())


def test_a_cancelled_task_cancels_the_awaited_future(kind):
    async def main():
        made = kind()

        async def wait():
            await made.future

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert made.future.cancelled()

    asyncio.run(main())


def test_the_helpers_of_asyncio(kind):
    async def main():
        made = [kind() for _ in range(6)]
        futures = [one.future for one in made]
        made[0].hand_over()
        done, pending = await asyncio.wait(futures[:3], timeout=0)
        assert (done, pending) == ({futures[0]}, {futures[1], futures[2]})
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(futures[1]), 0.001)
        loop = asyncio.get_running_loop()
        for one in made[1:5]:
            loop.call_soon(one.hand_over)
        assert await asyncio.gather(*futures[:5]) == [None] * 5
        assert await asyncio.wait_for(futures[3], 30) is None
        assert [await one for one in asyncio.as_completed(futures[:5], timeout=10)] == [None] * 5
        made[5].fail(LookupError("over"))
        (outcome,) = await asyncio.gather(futures[5], return_exceptions=True)
        assert isinstance(outcome, LookupError)

    asyncio.run(main())


def test_a_message_that_was_withdrawn_is_never_handed_over():
    async def main():
        made = Asking()
        made.future.withdrawn()
        made.hand_over()
        assert not made.future.done()

    asyncio.run(main())
