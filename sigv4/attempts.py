"""A signature made step by step from plain values, so that any step can be made wrongly on purpose.

The one idea: an `Attempt` is all that goes into a signature, each value as text, and even the hash and the key
derivation are values.  It is slow and plain, and shares no code with the signer but `canonical_request`.
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
    """Hash, as the string to sign holds it."""
    return sha256(data).hexdigest()


def derive(key: bytes, parts: Iterable[str]) -> bytes:
    """Derive a key: HMAC with each part after the other."""
    for part in parts:
        key = hmac.digest(key, c.utf8(part), "sha256")
    return key


def derive_in_hex(key: bytes, parts: Iterable[str]) -> bytes:
    """Derive a key wrongly, each step from the hexadecimal text of the one before."""
    for part in parts:
        key = hmac.digest(key, c.utf8(part), "sha256").hex().encode()
    return key


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Attempt:
    """All that goes into a signature."""

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
        """Sign."""
        request = c.canonical_request(self.method, self.uri, self.query, self.headers, self.names, self.payload)
        digest = self.digest(c.utf8(request.replace("\n", self.line_end)))
        to_sign = self.line_end.join((ALGORITHM, self.stamp, self.scope, digest))
        key = self.derive(c.utf8(self.prefix + self.secret), self.key_parts)
        return hmac.digest(key, c.utf8(to_sign), "sha256").hex()


class Case(NamedTuple):
    """A refused request, and how its verifier was set."""

    claim: Claim
    sign_token: bool
    normalize_path: bool
    double_encode: bool
