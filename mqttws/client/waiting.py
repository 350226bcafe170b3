"""`Waiting`, the size of a client's queue. It is imported on first use, because it needs `typing`."""

from __future__ import annotations

from typing import NamedTuple


class Waiting(NamedTuple):
    """The queue of messages that are not sent yet.

    Attributes:
        messages: The number of queued messages; messages in flight are not included.
        size: The bytes of topics and payloads; for QoS 0, of whole packets.
        oldest: For how many seconds the oldest message has waited.
    """

    messages: int
    size: int
    oldest: float
