"""The lifecycle messages of AWS IoT: a client has connected, or has disconnected, for which reason.

No I/O: this module makes topics and payloads; the local endpoint publishes them.

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
#: The version numbers of connections. AWS guarantees only that they increase; some may be skipped.
_versions = itertools.count()
#: The reasons by the class of the error; the first that matches.
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
        client_id: The client identifier.
        principal: The name of the principal.
        address: The client's IP address.
        clock: Returns the time in seconds since 1970.
    """

    def __init__(self, client_id: str, principal: str, address: str, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._client_id = client_id
        self._principal = principal
        self._address = address
        self._session = str(uuid.uuid4())
        self._version = next(_versions)

    def connected(self) -> tuple[str, bytes] | None:
        """Return the message that the client has connected; None for a client id that cannot be part of a topic."""
        return self._message("connected", {"ipAddress": self._address})

    def disconnected(self, error: MQTTError | None, reason: str = "") -> tuple[str, bytes] | None:
        """Return the message that the client has disconnected; None as for `connected`.

        Args:
            error: The error; None for the client's DISCONNECT.
            reason: AWS's name for the reason, if it does not follow from the error.
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
