"""What signing can complain of.

Every complaint is about what the caller gave, so each of these is also one of Python's own kinds
(`ValueError`, `LookupError`): a program that does not know this package still catches them where it expects to.  A
request that fails verification is no error here but an answer: see `sigv4.verify`, which returns `Rejected`.

    SigV4Error
      SigningError (ValueError)               what was asked cannot be signed
        RegionUnknown                         the host does not tell its region, and none was given
      CredentialsUnavailable (LookupError)    a provider has no credentials to give

No message holds a secret key, a session token or a signature.
"""

from __future__ import annotations

__all__ = ["CredentialsUnavailable", "RegionUnknown", "SigV4Error", "SigningError"]


class SigV4Error(Exception):
    """The root of this package's errors."""


class SigningError(SigV4Error, ValueError):
    """What was asked cannot be signed; the message says what was seen and what would do."""


class RegionUnknown(SigningError):
    """The endpoint's host does not tell its AWS region, and none was given."""


class CredentialsUnavailable(SigV4Error, LookupError):
    """A provider has no credentials to give; the message says where it looked."""
