"""The iterator over the messages of a blocking client. A message is acknowledged when the next one is requested.

It is not a generator. An exception inside a generator, for example of Ctrl-C while it waits, ends the generator for
good, and the garbage collector runs its `finally` clause in any thread. Here the exception of a signal handler loses no
message: a message is moved from the inbox in one step, and counts as yielded only from the step that returns it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

from mqttws.codec.publishing import Publish
from mqttws.hints import Any, Final
from mqttws.sync.network import Network

_TAKE: Final = deque.popleft


class Messages(Iterator[Publish]):
    """See `Client.messages`.

    Args:
        network: The network thread of the client.
        timeout: Seconds without a message after which the iteration ends; None: it ends when the client is closed.

    Attributes:
        thread: The identifier of the last thread that took a message.
        over: Whether the iteration has ended.
    """

    def __init__(self, network: Network, timeout: float | None) -> None:
        self.thread = threading.get_ident()
        self._network = network
        self._timeout = timeout
        self._manual_ack = network.core.options.manual_ack
        self._taken: deque[Publish] = deque()  # at most one
        self._handed_out = False
        self.over = False
        network.call(network.iterations.add, self)

    def __iter__(self) -> Messages:
        return self

    def __next__(self) -> Publish:
        taken, network = self._taken, self._network
        if self._handed_out:
            if taken[0].qos:
                self._acknowledge()
            self._handed_out = False
            taken.clear()
        if self.over:
            raise StopIteration
        core = network.core
        if not taken:
            try:
                taken.extend(map(_TAKE, core.inbox.source))  # one atomic step, without the lock
            except IndexError:
                self.thread = threading.get_ident()
                if not network.await_message(taken, self._timeout):
                    self.over = True
                    raise StopIteration from None
            if not core.reading and not network.woken:
                network.call(network.look_again)
        self._handed_out = True
        return taken[0]

    def close(self) -> None:
        """End the iteration."""
        self.over = True
        if self._handed_out:
            self._acknowledge()
            self._handed_out = False
            self._taken.clear()

    def _acknowledge(self) -> None:
        message = self._taken[0]
        if message.qos and not self._manual_ack:
            self._network.call(self._network.core.acknowledge, message)

    def __del__(self) -> None:
        # The garbage collector calls this in any thread, at any allocation. So it takes no lock, but posts the call.
        taken: Any = getattr(self, "_taken", None)
        if taken and not self._handed_out:
            self._network.post(self._network.core.inbox.give_back, tuple(taken))
        elif taken and taken[0].qos and not self._manual_ack:
            self._network.post(self._network.core.acknowledge, taken[0])
