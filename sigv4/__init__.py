"""AWS Signature Version 4, with the standard library alone: sign, presign, verify, and explain a refusal.

    canonical request  →  string to sign  →  signature
    canonical.py          signing.py         signing.py

`presign` and `sign_headers` sign a request whole, `presign_iot_url` and `IotUrlSigner` the WebSocket URL of an AWS IoT
endpoint.  `verify` checks a signed request, and `explain` names the mistake in one that is refused.  All of them are
pure functions of their arguments; the time is the argument `now`.  Only the credentials providers read the environment
and files.
"""

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
from .explaining import Explanation, explain
from .iot import IOT_SERVICE, IotUrlSigner, SignedUrl, presign_iot_url, region_from_endpoint
from .presigning import Presigned, SignedHeaders, presign, sign_headers
from .providers import BotocoreProvider, ChainProvider, EnvironmentProvider, SharedFileProvider
from .signing import EMPTY_SHA256, UNSIGNED_PAYLOAD
from .verifying import IOT_SERVICES, Lookup, Rejected, Verified, verify

__version__ = "0.1.0"

__all__ = [
    "EMPTY_SHA256",
    "IOT_SERVICE",
    "IOT_SERVICES",
    "UNSIGNED_PAYLOAD",
    "BotocoreProvider",
    "ChainProvider",
    "Credentials",
    "CredentialsLike",
    "CredentialsProvider",
    "CredentialsSource",
    "CredentialsUnavailable",
    "EnvironmentProvider",
    "Explanation",
    "IotUrlSigner",
    "Lookup",
    "Presigned",
    "RegionUnknown",
    "Rejected",
    "SharedFileProvider",
    "SigV4Error",
    "SignedHeaders",
    "SignedUrl",
    "SigningError",
    "Verified",
    "explain",
    "fetch",
    "fetch_async",
    "presign",
    "presign_iot_url",
    "region_from_endpoint",
    "sign_headers",
    "verify",
]
