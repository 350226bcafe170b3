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
from .iot import IOT_SERVICE, IotUrlSigner, SignedUrl, presign_iot_url, region_from_endpoint
from .presigning import Presigned, SignedHeaders, presign, sign_headers
from .providers import BotocoreProvider, ChainProvider, EnvironmentProvider, SharedFileProvider
from .signing import EMPTY_SHA256, UNSIGNED_PAYLOAD

__all__ = [
    "EMPTY_SHA256",
    "IOT_SERVICE",
    "UNSIGNED_PAYLOAD",
    "BotocoreProvider",
    "ChainProvider",
    "Credentials",
    "CredentialsLike",
    "CredentialsProvider",
    "CredentialsSource",
    "CredentialsUnavailable",
    "EnvironmentProvider",
    "IotUrlSigner",
    "Presigned",
    "RegionUnknown",
    "SharedFileProvider",
    "SigV4Error",
    "SignedHeaders",
    "SignedUrl",
    "SigningError",
    "fetch",
    "fetch_async",
    "presign",
    "presign_iot_url",
    "region_from_endpoint",
    "sign_headers",
]
