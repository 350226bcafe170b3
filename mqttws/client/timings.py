"""How long each phase of connecting takes."""

from __future__ import annotations

from mqttws.client.value import Value


class Timings(Value):
    """The phases of making a connection, in seconds. A phase that was not needed is None.

    A phase ends when the bytes that complete it arrive, so each includes the waits of this process.

    Attributes:
        lookup: Looking up the addresses of the host's name.
        tcp: Making the TCP connection.
        proxy: Opening the tunnel of a proxy.
        tls: The TLS handshake.
        upgrade: From the upgrade request of HTTP to its answer.
        connack: From the CONNECT to the CONNACK.
    """

    __slots__ = __match_args__ = ("lookup", "tcp", "proxy", "tls", "upgrade", "connack")

    def __init__(
        self,
        lookup: float | None = None,
        tcp: float | None = None,
        proxy: float | None = None,
        tls: float | None = None,
        upgrade: float | None = None,
        connack: float | None = None,
    ) -> None:
        self.lookup = lookup
        self.tcp = tcp
        self.proxy = proxy
        self.tls = tls
        self.upgrade = upgrade
        self.connack = connack


class Stopwatch:
    """Measures the phases of one attempt, one after another.

    Args:
        now: The beginning of the first phase, in seconds.
    """

    __slots__ = ("_at", "_phases")

    def __init__(self, now: float) -> None:
        self._at = now
        self._phases: dict[str, float] = {}

    def end(self, phase: str, now: float) -> None:
        """End a phase, unless it has ended already. The next one begins now."""
        if phase not in self._phases:
            self._phases[phase] = now - self._at
            self._at = now

    def timings(self) -> Timings:
        """Return the phases that have ended."""
        return Timings(**self._phases)
