"""The future of a QoS 0 message in the asyncio driver behaves as `asyncio.Future`."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import weakref

import pytest
from drivers import PATIENCE
from hypothesis import given
from hypothesis import strategies as st

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
        self.mark.fail(error, lambda futures: Owner.settle(futures, error))


class Over(LookupError):
    """An error that can be referred to weakly."""


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
        for _ in range(3):
            made.future.add_done_callback(lambda future: sys.exit())
        made.future.add_done_callback(called.append)
        made.hand_over()
        await asyncio.sleep(0)

    task, exits = loop.create_task(main()), 0
    for _ in range(5):
        try:
            loop.run_until_complete(asyncio.sleep(0))
        except SystemExit:
            exits += 1
    loop.run_until_complete(task)
    loop.close()
    assert exits == 3
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


def test_a_callback_comes_too_late_to_remove_another(kind):
    async def main():
        made, called, removed = kind(), [], []
        made.future.add_done_callback(lambda future: removed.append(future.remove_done_callback(called.append)))
        made.future.add_done_callback(called.append)
        made.hand_over()
        await asyncio.sleep(0)
        assert removed == [0]
        assert called == [made.future]

    asyncio.run(main())


def test_a_callback_may_ask_for_the_exception_before_others_are_called(kind):
    async def main():
        made, called = kind(), []
        slow = asyncio.get_running_loop().create_future()
        made.future.add_done_callback(lambda future: future.exception())
        made.future.add_done_callback(called.append)
        gathered = [asyncio.gather(made.future, slow) for _ in range(2)]  # each asks, too
        made.hand_over()
        await asyncio.sleep(0)
        slow.set_result("slow")
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.gather(*gathered) == [[None, "slow"]] * 2
        assert called == [made.future]

    asyncio.run(main())


@pytest.mark.parametrize("returns", [False, True])
def test_gathered_futures_can_be_cancelled(kind, returns):
    async def main():
        gathered = asyncio.gather(*(kind().future for _ in range(2)), return_exceptions=returns)
        gathered.cancel("enough")
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(asyncio.CancelledError):
                await gathered

    asyncio.run(main())


def test_an_exception_that_nobody_asks_for_is_reported(kind):
    async def main():
        made, reports = kind(), []
        asyncio.get_running_loop().set_exception_handler(lambda loop, report: reports.append(report["message"]))
        made.future.add_done_callback(lambda future: None)
        made.fail(LookupError("over"))
        await asyncio.sleep(0)
        del made
        gc.collect()
        assert reports == ["Future exception was never retrieved"]

    asyncio.run(main())


def test_an_awaited_failure_leaves_no_cycle(kind):
    async def main():
        made, error = kind(), Over()
        gone = weakref.ref(error)
        asyncio.get_running_loop().call_soon(made.fail, error)
        try:
            await made.future
        except Over:
            pass
        del made, error
        await asyncio.sleep(0)
        assert gone() is None

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_callbacks_are_called_although_the_loop_was_interrupted_before_the_first():
    loop, called = asyncio.new_event_loop(), []

    async def main():
        made = Asking()
        for name in "ab":
            made.future.add_done_callback(lambda future, name=name: called.append(name))
        made.hand_over()
        loop._ready.popleft()  # as if an exception of a signal handler came after the loop has done this

    loop.run_until_complete(main())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert called == ["a", "b"]


def test_settling_that_was_interrupted_is_repeated():
    async def main():
        made, called = Asking(), []
        made.future.add_done_callback(called.append)
        futures = []
        made.mark.fail(LookupError("over"), futures.extend)
        made.future.make_real()  # and then the exception of a signal handler
        for _ in range(2):
            Owner.settle(futures, made.mark.error)
        await asyncio.sleep(0)
        assert called == [made.future]
        assert made.future.exception() is made.mark.error

    asyncio.run(main())


def test_a_closed_loop_is_no_obstacle():
    """Its callbacks are lost, but the driver must be able to settle other futures."""
    loop = asyncio.new_event_loop()

    async def main():
        made = Asking()
        made.future.add_done_callback(print)
        return made

    made = loop.run_until_complete(main())
    loop.close()
    made.hand_over()
    assert made.future.done()


#: What a program does with a future, one after another; `cancel` and `exception` also in a callback.
STEPS = ["add", "remove", "hand over", "fail", "cancel", "turn", "await", "gather", "shield", "wait", "exception"]
IN_CALLBACK = ["nothing", "exception", "result", "add", "remove", "cancel", "raise"]
steps = st.tuples(st.sampled_from(STEPS), st.sampled_from(IN_CALLBACK), st.integers(0, 2))


async def observed(kind, program):
    """Return what a program sees of a future, in order."""
    loop, made, seen, callbacks = asyncio.get_running_loop(), kind(), [], {}
    loop.set_exception_handler(lambda loop, report: seen.append(type(report.get("exception"))))
    future, tasks = made.future, []

    def outcome(ask):
        try:
            value = ask()
            return type(value) if isinstance(value, Exception) else value
        except BaseException as error:
            return type(error)

    def callback_of(number, act):
        def callback(given):
            assert given is future
            seen.append(("called", number))
            match act:
                case "exception" | "result" | "cancel":
                    seen.append(outcome(getattr(given, act)))
                case "add":
                    given.add_done_callback(lambda _: seen.append(("late", number)))
                case "remove":
                    seen.extend(given.remove_done_callback(each) for each in callbacks.values())
                case "raise":
                    raise LookupError

        return callback

    async def use(number, step):
        call = {
            "await": lambda: future,
            "gather": lambda: asyncio.gather(future, asyncio.sleep(0)),
            "shield": lambda: asyncio.shield(future),
            "wait": lambda: asyncio.wait([future], timeout=PATIENCE),
        }[step]
        try:
            await call()
            seen.append((number, step))
        except BaseException as error:
            seen.append((number, step, type(error)))

    for number, (step, act, which) in enumerate(program):
        match step:
            case "add":
                future.add_done_callback(callbacks.setdefault(which, callback_of(number, act)))
            case "remove" if which in callbacks:
                seen.append(future.remove_done_callback(callbacks[which]))
            case "hand over" if not future.done():
                made.hand_over()
            case "fail" if not future.done():
                made.fail(ValueError())
            case "cancel" | "exception":
                seen.append(outcome(getattr(future, step)))
            case "turn":
                await asyncio.sleep(0)
            case "await" | "gather" | "shield" | "wait":
                tasks.append(asyncio.ensure_future(use(number, step)))
    if not future.done():
        made.hand_over()
    for _ in range(8):
        await asyncio.sleep(0)
    assert all(task.done() for task in tasks)
    outcome(future.exception)
    return seen


@given(st.lists(steps, max_size=12))
def test_any_program_sees_what_it_sees_of_a_future_of_asyncio(program):
    assert asyncio.run(observed(Asking, program)) == asyncio.run(observed(Standard, program))


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
