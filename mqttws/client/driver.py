"""What a client without waiting needs of its driver: futures, callbacks, the log, and randomness.

Time is not among it: every method that needs the time takes it as `now`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from mqttws.client.endpoints import Endpoints
from mqttws.client.sent import HighWaterMark

F = TypeVar("F")


class Driver(Protocol[F]):
    """A driver, as `Core` sees it. F is its kind of future.

    Attributes:
        endpoints: where it connects to.
    """

    endpoints: Endpoints

    def make_future(self) -> F:
        """Make a future."""

    def make_receipt(self, sent: HighWaterMark[F], token: int) -> F:
        """Make the future of a message of QoS 0."""

    def settle(self, futures: list[F], outcome: object) -> None:
        """Give futures their outcome, a result or an exception; one that was cancelled stays so."""

    def call_back(self, callback: Callable[[Any], object], argument: object) -> None:
        """Run a callback of the user. An exception in it is reported and stops nothing."""

    def report(self, callback: Callable[..., Any]) -> None:
        """Write to the log the exception that a callback has just raised."""

    def log(self, level: int, message: tuple[Any, ...]) -> None:
        """Write to the log: the message and its arguments."""

    def packet_log(self) -> Callable[[str, str], None] | None:
        """Return what writes a line for each packet, of the client identifier and the line; None for no such log."""

    def random(self) -> float:
        """Draw a number, evenly distributed from 0 up to 1."""

    def random_bytes(self, size: int) -> bytes:
        """Draw bytes."""
