"""The states of a connection, with Amplify's names, and the changes of state.

A driver reports five states; Amplify has eight. They correspond as follows::

    driver          Amplify
    connecting      Connecting
    connected       Connected
    disrupted,      ConnectionDisrupted; ConnectionDisruptedPendingNetwork where the server could not be reached
    reconnecting    at all (no name, no route, no answer) rather than having refused or closed
    disconnected    Disconnected
    (`close` was called, the connection still stands)    ConnectedPendingDisconnect

`ConnectedPendingNetwork` and `ConnectedPendingKeepAlive` are included for completeness, but never reported. In Amplify
they result from a browser's "offline" event and from an unanswered ping; here the latter is a `KeepAliveTimeout` and so
`ConnectionDisrupted`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mqttws import CertificateError, ConnectError, ConnectionRefused, HandshakeRejected, State

__all__ = ["ConnectionState", "ConnectionStateChange"]


class ConnectionState(StrEnum):
    """The state of a connection. Each equals its name as a `str`."""

    CONNECTED = "Connected"
    CONNECTED_PENDING_NETWORK = "ConnectedPendingNetwork"
    CONNECTION_DISRUPTED = "ConnectionDisrupted"
    CONNECTION_DISRUPTED_PENDING_NETWORK = "ConnectionDisruptedPendingNetwork"
    CONNECTING = "Connecting"
    CONNECTED_PENDING_DISCONNECT = "ConnectedPendingDisconnect"
    DISCONNECTED = "Disconnected"
    CONNECTED_PENDING_KEEP_ALIVE = "ConnectedPendingKeepAlive"


@dataclass(frozen=True, slots=True)
class ConnectionStateChange:
    """A change of the state of one provider's connection.

    Attributes:
        provider: The name of the provider.
        state: The state now.
        previous: The state before.
        reason: The exception after a failure, with the close `code`, the HTTP `status` or the `return_code`; otherwise
            None.
    """

    provider: str
    state: ConnectionState
    previous: ConnectionState
    reason: Exception | None = None


_BY_NAME = {
    "connecting": ConnectionState.CONNECTING,
    "connected": ConnectionState.CONNECTED,
    "disconnected": ConnectionState.DISCONNECTED,
}


def connection_state(state: State, last_error: Exception | None) -> ConnectionState:
    """Return the Amplify state for a driver's state.

    Args:
        state: The state of the driver.
        last_error: The error of the last connection or attempt.
    """
    if state.name in _BY_NAME:
        return _BY_NAME[state.name]
    answered = isinstance(last_error, (HandshakeRejected, ConnectionRefused, CertificateError))
    if isinstance(last_error, ConnectError) and not answered:
        return ConnectionState.CONNECTION_DISRUPTED_PENDING_NETWORK
    return ConnectionState.CONNECTION_DISRUPTED
