"""The lifecycle messages of AWS IoT: who has connected, who has disconnected, and why.

Pure: a connection goes in, a topic and a payload come out.  The local endpoint publishes them.

Spec: "Lifecycle events" in the AWS IoT Core developer guide.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable

from mqttws import (
    AccessDenied,
    ConnectionClosed,
    KeepAliveTimeout,
    LimitExceeded,
    MQTTError,
    ProtocolError,
    SessionTakenOver,
)

__all__ = ["Presence", "disconnect_reason"]

_PREFIX = "$aws/events/presence/"
#: A version is given to each connection of the endpoint.  AWS promises only that they grow, and may skip some.
_versions = itertools.count()
#: The first that fits.
_REASONS: tuple[tuple[type[MQTTError], str], ...] = (
    (KeepAliveTimeout, "MQTT_KEEP_ALIVE_TIMEOUT"),
    (SessionTakenOver, "DUPLICATE_CLIENTID"),
    (AccessDenied, "AUTH_ERROR"),
    (LimitExceeded, "CLIENT_ERROR"),
    (ProtocolError, "CLIENT_ERROR"),
)


def disconnect_reason(error: MQTTError | None) -> str:
    """Return AWS's name for the reason why a connection ended; None stands for the client's DISCONNECT."""
    if error is None or (isinstance(error, ConnectionClosed) and error.code == 1000):
        return "CLIENT_INITIATED_DISCONNECT"
    return next((name for kind, name in _REASONS if isinstance(error, kind)), "CONNECTION_LOST")


class Presence:
    """The lifecycle messages of one connection.

    Args:
        client_id: Its client id.
        principal: Its principal.
        address: The IP address that it comes from.
        clock: Gives the time in seconds since 1970.
    """

    def __init__(self, client_id: str, principal: str, address: str, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._client_id = client_id
        self._principal = principal
        self._address = address
        self._session = str(uuid.uuid4())
        self._version = next(_versions)

    def connected(self) -> tuple[str, bytes] | None:
        """Return the message that it has connected; None for a client id that no topic can end with."""
        return self._message("connected", {"ipAddress": self._address})

    def disconnected(self, error: MQTTError | None, reason: str = "") -> tuple[str, bytes] | None:
        """Return the message that it has disconnected; None as above.

        Args:
            error: Why; None for the client's DISCONNECT.
            reason: AWS's name for the reason, where the error does not show it.
        """
        reason = reason or disconnect_reason(error)
        by_client = reason == "CLIENT_INITIATED_DISCONNECT"
        return self._message("disconnected", {"clientInitiatedDisconnect": by_client, "disconnectReason": reason})

    def _message(self, event: str, more: dict[str, object]) -> tuple[str, bytes] | None:
        if "+" in self._client_id or "#" in self._client_id:
            return None
        payload = {
            "clientId": self._client_id,
            "timestamp": int(self._clock() * 1000),
            "eventType": event,
            "sessionIdentifier": self._session,
            "principalIdentifier": self._principal,
            **more,
            "versionNumber": self._version,
        }
        return f"{_PREFIX}{event}/{self._client_id}", json.dumps(payload).encode()
