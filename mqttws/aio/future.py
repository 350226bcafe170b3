"""The future of a message of QoS 0 in asyncio, which costs little until a task waits for it.

Until then it only compares the token of its message with the client's mark of what is sent. `asyncio.isfuture` accepts
any object with the attribute `_asyncio_future_blocking`, and the functions of asyncio that accept futures (`gather`,
`wait`, `wait_for`, `shield`, `ensure_future`) call the methods below. A method that needs a real future, to wait for it
or to cancel it, creates one; from then on all methods use it. Callbacks need none: the event loop calls those of all
messages that were sent together in one step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from typing import Any

from mqttws.client.callbacks import callback_name
from mqttws.client.sent import HighWaterMark


class Receipt:
    """The future of a message, with the interface of `asyncio.Future`.

    `Network.make_receipt` sets the attributes: an `__init__` would take as long as everything else.

    Attributes:
        loop: The event loop.
        sent: The client's mark of what is sent.
        future: The real future; None until one is needed.
        token: The token of the message.
        callbacks: The callbacks, each with its context; None before the first one, and while there is a real future.
    """

    __slots__ = ("callbacks", "future", "loop", "sent", "token")

    _asyncio_future_blocking = False

    loop: asyncio.AbstractEventLoop
    sent: HighWaterMark[Any]  # of futures and receipts
    future: asyncio.Future[Any] | None
    token: int
    callbacks: list[tuple[Callable[[Any], object], Context]] | None

    def make_real(self) -> asyncio.Future[Any]:
        """Create the real future, which takes over the callbacks. The caller settles it, or has it settled."""
        future: asyncio.Future[Any] = asyncio.Future(loop=self.loop)  # without the call of `create_future`
        for fn, context in self.callbacks or ():
            future.add_done_callback(_Callback(fn, self), context=context)
        self.callbacks, self.future = None, future
        return future

    def _real(self) -> asyncio.Future[Any]:
        """Return the real future; create it if there is none yet."""
        if self.future is None:
            sent, future = self.sent, self.make_real()
            if not sent.watch(self.token, future):  # it takes the place of the receipt
                if self.token <= sent.token or sent.error is None:
                    future.set_result(None)
                else:
                    future.set_exception(sent.error)
        return self.future  # type: ignore[return-value]

    def done(self) -> bool:
        """See `asyncio.Future.done`."""
        if self.future is not None:
            return self.future.done()
        sent = self.sent
        return self.token <= sent.token or sent.error is not None  # what `has_outcome` returns, without its call

    def result(self) -> Any:
        """See `asyncio.Future.result`."""
        return None if self.future is None and self.token <= self.sent.token else self._real().result()

    def exception(self) -> BaseException | None:
        """See `asyncio.Future.exception`."""
        return None if self.future is None and self.token <= self.sent.token else self._real().exception()

    def cancel(self, msg: Any = None) -> bool:
        """See `asyncio.Future.cancel`."""
        # If it is done, `call_back` may be calling the callbacks, which must not be given to a real future, too.
        return not self.done() and self._real().cancel(msg)

    # `gather` uses these two.

    @property
    def _cancel_message(self) -> Any:
        return None if self.future is None else self.future._cancel_message  # type: ignore[attr-defined]

    def _make_cancelled_error(self) -> BaseException:
        return self._real()._make_cancelled_error()  # type: ignore[attr-defined, no-any-return]

    def cancelled(self) -> bool:
        """See `asyncio.Future.cancelled`."""
        return self.future is not None and self.future.cancelled()

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        """See `asyncio.Future.add_done_callback`. The callback gets this object, not the real future."""
        sent = self.sent
        if self.future is not None:
            self.future.add_done_callback(_Callback(fn, self), context=context)
        elif self.token <= sent.token or sent.error is not None:
            self.loop.call_soon(fn, self, context=context)
        else:
            entry = fn, copy_context() if context is None else context
            if self.callbacks:
                self.callbacks.append(entry)
            else:
                self.callbacks = [entry]
                if not sent.watch(self.token, self):
                    self.loop.call_soon(call_back, [self])

    def remove_done_callback(self, fn: Callable[[Any], object], /) -> int:
        """See `asyncio.Future.remove_done_callback`."""
        if self.future is not None:
            return self.future.remove_done_callback(_Callback(fn, self))
        if not self.callbacks or self.done():  # then they are as good as called
            return 0
        before = len(self.callbacks)
        self.callbacks = [entry for entry in self.callbacks if entry[0] != fn]
        return before - len(self.callbacks)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """See `asyncio.Future.get_loop`."""
        return self.loop

    def __await__(self) -> Generator[Any, None, None]:
        try:
            if self.future is not None or self.token > self.sent.token:
                yield from self._real()
        finally:
            del self  # the traceback of its exception refers to this frame: a cycle

    __iter__ = __await__

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'finished' if self.done() else 'pending'}>"

    def withdrawn(self) -> None:
        """Record that the message was withdrawn: this future is never done."""
        self.sent = HighWaterMark()


def call_back(receipts: list[Receipt]) -> None:
    """Call the callbacks of receipts that have their outcome, as the event loop calls those of futures."""
    try:
        for receipt in receipts:
            callbacks = receipt.callbacks
            while callbacks:
                fn, context = callbacks.pop(0)
                try:
                    context.run(fn, receipt)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    message = f"Exception in callback {callback_name(fn)}"
                    context.run(  # the handler of the loop runs in it, as of Python 3.12
                        receipt.loop.call_exception_handler,
                        {"message": message, "exception": error, "future": receipt},
                    )
    except BaseException:  # the loop ends, but it may run again
        receipts[0].loop.call_soon(call_back, receipts)
        raise
    receipts.clear()  # for the next call of this function with them


class _Callback:
    """A callback of the real future, which passes the receipt instead. Equal if both callback and receipt are."""

    __slots__ = ("_callback", "_receipt")

    def __init__(self, callback: Callable[[Any], object], receipt: Receipt) -> None:
        self._callback = callback
        self._receipt = receipt

    def __call__(self, future: asyncio.Future[Any]) -> None:
        self._callback(self._receipt)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Callback):
            return NotImplemented
        return self._callback == other._callback and self._receipt is other._receipt

    __hash__ = None  # type: ignore[assignment]
