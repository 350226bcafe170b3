"""What makes a broker AWS IoT: the hooks that decide as AWS IoT decides.

    upgrade       signed by known keys (`signature_check`), or it names a custom authorizer
    CONNECT       who is it: the keys that signed, a certificate, a custom authorizer's grant; then iot:Connect
    PUBLISH …     the limits, then iot:Publish, iot:RetainPublish, iot:Subscribe, iot:Receive
    connected,    lifecycle messages
    disconnected

It decides by rooms that know no MQTT: `signature_check`, `identities`, `policy`, `limits`, `presence`.

The one idea: what a connection may do is compiled once, at its CONNECT, into its `_Client`, which the broker keeps as
the connection's context.  Each later question is a lookup in that.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mqttws import Connect, MQTTError
from mqttws.broker import ALLOWED, Accepted, Access, Peer, Refused, Rejection, Verdict
from pubsub.aws.limits import IoTLimits
from pubsub.aws.local.authorizers import is_custom, read_request
from pubsub.aws.local.identities import Identities, Sides
from pubsub.aws.local.keyring import Principal
from pubsub.aws.local.policy import Authorizer, ConnectionContext, Decision
from pubsub.aws.local.presence import Presence
from pubsub.aws.local.signature_check import Forbidden, SignatureCheck

__all__ = ["IoTHooks"]

#: OpenSSL's names of the parts of a name in a certificate -> AWS's.
_NAME_PARTS = {
    "commonName": "CommonName",
    "countryName": "Country",
    "dnQualifier": "DistinguishedNameQualifier",
    "generationQualifier": "GenerationQualifier",
    "givenName": "GivenName",
    "initials": "Initials",
    "organizationName": "Organization",
    "organizationalUnitName": "OrganizationalUnit",
    "pseudonym": "Pseudonym",
    "serialNumber": "SerialNumber",
    "stateOrProvinceName": "State",
    "surname": "Surname",
    "title": "Title",
}
_ALTERNATIVES = {
    "DNS": "DNSName",
    "IP Address": "IPAddress",
    "URI": "UniformResourceIdentifier",
    "email": "RFC822Name",
}


class _Client:
    """A client that is connected, or connecting."""

    __slots__ = ("allowance", "allowance_at", "authorizer", "presence")

    def __init__(self, authorizer: Authorizer, presence: Presence, allowance: float, now: float) -> None:
        self.authorizer = authorizer
        self.presence = presence
        self.allowance = allowance
        self.allowance_at = now


class IoTHooks:
    """The hooks.

    Args:
        identities: Who there is.
        limits: The limits that are kept.
        signatures: Decides about the signature of an upgrade request.
        publish: Publishes a lifecycle message: topic and payload.
        clock: Gives the time in seconds since 1970.
        monotonic: Gives seconds that only go forward, for the rate of messages.
    """

    def __init__(
        self,
        identities: Identities,
        limits: IoTLimits,
        signatures: SignatureCheck,
        publish: Callable[[str, bytes], object],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._identities = identities
        self._limits = limits
        self._signatures = signatures
        self._publish = publish
        self._clock = clock
        self._monotonic = monotonic
        self._rate = limits.publish_rate if limits.publish_surplus == "discard" else None

    # --- who is it ---

    def on_upgrade(self, peer: Peer) -> Rejection | None:
        """Let an upgrade in, or refuse it with AWS's 403."""
        assert peer.target is not None
        if is_custom(peer.target, peer.headers) or (self._identities.has_authorizers and not _is_signed(peer)):
            return None  # a custom authorizer decides, once the CONNECT is there
        answer = self._signatures.examine("GET", peer.target, peer.headers)
        if isinstance(answer, Forbidden):
            return Rejection(answer.status, answer.headers, answer.body, answer.reason)
        peer.context = answer.principal
        return None

    def authenticate(self, peer: Peer, connect: Connect) -> Accepted | Refused:
        """Find out whom a client stands for, compile what it may do, and ask whether it may connect."""
        client_id = connect.client_id or f"$GEN/{uuid.uuid4()}"
        if connect.client_id.startswith("$"):
            return Refused(2, f"the client id {connect.client_id!r} begins with '$', which AWS IoT keeps for itself")
        found = self._identify(peer, connect)
        if isinstance(found, str):
            return Refused(5, found)
        principal, sides = found
        context = self._context(peer, connect, client_id, principal)
        authorizer = Authorizer(context, role=sides.role, iot=sides.iot, clock=self._clock)
        decision = authorizer.connect()
        if not decision:
            return Refused(5, decision.reason)
        presence = Presence(client_id, principal.name, peer.address[0], self._clock)
        peer.context = _Client(authorizer, presence, self._rate or 0.0, self._monotonic())
        keep_alive = self._limits.keep_alive(connect.keep_alive)
        # A client id is the account's, whoever uses it: that is what take-over goes by.
        return Accepted(client_id, keep_alive, owner=self._identities.account_id)

    def _identify(self, peer: Peer, connect: Connect) -> tuple[Principal, Sides] | str:
        """Give whom a client stands for, with the policies to ask; or why that is not known."""
        identities = self._identities
        if isinstance(peer.context, Principal):
            return peer.context, identities.sides(peer.context)
        der = peer.tls.getpeercert(binary_form=True) if peer.tls is not None else None
        if der is not None and peer.target is None:
            principal = identities.certificate_principal(der)
            if principal is None:
                return "the client's certificate is not registered"
            return principal, identities.sides(principal)
        request = read_request(peer.target, peer.headers, connect.username, connect.password, connect.client_id)
        authorizer = identities.authorizer(request.name)
        if authorizer is None:
            asked = f"there is no custom authorizer {request.name!r}" if request.name else "it shows no certificate"
            return f"it is not known who the client is: {asked}"
        grant = authorizer.answer(request)
        return grant if isinstance(grant, str) else (Principal(grant.principal), Sides(None, tuple(grant.policies)))

    def _context(self, peer: Peer, connect: Connect, client_id: str, principal: Principal) -> ConnectionContext:
        identities = self._identities
        certificate: Mapping[str, Any] = {}
        if peer.tls is not None and peer.target is None:
            certificate = peer.tls.getpeercert() or {}
        host = peer.header("host")
        return ConnectionContext(
            client_id=client_id,
            region=identities.region,
            account_id=identities.account_id,
            partition=identities.partition,
            source_ip=peer.address[0],
            domain_name=None if host is None else host.partition(":")[0].lower(),
            secure=peer.tls is not None,
            thing=identities.thing(client_id, principal.name),
            identity_id=principal.identity_id,
            identity_pool_id=principal.identity_pool_id,
            authenticated_by=principal.authenticated_by,
            certificate=_attributes(certificate, principal.name) if certificate else {},
            will_topic=None if connect.will is None else connect.will.topic,
            persistent=not connect.clean_session,
        )

    # --- what may it do ---

    def authorize(self, peer: Peer, access: Access) -> bool | Verdict:
        """Decide about one PUBLISH, one Topic Filter, or one message to be delivered."""
        client: _Client = peer.context
        if access.action == "subscribe":
            return self._subscribe(client, access)
        if access.action == "publish":
            objection = self._limits.objection_to_publish(access.topic, None, access.qos)
            if objection is not None:
                return Verdict(False, close=True, reason=objection)
            decision = client.authorizer.publish(access.topic, retain=access.retain)
            if not decision:
                return Verdict(False, close=self._limits.close_on_denial, reason=decision.reason)
        elif not (decision := client.authorizer.receive(access.topic)):
            return Verdict(False, reason=decision.reason)
        return ALLOWED if self._rate is None else self._within_rate(client, self._rate)

    def _subscribe(self, client: _Client, access: Access) -> Verdict:
        objection = self._limits.objection_to_topic(access.topic, "the Topic Filter")
        if objection is not None:
            return Verdict(False, close=True, reason=objection)
        decision: Decision = client.authorizer.subscribe(access.topic)
        if decision:
            return Verdict(True, max_qos=self._limits.max_qos)
        return Verdict(False, close=self._limits.close_on_denial, reason=decision.reason)

    def _within_rate(self, client: _Client, rate: float) -> Verdict:
        """Count a message, in or out; bursts may take up one second's worth."""
        now = self._monotonic()
        client.allowance = min(rate, client.allowance + (now - client.allowance_at) * rate)
        client.allowance_at = now
        if client.allowance < 1:
            said = f"it is beyond the {rate:g} messages a second of one connection, and discarded"
            return Verdict(False, reason=said, acknowledge=False)
        client.allowance -= 1
        return ALLOWED

    # --- who is there ---

    def on_connected(self, peer: Peer) -> None:
        """Tell that a client has connected."""
        if self._limits.lifecycle_events:
            self._tell(peer.context.presence.connected())

    def on_disconnected(self, peer: Peer, error: MQTTError | None) -> None:
        """Tell that a client has disconnected."""
        if self._limits.lifecycle_events:
            self._tell(peer.context.presence.disconnected(error))

    def _tell(self, message: tuple[str, bytes] | None) -> None:
        if message is not None:
            self._publish(*message)


def _is_signed(peer: Peer) -> bool:
    authorization = peer.header("authorization") or ""
    return "X-Amz-Signature=" in (peer.target or "") or authorization.startswith("AWS4-")


def _attributes(certificate: Mapping[str, Any], certificate_id: str) -> dict[str, str | Sequence[str]]:
    """Give the attributes of a client's certificate by AWS's names, from what `ssl` tells of it."""
    attributes: dict[str, list[str]] = {}
    for section, prefix in (("subject", "Subject"), ("issuer", "Issuer")):
        for relative in certificate.get(section, ()):
            for name, value in relative:
                if name in _NAME_PARTS:
                    attributes.setdefault(f"{prefix}.{_NAME_PARTS[name]}", []).append(value)
    for kind, value in certificate.get("subjectAltName", ()):
        if kind in _ALTERNATIVES:
            attributes.setdefault(f"SubjectAlternativeName.{_ALTERNATIVES[kind]}", []).append(value)
    if "serialNumber" in certificate:
        attributes["SerialNumber"] = [certificate["serialNumber"]]
    return {"CertificateId": certificate_id, **attributes}
