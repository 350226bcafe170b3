"""The message that observers receive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Message"]


@dataclass(frozen=True, slots=True)
class Message:
    """A received message.

    Each observer gets a separate `value`, so changing it does not affect others.

    Attributes:
        topic: The Topic Name to which it was published.
        value: The payload, decoded by the codec of the subscription.
        payload: The received bytes.
        qos: The QoS of the delivery: 0, 1 or 2.
        retain: Whether it is a retained message, sent because of the subscription.
        dup: Whether the server may have delivered it before.
        provider: The name of the provider that delivered it.
    """

    topic: str
    value: Any
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    provider: str = ""
