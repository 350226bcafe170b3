"""AWS Signature Version 4, with the standard library alone: sign, presign, verify, and explain a refusal.

    canonical request  →  string to sign  →  signature
    canonical.py          signing.py         signing.py

`presign` and `sign_headers` sign a request whole, `presign_iot_url` and `IotUrlSigner` the WebSocket URL of an AWS IoT
endpoint. `verify` checks a signed request, and `explain` names the mistake in one that is refused. All of them are
pure functions of their arguments; the time is the argument `now`. Only the credentials providers read the environment
and files.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # importing `typing` for it would delay the first message
if TYPE_CHECKING:
    from typing import Any

    from sigv4.credentials import (
        Credentials,
        CredentialsLike,
        CredentialsProvider,
        CredentialsSource,
        fetch,
        fetch_async,
    )
    from sigv4.errors import CredentialsUnavailable, RegionUnknown, SigningError, SigV4Error
    from sigv4.explaining import Explanation, explain
    from sigv4.iot import IOT_SERVICE, IotUrlSigner, SignedUrl, dns_suffix, presign_iot_url, region_from_endpoint
    from sigv4.presigning import Presigned, SignedHeaders, presign, sign_headers
    from sigv4.providers import BotocoreProvider, ChainProvider, EnvironmentProvider, SharedFileProvider
    from sigv4.signing import EMPTY_SHA256, UNSIGNED_PAYLOAD
    from sigv4.verifying import IOT_SERVICES, Lookup, Rejected, Verified, verify

__version__ = "0.1.0"

#: Module -> its public names.
_HOLDS = {
    "credentials": "Credentials CredentialsLike CredentialsProvider CredentialsSource fetch fetch_async",
    "errors": "CredentialsUnavailable RegionUnknown SigningError SigV4Error",
    "explaining": "Explanation explain",
    "iot": "IOT_SERVICE IotUrlSigner SignedUrl dns_suffix presign_iot_url region_from_endpoint",
    "presigning": "Presigned SignedHeaders presign sign_headers",
    "providers": "BotocoreProvider ChainProvider EnvironmentProvider SharedFileProvider",
    "signing": "EMPTY_SHA256 UNSIGNED_PAYLOAD",
    "verifying": "IOT_SERVICES Lookup Rejected Verified verify",
}
_WHERE = {name: module for module, names in _HOLDS.items() for name in names.split()}

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
    "dns_suffix",
    "explain",
    "fetch",
    "fetch_async",
    "presign",
    "presign_iot_url",
    "region_from_endpoint",
    "sign_headers",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'sigv4' has no attribute {name!r}")
    value = getattr(import_module(f"sigv4.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
