"""A message that waits for an iteration."""

from __future__ import annotations

from pubsub.message import Message
from pubsub.receipt import Release

__all__ = ["MOST_WAITING", "Waiting"]

#: How many messages may wait for an iteration that is behind.
MOST_WAITING = 100


class Waiting:
    """A message that waits for an iteration, equal only to itself.

    Attributes:
        message: the message.
        release: called when it was taken; None at QoS 0.
    """

    __slots__ = ("message", "release")

    def __init__(self, message: Message, release: Release | None) -> None:
        self.message = message
        self.release = release
