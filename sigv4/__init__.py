"""AWS Signature Version 4."""

from __future__ import annotations

from .credentials import (
    Credentials,
    CredentialsLike,
    CredentialsProvider,
    CredentialsSource,
    fetch,
    fetch_async,
)
from .errors import CredentialsUnavailable, RegionUnknown, SigningError, SigV4Error
from .providers import BotocoreProvider, ChainProvider, EnvironmentProvider, SharedFileProvider

__all__ = [
    "BotocoreProvider",
    "ChainProvider",
    "Credentials",
    "CredentialsLike",
    "CredentialsProvider",
    "CredentialsSource",
    "CredentialsUnavailable",
    "EnvironmentProvider",
    "RegionUnknown",
    "SharedFileProvider",
    "SigV4Error",
    "SigningError",
    "fetch",
    "fetch_async",
]
