"""The calls that a signal handler or a finalizer makes in the middle of another call of the same client.

Such a call is posted: its caller gets a future, and the owner of the core makes the call later. The exception of
another signal handler can interrupt it then. The owner makes it again, since a call that has not begun would be lost
otherwise. But one that has begun may have had its effect, and a message must not be published twice. So its future
fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mqttws.client.sent import F
from mqttws.errors import ConnectionClosed, MQTTError
from mqttws.hints import Any, Generic


def make_posted(posted: deque[tuple[Callable[..., object], tuple[Any, ...]]]) -> None:
    """Make the posted calls. Remove each after it was made: if an exception interrupts this, it is made again.

    A signal handler that publishes meanwhile posts its call, also between two of these.
    """
    while posted:
        function, arguments = posted[0]
        try:
            function(*arguments)
        except Exception:
            posted.popleft()
            raise
        posted.popleft()


class PostedRequest(Generic[F]):
    """A posted call of a function that returns a future. Calling this again has no further effect.

    Args:
        future: The future that the caller has.
        settle: See `Driver.settle`.
        function: The function.
        arguments: Its arguments.
    """

    def __init__(
        self,
        future: F,
        settle: Callable[[list[F], object], object],
        function: Callable[..., F],
        arguments: tuple[Any, ...],
    ) -> None:
        self._future = future
        self._settle = settle
        self._function = function
        self._arguments = arguments
        self._has_begun = False
        self._made: Any = None

    def __call__(self) -> None:
        """Make the call. Copy the outcome of the future that it returns to the caller's."""
        if self._made is None:
            if self._has_begun:
                self._settle([self._future], MQTTError("the call was interrupted, and may have had its effect"))
                return
            self._has_begun = True
            try:
                self._made = self._function(*self._arguments)
            except Exception as error:
                # Without the traceback, which refers to this frame and so to the future.
                self._settle([self._future], error.with_traceback(None))
                return
        self._made.add_done_callback(self._copy)

    def _copy(self, done: Any) -> None:
        error = ConnectionClosed("the call was cancelled") if done.cancelled() else done.exception()
        self._settle([self._future], error if error is not None else done.result())
