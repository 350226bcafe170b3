"""The attributes of a connection as the keys of policies: `iot:ClientId`, `aws:SourceIp` and the others.

Only this module contains the names of AWS's keys. It is independent of policies.

All keys that a policy can use are in one flat table from a key to its values, which is made once for each connection. A
key without a value is not in the table, so an unknown variable and an absent key mean the same.

A client chooses its client id, which must not extend what a policy means to allow. With the client id `+`,
`topicfilter/${iot:ClientId}/#` would allow the topics of all clients; with `bob/private`, `topic/${iot:ClientId}/log`
would be one of Bob's topics. So in statements that allow, such a value counts as missing (`careful_lookup`).

Spec: "AWS IoT Core policy variables", "Thing policy variables" and "X.509 certificate policy variables" in
the AWS IoT Core developer guide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pubsub.aws.local.policy_conditions import Keys, lookup_in
from pubsub.aws.local.policy_match import Lookup, Template, Variable, normal_key

__all__ = ["ConnectionContext", "Thing", "careful_lookup", "keys_of_role"]

_Given: TypeAlias = dict[str, str | Sequence[str] | None]

_CERTIFICATE_PREFIX = "iot:Certificate."
_MOST_CERTIFICATE_VALUES = 5
_WILD_IN_CERTIFICATE = frozenset("*$+?#")
_CLIENT_ID, _THING, _THING_NAME = "iot:clientid", "iot:connection.thing.", "iot:connection.thing.thingname"
_MQTT_WILDCARDS = frozenset("+#")
_WIDENS_A_TOPIC = frozenset("+#/*?$")


def keys_of_role(keys: Keys) -> Keys:
    """Return the keys that the policies of an IAM role can use. Only AWS IoT policies have keys for things."""
    return {key: values for key, values in keys.items() if not key.startswith(_THING)}


def careful_lookup(keys: Keys, kind: str, template: Template) -> Lookup:
    """Return the lookup of variables for a resource that is allowed, without values that would extend it.

    Args:
        keys: The keys of the connection.
        kind: The kind of the resource: `topic` or `topicfilter`; for any other, values are not checked.
        template: The resource.
    """
    plain = lookup_in(keys)
    if kind not in ("topic", "topicfilter"):
        return plain
    # A variable that is the whole topic allows only that topic. In a Topic Filter MQTT's wildcards would allow more.
    before, last = template.parts[-2:] if len(template.parts) > 1 else ("", "")
    whole = isinstance(last, Variable) and isinstance(before, str) and before.endswith(f":{kind}/")
    forbidden = _WIDENS_A_TOPIC if not whole else _MQTT_WILDCARDS if kind == "topicfilter" else frozenset("")

    def lookup(name: str) -> str | None:
        value = plain(name)
        if value is None or not name.startswith((_CLIENT_ID, _THING)):
            return value
        # Other attributes of a thing are set by the owner of the registry, so a path in them is intended.
        widens = forbidden if name in (_CLIENT_ID, _THING_NAME) else forbidden & _MQTT_WILDCARDS
        return None if widens.intersection(value) else value

    return lookup


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """The thing in the registry that a connection represents.

    Args:
        name: Its name, which is the client id of its connections.
        type_name: The name of its type, or None.
        attributes: Its attributes by name; names are case-sensitive.
        attached: Whether the principal of the connection is attached to it. If not, its keys have no values.
    """

    name: str
    type_name: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    attached: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionContext:
    """The attributes of one connection.

    Args:
        client_id: The client id of its CONNECT.
        region: The AWS region, for example `eu-west-1`.
        account_id: The account, twelve digits.
        partition: `aws`, `aws-cn` or `aws-us-gov`.
        source_ip: The peer's address, IPv4 or IPv6.
        domain_name: The host name to which the client has connected.
        secure: Whether the connection uses TLS.
        thing: The thing that the connection represents, if any.
        identity_id: The Cognito identity, `region:guid`, if the principal is one.
        identity_pool_id: Its pool.
        authenticated_by: Cognito's `amr` claim: `("unauthenticated",)` for a guest, or `authenticated` and the provider
            of the login.
        certificate: Attributes of the client's certificate, by the name after `iot:Certificate.` or by
            `CertificateId`, each with one value or several: `{"Subject.CommonName": "bulb", "SerialNumber": "1"}`.
        will_topic: The topic of the CONNECT's will; None without a will.
        persistent: Whether the CONNECT requests a persistent session (`clean_session=False`).
        extra: Any other keys, for example `aws:PrincipalArn`.
    """

    client_id: str
    region: str
    account_id: str
    partition: str = "aws"
    source_ip: str | None = None
    domain_name: str | None = None
    secure: bool = True
    thing: Thing | None = None
    identity_id: str | None = None
    identity_pool_id: str | None = None
    authenticated_by: Sequence[str] = ()
    certificate: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    will_topic: str | None = None
    persistent: bool = False
    extra: Mapping[str, str | Sequence[str]] = field(default_factory=dict)

    def arn(self, kind: str, name: str) -> str:
        """Return the ARN of a resource of this account.

        Args:
            kind: `client`, `topic` or `topicfilter`.
            name: The client id, the Topic Name or the Topic Filter.
        """
        return f"arn:{self.partition}:iot:{self.region}:{self.account_id}:{kind}/{name}"

    def keys(self) -> Keys:
        """Return the keys that are valid for the whole connection."""
        keys: _Given = {
            "aws:SourceIp": self.source_ip,
            "iot:SourceIp": self.source_ip,
            "aws:SecureTransport": "true" if self.secure else "false",
            "aws:RequestedRegion": self.region,
            "iot:ClientId": self.client_id,
            "iot:DomainName": self.domain_name,
            "cognito-identity.amazonaws.com:sub": self.identity_id,
            "cognito-identity.amazonaws.com:aud": self.identity_pool_id,
            "cognito-identity.amazonaws.com:amr": self.authenticated_by,
            **_thing_keys(self.thing),
            **_certificate_keys(self.certificate),
            **self.extra,
        }
        return _normal(keys)

    def connect_keys(self) -> Keys:
        """Return the additional keys for the decision about the CONNECT."""
        attributes = ["PersistentConnect"] if self.persistent else []
        will = None
        if self.will_topic is not None:
            attributes.append("LastWill")
            will = self.arn("topic", self.will_topic)
        return _normal({"iot:ConnectAttributes": attributes, "iot:LastWillTopic": will})


def _normal(keys: Mapping[str, str | Sequence[str] | None]) -> dict[str, tuple[str, ...]]:
    pairs = (
        (normal_key(key), (value,) if isinstance(value, str) else tuple(value))
        for key, value in keys.items()
        if value is not None
    )
    return {key: values for key, values in pairs if values}


def _thing_keys(thing: Thing | None) -> _Given:
    if thing is None or not thing.attached:
        return {"iot:Connection.Thing.IsAttached": "false"}
    return {
        "iot:Connection.Thing.ThingName": thing.name,
        "iot:Connection.Thing.ThingTypeName": thing.type_name,
        "iot:Connection.Thing.IsAttached": "true",
        **{f"iot:Connection.Thing.Attributes[{name}]": value for name, value in thing.attributes.items()},
    }


def _certificate_keys(certificate: Mapping[str, str | Sequence[str]]) -> _Given:
    """Return the keys of each attribute: its first value, its values as `.0`, `.1` …, and all values as `.List`.

    AWS uses at most five values of an attribute, and ignores values that contain a wildcard character.
    """
    keys: _Given = {}
    available = []
    for name, given in certificate.items():
        every = [given] if isinstance(given, str) else list(given)
        values = [
            None if _WILD_IN_CERTIFICATE.intersection(value) else value for value in every[:_MOST_CERTIFICATE_VALUES]
        ]
        key = f"iot:{name}" if name == "CertificateId" else _CERTIFICATE_PREFIX + name
        keys[key] = values[0] if values else None
        keys.update({f"{key}.{index}": value for index, value in enumerate(values)})
        keys[f"{key}.List"] = [value for value in values if value is not None]
        if keys[key] is not None:
            available.append(key)
    keys[_CERTIFICATE_PREFIX + "AvailableKeys"] = available
    return keys
