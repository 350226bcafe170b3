"""Custom authorizers of AWS IoT: the parameters that a client sends to one.

A client sends three parameters, in headers of the upgrade, in its query, or after the user name of its CONNECT:

    x-amz-customauthorizer-name         the name of the authorizer; omitted for the domain's default one
    <token key>                         the token; the name of this parameter is set in the authorizer's definition
    x-amz-customauthorizer-signature    the token's signature by a private key of the developer, in base64

`pubsub.aws.local.authorizers` reads the same form for the local endpoint.

Spec: "Custom authentication and authorization" in the AWS IoT Core developer guide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import quote

__all__ = ["NAME", "SIGNATURE", "CustomAuthorizer"]

#: The parameter with the name of the authorizer.
NAME = "x-amz-customauthorizer-name"
#: The parameter with the token's signature.
SIGNATURE = "x-amz-customauthorizer-signature"


@dataclass(frozen=True, slots=True)
class CustomAuthorizer:
    """The parameters for a custom authorizer.

    Args:
        name: The name of the authorizer; None for the default one of the domain.
        token: The token, or a callable that returns it for each attempt to connect, and may block: with asyncio it is
            called in a thread. Not in the `repr`.
        token_key: The name of the token's parameter.
        signature: The token's signature, in base64; None if the authorizer requires none. Not in the `repr`.
        via: Where the parameters are sent: "headers", "query" or "username".
        username: The user name of the CONNECT; with "username" the parameters follow it.
        password: The password of the CONNECT, which the authorizer may check. Not in the `repr`.

    Raises:
        ValueError: `via` has another value.
    """

    name: str | None = None
    token: str | Callable[[], str] | None = field(default=None, repr=False)
    token_key: str = "token"  # noqa: S105 - the name of a parameter
    signature: str | None = field(default=None, repr=False)
    via: Literal["headers", "query", "username"] = "headers"
    username: str | None = None
    password: str | bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.via not in ("headers", "query", "username"):
            raise ValueError(f"via is {self.via!r}; expected 'headers', 'query' or 'username'")

    def for_attempt(self) -> CustomAuthorizer:
        """Return the same authorizer with the token of one attempt, a str. May block."""
        return replace(self, token=self.token()) if callable(self.token) else self

    def without_token(self) -> CustomAuthorizer:
        """Return the same authorizer without a token, to check before an attempt what does not depend on it."""
        return replace(self, token=None)

    def parameters(self) -> list[tuple[str, str]]:
        """Return the parameters as (name, value) pairs, not encoded."""
        token = self.token() if callable(self.token) else self.token
        given = ((NAME, self.name), (self.token_key, token), (SIGNATURE, self.signature))
        return [(name, value) for name, value in given if value is not None]

    def query(self) -> str:
        """Return the parameters as a query string, percent-encoded."""
        return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in self.parameters())

    def connect_username(self) -> str | None:
        """Return the user name of the CONNECT."""
        return f"{self.username or ''}?{self.query()}" if self.via == "username" else self.username
