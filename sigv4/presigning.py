"""Sign a whole request in its query (`presign`) or in its headers (`sign_headers`).

Both are pure functions: the time is the argument `now`, and nothing is read from the environment. They combine the
stages of `canonical` and `signing` with the parameters and headers that AWS defines.

The target is given as it will be sent. `presign` leaves the path unchanged, rewrites the query in its canonical
spelling, which has the same meaning for every server, and returns a target that is ready to send.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NoReturn

from . import canonical as c
from .credentials import Credentials, CredentialsLike, CredentialsProvider, fetch
from .errors import SigningError
from .signing import ALGORITHM, EMPTY_SHA256, amz_date, signing_key, string_to_sign

__all__ = [
    "AUTH_PARAMETERS",
    "MAX_EXPIRES",
    "NEVER_SIGNED",
    "Presigned",
    "SignedHeaders",
    "checked_expires",
    "presign",
    "sign_headers",
]

MAX_EXPIRES: Final = 604_800
"""Seconds: a signed URL is valid for at most seven days."""

NEVER_SIGNED: Final = frozenset(
    {
        # hop-by-hop headers, which proxies change (RFC 9110 §7.6.1)
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        # headers that a WebSocket client generates after its URL is signed (RFC 6455 §4.1)
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        # headers that intermediaries rewrite, and Authorization, which carries the signature
        "authorization",
        "baggage",
        "traceparent",
        "tracestate",
        "user-agent",
        "x-amzn-trace-id",
    }
)
"""Headers that are not signed by default, because intermediaries can change them; see `also_sign`."""

AUTH_PARAMETERS: Final = frozenset(
    {
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-SignedHeaders",
        "X-Amz-Signature",
        "X-Amz-Security-Token",
    }
)
"""The query parameters that carry a signature."""

#: The usual methods, which need no further check.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_is_method = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++").fullmatch
# A path without a query that is its own canonical form, whatever the rules: no empty, `.` or `..` segment, no escape.
_is_canonical = re.compile(r"/(?:[A-Za-z0-9\-_~][A-Za-z0-9\-._~]*+/?)*+").fullmatch
_breaks_a_line = re.compile(r"[\r\n\0]").search
_is_payload_hash = re.compile(r"[0-9a-f]{64}|[A-Z0-9][A-Z0-9-]*").fullmatch
_encoded = lru_cache(maxsize=64)(c.encode)  # for what repeats from call to call: access keys, tokens, headers' names


class _Signed:
    """The result of either way of signing. A signature is a credential: `repr` hides it, and pickling is refused."""

    __slots__ = ("canonical_request", "signature", "string_to_sign")

    canonical_request: str
    string_to_sign: str
    signature: str

    def __repr__(self) -> str:
        _, stamp, scope, _ = self.string_to_sign.split("\n")
        return f"{type(self).__name__}(<hidden>, date={stamp}, scope={scope})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a signed request is a credential and cannot be pickled: sign again in the other process")


class Presigned(_Signed):
    """A request signed in its query.

    Attributes:
        canonical_request: Stage 1, for study. May hold the session token.
        string_to_sign: Stage 2.
        signature: Stage 3, 64 lower-case hexadecimal digits.
        target: `path?query`, ready to send. A credential.
    """

    __slots__ = ("target",)

    def __init__(self, canonical_request: str, string_to_sign: str, signature: str, target: str) -> None:
        self.canonical_request = canonical_request
        self.string_to_sign = string_to_sign
        self.signature = signature
        self.target = target


class SignedHeaders(_Signed):
    """A request signed in its headers.

    Attributes:
        canonical_request: Stage 1, for study. May hold the session token.
        string_to_sign: Stage 2.
        signature: Stage 3, 64 lower-case hexadecimal digits.
        authorization: The value of the `Authorization` header. A credential.
        headers: All headers to send, in order: those given, and those that signing adds.
    """

    __slots__ = ("authorization", "headers")

    def __init__(
        self,
        canonical_request: str,
        string_to_sign: str,
        signature: str,
        authorization: str,
        headers: list[tuple[str, str]],
    ) -> None:
        self.canonical_request = canonical_request
        self.string_to_sign = string_to_sign
        self.signature = signature
        self.authorization = authorization
        self.headers = headers


def presign(
    method: str,
    target: str | bytes,
    *,
    headers: c.HeadersLike,
    credentials: CredentialsLike | CredentialsProvider,
    region: str,
    service: str,
    now: datetime,
    body: bytes = b"",
    body_hash: str | None = None,
    expires: int | None = None,
    also_sign: Collection[str] = (),
    sign_token: bool = True,
    normalize_path: bool = True,
    double_encode: bool = True,
) -> Presigned:
    """Sign a request in its query, so that the URL carries the signature.

    Args:
        method: The HTTP method, as it will be sent.
        target: `path?query`, as it will be sent; the path is kept, the query is rewritten in its canonical spelling.
        headers: The headers to sign, including `Host`; a mapping or pairs. Headers in `NEVER_SIGNED` are ignored.
        credentials: The credentials to sign with.
        region: For example `us-east-1`.
        service: The service's signing name, for example `iotdevicegateway`.
        now: The aware time of signing.
        body: The body that will be sent.
        body_hash: The body's SHA-256 in lower-case hexadecimal, or `UNSIGNED-PAYLOAD`, instead of `body`.
        expires: How long the URL is valid, 1 to 604,800 seconds; None leaves that to the service.
        also_sign: Headers in `NEVER_SIGNED` to sign nevertheless, except `Authorization`: the second generation of
            AWS's SDKs signs `Connection`.
        sign_token: Whether to sign the session token; otherwise it is appended to the signed URL, as AWS IoT requires.
        normalize_path: Whether to resolve empty, `.` and `..` segments first. False for S3.
        double_encode: Whether to percent-encode the path once more. False for S3.

    Returns:
        The signed target, and the three stages it was computed from.

    Raises:
        SigningError: An argument cannot be signed.
        CredentialsUnavailable: `credentials` is a provider that has none.

    Examples:
        >>> from datetime import UTC, datetime
        >>> from sigv4 import Credentials, presign
        >>> signed = presign(
        ...     "GET",
        ...     "/mqtt",
        ...     headers={"Host": "example.iot.eu-west-1.amazonaws.com"},
        ...     credentials=Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
        ...     region="eu-west-1",
        ...     service="iotdevicegateway",
        ...     now=datetime(2026, 1, 31, 12, 0, tzinfo=UTC),
        ...     expires=60,
        ... )
        >>> print(signed.string_to_sign.splitlines()[2])
        20260131/eu-west-1/iotdevicegateway/aws4_request
    """
    given = credentials if type(credentials) is Credentials else fetch(credentials)
    stamp = amz_date(now)
    path, uri, foreign = _split(method, target, normalize_path, double_encode)
    lines, names = _signable(headers, also_sign)
    key = signing_key(given.secret_key, stamp[:8], region, service)

    life = "" if expires is None else f"&X-Amz-Expires={checked_expires(expires)}"
    token = "" if given.token is None else f"&X-Amz-Security-Token={_encoded(given.token)}"
    # In alphabetical order: they are sorted again only together with a query of the caller.
    query = (
        f"X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={_encoded(given.access_key)}%2F{key.encoded_scope}"
        f"&X-Amz-Date={stamp}{life}{token if sign_token else ''}&X-Amz-SignedHeaders={_encoded(names)}"
    )
    if foreign:
        query = c.merged_query(query, _foreign_pairs(foreign))

    request = c.canonical_request(method, uri, query, lines, names, _payload_hash(body, body_hash))
    to_sign = string_to_sign(stamp, key.scope, c.utf8(request))
    signature = key.sign(to_sign)
    signed = f"{path}?{query}&X-Amz-Signature={signature}{'' if sign_token else token}"
    return Presigned(request, to_sign, signature, signed)


def sign_headers(
    method: str,
    target: str | bytes,
    *,
    headers: c.HeadersLike,
    credentials: CredentialsLike | CredentialsProvider,
    region: str,
    service: str,
    now: datetime,
    body: bytes = b"",
    body_hash: str | None = None,
    content_sha256: bool = False,
    also_sign: Collection[str] = (),
    sign_token: bool = True,
    normalize_path: bool = True,
    double_encode: bool = True,
) -> SignedHeaders:
    """Sign a request in its `Authorization` header.

    Adds `X-Amz-Date` and, where they apply, `X-Amz-Security-Token` and `X-Amz-Content-Sha256`. Replaces given headers
    of these names, and a given `Authorization`, so that a request can be signed again. A given token is removed if the
    credentials have none. The payload's hash is that of `body`, or `body_hash`, also if the header was given.

    Args:
        method: The HTTP method, as it will be sent.
        target: `path?query`, as it will be sent.
        headers: The headers of the request, including `Host`. Headers in `NEVER_SIGNED` are sent but not signed.
        credentials: The credentials to sign with.
        region: For example `us-east-1`.
        service: The service's signing name, for example `sts`.
        now: The aware time of signing.
        body: The body that will be sent.
        body_hash: The body's SHA-256 in lower-case hexadecimal, or `UNSIGNED-PAYLOAD`, instead of `body`.
        content_sha256: Whether to send the payload's hash as a header as well, as S3 requires. If the header is given,
            it is always sent.
        also_sign: Headers in `NEVER_SIGNED` to sign nevertheless, except `Authorization`: the second generation of
            AWS's SDKs signs `Connection`.
        sign_token: Whether to sign the header with the session token.
        normalize_path: Whether to resolve empty, `.` and `..` segments first. False for S3.
        double_encode: Whether to percent-encode the path once more. False for S3.

    Returns:
        The headers to send, and the three stages they were computed from.

    Raises:
        SigningError: An argument cannot be signed.
        CredentialsUnavailable: `credentials` is a provider that has none.
    """
    given = credentials if type(credentials) is Credentials else fetch(credentials)
    stamp = amz_date(now)
    _, uri, query = _split(method, target, normalize_path, double_encode)
    payload_hash = _payload_hash(body, body_hash)
    key = signing_key(given.secret_key, stamp[:8], region, service)

    fields = [(c.header_name(name), c.text(name), c.text(value)) for name, value in c.pairs_of(headers)]
    added = [("X-Amz-Date", stamp)]
    if given.token is not None:
        added.append(("X-Amz-Security-Token", given.token))
    if content_sha256 or any(field == "x-amz-content-sha256" for field, _, _ in fields):
        added.append(("X-Amz-Content-Sha256", payload_hash))
    ours = {"authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"}
    sent = [(name, value) for field, name, value in fields if field not in ours] + added
    signable = sent if sign_token else [pair for pair in sent if pair[0] != "X-Amz-Security-Token"]
    lines, names = _signable(signable, also_sign)

    query = c.canonical_query(c.query_pairs(query))
    request = c.canonical_request(method, uri, query, lines, names, payload_hash)
    to_sign = string_to_sign(stamp, key.scope, c.utf8(request))
    signature = key.sign(to_sign)
    authorization = (
        f"{ALGORITHM} Credential={given.access_key}/{key.scope}, SignedHeaders={names}, Signature={signature}"
    )
    return SignedHeaders(request, to_sign, signature, authorization, [*sent, ("Authorization", authorization)])


# --- checks of the arguments ----------------------------------------------------------------------------------


def _split(method: str, target: str | bytes, normalize: bool, double_encode: bool) -> tuple[str, str, str]:
    """Check the method and the target. Return the path as it is sent, its canonical form, and the query."""
    if not isinstance(method, str) or (method not in _METHODS and not _is_method(method)):
        raise SigningError("method: expected an HTTP method such as 'GET'")
    if isinstance(target, str) and _is_canonical(target):
        return target, target, ""
    target = c.text(target)
    path, _, query = target.partition("?")
    if path[:1] not in ("/", ""):
        raise SigningError("target: expected path?query with a leading '/', as it is sent, not a URL")
    if "#" in target:
        raise SigningError("target: expected path?query, found a fragment ('#'), which is never sent")
    if not target.isprintable() and _breaks_a_line(target):
        raise SigningError("target: expected no line break and no NUL, which would end the request line")
    return path or "/", c.canonical_uri(path, normalize, double_encode), query


def _signable(headers: c.HeadersLike, also_sign: Collection[str]) -> tuple[str, str]:
    """Return the canonical lines of the headers to sign, and their names, joined by semicolons."""
    pairs = c.pairs_of(headers)
    if len(pairs) == 1 and not also_sign:  # nearly every URL is signed with its Host alone, and hosts repeat
        name, value = pairs[0]
        if isinstance(value, str) and c.header_name(name) == "host":
            return _host_line(value), "host"
    fields = c.header_fields(pairs)
    left_out = NEVER_SIGNED.difference(_checked_names(also_sign, fields)) if also_sign else NEVER_SIGNED
    names = sorted(fields)
    if not left_out.isdisjoint(names):
        names = [name for name in names if name not in left_out]
    if "host" not in fields:
        raise SigningError("headers: expected a Host header, which every signature covers; got none")
    _host_line(fields["host"])
    return c.canonical_headers(fields, names), ";".join(names)


@lru_cache(maxsize=64)
def _host_line(host: str) -> str:
    """Check a Host header, and return its canonical line."""
    line = c.canonical_headers(c.header_fields([("host", host)]), ["host"])
    if line == "host:\n" or "," in host:
        raise SigningError("headers: expected one Host header with a host in it")
    return line


def _checked_names(also_sign: Collection[str], fields: dict[str, str]) -> list[str]:
    if isinstance(also_sign, str):
        raise SigningError("also_sign: expected a list of names of headers, got a str")
    names = [c.header_name(name) for name in also_sign]
    for name in names:
        if name == "authorization":
            raise SigningError("also_sign: expected no Authorization header, which carries the signature")
        if name not in fields:
            raise SigningError(f"also_sign: expected names of headers that are given, got {name[:40]!r}")
    return names


def _foreign_pairs(query: str) -> Iterable[tuple[str, str]]:
    pairs = c.query_pairs(query)
    for key, _ in pairs:
        if key in AUTH_PARAMETERS:
            raise SigningError(f"target: expected a query not yet signed, found {key} in it")
    return pairs


def checked_expires(expires: int) -> str:
    """Return the value of `X-Amz-Expires`.

    Args:
        expires: 1 to 604,800 seconds.

    Raises:
        SigningError: `expires` is not a whole number in this range.
    """
    if not isinstance(expires, int) or isinstance(expires, bool) or not 1 <= expires <= MAX_EXPIRES:
        seen = expires if isinstance(expires, int) else type(expires).__name__
        raise SigningError(f"expires: expected 1 to {MAX_EXPIRES} whole seconds, got {seen}")
    return str(expires)


def _payload_hash(body: bytes, body_hash: str | None) -> str:
    if body_hash is None:
        if not body:
            return EMPTY_SHA256
        if not isinstance(body, bytes | bytearray | memoryview):
            raise SigningError(f"body: expected bytes, got {type(body).__name__}")
        return sha256(body).hexdigest()
    if body:
        raise SigningError("expected either body or body_hash, got both")
    if not isinstance(body_hash, str) or not _is_payload_hash(body_hash):
        raise SigningError("body_hash: expected 64 lower-case hexadecimal digits, or UNSIGNED-PAYLOAD")
    return body_hash
