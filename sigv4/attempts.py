"""Signing in separate steps, so that `explain` can reproduce a mistake in any one of them.

An `Attempt` holds every input of a signature as text; the hash function and the key derivation are fields, too. It is
written for clarity, not speed, and shares only `canonical_request` with the signer.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, NamedTuple

from . import canonical as c
from .claims import Claim
from .signing import ALGORITHM

__all__ = ["Attempt", "Case", "derive", "derive_in_hex", "sha256_hex"]


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` in lower-case hexadecimal, as the string to sign contains it."""
    return sha256(data).hexdigest()


def derive(key: bytes, parts: Iterable[str]) -> bytes:
    """Derive a key by applying HMAC-SHA256 with each part in turn."""
    for part in parts:
        key = hmac.digest(key, c.utf8(part), "sha256")
    return key


def derive_in_hex(key: bytes, parts: Iterable[str]) -> bytes:
    """Derive a key incorrectly: key each step with the hexadecimal text of the previous result."""
    for part in parts:
        key = hmac.digest(key, c.utf8(part), "sha256").hex().encode()
    return key


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Attempt:
    """The inputs of one signature."""

    method: str
    uri: str
    query: str
    headers: str
    names: str
    payload: str
    stamp: str
    scope: str
    secret: str
    key_parts: tuple[str, ...]
    prefix: str = "AWS4"
    line_end: str = "\n"
    digest: Callable[[bytes], str] = sha256_hex
    derive: Callable[[bytes, Iterable[str]], bytes] = derive

    def changed(self, changes: Mapping[str, Any]) -> Attempt:
        """Return this attempt with some values replaced."""
        return replace(self, **changes)

    def signature(self) -> str:
        """Return the signature, 64 lower-case hexadecimal digits."""
        request = c.canonical_request(self.method, self.uri, self.query, self.headers, self.names, self.payload)
        digest = self.digest(c.utf8(request.replace("\n", self.line_end)))
        to_sign = self.line_end.join((ALGORITHM, self.stamp, self.scope, digest))
        key = self.derive(c.utf8(self.prefix + self.secret), self.key_parts)
        return hmac.digest(key, c.utf8(to_sign), "sha256").hex()


class Case(NamedTuple):
    """A refused request, and the options it was verified with."""

    claim: Claim
    sign_token: bool
    normalize_path: bool
    double_encode: bool
