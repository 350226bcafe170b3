'''Reading the identities of the local AWS IoT endpoint from a TOML file, or a JSON file with the same structure.

    region = "eu-west-1"                        # all are optional
    account_id = "123456789012"

    [policies]
    device = "device-policy.json"               # in a file, relative to this one ...
    chat = """{"Version": "2012-10-17", ...}""" # ... or as JSON, or as a table

    [users.alice]
    access_key = "AKIDALICE"
    secret_key = "..."
    policies = ["chat"]

    [pools."eu-west-1:11111111-2222-3333-4444-555555555555"]
    guests = ["chat"]                           # the policies of the guests' role; without it, no guests
    users = ["chat"]                            # the policies of the users' role
    attached = ["chat"]                         # AWS IoT policies that every user has from the start
    logins."accounts.google.com" = {"a-token" = "alice"}

    [things.bulb]
    type = "lamp"
    attributes = {room = "kitchen"}
    certificate = "bulb.crt"                    # PEM, relative to this file
    policies = ["device"]

    [authorizers.demo]
    token_key = "token"
    public_key = "demo.pem"                     # then tokens must be signed
    tokens."a-token" = {principal = "carol", policies = ["chat"]}

An error message contains the place of a mistake, for example `users.alice.secret_key`, and its kind, but never the
value, because many values are secrets.
'''

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pubsub.aws.local.authorizers import AuthorizerGrant, AuthorizerRequest, LocalAuthorizer
from pubsub.aws.local.policy import PolicyDocument
from sigv4 import Credentials

__all__ = ["load"]

_MOST_BYTES = 4_000_000
_T = TypeVar("_T", bound="_Registry")


class _Registry(Protocol):
    """The interface of `Identities`, which imports this module."""

    def add_policy(self, name: str, document: PolicyDocument) -> None: ...

    def add_user(self, name: str, credentials: Credentials, *, policies: Iterable[str]) -> None: ...

    def add_pool(
        self,
        pool_id: str,
        *,
        guests: Iterable[str] | None,
        users: Iterable[str],
        attached: Iterable[str],
        logins: Mapping[str, Callable[[str], str | None]],
    ) -> None: ...

    def add_thing(self, name: str, *, type_name: str | None, attributes: Mapping[str, str]) -> None: ...

    def attach_thing(self, name: str, principal: str) -> None: ...

    def add_certificate(self, certificate: bytes, *, policies: Iterable[str], thing: str) -> object: ...

    def add_authorizer(self, authorizer: LocalAuthorizer) -> None: ...

    def documents(self, names: Iterable[str]) -> tuple[PolicyDocument, ...]: ...


def load(path: str | os.PathLike[str], make: Callable[..., _T]) -> _T:
    """Read a file.

    Args:
        path: The path of the file.
        make: Creates the `Identities` to fill, given a region, `account_id` and `partition`.

    Raises:
        OSError: The file, or one that it names, cannot be read.
        ValueError: Its content is not valid.
    """
    file = Path(path)
    top = _Table(_read(file), file)
    top.only("region", "account_id", "partition", "policies", "users", "pools", "things", "authorizers")
    identities = make(
        top.text("region", "us-east-1"),
        account_id=top.text("account_id", "123456789012"),
        partition=top.text("partition", "aws"),
    )
    for name, document in top.table("policies").items():
        identities.add_policy(name, _policy(document, top.table("policies"), name))
    for add, section in (
        (_add_user, "users"),
        (_add_pool, "pools"),
        (_add_thing, "things"),
        (_add_authorizer, "authorizers"),
    ):
        for name in top.table(section):
            table = top.table(section).table(name)
            try:
                add(identities, name, table)
            except _Fault:
                raise
            except (ValueError, TypeError) as fault:  # none of the possible messages contains a secret
                raise ValueError(f"{file}: {table.place}: {fault}") from None
    return identities


class _Fault(ValueError):
    """A fault whose message already contains its place."""


