"""The keys that local services have issued. Issuers add keys, and verifiers of signatures look them up.

The local Cognito service mints keys, and the local AWS IoT endpoint finds them by their access key. The two share only
the key ring. It reads no clock.

A key is stored for some time after its expiry, so that a client which still uses it gets the error that it has expired,
not that it is unknown.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pubsub.owned_lock import OwnedLock
from sigv4 import Credentials

__all__ = ["Key", "KeyRing", "Principal"]

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


@dataclass(frozen=True, slots=True)
class Principal:
    """The principal of keys.

    Args:
        name: The id of a Cognito identity or of a certificate, or the name of a user.
        identity_id: The Cognito identity, `region:guid`; None for another kind of principal.
        identity_pool_id: Its pool.
        providers: The names of the providers of its logins; empty for a guest, and without an identity.
        role_arn: The role of the keys, if any.
    """

    name: str
    identity_id: str | None = None
    identity_pool_id: str | None = None
    providers: tuple[str, ...] = ()
    role_arn: str | None = None

    @property
    def is_guest(self) -> bool:
        """Whether it is a Cognito identity without a login."""
        return self.identity_id is not None and not self.providers

    @property
    def authenticated_by(self) -> tuple[str, ...]:
        """Cognito's `amr` claim; empty without a Cognito identity."""
        if self.identity_id is None:
            return ()
        return ("authenticated", *self.providers) if self.providers else ("unauthenticated",)


@dataclass(frozen=True, slots=True)
class Key:
    """Keys and their principal. The secret is not in the `repr`."""

    credentials: Credentials
    principal: Principal

    def expired(self, now: float) -> bool:
        """Return whether they have expired at `now`, in seconds since 1970."""
        ends = self.credentials.expires_at
        return ends is not None and ends.timestamp() <= now


class KeyRing:
    """Keys by their access key. Thread-safe.

    Args:
        keep_expired: Seconds for which a key is stored after its expiry.
        most: The maximum number of temporary keys; beyond it the oldest is removed.
        token_bytes: Returns a number of random bytes.
    """

    def __init__(
        self,
        *,
        keep_expired: float = 3600.0,
        most: int = 100_000,
        token_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._keep_expired = keep_expired
        self._most = most
        self._random = token_bytes
        self._lock: Any = OwnedLock()
        self._lasting: dict[str, Key] = {}
        self._temporary: dict[str, Key] = {}

    def __repr__(self) -> str:
        return f"KeyRing({len(self._lasting)} lasting, {len(self._temporary)} temporary)"

    def add(self, credentials: Credentials, principal: Principal) -> None:
        """Add permanent keys. They replace any with the same access key."""
        with self._lock:
            self._lasting[credentials.access_key] = Key(credentials, principal)

    def mint(self, principal: Principal, *, now: float, life: float) -> Credentials:
        """Issue temporary keys.

        Args:
            principal: Their principal.
            now: Seconds since 1970.
            life: Seconds until they expire.
        """
        access_key = "ASIA" + "".join(_LETTERS[byte % 32] for byte in self._random(16))
        secret, token = (base64.b64encode(self._random(size)).decode() for size in (30, 96))
        expires_at = datetime.fromtimestamp(now + life, UTC)
        credentials = Credentials(access_key, secret, token, expires_at=expires_at)
        with self._lock:
            self._forget(now)
            self._temporary[access_key] = Key(credentials, principal)
        return credentials

    def find(self, access_key: str) -> Key | None:
        """Return keys by their access key, including expired ones; None if they are unknown."""
        with self._lock:
            return self._lasting.get(access_key) or self._temporary.get(access_key)

    def _forget(self, now: float) -> None:
        """Remove keys that expired long ago. The oldest come first, so few others are examined."""
        while self._temporary:
            oldest = next(iter(self._temporary))
            if len(self._temporary) < self._most and not self._temporary[oldest].expired(now - self._keep_expired):
                return
            del self._temporary[oldest]
