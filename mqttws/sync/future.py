"""The futures of the blocking driver: a `concurrent.futures.Future` that costs little until somebody waits for it.

Each message that is published has one, and nearly none is ever waited for. The standard one makes a condition, its
lock and two lists when it is born, which takes several times as long as encoding the message. This one has them made
when they are first asked for: by a wait, a callback, a cancellation. Until then its outcome is stored as it is.

A message of QoS 0 gets a `Receipt`, which nobody keeps or settles: it asks the `Handover` how far that has come.

Of the standard class this uses the attributes `_state`, `_result`, `_exception`, and that all others are touched only
while `_condition` is held; `tests/transport/test_future.py` holds both classes to the same behaviour.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from mqttws.client.sent import Handover

_PENDING = "PENDING"
_FINISHED = "FINISHED"
#: Guards the step from a future without a condition to one with it.
_making = threading.Lock()


class LightFuture(Future[Any]):
    """See `concurrent.futures.Future`; made and settled by the driver."""

    # What a new one holds; no `__init__` needs to run.
    _state = _PENDING
    _result = None
    _exception = None
    _is_whole = False  # whether it has what the standard class makes at birth
    _is_claimed = False  # whether somebody is giving it its outcome
    __init__ = object.__init__

    def __getattr__(self, name: str) -> Any:
        """Make what the standard class makes at birth."""
        if name not in ("_condition", "_waiters", "_done_callbacks"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with _making:
            new = not self._is_whole
            if new:
                self._waiters = []
                self._done_callbacks: list[Callable[[Future[Any]], object]] = []
                self._condition = threading.Condition()
                self._is_whole = True
        if new:
            self._became_whole()
        return self.__dict__[name]

    def _became_whole(self) -> None:
        """Somebody waits for it from now on."""

    def done(self) -> bool:
        """Tell whether there is an outcome, or a cancellation."""
        return self._state not in (_PENDING, "RUNNING")

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the outcome: return it, or raise it. See `concurrent.futures.Future.result`."""
        if self._state is _FINISHED and self._exception is None:
            return self._result
        return super().result(timeout)

    def settle(self, outcome: object) -> None:
        """Take an outcome: an exception to raise or a result to return. Only the first counts, or a cancellation."""
        with _making:
            if self._state is not _PENDING or self._is_claimed:
                return
            if not self._is_whole:
                self._keep(outcome)
                return
            self._is_claimed = True
        if not self.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Exception):
            self.set_exception(outcome)
        else:
            self.set_result(outcome)

    def _keep(self, outcome: object) -> None:
        if isinstance(outcome, Exception):
            self._exception = outcome
        elif outcome is not None:
            self._result = outcome
        self._state = _FINISHED

    @staticmethod
    def settle_all(futures: list[LightFuture], outcome: object) -> None:
        """Give futures their outcome; see `settle`."""
        whole = []
        with _making:
            for future in futures:
                if future._is_whole:
                    whole.append(future)
                elif future._state is _PENDING:
                    future._keep(outcome)
        for future in whole:
            future.settle(outcome)


class Receipt(LightFuture):
    """The future of a message of QoS 0: done when it is handed to the network.

    Attributes:
        token: of the message.
        handover: knows whether it is handed over.
    """

    # Filled in half of the time of attributes without a slot.
    __slots__ = ("handover", "token")

    token: int
    handover: Handover[LightFuture]

    @staticmethod
    def make(handover: Handover[LightFuture], token: int) -> Receipt:
        """Make one."""
        receipt: Receipt = Receipt()
        receipt.handover = handover
        receipt.token = token
        return receipt

    def _became_whole(self) -> None:
        self.handover.watch(self.token, self)
        self._look()  # it may have been handed over before that

    def _look(self) -> None:
        """Ask whether it is handed over."""
        handover = self.handover
        if self._state is _PENDING and handover.knows(self.token):
            self.settle(None if self.token <= handover.sent else handover.error)

    def done(self) -> bool:
        """See `LightFuture.done`."""
        self._look()
        return super().done()

    def result(self, timeout: float | None = None) -> Any:
        """See `LightFuture.result`."""
        self._look()
        return super().result(timeout)

    def withdrawn(self) -> None:
        """Note that the message will not be handed over: then nobody ever settles this future."""
        self.handover = Handover()
