"""A message that waits for an iteration, and how many places it takes.

What waits is bounded by its number and by its bytes in one: a message takes a place for itself and one for each
16 KiB of its payload, but never more than there are.
"""

from __future__ import annotations

from typing import Final

from pubsub.message import Message
from pubsub.receipt import Release

__all__ = ["PLACES", "Waiting"]

#: Places of an iteration that is behind.
PLACES: Final = 100
#: Bytes of payload for which a message takes another place.
BYTES_OF_PLACE: Final = 16 * 1024


class Waiting:
    """A message that waits for an iteration, equal only to itself.

    Attributes:
        message: The message.
        release: Called when it was taken; None at QoS 0.
        places: How many places it takes.
    """

    __slots__ = ("message", "places", "release")

    def __init__(self, message: Message, release: Release | None) -> None:
        self.message = message
        self.release = release
        self.places = min(PLACES, 1 + len(message.payload) // BYTES_OF_PLACE)
