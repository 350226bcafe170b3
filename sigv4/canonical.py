"""Stage 1: the canonical request, the text on which signer and verifier must agree.

Each function makes one line of the canonical request: `canonical_uri`, `canonical_query`, `canonical_headers`.
`canonical_request` joins them. This module does not depend on keys, dates or AWS's own parameters.

A `str` represents the UTF-8 bytes on the wire. Bytes that are not UTF-8 are kept in a `str` as surrogate escapes, so
that every request a client can send has a canonical form.

- The path is normalised (no empty, `.` or `..` segments), then percent-encoded once more, including the escapes that
  it already contains. This is the "double encoding" of every service except S3.
- A query parameter is decoded once and encoded again, so that its spellings (`%2f`, `%2F`, `%41`, `A`, raw UTF-8)
  become equal. A signer reads `+` as a plus sign; a verifier also reads it as a space. A `%` that does not start an
  escape is a percent sign. `a` means `a=`. Empty pairs, as in `&&`, are ignored.
- A header's name is lower-cased, its value trimmed, runs of whitespace (folded lines too) become one space, and
  repeated headers are joined with commas in their order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TypeAlias

from .errors import SigningError

__all__ = [
    "HeadersLike",
    "canonical_headers",
    "canonical_query",
    "canonical_request",
    "canonical_uri",
    "decode",
    "encode",
    "header_fields",
    "header_name",
    "merged_query",
    "pairs_of",
    "query_pairs",
    "text",
    "utf8",
]

HeadersLike: TypeAlias = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]

_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_ENCODED = [chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in range(256)]
_PATH_ENCODED = [chr(byte) if byte in _UNRESERVED + b"/" else f"%{byte:02X}" for byte in range(256)]

_is_unreserved = re.compile(r"[A-Za-z0-9\-._~]*+").fullmatch
_is_plain_path = re.compile(r"[A-Za-z0-9\-._~/]*+").fullmatch
# Unreserved characters, and upper-case escapes of all the other bytes: what encoding would give anyway.
_is_encoded = re.compile(
    r"(?:[A-Za-z0-9\-._~]++|%(?:[0189A-F][0-9A-F]|2[0-9A-CF]|3[A-F]|40|5[B-E]|60|7[BCDF]))*+"
).fullmatch
_is_token = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++").fullmatch
_escape = re.compile(rb"%([0-9A-Fa-f]{2})")


def utf8(value: str) -> bytes:
    """Return the bytes that a text represents.

    Raises:
        SigningError: The text contains a lone surrogate that does not represent a byte.
    """
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        at = error.start
    raise SigningError(f"expected text that UTF-8 can encode, found a lone surrogate at index {at}")


def text(value: str | bytes) -> str:
    """Return the text that represents the bytes on the wire.

    Raises:
        SigningError: `value` is neither str nor bytes.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "surrogateescape")
    raise SigningError(f"expected str or bytes, got {type(value).__name__}")


def encode(value: str) -> str:
    """Percent-encode every byte except the unreserved characters, `A-Z a-z 0-9 - . _ ~`."""
    if _is_unreserved(value):
        return value
    return "".join(map(_ENCODED.__getitem__, utf8(value)))


# --- the path -------------------------------------------------------------------------------------------------


def canonical_uri(path: str, normalize: bool = True, double_encode: bool = True) -> str:
    """Return the canonical form of a path.

    Args:
        path: The path as it is on the wire; an empty one means `/`.
        normalize: Whether to remove empty, `.` and `..` segments.
        double_encode: Whether to percent-encode the path once more.
    """
    if normalize and ("//" in path or "/." in path):
        path = _without_dot_segments(path)
    if double_encode and not _is_plain_path(path):
        path = "".join(map(_PATH_ENCODED.__getitem__, utf8(path)))
    return path or "/"


def _without_dot_segments(path: str) -> str:
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    end = "/" if kept and path.endswith("/") else ""
    return "/" + "/".join(kept) + end


# --- the query ------------------------------------------------------------------------------------------------


def query_pairs(query: str) -> list[tuple[str, str]]:
    """Split a query into encoded (key, value) pairs, in the order in which they were sent."""
    pairs = []
    for part in query.split("&"):
        if part:
            key, _, value = part.partition("=")
            pairs.append((_reencoded(key), _reencoded(value)))
    return pairs


def _reencoded(part: str) -> str:
    if _is_encoded(part):
        return part
    return "".join(map(_ENCODED.__getitem__, _decoded(part)))


def _decoded(part: str) -> bytes:
    return _escape.sub(lambda match: bytes.fromhex(match[1].decode()), utf8(part))


def decode(part: str) -> str:
    """Percent-decode once."""
    return text(_decoded(part)) if "%" in part else part


def canonical_query(pairs: Iterable[tuple[str, str]]) -> str:
    """Join encoded pairs, sorted by encoded key and then by encoded value."""
    return "&".join([f"{key}={value}" for key, value in sorted(pairs)])


def merged_query(query: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Return a canonical query with further encoded pairs, in order."""
    # NUL in the place of "=" sorts before every character of a key: texts then have the order of pairs.
    texts = [f"{key}\0{value}" for key, value in pairs]
    texts += query.replace("=", "\0").split("&")
    texts.sort()
    return "&".join(texts).replace("\0", "=")


# --- the headers ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def header_name(name: str | bytes) -> str:
    """Return a header's name in lower case.

    Raises:
        SigningError: HTTP does not allow the name.
    """
    lowered = text(name).strip().lower()
    if not _is_token(lowered):
        raise SigningError("expected header names of letters, digits and hyphens, got another character in one")
    return lowered


def pairs_of(headers: HeadersLike) -> list[tuple[str | bytes, str | bytes]]:
    """Return headers as pairs, whether they are given as a mapping or as pairs."""
    if isinstance(headers, list):  # first, because the test for an abstract class is slow
        return headers
    return list(headers.items() if isinstance(headers, Mapping) else headers)


def header_fields(headers: HeadersLike) -> dict[str, str]:
    """Map each lower-case name to its value, trimmed and with runs of whitespace folded; join repeats with commas.

    Raises:
        SigningError: HTTP does not allow one of the names.
    """
    fields: dict[str, str] = {}
    for name, value in pairs_of(headers):
        lowered = header_name(name)
        folded = _folded(value)
        fields[lowered] = f"{fields[lowered]},{folded}" if lowered in fields else folded
    return fields


def _folded(value: str | bytes) -> str:
    if isinstance(value, str) and value.isprintable():  # the space is the only printable whitespace in ASCII
        return " ".join(value.split()) if " " in value else value
    # bytes.split() splits at the six whitespace characters of ASCII only; str.split() would split at others as well.
    return text(b" ".join(utf8(text(value)).split()))


def canonical_headers(fields: Mapping[str, str], names: Iterable[str]) -> str:
    """Return the lines of the headers `names`. The names must be sorted, and each must be in `fields`."""
    return "".join([f"{name}:{fields[name]}\n" for name in names])


# --- together -------------------------------------------------------------------------------------------------


def canonical_request(method: str, uri: str, query: str, headers: str, signed_headers: str, payload_hash: str) -> str:
    """Join the canonical lines into the canonical request."""
    return f"{method}\n{uri}\n{query}\n{headers}\n{signed_headers}\n{payload_hash}"
