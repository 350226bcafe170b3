"""Custom authorizers of the local endpoint: reading a client's parameters, and a function in place of AWS Lambda.

For the format of the parameters see `pubsub.aws.custom_auth`.

Spec: "Custom authentication and authorization" in the AWS IoT Core developer guide.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import unquote

from pubsub.aws.custom_auth import NAME, SIGNATURE
from pubsub.aws.local.policy import PolicyDocument

__all__ = ["AuthorizerGrant", "AuthorizerRequest", "LocalAuthorizer", "is_custom", "read_request"]


@dataclass(frozen=True, slots=True)
class AuthorizerRequest:
    """The parameters that a client sent for an authorizer.

    Args:
        name: The name of the requested authorizer; None for the default one.
        parameters: The parameters in headers (names in lower case), query and user name; of a repeated one, the last.
            Not in the `repr`.
        username: The user name of the CONNECT, without parameters.
        password: The password of the CONNECT. Not in the `repr`.
        client_id: The client id of the CONNECT.
    """

    name: str | None
    parameters: dict[str, str] = field(repr=False)
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)
    client_id: str = ""


def is_custom(target: str | None, headers: Iterable[tuple[str, str]]) -> bool:
    """Return whether an upgrade names a custom authorizer, in its headers or its query."""
    _, _, query = (target or "").partition("?")
    return any(name == NAME for name, _ in headers) or any(name.lower() == NAME for name, _ in _pairs(query))


def read_request(
    target: str | None,
    headers: Iterable[tuple[str, str]],
    username: str | None = None,
    password: bytes | None = None,
    client_id: str = "",
) -> AuthorizerRequest:
    """Read the parameters for a custom authorizer from the headers, the query and the user name.

    Args:
        target: Path and query of the upgrade; None over plain TCP.
        headers: The headers of the upgrade, with names in lower case.
        username: The user name of the CONNECT.
        password: The password of the CONNECT.
        client_id: The client id of the CONNECT.
    """
    _, _, query = (target or "").partition("?")
    plain, mark, behind = (username or "").partition("?")
    parameters = dict(headers)
    parameters.update(_pairs(query))
    parameters.update(_pairs(behind))
    by_lower_case = {name.lower(): value for name, value in parameters.items()}
    return AuthorizerRequest(by_lower_case.get(NAME), parameters, plain if mark else username, password, client_id)


def _pairs(query: str) -> list[tuple[str, str]]:
    """Split a query. "+" is not changed: a signature in base64 can contain it, and is not always encoded."""
    pairs = (part.partition("=") for part in query.split("&") if part)
    return [(unquote(name), unquote(value)) for name, _, value in pairs]


@dataclass(frozen=True, slots=True)
class AuthorizerGrant:
    """The answer of an authorizer that accepts a client.

    Args:
        principal: The name of the client's principal.
        policies: The policies of the client.
    """

    principal: str
    policies: Sequence[PolicyDocument]


Decide: TypeAlias = Callable[[str, AuthorizerRequest], AuthorizerGrant | None]


class LocalAuthorizer:
    """A custom authorizer of the local endpoint.

    Args:
        name: Its name.
        decide: A function of the token and the whole request, in place of the Lambda function. It returns a grant, or
            None to refuse.
        token_key: The name of the token's parameter.
        public_key: A public key in PEM: tokens must be signed with its private key (RSA, PKCS #1 v1.5, SHA-256).
            Requires `cryptography` (the extra `certs`). None: tokens are not signed.
    """

    def __init__(
        self,
        name: str,
        decide: Decide,
        *,
        token_key: str = "token",  # noqa: S107 - the name of a parameter
        public_key: bytes | None = None,
    ) -> None:
        self.name = name
        self._decide = decide
        self._token_key = token_key
        self._public_key = None if public_key is None else _load_public_key(public_key)

    def answer(self, request: AuthorizerRequest) -> AuthorizerGrant | str:
        """Return a grant, or the reason for a refusal: one line, without the token."""
        # Header names are case-insensitive.
        token = request.parameters.get(self._token_key, request.parameters.get(self._token_key.lower()))
        if token is None:
            return f"custom authorizer {self.name!r}: the client sent no {self._token_key!r}"
        if self._public_key is not None:
            signature = next((value for name, value in request.parameters.items() if name.lower() == SIGNATURE), None)
            if signature is None:
                return f"custom authorizer {self.name!r}: the token is not signed; send {SIGNATURE}"
            if not _is_signed(self._public_key, token, signature):
                return f"custom authorizer {self.name!r}: the token's signature was not made with its private key"
        try:
            grant = self._decide(token, request)
        except Exception as fault:  # the message is not included: it may contain the token
            return f"custom authorizer {self.name!r}: its function raised {type(fault).__name__}"
        return grant if grant is not None else f"custom authorizer {self.name!r}: its function refused the token"


def _load_public_key(pem: bytes) -> object:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = load_pem_public_key(pem)
    if not isinstance(key, RSAPublicKey):
        raise ValueError(f"the public key of a custom authorizer is a {type(key).__name__}; expected an RSA key")
    return key


def _is_signed(public_key: object, token: str, signature: str) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.hashes import SHA256

    assert isinstance(public_key, RSAPublicKey)
    try:
        public_key.verify(base64.b64decode(signature, validate=True), token.encode(), PKCS1v15(), SHA256())
    except (InvalidSignature, ValueError):  # the latter if it is not Base64, or not even ASCII
        return False
    return True
