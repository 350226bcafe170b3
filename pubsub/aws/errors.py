"""The errors of AWS IoT: each is also the corresponding error of `mqttws`, with the reason for the refusal.

    MQTTError                                   (of mqttws)
      AWSIoTError(reason)
        UpgradeRefused        and HandshakeRejected    the upgrade was answered with 403 or 429
        ConnectRefused        and ConnectionRefused    the CONNECT was refused
        ConnectionCut         and ConnectionClosed     AWS IoT has closed the connection
        PublishRefused        and PublishRejected      AWS IoT closes the connection because of this message
        SubscribeRefused      and SubscribeRejected    ... or because of this Topic Filter, or refuses it
        BeyondLimit           and ValueError           a message was not sent: AWS IoT would close the connection

`Reason` is for programs; the message describes the cause and the remedy. AWS IoT itself gives little information: a 403
with "Forbidden" can have several causes. The cause is inferred from the date of the response, its error type and the
expiry of the credentials. The local endpoint, in its mode `explain`, reports the exact mistake.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from enum import StrEnum
from typing import Any

from mqttws import (
    AccessDenied,
    ConnectionClosed,
    ConnectionRefused,
    HandshakeRejected,
    LimitExceeded,
    MQTTError,
    PublishRejected,
    SubscribeRejected,
)
from pubsub.aws.corrected_clock import CorrectedClock, read_date

__all__ = [
    "AWSIoTError",
    "BeyondLimit",
    "ConnectRefused",
    "ConnectionCut",
    "PublishRefused",
    "Reason",
    "SubscribeRefused",
    "UpgradeRefused",
    "explain_error",
]

_POLICY_VIOLATION = 1008  # a WebSocket close code. Spec: RFC 6455 §7.4.1
#: The codes of the local endpoint and of `sigv4.explain` that concern expiry.
_EXPIRED_CODES = frozenset({"credentials_expired", "expired"})
_MAYBE_SECRET = re.compile(r"[A-Za-z0-9+/=%_]{20,}")


class Reason(StrEnum):
    """The reason for a refusal by AWS IoT."""

    CLOCK = "clock"
    EXPIRED_TOKEN = "expired_token"  # noqa: S105 - a reason
    SIGNATURE = "signature"
    POLICY = "policy"
    LIMIT = "limit"


class AWSIoTError(MQTTError):
    """AWS IoT refused something.

    Attributes:
        reason: The reason.
    """

    reason: Reason


class UpgradeRefused(AWSIoTError, HandshakeRejected):
    """The upgrade was refused.

    Attributes:
        request_id: AWS's id of the request, for AWS support; None if there was none.
    """

    def __init__(self, error: HandshakeRejected, reason: Reason, detail: str) -> None:
        super().__init__(error.status, error.headers, error.body, detail)
        self.reason = reason
        self.request_id = dict(error.headers).get("x-amzn-requestid")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (HandshakeRejected(self.status, self.headers, self.body), self.reason, self.detail)

    def __str__(self) -> str:
        return f"AWS IoT refused the connection ({self.reason}, HTTP {self.status}): {self.detail}"

    def __repr__(self) -> str:
        return f"UpgradeRefused(status={self.status}, reason={self.reason.value!r}, detail={self.detail!r})"


class ConnectRefused(AWSIoTError, ConnectionRefused):
    """The CONNECT was refused."""

    def __init__(self, error: ConnectionRefused, reason: Reason, detail: str) -> None:
        super().__init__(error.return_code)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (ConnectionRefused(self.return_code), self.reason, self.detail)

    def __str__(self) -> str:
        return f"AWS IoT refused the connection ({self.reason}, return code {self.return_code}): {self.detail}"


class ConnectionCut(AWSIoTError, ConnectionClosed):
    """AWS IoT has closed the connection because of something that the client did."""

    def __init__(self, error: ConnectionClosed, reason: Reason, detail: str) -> None:
        super().__init__(detail, error.code, error.close_reason)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (ConnectionClosed(self.message, self.code, self.close_reason), self.reason, self.message)

    def __str__(self) -> str:
        return f"AWS IoT closed the connection ({self.reason}): {super().__str__()}"


class PublishRefused(AWSIoTError, PublishRejected):
    """AWS IoT closed the connection because of this message. It is not sent again; all others are."""

    def __init__(self, error: PublishRejected, reason: Reason, detail: str) -> None:
        super().__init__(error.topic, error.size)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (PublishRejected(self.topic, self.size), self.reason, self.detail)

    def __str__(self) -> str:
        return f"AWS IoT refused the message to {self.topic!r} ({self.reason}): {self.detail}"


class SubscribeRefused(AWSIoTError, SubscribeRejected):
    """AWS IoT refused this Topic Filter, or closed the connection because of it. All others stay subscribed."""

    def __init__(self, error: SubscribeRejected, reason: Reason, detail: str) -> None:
        super().__init__(error.topic_filter, error.closes)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (SubscribeRejected(self.topic_filter, self.closes), self.reason, self.detail)

    def __str__(self) -> str:
        return f"AWS IoT refused the subscription to {self.topic_filter!r} ({self.reason}): {self.detail}"


class BeyondLimit(AWSIoTError, ValueError):
    """The message exceeds a limit of AWS IoT, which would close the connection. It was not sent."""

    reason = Reason.LIMIT


def explain_error(
    error: Exception,
    *,
    clock: CorrectedClock,
    ends: datetime | None,
    client_id: str | None,
    last_asked: tuple[str, str] | None = None,
    last_cut: ConnectionCut | None = None,
) -> Exception:
    """Return an explanation of an error of a connection to AWS IoT; the error itself if there is none.

    Args:
        error: The error of the client.
        clock: The corrected clock.
        ends: The expiry of the credentials that were used, by AWS's clock; None if there is none, or it is unknown.
        client_id: The client id of the connection, if known.
        last_asked: The kind and the topic of the last publish or subscription; None if there was none.
        last_cut: The result of an earlier call for the end of a connection; None if there was none.
    """
    if isinstance(error, AWSIoTError):
        return error
    if isinstance(error, HandshakeRejected):
        return _explain_upgrade(error, clock, ends)
    if isinstance(error, ConnectionRefused) and error.return_code == 5:
        client = f"the client id {client_id!r}" if client_id else "this client"
        return ConnectRefused(error, Reason.POLICY, f"no policy allows iot:Connect for {client}, or a custom "
                              "authorizer refused it; check the policies of the role and those attached to the "
                              "identity")  # fmt: skip
    if isinstance(error, ConnectionRefused) and error.return_code == 2:
        return ConnectRefused(
            error, Reason.LIMIT, "the client id is not valid: it must have at most 128 bytes and not begin with '$'"
        )
    if isinstance(error, (PublishRejected, SubscribeRejected)):
        return _explain_refusal(error, last_cut)
    if isinstance(error, ConnectionClosed) and (
        isinstance(error, (AccessDenied, LimitExceeded)) or error.code == _POLICY_VIOLATION
    ):
        return _explain_cut(error, last_asked)
    return error


def _explain_cut(error: ConnectionClosed, last_asked: tuple[str, str] | None) -> ConnectionCut:
    said = _without_secrets(error.close_reason)
    if said:  # by the local endpoint, in its mode `explain`
        limited = isinstance(error, LimitExceeded) or _names_a_limit(said)
        return ConnectionCut(error, Reason.LIMIT if limited else Reason.POLICY, said)
    last = f"{last_asked[0]} {last_asked[1][:100]!r}" if last_asked else "the last request"
    if isinstance(error, LimitExceeded):
        return ConnectionCut(error, Reason.LIMIT, f"{last} probably exceeds a limit")
    return ConnectionCut(
        error,
        Reason.POLICY,
        f"{last} was probably the cause: it is within the known limits, so most likely no policy allows it; check the "
        "policies of the role and those attached to the identity",
    )


def _explain_refusal(error: PublishRejected | SubscribeRejected, last_cut: ConnectionCut | None) -> Exception:
    topic = error.topic if isinstance(error, PublishRejected) else error.topic_filter
    cut = last_cut if last_cut is not None and last_cut.close_reason else None
    if cut is not None and ("iot:" not in cut.close_reason or f"/{topic}'" in cut.close_reason):
        reason, detail = cut.reason, cut.message
    elif isinstance(error, PublishRejected):
        reason, detail = Reason.POLICY, "most likely no policy allows iot:Publish (or iot:RetainPublish) on this topic"
    else:  # the provider refuses a subscription beyond the limit before it is sent, so a limit is not the reason
        reason, detail = Reason.POLICY, "most likely no policy allows iot:Subscribe on this Topic Filter"
    if isinstance(error, PublishRejected):
        return PublishRefused(error, reason, detail)
    return SubscribeRefused(error, reason, detail)


def _names_a_limit(said: str) -> bool:
    """Return whether a reason that the local endpoint gives is a limit: if it is a policy, it contains an action."""
    return "iot:" not in said


def _explain_upgrade(error: HandshakeRejected, clock: CorrectedClock, ends: datetime | None) -> Exception:
    if error.status == 429:
        return UpgradeRefused(error, Reason.LIMIT, "there were too many attempts to connect; the next delay is longer")
    if error.status != 403:
        return error
    headers = dict(error.headers)
    date = read_date(headers.get("date"))
    code, message = _read_body(error.body)
    if code == "clock" or (date is not None and clock.is_off(date)):
        off = f"by {abs(clock.off_by(date)):.0f} s " if date is not None else ""
        return UpgradeRefused(
            error, Reason.CLOCK, f"this machine's clock differs {off}from that of AWS IoT; set it, preferably by NTP"
        )
    kind = headers.get("x-amzn-errortype", "").partition(":")[0]
    now = date if date is not None else clock.now()
    if code in _EXPIRED_CODES or "expired" in (message + kind).lower() or (ends is not None and ends <= now):
        said = _without_secrets(message) if code else "the credentials have expired; fetch new ones"
        return UpgradeRefused(error, Reason.EXPIRED_TOKEN, said)
    if code:
        return UpgradeRefused(error, Reason.SIGNATURE, _without_secrets(message))
    return UpgradeRefused(
        error,
        Reason.SIGNATURE,
        "the signature was not accepted: the access key, the secret key, the session token or the region is wrong",
    )


def _read_body(body: bytes) -> tuple[str, str]:
    """Return the reason's code, which only the local endpoint sends, in its mode `explain`; and the message."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(given, dict):
        return "", ""
    code, message = given.get("reason"), given.get("message")
    return (code if isinstance(code, str) else ""), (message if isinstance(message, str) else "")


def _without_secrets(message: str) -> str:
    """Remove anything that can be a key, a token or a signature, because a server can repeat what it received."""
    return _MAYBE_SECRET.sub("...", message[:500])
