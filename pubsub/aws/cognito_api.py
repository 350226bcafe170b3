"""The requests to Amazon Cognito's identity service and to STS that are needed to get credentials.

Each is a function of its arguments: nothing is stored here, and no clock is read.

`cognito-identity` uses AWS's JSON 1.1 protocol, STS the query protocol. None of these requests is signed, because a
client without credentials cannot sign.

Tokens and keys are sent only in bodies. They are removed from AWS's error messages before these are shown.

Spec: the API references of Amazon Cognito Federated Identities and of AWS STS (AssumeRoleWithWebIdentity).
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlencode
from xml.etree import ElementTree

from pubsub.aws.corrected_clock import read_date
from pubsub.aws.http import Response, TransferError, check_url, post
from sigv4 import Credentials, CredentialsUnavailable, dns_suffix

__all__ = ["CognitoAPI", "CognitoError", "Granted"]

_POOL_ID = re.compile(r"(?P<region>[\w-]+):[0-9a-fA-F-]+")
_LONGEST_MESSAGE = 300


class CognitoError(CredentialsUnavailable):
    """Cognito or STS returned no credentials.

    Args:
        message: The message, without any token.
        code: AWS's name of the error, for example `NotAuthorizedException`; empty if AWS did not answer.
        status: The HTTP status; 0 if AWS did not answer.
    """

    def __init__(self, message: str, code: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Granted(NamedTuple):
    """Credentials, and their remaining seconds when they were granted; None if the answer has no `Date`."""

    credentials: Credentials
    life: float | None


class CognitoAPI:
    """The requests for one identity pool.

    Args:
        identity_pool_id: `region:guid`.
        region: The region; None: that in the pool's id.
        account_id: Twelve digits, or None.
        endpoint: The URL of the service; None for AWS's.
        sts_endpoint: The URL of STS; None for AWS's.
        timeout: Seconds for each request.
        context: The TLS context; None for one that trusts the system's authorities.

    Raises:
        ValueError: The pool's id is not valid, or contains another region.
    """

    def __init__(
        self,
        identity_pool_id: str,
        region: str | None,
        account_id: str | None,
        endpoint: str | None,
        sts_endpoint: str | None,
        *,
        timeout: float,
        context: ssl.SSLContext | None,
    ) -> None:
        found = _POOL_ID.fullmatch(identity_pool_id)
        if found is None:
            raise ValueError(
                f"identity_pool_id is {identity_pool_id!r}; expected region:guid, such as "
                "'eu-west-1:01234567-89ab-cdef-0123-456789abcdef' (not the id of a user pool)"
            )
        if region is not None and region != found["region"]:
            raise ValueError(f"region is {region!r}, but the identity pool {identity_pool_id!r} is in another one")
        if account_id is not None and not re.fullmatch(r"\d{12}", account_id):
            raise ValueError(f"account_id is {account_id!r}; expected twelve digits")
        region = found["region"]
        domain = dns_suffix(region)
        self.identity_pool_id = identity_pool_id
        self._account_id = account_id
        self._endpoint = endpoint or f"https://cognito-identity.{region}.{domain}/"
        self._sts_endpoint = sts_endpoint or f"https://sts.{region}.{domain}/"
        check_url(self._endpoint)
        check_url(self._sts_endpoint)
        self._timeout = timeout
        self._context = context

    def get_id(self, logins: Mapping[str, str]) -> str:
        """Get the identity of a user with these logins; without any, a new identity of a guest."""
        body = {"IdentityPoolId": self.identity_pool_id, "AccountId": self._account_id, "Logins": dict(logins)}
        answer, _ = self._call("GetId", body, logins)
        return _text(answer, "IdentityId", "GetId")

    def get_credentials(self, identity_id: str, logins: Mapping[str, str], role_arn: str | None) -> tuple[str, Granted]:
        """Get credentials, as in the enhanced flow.

        Returns:
            The identity, which can differ from the requested one if logins were merged, and its credentials.
        """
        body = {"IdentityId": identity_id, "Logins": dict(logins), "CustomRoleArn": role_arn}
        answer, response = self._call("GetCredentialsForIdentity", body, logins)
        keys = answer.get("Credentials")
        if not isinstance(keys, dict):
            raise _unusable("GetCredentialsForIdentity", "Credentials", response)
        ends: Any = keys.get("Expiration")
        try:
            expires_at = datetime.fromtimestamp(ends, UTC)
        except (TypeError, ValueError, OverflowError, OSError):
            raise _unusable("GetCredentialsForIdentity", "Expiration", response) from None
        granted = _granted("GetCredentialsForIdentity", keys, "SecretKey", expires_at, response)
        return _text(answer, "IdentityId", "GetCredentialsForIdentity"), granted

    def get_open_id_token(self, identity_id: str, logins: Mapping[str, str]) -> tuple[str, str]:
        """Get a token that Cognito issues, the first step of the basic flow.

        Returns:
            The identity, and the token.
        """
        answer, _ = self._call("GetOpenIdToken", {"IdentityId": identity_id, "Logins": dict(logins)}, logins)
        return _text(answer, "IdentityId", "GetOpenIdToken"), _text(answer, "Token", "GetOpenIdToken")

    def assume_role(self, role_arn: str, token: str) -> Granted:
        """Get credentials of a role for a token, the second step of the basic flow."""
        name = "AssumeRoleWithWebIdentity"
        fields = {
            "Action": name,
            "Version": "2011-06-15",
            "RoleArn": role_arn,
            "RoleSessionName": "pubsub",
            "WebIdentityToken": token,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8", "Accept": "text/xml"}
        response = self._post(name, self._sts_endpoint, headers, urlencode(fields).encode())
        document = _xml(name, response)
        if response.status != 200:
            code = document.findtext(".//{*}Error/{*}Code") or ""
            raise _refused(name, code, document.findtext(".//{*}Error/{*}Message") or "", response, [token])
        found = document.find(".//{*}Credentials")
        if found is None:
            raise _unusable(name, "Credentials", response)
        keys = {child.tag.rpartition("}")[2]: child.text for child in found}
        try:
            expires_at = datetime.fromisoformat(keys.get("Expiration") or "")
        except ValueError:
            raise _unusable(name, "Expiration", response) from None
        return _granted(name, keys, "SecretAccessKey", expires_at, response)

    # --- the protocols ---

    def _call(self, name: str, body: Mapping[str, Any], logins: Mapping[str, str]) -> tuple[dict[str, Any], Response]:
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"AWSCognitoIdentityService.{name}",
            "Cache-Control": "no-store",
        }
        given = {key: value for key, value in body.items() if value}
        response = self._post(name, self._endpoint, headers, json.dumps(given).encode())
        try:
            answer = json.loads(response.body)
        except (ValueError, RecursionError):
            answer = None
        if response.status != 200:
            details = answer if isinstance(answer, dict) else {}
            code = str(details.get("__type") or response.headers.get("x-amzn-errortype", ""))
            message = str(details.get("message") or details.get("Message") or "")
            raise _refused(name, code.rpartition("#")[2].partition(":")[0], message, response, logins.values())
        if not isinstance(answer, dict):
            raise CognitoError(f"{name}: the answer is not a JSON object", status=response.status)
        return answer, response

    def _post(self, name: str, url: str, headers: Mapping[str, str], body: bytes) -> Response:
        try:
            return post(url, headers, body, timeout=self._timeout, context=self._context)
        except TransferError as fault:
            raise CognitoError(f"{name}: {fault}") from None


def _xml(name: str, response: Response) -> ElementTree.Element:
    try:
        if b"<!" in response.body:
            raise ElementTree.ParseError  # a document type declaration could define entities; STS sends none
        return ElementTree.fromstring(response.body)
    except (ElementTree.ParseError, ValueError, LookupError):  # the latter two: an encoding that it cannot decode
        raise CognitoError(f"{name}: the answer (HTTP {response.status}) is not XML", status=response.status) from None


def _granted(name: str, keys: Mapping[str, Any], secret: str, expires_at: datetime, response: Response) -> Granted:
    """Return the credentials. Their remaining time is measured by AWS's clock, which also determines their expiry."""
    if expires_at.tzinfo is None:
        expires_at = expires_at.replace(tzinfo=UTC)
    there = read_date(response.headers.get("date"))
    life = None if there is None else (expires_at - there).total_seconds()
    try:
        credentials = Credentials(keys["AccessKeyId"], keys[secret], keys["SessionToken"], expires_at=expires_at)
    except (KeyError, TypeError, ValueError):
        raise _unusable(name, "Credentials", response) from None
    return Granted(credentials, life)


def _text(answer: Mapping[str, Any], key: str, name: str) -> str:
    value = answer.get(key)
    if not isinstance(value, str) or not value:
        raise CognitoError(f"{name}: the answer has no {key}", status=200)
    return value


def _unusable(name: str, key: str, response: Response) -> CognitoError:
    return CognitoError(f"{name}: the answer has no usable {key}", status=response.status)


def _refused(name: str, code: str, message: str, response: Response, secrets: Any) -> CognitoError:
    for secret in secrets:
        message = message.replace(secret, "<hidden>")
    shown = "".join(char if char.isprintable() else " " for char in message)[:_LONGEST_MESSAGE]
    reason = ": ".join(part for part in (code, shown) if part)
    return CognitoError(
        f"{name} was refused (HTTP {response.status}){': ' * bool(reason)}{reason}", code, response.status
    )
