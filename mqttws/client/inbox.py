"""The received messages that wait for the program, and their size in bytes.

Threads take messages without a lock, by `messages.popleft()`. So the bytes are not counted for each message, but for
all messages of one read: they count until the last message of that read is taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from mqttws.codec.publishing import Publish

#: Bytes that a message takes beside its topic and its payload: the objects that hold it.
OVERHEAD: Final = 400


class Inbox:
    """The messages that wait for the program.

    Attributes:
        messages: in order.
    """

    def __init__(self) -> None:
        self.messages: deque[Publish] = deque()
        self._came = 0
        self._reads: deque[tuple[int, int]] = deque()  # how many had come by the end of a read, and its bytes
        self._size = 0

    def note(self, count: int, size: int) -> None:
        """Note that messages were added.

        Args:
            count: how many.
            size: bytes of the network that brought them.
        """
        size += count * OVERHEAD
        self._came += count
        self._size += size
        self._reads.append((self._came, size))

    def size(self) -> int:
        """Return how many bytes the messages hold that wait, at most. Only the owner asks."""
        reads, taken = self._reads, self._came - len(self.messages)
        while reads and reads[0][0] <= taken:
            self._size -= reads.popleft()[1]
        return self._size

    def give_back(self, messages: Sequence[Publish], after: int = 0) -> None:
        """Take back messages that were taken, to be the first again, in order; or the next after the first few."""
        for place, message in enumerate(messages, after):
            self.messages.insert(place, message)
