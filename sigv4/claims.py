"""Read the signature that a request claims to carry, from its query or its `Authorization` header.

This module checks the form of a request. It uses no keys, no clock and no policy. `read_claim` returns a `Claim`, or
raises `Refusal` with a code and a sentence that a developer can act on.

AWS's parameters are taken out of the request once, strictly. A parameter that is repeated, in another case, or in two
places is refused, so that no two readers can interpret one request differently.

No sentence quotes a signature, a token or an access key: a secret can be in its place by mistake.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from . import canonical as c
from .presigning import AUTH_PARAMETERS, MAX_EXPIRES
from .signing import ALGORITHM, TERMINATOR

__all__ = ["Claim", "Refusal", "read_claim"]

_CANONICAL_CASE = {name.lower(): name for name in AUTH_PARAMETERS}
_REQUIRED = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-SignedHeaders")
_is_stamp = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z").fullmatch
_is_expires = re.compile(r"[0-9]{1,6}").fullmatch
_is_signature = re.compile(r"[0-9a-f]{64}").fullmatch
_is_name = re.compile(r"[a-z0-9-]{1,40}").fullmatch
_is_base64 = re.compile(r"[A-Za-z0-9+/ ]{43}=").fullmatch


class Refusal(Exception):
    """A request that is refused: `code` names the kind, the message is one sentence."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Claim(NamedTuple):
    """The signature that a request carries, with its parameters.

    Attributes:
        form: Whether the signature came in the query or in a header.
        method: The HTTP method.
        path: The path as received.
        pairs: The encoded query, in the order received, without the signature and the session token. A `+` in it is
            a space, as AWS reads it.
        plus_pairs: The same with `+` as a plus sign; None if the query contains no `+`.
        fields: Every header, folded, by its lower-case name.
        access_key: The access key that claims to have signed.
        day: The scope's day, `YYYYMMDD`.
        region: The scope's region.
        service: The scope's service.
        stamp: The date as received, `YYYYMMDDTHHMMSSZ`.
        date: The same, as an aware datetime.
        expires: Seconds that the signature is valid; None without `X-Amz-Expires`.
        signed_headers: The names of the signed headers, as received.
        signature: The signature, 64 lower-case hexadecimal digits.
        token: The session token.
    """

    form: Literal["query", "header"]
    method: str
    path: str
    pairs: list[tuple[str, str]]
    plus_pairs: list[tuple[str, str]] | None
    fields: dict[str, str]
    access_key: str
    day: str
    region: str
    service: str
    stamp: str
    date: datetime
    expires: int | None
    signed_headers: tuple[str, ...]
    signature: str
    token: str | None

    def __repr__(self) -> str:
        return f"Claim({self.form}, date={self.stamp}, <hidden>)"

    @property
    def scope(self) -> str:
        """The credential scope."""
        return f"{self.day}/{self.region}/{self.service}/{TERMINATOR}"

    @property
    def token_pairs(self) -> list[tuple[str, str]]:
        """The session token as a pair of the query, encoded; none for the header form."""
        if self.token is None or self.form == "header":
            return []
        return [("X-Amz-Security-Token", c.encode(self.token))]


def read_claim(method: str | bytes, target: str | bytes, headers: c.HeadersLike) -> Claim:
    """Read the signature that a request carries.

    Args:
        method: The HTTP method, as received.
        target: `path?query`, as received.
        headers: The headers, as received.

    Raises:
        Refusal: It carries no signature, or one that cannot be read.
        SigningError: The request itself cannot be read.
    """
    target = c.text(target)
    if not target.startswith("/") or "#" in target:
        raise Refusal("malformed", "the target is not path?query with a leading '/' and no fragment")
    path, _, query = target.partition("?")
    fields = c.header_fields(headers)
    parameters, pairs = _take_parameters(c.query_pairs(query.replace("+", "%20")))
    plus_pairs = _take_parameters(c.query_pairs(query))[1] if "+" in query else None
    authorization = fields.get("authorization", "")
    if authorization.startswith("AWS4-"):
        if parameters:
            raise Refusal("two_signatures", "the request is signed twice, in its query and in its Authorization header")
        parameters = _from_headers(authorization, fields)
        form: Literal["query", "header"] = "header"
    elif parameters.keys() - {"X-Amz-Security-Token"}:
        form = "query"
    else:
        raise Refusal("unsigned", _why_unsigned(query))
    return _claim(form, c.text(method), path, pairs, plus_pairs, fields, parameters)


