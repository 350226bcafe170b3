"""A message as an observer gets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Message"]


@dataclass(frozen=True, slots=True)
class Message:
    """A message that has arrived.

    Each observer gets a `value` of its own: changing it disturbs nobody.

    Attributes:
        topic: the Topic Name it was published to.
        value: the payload, decoded by the codec of the subscription.
        payload: the bytes as they came.
        qos: at which it was delivered: 0, 1 or 2.
        retain: whether the server had kept it from before the subscription.
        dup: whether the server has sent it before, and may have delivered it.
        provider: the name of the provider that it came through.
    """

    topic: str
    value: Any
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    provider: str = ""
