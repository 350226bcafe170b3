"""The future of a message of QoS 0 in asyncio, which costs little until a task waits for it.

Until then it only compares the token of its message with the client's mark of what is sent. `asyncio.isfuture` accepts
any object with the attribute `_asyncio_future_blocking`, and the functions of asyncio that accept futures (`gather`,
`wait`, `wait_for`, `shield`, `ensure_future`) call the methods below. A method that needs a real future, for a callback
or a cancellation, creates one; from then on all methods use it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any

from mqttws.client.sent import HighWaterMark


class Receipt:
    """The future of a message, with the interface of `asyncio.Future`.

    `Network.make_receipt` sets the attributes: an `__init__` would take as long as everything else.

    Attributes:
        loop: The event loop.
        sent: The client's mark of what is sent.
        future: The real future; None until one is needed.
        token: The token of the message.
    """

    __slots__ = ("future", "loop", "sent", "token")

    _asyncio_future_blocking = False

    loop: asyncio.AbstractEventLoop
    sent: HighWaterMark[asyncio.Future[Any]]
    future: asyncio.Future[Any] | None
    token: int

    def _real(self) -> asyncio.Future[Any]:
        """Return the real future; create it if there is none yet."""
        if self.future is None:
            sent = self.sent
            future = self.future = asyncio.Future(loop=self.loop)  # without the call of `create_future`
            if not sent.watch(self.token, future):
                if self.token <= sent.token or sent.error is None:
                    future.set_result(None)
                else:
                    future.set_exception(sent.error)
        return self.future

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
        return self._real().exception()

    def cancel(self, msg: Any = None) -> bool:
        """See `asyncio.Future.cancel`."""
        return self._real().cancel(msg)

    def cancelled(self) -> bool:
        """See `asyncio.Future.cancelled`."""
        return self.future is not None and self.future.cancelled()

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        """See `asyncio.Future.add_done_callback`. The callback gets this object, not the real future."""
        sent = self.sent
        if self.future is None and (self.token <= sent.token or sent.error is not None):
            self.loop.call_soon(fn, self, context=context)
        else:
            self._real().add_done_callback(_Callback(fn, self), context=context)

    def remove_done_callback(self, fn: Callable[[Any], object], /) -> int:
        """See `asyncio.Future.remove_done_callback`."""
        return 0 if self.future is None else self.future.remove_done_callback(_Callback(fn, self))

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """See `asyncio.Future.get_loop`."""
        return self.loop

    def __await__(self) -> Generator[Any, None, None]:
        if self.future is not None or self.token > self.sent.token:
            yield from self._real()

    __iter__ = __await__

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'finished' if self.done() else 'pending'}>"

    def withdrawn(self) -> None:
        """Record that the message was withdrawn: this future is never done."""
        self.sent = HighWaterMark()


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