def _take_parameters(pairs: list[tuple[str, str]]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return AWS's parameters of a query, decoded, and the pairs that are in the canonical query."""
    parameters: dict[str, str] = {}
    signed = []
    for key, value in pairs:
        name = _CANONICAL_CASE.get(key.lower())
        if name is not None:
            if name != key:
                raise Refusal("name_case", f"expected the parameter {name}, got {key}: the names are case-sensitive")
            if name in parameters:
                raise Refusal("duplicate", f"expected one parameter {name}, got two")
            parameters[name] = c.decode(value)
        if key not in ("X-Amz-Signature", "X-Amz-Security-Token"):
            signed.append((key, value))
    return parameters, signed


def _from_headers(authorization: str, fields: dict[str, str]) -> dict[str, str]:
    algorithm, _, rest = authorization.partition(" ")
    parameters = {"X-Amz-Algorithm": algorithm}
    for part in rest.split(","):
        name, separator, value = part.strip().partition("=")
        if not separator or name not in ("Credential", "SignedHeaders", "Signature"):
            raise Refusal("malformed", "the Authorization header is not Credential=…, SignedHeaders=…, Signature=…")
        if f"X-Amz-{name}" in parameters:
            raise Refusal("duplicate", f"expected one {name} in the Authorization header, got two")
        parameters[f"X-Amz-{name}"] = value
    for header, name in (("x-amz-date", "X-Amz-Date"), ("x-amz-security-token", "X-Amz-Security-Token")):
        if header in fields:
            parameters[name] = fields[header]
    return parameters


def _why_unsigned(query: str) -> str:
    if "amp;X-Amz-" in query:
        return "the request is not signed: its query was escaped for HTML, '&' became '&amp;'"
    if "X-Amz-" in query:
        return "the request is not signed: its X-Amz parameters are escaped, '=' or '&' was percent-encoded with them"
    return "the request is not signed: it has neither X-Amz parameters nor an Authorization header of AWS4"


def _claim(
    form: Literal["query", "header"],
    method: str,
    path: str,
    pairs: list[tuple[str, str]],
    plus_pairs: list[tuple[str, str]] | None,
    fields: dict[str, str],
    parameters: dict[str, str],
) -> Claim:
    for name in _REQUIRED:
        if name not in parameters:
            raise Refusal("incomplete", f"the signature is not complete: {name} is missing")
    if parameters["X-Amz-Algorithm"] != ALGORITHM:
        raise Refusal("algorithm", f"expected the algorithm {ALGORITHM}, got another one")
    access_key, day, region, service = _credential(parameters["X-Amz-Credential"])
    stamp, date = _date(parameters["X-Amz-Date"])
    if day != stamp[:8]:
        raise Refusal("scope_day", f"the scope's day is not the day of X-Amz-Date, which is {stamp[:8]} in UTC")
    names = tuple(parameters["X-Amz-SignedHeaders"].split(";"))
    _check_signed_headers(names, fields)
    return Claim(
        form=form,
        method=method,
        path=path,
        pairs=pairs,
        plus_pairs=plus_pairs,
        fields=fields,
        access_key=access_key,
        day=day,
        region=region,
        service=service,
        stamp=stamp,
        date=date,
        expires=_expires(parameters.get("X-Amz-Expires")),
        signed_headers=names,
        signature=_signature(parameters.get("X-Amz-Signature")),
        token=parameters.get("X-Amz-Security-Token"),
    )


def _credential(credential: str) -> tuple[str, str, str, str]:
    if "%2F" in credential.upper():
        raise Refusal("encoded_twice", "the query was percent-encoded twice: X-Amz-Credential still holds escapes")
    parts = credential.split("/")
    if len(parts) != 5 or not all(parts):
        raise Refusal(
            "credential",
            f"expected a credential of five parts, key/day/region/service/{TERMINATOR}, got {len(parts)}",
        )
    access_key, day, region, service, terminator = parts
    if terminator != TERMINATOR:
        raise Refusal("terminator", f"expected a credential scope that ends in {TERMINATOR}, got another end")
    return access_key, day, region, service


def _date(stamp: str) -> tuple[str, datetime]:
    found = _is_stamp(stamp)
    try:
        if found is not None:
            return stamp, datetime(*map(int, found.groups()), tzinfo=UTC)  # type: ignore[misc,arg-type]
    except ValueError:
        pass  # no such day or hour
    raise Refusal("date", "expected X-Amz-Date as YYYYMMDDTHHMMSSZ in UTC, for example 20150830T123600Z")


def _expires(value: str | None) -> int | None:
    if value is None:
        return None
    if not _is_expires(value) or not 1 <= int(value) <= MAX_EXPIRES:
        raise Refusal("expires", f"expected X-Amz-Expires of 1 to {MAX_EXPIRES} seconds, got another value")
    return int(value)


def _signature(value: str | None) -> str:
    if value is None:
        raise Refusal("incomplete", "the signature is not complete: X-Amz-Signature is missing")
    if _is_signature(value):
        return value
    if _is_signature(value.lower()):
        raise Refusal("signature_case", "expected the signature in lower-case hexadecimal, got upper-case digits")
    if _is_base64(value):
        raise Refusal("signature_base64", "expected the signature in hexadecimal, got base64")
    raise Refusal("signature_form", f"expected a signature of 64 hexadecimal digits, got {len(value)} characters")


def _check_signed_headers(names: tuple[str, ...], fields: dict[str, str]) -> None:
    if any(name != name.lower() for name in names):
        raise Refusal("signed_headers_case", "expected the names in SignedHeaders in lower case")
    if list(names) != sorted(set(names)):
        raise Refusal("signed_headers_order", "expected the names in SignedHeaders sorted, each once")
    if "host" not in names:
        raise Refusal("host_unsigned", "the Host header is not in SignedHeaders, and must be")
    for name in names:
        if name not in fields:
            shown = repr(name) if _is_name(name) else "something"  # it can be a token by mistake
            raise Refusal("header_absent", f"SignedHeaders names {shown}, a header that was not received")
