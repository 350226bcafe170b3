"""The queue entry of an iteration: a message, and the number of places that it occupies.

Counting places bounds both the number and the bytes of the waiting messages: a message occupies one place, and another
one for each 16 KiB of its payload, but never more than there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Final

from pubsub.message import Message
from pubsub.receipt import Release

__all__ = ["PLACES", "Waiting"]

#: The number of places in the queue of an iteration.
PLACES: Final = 100
#: Bytes of payload for which a message occupies another place.
BYTES_OF_PLACE: Final = 16 * 1024


class Waiting:
    """A message in the queue of an iteration. Compares by identity.

    Attributes:
        message: The message.
        release: Called when the message was processed; None at QoS 0.
        places: The number of places that it occupies.
        claim: An iterator of one step, for several threads or tasks that share the iteration: the one that makes the
            step gets the message. A `for` statement calls no function, so no signal handler runs between the step and
            the next statement.
        unfreed: An iterator with a step for each place that is not free again.
    """

    __slots__ = ("claim", "message", "places", "release", "unfreed")

    def __init__(self, message: Message, release: Release | None) -> None:
        self.message = message
        self.release = release
        self.places = min(PLACES, 1 + len(message.payload) // BYTES_OF_PLACE)
        self.claim: Iterator[None] = repeat(None, 1)
        self.unfreed: Iterator[None] = repeat(None, self.places)
