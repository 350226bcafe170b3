"""Verification: check that a request is signed with the key that it names, for this service, and at this time.

`verify` returns `Verified` or `Rejected` and never raises, because anyone can send it any request. It rejects a
request that it cannot read, and every request while its own configuration is wrong.

It canonicalises the request as received and signs it again, so two requests are equal to `verify` if their canonical
requests are equal. The following make no difference, because they do not change the meaning: the order of parameters,
unnecessary or lower-case escapes in the query, `+` for a space, empty pairs (`&&`) and, where the path is normalised,
`//` and `/./`. Any other change, even of one character, is rejected. The signature itself has one spelling,
lower-case hexadecimal, and a session token is compared after percent-decoding.

A `+` in a query is a space, as in AWS and botocore. AWS's C library, and `sign_headers` here, sign it as a plus sign;
such a signature is accepted as well.

The checks are, in order: form, scope, time, key, token, signature. Secrets are compared in constant time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from hmac import compare_digest
from typing import Final, Literal, TypeAlias

from . import canonical as c
from .claims import Claim, Refusal, read_claim
from .credentials import CredentialsLike
from .errors import SigningError
from .signing import EMPTY_SHA256, signing_key, string_to_sign

__all__ = ["IOT_SERVICES", "Lookup", "Rejected", "Verified", "verify"]

IOT_SERVICES: Final = ("iotdevicegateway", "iotdata")
"""The signing names that clients of AWS IoT's message broker use: the newer and the older one."""

_END = datetime.max.replace(tzinfo=UTC)

Lookup: TypeAlias = Callable[[str], CredentialsLike | None]
"""Returns the credentials of an access key; returns None, or raises `LookupError`, if the key is unknown."""


@dataclass(frozen=True, slots=True)
class Verified:
    """The request is signed by the holder of `access_key`.

    Attributes:
        access_key: The access key that signed.
        region: The region of the signature.
        service: The service of the signature.
        date: The aware time of signing.
        valid_until: The aware time after which the same request is refused; the last one that a `datetime` can have if
            it is never refused.
        signed_headers: The headers that the signature covers.
        fingerprint: The SHA-256 of the signature, which identifies it in a replay cache or a log without revealing it.
    """

    access_key: str
    region: str
    service: str
    date: datetime
    valid_until: datetime
    signed_headers: tuple[str, ...]
    fingerprint: str

    def __bool__(self) -> Literal[True]:
        return True


@dataclass(frozen=True, slots=True)
class Rejected:
    """The request is refused. A `Rejected` is false as a condition.

    Attributes:
        reason: One sentence, without any secret, token or signature.
        code: The kind of mistake, for programs: `clock`, `expired`, `token_wrong`, `signature`, …
    """

    reason: str
    code: str = "signature"

    def __bool__(self) -> Literal[False]:
        return False


def verify(
    method: str | bytes,
    target: str | bytes,
    headers: c.HeadersLike,
    body_hash: str = EMPTY_SHA256,
    *,
    lookup: Lookup,
    now: datetime,
    skew: float = 300,
    longest: float | None = None,
    services: Collection[str] | None = IOT_SERVICES,
    region: str | None = None,
    sign_token: bool = False,
    normalize_path: bool = True,
    double_encode: bool = True,
) -> Verified | Rejected:
    """Verify a request that is signed in its query or in its `Authorization` header. Never raise.

    Args:
        method: The HTTP method, as received.
        target: `path?query`, as received.
        headers: The headers, as received: a mapping or pairs.
        body_hash: The SHA-256 of the received body in lower-case hexadecimal; by default that of an empty body.
        lookup: Returns the credentials of an access key; returns None, or raises `LookupError`, if the key is unknown.
        now: The aware time of arrival.
        skew: Seconds by which the client's clock may differ, 0 or more; also how long a signature without
            `X-Amz-Expires` is valid. `math.inf` sets no limit.
        longest: Maximum seconds that a signature is valid, 0 or more, whatever its `X-Amz-Expires` (300 at AWS IoT);
            None sets no maximum.
        services: The accepted services; None accepts all.
        region: The accepted region; None accepts all.
        sign_token: Whether the signature covers a session token in the query. AWS IoT's does not.
        normalize_path: Whether to resolve empty, `.` and `..` segments first. False for S3.
        double_encode: Whether to percent-encode the path once more. False for S3.

    Returns:
        `Verified`, which is true as a condition, or `Rejected`, which is false.

    Examples:
        >>> from datetime import UTC, datetime
        >>> from sigv4 import Credentials, presign, verify
        >>> now = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
        >>> headers = {"Host": "example.iot.eu-west-1.amazonaws.com"}
        >>> keys = {"AKIDEXAMPLE": Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")}
        >>> signed = presign(
        ...     "GET",
        ...     "/mqtt",
        ...     headers=headers,
        ...     credentials=keys["AKIDEXAMPLE"],
        ...     region="eu-west-1",
        ...     service="iotdevicegateway",
        ...     now=now,
        ... )
        >>> print(verify("GET", signed.target, headers, lookup=keys.get, now=now).access_key)
        AKIDEXAMPLE
        >>> print(verify("GET", signed.target, {"Host": "other.example"}, lookup=keys.get, now=now).code)
        signature
    """
    try:
        claim = read_claim(method, target, headers)
        _check_scope(claim, services, region)
        valid_until = _check_time(claim, now, skew, longest)
        _check_x_amz_signed(claim)
        credentials = find_credentials(claim, lookup, now)
        key = signing_key(credentials.secret_key, claim.day, claim.region, claim.service)

        def fits(pairs: list[tuple[str, str]]) -> bool:
            request = _expected_request(claim, pairs, body_hash, sign_token, normalize_path, double_encode)
            expected = key.sign(string_to_sign(claim.stamp, claim.scope, c.utf8(request)))
            return compare_digest(expected, claim.signature)

        # botocore sends a space as `+` and signs %20; the C SDK, and `sign_headers`, sign a sent `+` as %2B.
        if not fits(claim.pairs) and (claim.plus_pairs is None or not fits(claim.plus_pairs)):
            return Rejected("the signature does not match this request and this key", "signature")
    except Refusal as refusal:
        return Rejected(str(refusal), refusal.code)
    except SigningError as error:
        return Rejected(f"the request cannot be read: {error}", "malformed")
    except Exception as error:  # fail closed: an error in `lookup` or in an argument must not admit the request
        return Rejected(f"the request could not be verified: {type(error).__name__} in the verifier's setup", "setup")
    return Verified(
        access_key=claim.access_key,
        region=claim.region,
        service=claim.service,
        date=claim.date,
        valid_until=valid_until,
        signed_headers=claim.signed_headers,
        fingerprint=sha256(claim.signature.encode()).hexdigest(),
    )


