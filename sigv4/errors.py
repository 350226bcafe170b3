"""The exceptions of signing.

Each one is caused by an argument, so each also derives from the matching built-in exception (`ValueError`,
`LookupError`) and a program that does not know this package can still catch it. A request that fails verification
raises nothing: `sigv4.verify` returns `Rejected`.

    SigV4Error
      SigningError (ValueError)               the arguments cannot be signed
        RegionUnknown                         the host does not name its region, and none was given
      CredentialsUnavailable (LookupError)    a provider has no credentials

No message contains a secret key, a session token or a signature.
"""

from __future__ import annotations

__all__ = ["CredentialsUnavailable", "RegionUnknown", "SigV4Error", "SigningError"]


class SigV4Error(Exception):
    """The root of this package's errors."""


class SigningError(SigV4Error, ValueError):
    """The arguments cannot be signed. The message contains what was found and what was expected."""


class RegionUnknown(SigningError):
    """The endpoint's host does not name its AWS region, and none was given."""


class CredentialsUnavailable(SigV4Error, LookupError):
    """A provider has no credentials. The message contains the places where it looked."""
