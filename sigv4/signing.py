"""Stages 2 and 3: the string to sign, the signing key, and the signature.

This module handles dates, scopes and HMAC. It does not depend on the form of a request.

A signature takes six hashes, and those that are the same for every request are computed once: a `SigningKey` holds the
two SHA-256 states of HMAC after the key, and signing starts from copies of them. Keys are kept in a bounded cache, by
secret, day, region and service.
"""

from __future__ import annotations

import hmac
import re
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256

from .errors import SigningError

__all__ = [
    "ALGORITHM",
    "EMPTY_SHA256",
    "KEYS_CACHED",
    "TERMINATOR",
    "UNSIGNED_PAYLOAD",
    "SigningKey",
    "amz_date",
    "check_scope",
    "signing_key",
    "string_to_sign",
]

ALGORITHM = "AWS4-HMAC-SHA256"
TERMINATOR = "aws4_request"
EMPTY_SHA256 = sha256(b"").hexdigest()
"""The payload hash of an empty body."""
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
"""Replaces the payload hash for services that accept an unsigned body."""
KEYS_CACHED = 128

#: Each number below 100 in two digits: a third of the time that formatting takes.
_TWO = tuple(f"{number:02}" for number in range(100))
_BLOCK = 64  # bytes: the block size of SHA-256, to which HMAC pads its key
_INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))
_is_scope_part = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]*").fullmatch


def amz_date(now: datetime) -> str:
    """Format an aware time as `YYYYMMDDTHHMMSSZ` in UTC; its first eight characters are the day.

    Raises:
        SigningError: `now` is not a datetime, or has no time zone.
    """
    if not isinstance(now, datetime):
        raise SigningError(f"now: expected an aware datetime, got {type(now).__name__}")
    if now.tzinfo is not UTC:
        if now.utcoffset() is None:
            raise SigningError("now: expected an aware datetime, got one without a time zone; use datetime.now(UTC)")
        now = now.astimezone(UTC)
    year = now.year
    return (
        f"{_TWO[year // 100]}{_TWO[year % 100]}{_TWO[now.month]}{_TWO[now.day]}"
        f"T{_TWO[now.hour]}{_TWO[now.minute]}{_TWO[now.second]}Z"
    )


class SigningKey:
    """A key for one day, region and service, ready to sign.

    Attributes:
        scope: The credential scope, `day/region/service/aws4_request`.
        encoded_scope: The same, percent-encoded.
        inner: The inner SHA-256 state of HMAC after the key. Copy it; never update it.
        outer: The outer SHA-256 state, likewise.
    """

    __slots__ = ("encoded_scope", "inner", "outer", "scope")

    def __init__(self, key: bytes, scope: str) -> None:
        block = key.ljust(_BLOCK, b"\0")
        self.scope = scope
        self.encoded_scope = scope.replace("/", "%2F")
        self.inner = sha256(block.translate(_INNER_PAD))
        self.outer = sha256(block.translate(_OUTER_PAD))

    def __repr__(self) -> str:
        return f"SigningKey(<hidden>, scope={self.scope!r})"

    def sign(self, message: str) -> str:
        """Return the signature of a string to sign, 64 lower-case hexadecimal digits."""
        inner = self.inner.copy()
        inner.update(message.encode())
        outer = self.outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest()


def check_scope(region: object, service: object) -> None:
    """Check a region and a service.

    Raises:
        SigningError: One contains a character other than letters, digits, `.`, `_` and `-`.
    """
    for name, value in (("region", region), ("service", service)):
        if not isinstance(value, str) or not _is_scope_part(value):
            seen = repr(value[:40]) if isinstance(value, str) else type(value).__name__
            raise SigningError(f"{name}: expected letters, digits and hyphens, as in 'us-east-1', got {seen}")


@lru_cache(maxsize=KEYS_CACHED)
def signing_key(secret_key: str, day: str, region: str, service: str) -> SigningKey:
    """Derive the signing key: HMAC of the secret over the day, the region, the service and the terminator in turn.

    Args:
        secret_key: The secret access key.
        day: `YYYYMMDD`, in UTC.
        region: For example `eu-west-1`.
        service: For example `iotdevicegateway`.

    Raises:
        SigningError: The region or the service is not valid.
    """
    check_scope(region, service)
    key = b"AWS4" + secret_key.encode()
    for part in (day, region, service, TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return SigningKey(key, f"{day}/{region}/{service}/{TERMINATOR}")


def string_to_sign(stamp: str, scope: str, canonical_request: bytes) -> str:
    """Return the string to sign: the algorithm, the date, the scope and the canonical request's hash."""
    return f"{ALGORITHM}\n{stamp}\n{scope}\n{sha256(canonical_request).hexdigest()}"
