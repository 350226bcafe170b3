"""When to try again, and whether: pure functions, with the random number as an argument.

The first attempt after a loss is made at once. From then on the wait is drawn evenly from 0 to a ceiling that
doubles from attempt to attempt ("full jitter"), so that clients which lost the same server spread out. Attempts
are counted on until a connection has been stable for a while: a server that accepts and closes at once is met
with growing patience.
"""

from __future__ import annotations

from dataclasses import dataclass

from mqttws.errors import (
    CertificateError,
    ConnectionRefused,
    HandshakeRejected,
    LocalProtocolError,
    SessionTakenOver,
    StoreError,
)

#: HTTP statuses that a later attempt may well change. All other refusals of the upgrade are fatal.
TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
#: CONNACK return codes that no later attempt changes: protocol level, client identifier, credentials, authorization.
FATAL_RETURN_CODES = frozenset({1, 2, 4, 5})


@dataclass(frozen=True, slots=True)
class Reconnect:
    """How a client reconnects.

    Attributes:
        initial: seconds, above 0; the ceiling of the wait before the second attempt.
        maximum: seconds; the ceiling never grows beyond.
        attempts: how many attempts are made in a row before giving up; None: no limit.
        stable_after: seconds a connection must last for the count to begin anew.
        takeovers: how many connections in a row that the server ends, within `stable_after` of accepting them, are
            taken to mean that another client uses the same client identifier; the client then gives up.
    """

    initial: float = 1.0
    maximum: float = 60.0
    attempts: int | None = None
    stable_after: float = 10.0
    takeovers: int = 5

    def __post_init__(self) -> None:
        if self.initial <= 0 or self.maximum < self.initial:
            raise ValueError(f"0 < initial <= maximum does not hold: initial={self.initial}, maximum={self.maximum}")
        if self.attempts is not None and self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}; it must be at least 1, or None for no limit")

    def delay(self, attempt: int, random: float) -> float | None:
        """Tell how long to wait before an attempt.

        Args:
            attempt: 0 for the first after a loss, 1 for the second, and so on.
            random: evenly distributed, 0 up to 1.

        Returns:
            Seconds; None where no further attempt is to be made.
        """
        if self.attempts is not None and attempt >= self.attempts:
            return None
        if attempt == 0:
            return 0.0
        return random * min(self.maximum, self.initial * 2.0 ** min(attempt - 1, 60))


def is_fatal(error: BaseException) -> bool:
    """Tell whether another attempt would meet the same error."""
    if isinstance(error, ConnectionRefused):
        return error.return_code in FATAL_RETURN_CODES
    if isinstance(error, HandshakeRejected):
        return error.status not in TRANSIENT_STATUSES
    return isinstance(error, (CertificateError, SessionTakenOver, LocalProtocolError, StoreError))
