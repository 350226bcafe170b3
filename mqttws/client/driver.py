"""The interface between the client's core and a driver: futures, callbacks, logging, and random numbers.

Time is not part of it: every method of the core that needs the time has an argument `now`.
"""

from __future__ import annotations

from collections.abc import Callable

from mqttws.client.endpoints import Endpoints
from mqttws.client.sent import F, HighWaterMark
from mqttws.hints import Any, Protocol


class Driver(Protocol[F]):
    """The interface of a driver for `Core`. F is its type of futures.

    Attributes:
        endpoints: The endpoints to connect to.
    """

    endpoints: Endpoints

    def make_future(self) -> F:
        """Return a new future."""

    def make_receipt(self, sent: HighWaterMark[F], token: int) -> F:
        """Return the future of a QoS 0 message."""

    def settle(self, futures: list[F], outcome: object) -> None:
        """Set the result or the exception of futures; skip cancelled ones."""

    def call_back(self, callback: Callable[[Any], object], argument: object) -> None:
        """Run a callback of the user. Log an exception that it raises."""

    def ask(self, question: Callable[[Any], bool], error: Exception) -> bool:
        """Return the answer of a user's function about an error. Log an exception in it, and return False then."""

    def log(self, level: int, message: tuple[Any, ...]) -> None:
        """Log a message with its arguments."""

    def packet_log(self) -> Callable[[str, str], None] | None:
        """Return a function that logs a line for a packet, given the client identifier; None if it is disabled."""

    def random(self) -> float:
        """Return a random number, uniformly distributed from 0 to 1."""

    def random_bytes(self, size: int) -> bytes:
        """Return random bytes."""
