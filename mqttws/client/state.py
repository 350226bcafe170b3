"""The states that a client reports."""

from __future__ import annotations

from mqttws.client.value import Value
from mqttws.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Literal

    StateName = Literal["connecting", "connected", "disrupted", "reconnecting", "disconnected"]


class State(Value):
    """The state of a client.

    Attributes:
        name: "connecting"; "connected"; "disrupted": the connection was lost or an attempt failed; "reconnecting":
            another attempt will be made; "disconnected": no further attempt will be made.
        error: With "disrupted" and "disconnected", the reason, or None after `close`; with "connected", a `SessionLost`
            if the server has lost a session that it should have kept.
        delay: With "reconnecting", seconds until the attempt.
        session_present: With "connected", whether the server had stored the session.
        endpoint: With "connected" and "disrupted", the host and the port; None if no attempt was made.
    """

    __slots__ = __match_args__ = ("name", "error", "delay", "session_present", "endpoint")

    def __init__(
        self,
        name: StateName,
        error: Exception | None = None,
        delay: float | None = None,
        session_present: bool | None = None,
        endpoint: str | None = None,
    ) -> None:
        self.name = name
        self.error = error
        self.delay = delay
        self.session_present = session_present
        self.endpoint = endpoint