class _Table(Mapping[str, Any]):
    """A table of the file, with its place for error messages."""

    def __init__(self, values: Mapping[str, Any], file: Path, place: str = "") -> None:
        self._values = values
        self.file = file
        self.place = place

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def only(self, *names: str) -> None:
        """Check that there are no other names, so that a typing error is not ignored."""
        for name in self._values:
            if name not in names:
                raise self.fault(name, f"is unknown; expected one of {', '.join(names)}")

    def text(self, name: str, default: str | None = None) -> str:
        value = self._values.get(name, default)
        if not isinstance(value, str) or not value:
            raise self.fault(name, f"is {_kind(value)}; expected text")
        return value

    def texts(self, name: str) -> list[str]:
        value = self._values.get(name, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.fault(name, f"is {_kind(value)}; expected a list of texts")
        return value

    def table(self, name: str) -> _Table:
        value = self._values.get(name, {})
        if not isinstance(value, Mapping):
            raise self.fault(name, f"is {_kind(value)}; expected a table")
        return _Table(value, self.file, f"{self.place}.{name}" if self.place else name)

    def bytes_of(self, name: str) -> bytes:
        """Read the file that a text names, relative to this file."""
        return (self.file.parent / self.text(name)).read_bytes()

    def fault(self, name: str, what: str) -> _Fault:
        place = f"{self.place}.{name}" if self.place else name
        return _Fault(f"{self.file}: {place} {what}")


def _kind(value: object) -> str:
    if value is None:
        return "missing"
    return "an empty text" if value == "" else f"a {type(value).__name__}"


def _read(file: Path) -> Mapping[str, Any]:
    with file.open("rb") as opened:
        data = opened.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"{file}: it has more than {_MOST_BYTES:,} bytes; expected a file of identities")
    try:
        text = data.decode("utf-8-sig")
        document = json.loads(text) if file.suffix.lower() == ".json" else tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"{file}: it is nested too deeply") from None
    except ValueError as fault:  # the messages of both parsers contain the place; the values are removed
        raise ValueError(f"{file}: {type(fault).__name__}: {_without_values(fault)}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{file}: it is {_kind(document)}; expected an object")
    return document


def _without_values(fault: ValueError) -> str:
    if isinstance(fault, json.JSONDecodeError):
        return f"{fault.msg} at line {fault.lineno}, column {fault.colno}"
    if isinstance(fault, tomllib.TOMLDecodeError):
        where = str(fault).rpartition("(")[2].rstrip(")")
        return f"a fault {where}"
    return "it is not UTF-8"


def _policy(given: object, table: _Table, name: str) -> PolicyDocument:
    if isinstance(given, str) and not given.lstrip().startswith("{"):
        given = table.bytes_of(name)
    if not isinstance(given, (str, bytes, Mapping)):
        raise table.fault(name, f"is {_kind(given)}; expected a table, JSON in a text, or the name of a file")
    return PolicyDocument.parse(given, name=name)


def _add_user(identities: _Registry, name: str, table: _Table) -> None:
    table.only("access_key", "secret_key", "session_token", "policies")
    token = table.text("session_token") if "session_token" in table else None
    credentials = Credentials(table.text("access_key"), table.text("secret_key"), token)
    identities.add_user(name, credentials, policies=table.texts("policies"))


def _add_pool(identities: _Registry, name: str, table: _Table) -> None:
    table.only("guests", "users", "attached", "logins")
    logins = table.table("logins")
    identities.add_pool(
        name,
        guests=table.texts("guests") if "guests" in table else None,
        users=table.texts("users"),
        attached=table.texts("attached"),
        logins={provider: _users_by_token(logins.table(provider)) for provider in logins},
    )


def _users_by_token(table: _Table) -> Callable[[str], str | None]:
    users = {token: user for token, user in table.items() if isinstance(user, str)}
    if len(users) < len(table):
        raise _Fault(f"{table.file}: {table.place}: a user is not a text; expected token = user pairs")
    return users.get


def _add_thing(identities: _Registry, name: str, table: _Table) -> None:
    table.only("type", "attributes", "certificate", "policies", "principals")
    attributes = {key: str(value) for key, value in table.table("attributes").items()}
    identities.add_thing(name, type_name=table.text("type") if "type" in table else None, attributes=attributes)
    for principal in table.texts("principals"):
        identities.attach_thing(name, principal)
    if "certificate" in table:
        identities.add_certificate(table.bytes_of("certificate"), policies=table.texts("policies"), thing=name)
    elif "policies" in table:
        raise table.fault("policies", "cannot be attached: the thing has no certificate")


def _add_authorizer(identities: _Registry, name: str, table: _Table) -> None:
    table.only("token_key", "public_key", "tokens")
    tokens = table.table("tokens")
    grants: dict[str, AuthorizerGrant] = {}
    for token in tokens:
        entry = _Table(_mapping(tokens[token], tokens), table.file, f"{tokens.place}.<token>")
        entry.only("principal", "policies")
        documents = identities.documents(entry.texts("policies"))
        grants[token] = AuthorizerGrant(entry.text("principal"), documents)

    def decide(token: str, request: AuthorizerRequest) -> AuthorizerGrant | None:
        return grants.get(token)

    identities.add_authorizer(
        LocalAuthorizer(
            name,
            decide,
            token_key=table.text("token_key", "token"),
            public_key=table.bytes_of("public_key") if "public_key" in table else None,
        )
    )


def _mapping(value: object, table: _Table) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _Fault(f"{table.file}: {table.place}: a token has {_kind(value)}; expected principal and policies")
    return value
