"""The queue of received messages for the program, and its size in bytes.

Threads remove messages without a lock, by `messages.popleft()` or from `source`. So the size is not updated for each
message. Instead the bytes of one read from the network count until the last message of that read has been removed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import repeat

from mqttws.codec.publishing import Publish
from mqttws.hints import Final

#: Bytes added for each message, for its objects in memory.
OVERHEAD: Final = 400
#: The method as a function of a queue. Compiled code looks methods of `deque` up by their names for each call.
popleft: Final = deque.popleft


class Inbox:
    """The received messages that the program has not taken yet.

    Attributes:
        messages: The messages, in order.
        source: An iterator that removes a message in each step, and raises IndexError while there is none. It loses no
            message to an exception of a signal handler: CPython runs signal handlers where a function is called or
            returns, or a loop repeats. A `for` statement calls no function, so none runs between the removal of a
            message and its assignment to the target, as one may after a call of `popleft`.
    """

    def __init__(self) -> None:
        self.messages: deque[Publish] = deque()
        self.source: Iterator[Publish] = map(deque.popleft, repeat(self.messages))
        self._came = 0
        # For each read: how many messages had been added by its end, in total, and the bytes of this read.
        self._reads: deque[tuple[int, int]] = deque()
        self._size = 0

    def note(self, count: int, size: int) -> None:
        """Record that messages were added.

        Args:
            count: The number of messages.
            size: The number of bytes read from the network for them.
        """
        size += count * OVERHEAD
        self._came += count
        self._size += size
        self._reads.append((self._came, size))

    def size(self) -> int:
        """Return an upper bound of the bytes of the queued messages. Only the owner of the core may call this."""
        reads, taken = self._reads, self._came - len(self.messages)
        while reads and reads[0][0] <= taken:
            self._size -= reads.popleft()[1]
        return self._size

    def give_back(self, messages: list[Publish], after: int = 0) -> None:
        """Move removed messages back to the left, in order. Calling this again has no further effect.

        One call in C moves them all, so an exception of a signal handler finds all of them moved, or none.

        Args:
            messages: The messages. The list is empty afterwards.
            after: The number of waiting messages that stay to the left of them.
        """
        place = min(after, len(self.messages))
        any(map(self.messages.insert, repeat(place), map(list.pop, repeat(messages, len(messages)))))
