"""Check the signature of an upgrade request as AWS IoT does, and refuse in AWS's words.

`SignatureCheck.examine` takes an upgrade request and gives the keys that signed it, or a refusal as AWS IoT words it: a
403 with `x-amzn-ErrorType`, a request id, the date, and a body of JSON. It knows no MQTT and opens nothing.

The one idea: what a client is sent and what the developer reads are two things.  The client gets "Forbidden", as
from AWS; the reason goes into the refusal's `reason`, for the log.  In the mode `explain` the client gets it too, and
it is no longer only what `sigv4.verify` found, but which mistake gives this very signature.

A signature is taken once.  That of two clients with the same keys is the same in the same second, though, since a
date has no fractions; so it is taken again for `replay_grace` seconds after its first use.
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
        reason: For the log: one line, without any secret, token or signature.
        code: The kind of mistake, one word.
        headers: Of the answer.
        body: Of the answer.
        status: Of the answer.
    """

    reason: str
    code: str
    headers: Sequence[tuple[str, str]] = field(repr=False)
    body: bytes = field(repr=False)
    status: int = 403


class SignatureCheck:
    """The check of signatures at the local endpoint.

    Args:
        ring: The keys that may sign.
        region: The region that must be signed for.
        skew: Seconds that a client's clock may be off; also how long a signature lives, whatever `X-Amz-Expires` says.
        explains: Whether the client is sent its mistake, and the mistake is searched for.
        refuse_replays: Whether a signature is taken only once.
        replay_grace: Seconds after the first use of a signature in which it is still taken; 0 or more.
        clock: Gives the time in seconds since 1970.
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
        # fingerprint -> when it was first used, and when the signature ends; the first used stands first
        self._seen: dict[str, tuple[float, float]] = {}

    def examine(self, method: str, target: str, headers: Sequence[tuple[str, str]]) -> Key | Forbidden:
        """Decide about an upgrade request by its signature.

        Args:
            method: Of the request.
            target: Path and query, as received.
            headers: As received.
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
        # The ring is shared: the key may have been forgotten since.
        return key if key is not None else self.forbid("the access key is not known here", "unknown_key")

    def forbid(self, reason: str, code: str) -> Forbidden:
        """Word a refusal.

        Args:
            reason: For the developer.
            code: The same as one word.
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
        """Note the use of a signature, and return whether it is one too many."""
        seen = self._seen.get(answer.fingerprint)
        if seen is not None:
            return now - seen[0] > self._replay_grace
        while self._seen and (len(self._seen) >= _MOST_SEEN or next(iter(self._seen.values()))[1] < now):
            del self._seen[next(iter(self._seen))]
        self._seen[answer.fingerprint] = (now, answer.valid_until.timestamp())
        return False