def _expected_request(
    claim: Claim,
    pairs: list[tuple[str, str]],
    body_hash: str,
    sign_token: bool,
    normalize_path: bool,
    double_encode: bool,
) -> str:
    """Return the canonical request that the client should have signed."""
    return c.canonical_request(
        claim.method,
        c.canonical_uri(claim.path, normalize_path, double_encode),
        c.canonical_query(pairs + claim.token_pairs if sign_token else pairs),
        c.canonical_headers(claim.fields, claim.signed_headers),
        ";".join(claim.signed_headers),
        body_hash,
    )


def _check_scope(claim: Claim, services: Collection[str] | None, region: str | None) -> None:
    if region is not None and claim.region != region:
        raise Refusal("region", f"expected a signature for the region {region}, got one for {claim.region[:40]!r}")
    if services is not None and claim.service not in services:
        wanted = " or ".join(services)
        raise Refusal("service", f"expected a signature for the service {wanted}, got one for {claim.service[:40]!r}")


def _check_time(claim: Claim, now: datetime, skew: float, longest: float | None) -> datetime:
    """Check the date against the clock; return the time until which the signature is valid."""
    for name, value in (("skew", skew), ("longest", longest)):
        if value is not None and not value >= 0:  # nor NaN, with which every comparison below would be false
            raise Refusal(
                "setup", f"the request could not be verified: {name} is {value}; it must be 0 or more seconds"
            )
    ahead = (claim.date - now).total_seconds()
    if ahead > skew or (claim.expires is None and -ahead > skew):
        side = "ahead of" if ahead > 0 else "behind"
        raise Refusal(
            "clock",
            f"the client's clock is off, or the URL is old: signed at {claim.stamp}, {duration(abs(ahead))} {side} "
            f"the server's clock, which allows {duration(skew)}",
        )
    life = skew if claim.expires is None else claim.expires
    allowed = life if longest is None else min(life, longest)
    try:
        valid_until = claim.date + timedelta(seconds=allowed)
    except OverflowError:  # it is infinite, or the calendar ends before it
        valid_until = _END
    if now > valid_until:
        bound = "" if allowed == life else f", limited to {duration(allowed)} here"
        raise Refusal(
            "expired",
            f"the signature has expired: signed at {claim.stamp}, valid for {duration(life)}{bound}; "
            f"it expired {duration((now - valid_until).total_seconds())} ago",
        )
    return valid_until


def duration(seconds: float) -> str:
    """Format a number of seconds (0 or more) for people, as in `1 h 2 min 3 s`."""
    whole = round(seconds)
    parts = ((whole // 86_400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "0 s"


def _check_x_amz_signed(claim: Claim) -> None:
    """Check that AWS's own headers are signed, or an intermediary could add one. A token is checked by its value."""
    for name in claim.fields:
        if name.startswith("x-amz-") and name not in claim.signed_headers and name != "x-amz-security-token":
            raise Refusal(
                "header_unsigned", f"the header {name[:40]!r} is not signed; AWS's own headers must be signed"
            )


def find_credentials(claim: Claim, lookup: Lookup, now: datetime) -> CredentialsLike:
    """Return the credentials that a claim names, after checking that they are valid and have the claim's token.

    Raises:
        Refusal: The credentials are unknown or have expired, or their token is another one.
    """
    try:
        credentials = lookup(claim.access_key)
    except LookupError:
        credentials = None
    if credentials is None:
        raise Refusal("unknown_key", "the access key is not known here")
    expires_at: datetime | None = getattr(credentials, "expires_at", None)
    if expires_at is not None and now >= expires_at:
        ago = duration((now - expires_at).total_seconds())
        raise Refusal("credentials_expired", f"the temporary credentials expired {ago} ago; fetch new ones")
    if credentials.token is None:
        if claim.token is not None:
            raise Refusal("token_unexpected", "a session token was sent, but these are long-term keys, which have none")
    elif claim.token is None:
        raise Refusal("token_missing", "the session token is missing: temporary credentials require it")
    elif not compare_digest(c.utf8(claim.token), c.utf8(credentials.token)):
        if compare_digest(c.utf8(claim.token.replace(" ", "+")), c.utf8(credentials.token)):
            raise Refusal(
                "token_wrong",
                "the session token was not percent-encoded: a '+' in a query means a space; encode it as %2B",
            )
        raise Refusal("token_wrong", "the session token does not belong to this access key")
    return credentials
