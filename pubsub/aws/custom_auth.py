"""AWS IoT's custom authorizers, the client's end: how a client names one and gives it a token.

A client gives three parameters, in headers of the upgrade, in its query, or after the user name of its CONNECT:

    x-amz-customauthorizer-name         which authorizer; none for the domain's default one
    <token key>                         the token; the authorizer's definition names its key
    x-amz-customauthorizer-signature    the token's signature by a private key of the developer, in base64

`pubsub.aws.local.authorizers` reads the same form for the local endpoint.

Spec: "Custom authentication and authorization" in the AWS IoT Core developer guide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

__all__ = ["NAME", "SIGNATURE", "CustomAuthorizer"]

#: Names the authorizer that is asked.
NAME = "x-amz-customauthorizer-name"
#: Carries the token's signature.
SIGNATURE = "x-amz-customauthorizer-signature"


@dataclass(frozen=True, slots=True)
class CustomAuthorizer:
    """What a client gives to a custom authorizer.

    Args:
        name: The authorizer; None for the default one of the domain.
        token: The token, or a callable that gives it for each connection.  Hidden.
        token_key: What the authorizer calls it.
        signature: The token's signature, in base64; None if the authorizer wants none.
        via: Where to say it: "headers", "query" or "username".
        username: The user name, with "username" before the parameters.
        password: The password of the CONNECT, which the authorizer may look at.  Hidden.

    Raises:
        ValueError: `via` is something else.
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

    def parameters(self) -> list[tuple[str, str]]:
        """Return what is said, as (name, value) pairs, not encoded."""
        token = self.token() if callable(self.token) else self.token
        given = ((NAME, self.name), (self.token_key, token), (SIGNATURE, self.signature))
        return [(name, value) for name, value in given if value is not None]

    def query(self) -> str:
        """Return the parameters as a query string, percent-encoded."""
        return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in self.parameters())

    def connect_username(self) -> str | None:
        """Return the user name of the CONNECT."""
        return f"{self.username or ''}?{self.query()}" if self.via == "username" else self.username
