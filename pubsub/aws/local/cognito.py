"""A local stand-in for Amazon Cognito's identity service, and for the STS request of its basic flow.

    ring = KeyRing()
    cognito = LocalCognito([IdentityPool("eu-west-1:…")], ring)
    answer = cognito.answer(headers, body, now=time.time())

It implements AWS's JSON 1.1 protocol (GetId, GetCredentialsForIdentity, GetOpenIdToken) and the query protocol of STS
(AssumeRoleWithWebIdentity). It does no I/O and reads no clock; `cognito_server` serves it over HTTP. The keys that it
mints are added to a key ring, where the local AWS IoT endpoint finds them.

An identity is an entry of a table, which can also be found by each of its logins.

Tokens of real providers are not verified: an `IdentityPool` has a function for each provider that returns the user of a
token.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from pubsub.aws.local.keyring import KeyRing, Principal
from pubsub.owned_lock import OwnedLock
from sigv4 import Credentials

__all__ = ["Answer", "IdentityPool", "LocalCognito"]

_TARGET = "AWSCognitoIdentityService."
_JSON = "application/x-amz-json-1.1"
_STS = "https://sts.amazonaws.com/doc/2011-06-15/"
_OPEN_ID_LIFE = 600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response. Its body, which may contain keys, is not in its `repr`."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class IdentityPool:
    """An identity pool.

    Args:
        pool_id: The id of the pool: `region:guid`.
        guests: Whether there are identities without a login.
        providers: The name of a login provider -> a function that returns the user of a token, or None for a token that
            it does not accept.
        guest_role_arn: The role of guests.
        user_role_arn: The role of users.
    """

    pool_id: str
    guests: bool = True
    providers: Mapping[str, Callable[[str], str | None]] = field(default_factory=dict)
    guest_role_arn: str | None = None
    user_role_arn: str | None = None


class _Refused(Exception):
    """A request is refused, with the same error as in AWS."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class _Identity:
    identity_id: str
    pool: IdentityPool
    logins: dict[str, str] = field(default_factory=dict)  # provider -> user

    def principal(self, role_arn: str | None) -> Principal:
        role = role_arn or (self.pool.user_role_arn if self.logins else self.pool.guest_role_arn)
        return Principal(self.identity_id, self.identity_id, self.pool.pool_id, tuple(sorted(self.logins)), role)


