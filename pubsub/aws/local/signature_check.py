"""The check of the signature of an upgrade request, with the same response as AWS IoT for a refusal.

`SignatureCheck.examine` returns the keys with which an upgrade request is signed, or a refusal like that of AWS IoT: a
403 with `x-amzn-ErrorType`, a request id, the date, and a JSON body. It is independent of MQTT and does no I/O.

The client gets only "Forbidden", as from AWS; the reason is in the refusal's `reason`, for the log. In the mode
`explain` the client gets the reason, too. Then the reason is not only the result of `sigv4.verify`, but the mistake
that leads to exactly this signature.

A signature is accepted once. But two clients with the same keys make the same signature in the same second, because a
date has no fractions. So a signature is accepted again for `replay_grace` seconds after its first use.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate

from pubsub.aws.local.keyring import Key, KeyRing
from sigv4 import Credentials, Rejected, Verified, explain, verify

__all__ = ["Forbidden", "SignatureCheck"]

_ERROR_TYPE = "ForbiddenException"
_MOST_SEEN = 100_000


@dataclass(frozen=True, slots=True)
class Forbidden:
    """A refusal.

    Args:
        reason: One line for the log, without any secret, token or signature.
        code: The kind of mistake, one word.
        headers: The headers of the response.
        body: The body of the response.
        status: The status of the response.
    """

    reason: str
    code: str
    headers: Sequence[tuple[str, str]] = field(repr=False)
    body: bytes = field(repr=False)
    status: int = 403


class SignatureCheck:
    """The check of signatures at the local endpoint.

    Args:
        ring: The accepted keys.
        region: The region that signatures must have.
        skew: Seconds by which a client's clock may be off; also the maximum validity of a signature, regardless of
            `X-Amz-Expires`.
        explains: Whether to find the mistake and send it to the client.
        refuse_replays: Whether a signature is accepted only once.
        replay_grace: Seconds after the first use of a signature in which it is still accepted; 0 or more.
        clock: Returns the time in seconds since 1970.
    """

    def __init__(
        self,
        ring: KeyRing,
        region: str,
        *,
        skew: float = 300.0,
        explains: bool = False,
        refuse_replays: bool = True,
        replay_grace: float = 2.0,
        clock: Callable[[], float],
    ) -> None:
        self._ring = ring
        self._region = region
        self._skew = skew
        self._explains = explains
        self._refuse_replays = refuse_replays
        self._replay_grace = replay_grace
        self._clock = clock
        # fingerprint -> the time of its first use, and the expiry of the signature; in the order of first use
        self._seen: dict[str, tuple[float, float]] = {}

    def examine(self, method: str, target: str, headers: Sequence[tuple[str, str]]) -> Key | Forbidden:
        """Check the signature of an upgrade request.

        Args:
            method: The method of the request.
            target: Path and query, as received.
            headers: The headers, as received.

        Returns:
            The keys that signed it, or a refusal.
        """
        now = self._clock()
        arrived = datetime.fromtimestamp(now, UTC)

        def lookup(access_key: str) -> Credentials | None:
            key = self._ring.find(access_key)
            return None if key is None else key.credentials

        skew, region = self._skew, self._region
        answer = verify(method, target, headers, lookup=lookup, now=arrived, skew=skew, longest=skew, region=region)
        if isinstance(answer, Rejected):
            reason, code = answer.reason, answer.code
            if self._explains:
                found = explain(
                    method, target, headers, lookup=lookup, now=arrived, skew=skew, longest=skew, region=region
                )
                reason, code = found.sentence, found.code
            return self.forbid(reason, code)
        if self._refuse_replays and self._is_replayed(answer, now):
            return self.forbid("the signed URL was used before; sign a new one for each connection", "replayed")
        key = self._ring.find(answer.access_key)
        # The ring is shared, so the key may have been removed in the meantime.
        return key if key is not None else self.forbid("the access key is unknown", "unknown_key")

    def forbid(self, reason: str, code: str) -> Forbidden:
        """Return a refusal.

        Args:
            reason: The reason, for the developer.
            code: The reason as one word.
        """
        request_id = str(uuid.uuid4())
        body = {"message": reason if self._explains else "Forbidden", "traceId": request_id}
        if self._explains:
            body["reason"] = code
        headers = (
            ("Content-Type", "application/json"),
            ("Date", formatdate(self._clock(), usegmt=True)),
            ("x-amzn-RequestId", request_id),
            ("x-amzn-ErrorType", _ERROR_TYPE),
        )
        return Forbidden(reason, code, headers, json.dumps(body).encode())

    def _is_replayed(self, answer: Verified, now: float) -> bool:
        """Record the use of a signature. Return whether it was used before, longer ago than `replay_grace`."""
        seen = self._seen.get(answer.fingerprint)
        if seen is not None:
            return now - seen[0] > self._replay_grace
        while self._seen and (len(self._seen) >= _MOST_SEEN or next(iter(self._seen.values()))[1] < now):
            del self._seen[next(iter(self._seen))]
        self._seen[answer.fingerprint] = (now, answer.valid_until.timestamp())
        return False
