"""The registry of the local AWS IoT endpoint: users, identity pools, certificates, things and their policies.

    identities = Identities(region="eu-west-1")
    identities.add_policy("chat", {...})
    identities.add_user("alice", Credentials("AKID…", "…"), policies=["chat"])

or, from a file (see `identities_file`), `Identities.load("identities.toml")`.

Each kind of authentication results in a `Principal`, and `sides` returns the policies that apply to it: those of its
role, the AWS IoT policies attached to it, or both. Policies are looked up at each connection, so a policy that is
attached while a client is disconnected applies to its next connection.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import ssl
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pubsub.aws.local.authorizers import LocalAuthorizer
from pubsub.aws.local.cognito import IdentityPool
from pubsub.aws.local.identities_file import load
from pubsub.aws.local.keyring import KeyRing, Principal
from pubsub.aws.local.policy import PolicyDocument, Thing
from pubsub.owned_lock import OwnedLock
from sigv4 import Credentials

__all__ = ["ALLOW_ALL", "Identities", "Sides"]

#: A policy that allows everything, for first experiments.
ALLOW_ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}


class Sides(NamedTuple):
    """The policies that apply to a principal, by side; None for a side that does not apply."""

    role: Sequence[PolicyDocument] | None
    iot: Sequence[PolicyDocument] | None


@dataclass(frozen=True, slots=True)
class _Pool:
    pool: IdentityPool
    guests: tuple[str, ...]
    users: tuple[str, ...]
    attached: tuple[str, ...]


@dataclass(slots=True)
class _Thing:
    type_name: str | None
    attributes: Mapping[str, str]
    principals: set[str] = field(default_factory=set)


class Identities:
    """The users and devices of the endpoint. Thread-safe.

    Args:
        region: The AWS region of the endpoint.
        account_id: The AWS account, twelve digits.
        partition: `aws`, `aws-cn` or `aws-us-gov`.

    Attributes:
        ring: The keys of users, and those that the local Cognito service issues.
    """

    def __init__(self, region: str = "us-east-1", *, account_id: str = "123456789012", partition: str = "aws") -> None:
        self.region = region
        self.account_id = account_id
        self.partition = partition
        self.ring = KeyRing()
        self._lock: Any = OwnedLock()
        self._policies: dict[str, PolicyDocument] = {}
        self._users: dict[str, tuple[str, ...]] = {}  # name -> policies
        self._pools: dict[str, _Pool] = {}
        self._attached: dict[str, list[str]] = {}  # principal -> IoT policies
        self._certificates: dict[str, str] = {}  # id -> PEM
        self._contexts: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()  # of servers that trust them
        self._things: dict[str, _Thing] = {}
        self._authorizers: dict[str, LocalAuthorizer] = {}

    def __repr__(self) -> str:
        return (
            f"Identities({self.region!r}, {len(self._users)} users, {len(self._pools)} pools, "
            f"{len(self._certificates)} certificates, {len(self._policies)} policies)"
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identities:
        """Read a TOML file, or a JSON file with the same structure; see `identities_file`.

        Args:
            path: The path of the file.

        Raises:
            OSError: The file, or one that it names, cannot be read.
            ValueError: Its content is not valid. The message contains the place, but no secret.
        """
        return load(path, cls)

    @classmethod
    def for_one_user(cls, region: str = "us-east-1") -> tuple[Identities, Credentials]:
        """Return a registry of one user with new keys and all permissions, for first experiments; and the keys."""
        identities = cls(region)
        credentials = Credentials("AKIA" + secrets.token_hex(8).upper(), secrets.token_urlsafe(30))
        identities.add_policy("allow-all", ALLOW_ALL)
        identities.add_user("developer", credentials, policies=["allow-all"])
        return identities, credentials

    # --- registration ---

    def add_policy(self, name: str, document: str | bytes | Mapping[str, Any] | PolicyDocument) -> None:
        """Add a policy, or replace the one of that name.

        Args:
            name: The name of the policy.
            document: The policy: JSON, a dict, or a parsed document.

        Raises:
            PolicyError: This is not a policy document.
        """
        if not isinstance(document, PolicyDocument):
            document = PolicyDocument.parse(document, name=name)
        with self._lock:
            self._policies[name] = document

    def add_user(self, name: str, credentials: Credentials, *, policies: Iterable[str]) -> None:
        """Add an IAM user, or a role, with its keys. Only the policies of the role side apply to it.

        Args:
            name: The name of the user.
            credentials: The keys.
            policies: The names of its policies.

        Raises:
            ValueError: There is no policy with one of the names.
        """
        named = self._checked(policies)
        with self._lock:
            self._users[name] = named
        self.ring.add(credentials, Principal(name))

    def add_pool(
        self,
        pool_id: str,
        *,
        guests: Iterable[str] | None = None,
        users: Iterable[str] = (),
        attached: Iterable[str] = (),
        logins: Mapping[str, Callable[[str], str | None]] | None = None,
    ) -> None:
        """Add a Cognito identity pool.

        Args:
            pool_id: The id of the pool: `region:guid`.
            guests: The policies of the role of guests; None: there are no guests.
            users: The policies of the role of users that have signed in.
            attached: AWS IoT policies that each of those users has, in addition to those of `attach_policy`.
            logins: The name of a login provider -> a function that returns the user of a token, or None.

        Raises:
            ValueError: There is no policy with one of the names.
        """
        pool = IdentityPool(pool_id, guests is not None, logins or {})
        kept = _Pool(pool, self._checked(guests or ()), self._checked(users), self._checked(attached))
        with self._lock:
            self._pools[pool_id] = kept

    @property
    def pools(self) -> list[IdentityPool]:
        """The identity pools."""
        with self._lock:
            return [kept.pool for kept in self._pools.values()]

    def attach_policy(self, name: str, target: str) -> None:
        """Attach an AWS IoT policy, like AttachPolicy.

        Args:
            name: The name of the policy.
            target: The id of a Cognito identity, or the id or ARN of a certificate.

        Raises:
            ValueError: There is no such policy.
        """
        self._checked([name])
        target = target.rpartition(":cert/")[2]
        with self._lock:
            attached = self._attached.setdefault(target, [])
            if name not in attached:
                attached.append(name)

    def detach_policy(self, name: str, target: str) -> None:
        """Detach an AWS IoT policy, like DetachPolicy. Do nothing if it is not attached."""
        with self._lock:
            attached = self._attached.get(target.rpartition(":cert/")[2], [])
            if name in attached:
                attached.remove(name)

    def add_thing(
        self, name: str, *, type_name: str | None = None, attributes: Mapping[str, str] | None = None
    ) -> None:
        """Add a thing to the registry. A client with its name as client id represents it."""
        with self._lock:
            self._things[name] = _Thing(type_name, dict(attributes or {}))

    def attach_thing(self, name: str, principal: str) -> None:
        """Attach a principal to a thing.

        Args:
            name: The name of the thing.
            principal: The id of a certificate or of a Cognito identity, or the name of a user.

        Raises:
            ValueError: There is no such thing.
        """
        with self._lock:
            if name not in self._things:
                raise ValueError(f"there is no thing {name!r}; call add_thing first")
            self._things[name].principals.add(principal)

    def add_certificate(
        self, certificate: bytes | str, *, policies: Iterable[str] = (), thing: str | None = None
    ) -> str:
        """Register a client's certificate.

        Args:
            certificate: The certificate, in PEM.
            policies: The names of AWS IoT policies to attach to it.
            thing: The name of a thing to attach it to.

        Returns:
            The certificate's id: the SHA-256 of the certificate.

        Raises:
            ValueError: This is not a certificate, or there is no such policy or thing.
        """
        pem = certificate.decode() if isinstance(certificate, bytes) else certificate
        certificate_id = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        with self._lock:
            for context in self._contexts:
                context.load_verify_locations(cadata=pem)
            self._certificates[certificate_id] = pem
        for name in policies:
            self.attach_policy(name, certificate_id)
        if thing is not None:
            self.attach_thing(thing, certificate_id)
        return certificate_id

    def add_authorizer(self, authorizer: LocalAuthorizer) -> None:
        """Add a custom authorizer; the first one is the default."""
        with self._lock:
            self._authorizers[authorizer.name] = authorizer

    def documents(self, names: Iterable[str]) -> tuple[PolicyDocument, ...]:
        """Return policies by their names.

        Raises:
            ValueError: There is no policy with one of the names.
        """
        checked = self._checked(names)
        with self._lock:
            return self._documents(checked)

    # --- for the endpoint ---

    @property
    def has_authorizers(self) -> bool:
        """Whether there is any custom authorizer."""
        return bool(self._authorizers)

    def trust(self, context: ssl.SSLContext) -> None:
        """Let a TLS context trust the clients' certificates, and those that are added later.

        As with AWS IoT, a registered certificate is trusted directly, without an authority.

        Args:
            context: The context of a server.
        """
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        with self._lock:
            for pem in self._certificates.values():
                context.load_verify_locations(cadata=pem)
            self._contexts.add(context)

    def authorizer(self, name: str | None) -> LocalAuthorizer | None:
        """Return a custom authorizer by its name, or the default one for None; None if there is none."""
        with self._lock:
            return next(iter(self._authorizers.values()), None) if name is None else self._authorizers.get(name)

    def certificate_principal(self, der: bytes) -> Principal | None:
        """Return the principal of a client's certificate; None if it is not registered."""
        certificate_id = hashlib.sha256(der).hexdigest()
        return Principal(certificate_id) if certificate_id in self._certificates else None

    def sides(self, principal: Principal) -> Sides:
        """Return the policies that apply to a principal, without those of a custom authorizer."""
        with self._lock:
            attached = self._attached.get(principal.name, [])
            if principal.identity_id is None:
                if principal.name in self._certificates:
                    return Sides(None, self._documents(attached))
                return Sides(self._documents(self._users.get(principal.name, ())), None)
            pool = self._pools.get(principal.identity_pool_id or "")
            if pool is None:
                return Sides((), None)
            if principal.is_guest:
                return Sides(self._documents(pool.guests), None)
            return Sides(self._documents(pool.users), self._documents([*pool.attached, *attached]))

    def thing(self, client_id: str, principal: str) -> Thing | None:
        """Return the thing that a client represents, or None."""
        with self._lock:
            found = self._things.get(client_id)
            if found is None:
                return None
            return Thing(
                name=client_id,
                type_name=found.type_name,
                attributes=found.attributes,
                attached=principal in found.principals,
            )

    def _documents(self, names: Iterable[str]) -> tuple[PolicyDocument, ...]:
        return tuple(self._policies[name] for name in names)

    def _checked(self, names: Iterable[str]) -> tuple[str, ...]:
        checked = tuple(names)
        for name in checked:
            if name not in self._policies:
                known = ", ".join(sorted(self._policies)) or "none"
                raise ValueError(f"there is no policy {name!r}; there are {known}")
        return checked