class LocalCognito:
    """The service. Thread-safe.

    Args:
        pools: The identity pools.
        ring: The key ring to which the keys are added.
        life: Seconds for which keys are valid, 1 or more.
        most: The maximum number of identities; beyond it the oldest is removed.
        new_guid: Returns the guid of a new identity.
        new_token: Returns a new random token.

    Raises:
        ValueError: `life` is less than 1.
    """

    def __init__(
        self,
        pools: Iterable[IdentityPool],
        ring: KeyRing,
        *,
        life: float = 3600.0,
        most: int = 100_000,
        new_guid: Callable[[], str] = lambda: str(uuid.uuid4()),
        new_token: Callable[[], str] = lambda: secrets.token_urlsafe(96),
    ) -> None:
        if life < 1:
            raise ValueError(f"life is {life}; expected at least 1 second")
        self._pools = {pool.pool_id: pool for pool in pools}
        self._ring = ring
        self._life = life
        self._most = most
        self._new_guid = new_guid
        self._new_token = new_token
        self._lock: Any = OwnedLock()
        self._identities: dict[str, _Identity] = {}
        self._by_login: dict[tuple[str, str, str], _Identity] = {}  # pool, provider, user
        self._open_id: dict[str, tuple[_Identity, float]] = {}  # token -> its identity and its expiry

    def answer(self, headers: Mapping[str, str], body: bytes, *, now: float) -> Answer:
        """Answer one POST.

        Args:
            headers: The headers, by name in lower case.
            body: The body of the request.
            now: Seconds since 1970.
        """
        if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return self._answer_sts(body, now)
        try:
            given, status, code = self._do(headers.get("x-amz-target", ""), body, now), 200, ""
        except _Refused as fault:
            given, status, code = {"__type": fault.code, "message": str(fault)}, 400, fault.code
        answered = self._headers(_JSON, now)
        if code:
            answered["x-amzn-ErrorType"] = code
        return Answer(status, answered, json.dumps(given).encode())

    def _headers(self, content_type: str, now: float) -> dict[str, str]:
        return {
            "Content-Type": content_type,
            "x-amzn-RequestId": str(uuid.uuid4()),
            "Date": formatdate(now, usegmt=True),
            "Cache-Control": "no-store",
        }

    # --- the requests ---

    def _do(self, target: str, body: bytes, now: float) -> dict[str, Any]:
        request = {
            f"{_TARGET}GetId": self._get_id,
            f"{_TARGET}GetCredentialsForIdentity": self._get_credentials,
            f"{_TARGET}GetOpenIdToken": self._get_open_id_token,
        }.get(target)
        if request is None:
            raise _Refused("UnknownOperationException", "")
        try:
            given = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise _Refused("SerializationException", "the request's body is not a JSON object")
        with self._lock:
            return request(given, now)

    def _get_id(self, given: dict[str, Any], now: float) -> dict[str, Any]:
        pool_id = _text(given, "IdentityPoolId")
        pool = self._pools.get(pool_id)
        if pool is None:
            raise _Refused("ResourceNotFoundException", f"IdentityPool '{pool_id}' not found.")
        users = _users(pool, given)
        identity = self._of(pool, users) or self._new_identity(pool)
        self._join(identity, users)
        return {"IdentityId": identity.identity_id}

    def _get_credentials(self, given: dict[str, Any], now: float) -> dict[str, Any]:
        identity = self._identify(given)
        credentials = self._mint(identity, given.get("CustomRoleArn"), now)
        keys = {
            "AccessKeyId": credentials.access_key,
            "SecretKey": credentials.secret_key,
            "SessionToken": credentials.token,
            "Expiration": now + self._life,
        }
        return {"IdentityId": identity.identity_id, "Credentials": keys}

    def _get_open_id_token(self, given: dict[str, Any], now: float) -> dict[str, Any]:
        identity = self._identify(given)
        token = self._new_token()
        while self._open_id and (len(self._open_id) >= self._most or self._first_end() <= now):
            del self._open_id[next(iter(self._open_id))]
        self._open_id[token] = (identity, now + _OPEN_ID_LIFE)
        return {"IdentityId": identity.identity_id, "Token": token}

    def _first_end(self) -> float:
        return next(iter(self._open_id.values()))[1]

    # --- identities ---

    def _identify(self, given: dict[str, Any]) -> _Identity:
        """Return the requested identity, after adding the logins of the request to it."""
        identity_id = _text(given, "IdentityId")
        identity = self._identities.get(identity_id)
        if identity is None:
            raise _Refused("ResourceNotFoundException", f"Identity '{identity_id}' not found.")
        if identity.logins and not given.get("Logins"):
            raise _Refused("NotAuthorizedException", f"Access to Identity '{identity_id}' is forbidden.")
        users = _users(identity.pool, given)
        if not users:
            return identity
        same = any(identity.logins.get(provider) == user for provider, user in users.items())
        if identity.logins and not same:
            raise _Refused(
                "NotAuthorizedException",
                "Logins don't match. Please include at least one valid login for this identity or identity pool.",
            )
        # A known user who presents a guest's identity gets the identity of the user.
        identity = self._of(identity.pool, users) or identity
        self._join(identity, users)
        return identity

    def _of(self, pool: IdentityPool, users: Mapping[str, str]) -> _Identity | None:
        found = (self._by_login.get((pool.pool_id, provider, user)) for provider, user in users.items())
        return next((identity for identity in found if identity is not None), None)

    def _new_identity(self, pool: IdentityPool) -> _Identity:
        region = pool.pool_id.partition(":")[0]
        identity = _Identity(f"{region}:{self._new_guid()}", pool)
        # The number of guests is unlimited, so the oldest identity is removed.
        if len(self._identities) >= self._most:
            oldest = self._identities.pop(next(iter(self._identities)))
            for provider, user in oldest.logins.items():
                del self._by_login[oldest.pool.pool_id, provider, user]
        self._identities[identity.identity_id] = identity
        return identity

    def _join(self, identity: _Identity, users: Mapping[str, str]) -> None:
        for provider, user in users.items():
            if self._by_login.setdefault((identity.pool.pool_id, provider, user), identity) is identity:
                identity.logins[provider] = user

    def _mint(self, identity: _Identity, role_arn: object, now: float) -> Credentials:
        role = role_arn if isinstance(role_arn, str) else None
        return self._ring.mint(identity.principal(role), now=now, life=self._life)

    # --- STS ---

    def _answer_sts(self, body: bytes, now: float) -> Answer:
        fields = {name: values[-1] for name, values in parse_qs(body.decode("latin-1")).items()}
        name = "AssumeRoleWithWebIdentity"
        headers = self._headers("text/xml", now)
        request_id = f"<RequestId>{headers['x-amzn-RequestId']}</RequestId>"
        try:
            credentials = self._assume_role(name, fields, now)
        except _Refused as fault:
            details = f"<Type>Sender</Type><Code>{fault.code}</Code><Message>{escape(str(fault))}</Message>"
            text = f'<ErrorResponse xmlns="{_STS}"><Error>{details}</Error>{request_id}</ErrorResponse>'
            return Answer(400, headers, text.encode())
        ends = datetime.fromtimestamp(now + self._life, UTC).isoformat().replace("+00:00", "Z")
        text = (
            f'<{name}Response xmlns="{_STS}"><{name}Result><Credentials>'
            f"<AccessKeyId>{credentials.access_key}</AccessKeyId>"
            f"<SecretAccessKey>{credentials.secret_key}</SecretAccessKey>"
            f"<SessionToken>{credentials.token}</SessionToken><Expiration>{ends}</Expiration>"
            f"</Credentials></{name}Result><ResponseMetadata>{request_id}</ResponseMetadata></{name}Response>"
        )
        return Answer(200, headers, text.encode())

    def _assume_role(self, name: str, fields: Mapping[str, str], now: float) -> Credentials:
        action = fields.get("Action", "")
        if action != name:
            raise _Refused("InvalidAction", f"Could not find operation {action} for version 2011-06-15")
        for needed in ("RoleArn", "RoleSessionName", "WebIdentityToken"):
            if needed not in fields:
                raise _Refused("ValidationError", f"the request has no {needed}")
        with self._lock:
            identity, ends = self._open_id.get(fields["WebIdentityToken"], (None, 0.0))
            if identity is None:
                raise _Refused("InvalidIdentityToken", "The web identity token that was passed is not known here.")
            if ends <= now:
                raise _Refused("ExpiredTokenException", "The web identity token that was passed is expired.")
            return self._mint(identity, fields["RoleArn"], now)


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        seen = "is missing" if value is None else "is not a text" if not isinstance(value, str) else "is empty"
        raise _Refused("InvalidParameterException", f"1 validation error detected: {name} {seen}")
    return value


def _users(pool: IdentityPool, given: Mapping[str, Any]) -> dict[str, str]:
    """Return the user of each login, by provider; none at all is a guest, if the pool has guests."""
    logins = given.get("Logins") or {}
    if not isinstance(logins, dict) or not all(isinstance(token, str) for token in logins.values()):
        raise _Refused("InvalidParameterException", "1 validation error detected: Logins is not a map of texts")
    if not logins and not pool.guests:
        raise _Refused("NotAuthorizedException", "Unauthenticated access is not supported for this identity pool.")
    users = {}
    for provider, token in logins.items():
        accept = pool.providers.get(provider)
        if accept is None:
            raise _Refused("NotAuthorizedException", "Token is not from a supported provider of this identity pool.")
        try:
            user = accept(token)
        except Exception as fault:
            # The message is not included: it may contain the token.
            raise _Refused(
                "ExternalServiceException",
                f"The function that accepts the tokens of '{provider}' raised {type(fault).__name__}.",
            ) from None
        if user is None:
            raise _Refused("NotAuthorizedException", "Invalid login token.")
        users[provider] = user
    return users
