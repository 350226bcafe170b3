"""The broker hooks of the local endpoint: authentication, authorization and limits as in AWS IoT.

    upgrade       the signature by known keys (`signature_check`), or the name of a custom authorizer
    CONNECT       the principal: of the keys, of a certificate, or granted by a custom authorizer; then iot:Connect
    PUBLISH …     the limits, then iot:Publish, iot:RetainPublish, iot:Subscribe, iot:Receive
    connected,    lifecycle messages
    disconnected

The decisions are made by modules that are independent of MQTT: `signature_check`, `identities`, `policy`, `limits` and
`presence`. The permissions of a connection are compiled once, at its CONNECT, into a `_Client`, which the broker stores
as the context of the connection. Each later decision is a lookup in it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mqttws import Connect, MQTTError, TokenBucket
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


_MOST_CLIENT_IDS = 10_000  # the number of client ids whose rate of CONNECTs is stored: the latest
_CONNECT_BURST = 3.0  # the burst of CONNECTs with one client id: AWS does not document it


class _Client:
    """The context of a connection: its permissions, and its state."""

    __slots__ = ("authorizer", "ended_by", "ending", "messages", "presence")

    def __init__(self, authorizer: Authorizer, presence: Presence, messages: TokenBucket | None) -> None:
        self.authorizer = authorizer
        self.presence = presence
        self.messages = messages  # one token for each message, in or out; None: no limit
        self.ending: asyncio.TimerHandle | None = None  # the end of its WebSocket connection
        self.ended_by = ""  # AWS's name for the reason, if the endpoint ends it without a fault of the client


class _ConnectRates:
    """CONNECTs a second: of the account, and with each client id."""

    def __init__(self, limits: IoTLimits) -> None:
        self._account = _bucket(limits.connect_rate)
        self._rate = limits.client_connect_rate
        self._of_client: dict[str, TokenBucket] = {}  # the one least lately used first

    def objection(self, client_id: str, now: float) -> str | None:
        """Count a CONNECT. Return why it exceeds the rate, or None."""
        if self._account is not None and not self._account.take(now):
            return f"the account is beyond its {self._account.rate:g} CONNECTs a second"
        if self._rate is None:
            return None
        bucket = self._of_client.pop(client_id, None) or TokenBucket(self._rate, max(_CONNECT_BURST, self._rate))
        self._of_client[client_id] = bucket
        if len(self._of_client) > _MOST_CLIENT_IDS:
            del self._of_client[next(iter(self._of_client))]
        if bucket.take(now):
            return None
        return f"the client id {client_id!r} is beyond its {self._rate:g} CONNECTs a second"


def _bucket(rate: float | None) -> TokenBucket | None:
    """Return a bucket with at most one second's worth of tokens; None for no limit."""
    return None if rate is None else TokenBucket(rate, max(1.0, rate))


class IoTHooks:
    """The hooks.

    Args:
        identities: The users and devices.
        limits: The limits to enforce.
        signatures: The check of the signature of an upgrade request.
        publish: Publishes a lifecycle message, given its topic and payload.
        disconnect: Closes the connection of a client id.
        clock: Returns the time in seconds since 1970.
        monotonic: Returns a monotonic time in seconds, for the rates of CONNECTs, messages and Topic Filters.
        explains: Whether to send a client the reason when its connection is closed.
    """

    def __init__(
        self,
        identities: Identities,
        limits: IoTLimits,
        signatures: SignatureCheck,
        publish: Callable[[str, bytes], object],
        disconnect: Callable[[str], object],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        explains: bool,
    ) -> None:
        self._explains = explains
        self._identities = identities
        self._limits = limits
        self._signatures = signatures
        self._publish = publish
        self._disconnect = disconnect
        self._clock = clock
        self._monotonic = monotonic
        self._connects = _ConnectRates(limits)
        self._connected: dict[str, _Client] = {}  # by client id
        self._rate = limits.publish_rate if limits.publish_surplus == "discard" else None
        # Of the account: all clients together.
        self._subscribed = _bucket(limits.subscribe_rate)
        self._moved = {"publish": _bucket(limits.inbound_rate), "receive": _bucket(limits.outbound_rate)}

    # --- authentication ---

    def on_upgrade(self, peer: Peer) -> Rejection | None:
        """Accept an upgrade request, or reject it with AWS's 403."""
        assert peer.target is not None
        if is_custom(peer.target, peer.headers) or (self._identities.has_authorizers and not _is_signed(peer)):
            return None  # a custom authorizer decides, when the CONNECT arrives
        answer = self._signatures.examine("GET", peer.target, peer.headers)
        if isinstance(answer, Forbidden):
            return Rejection(answer.status, answer.headers, answer.body, answer.reason)
        peer.context = answer.principal
        return None

    def authenticate(self, peer: Peer, connect: Connect) -> Accepted | Refused:
        """Find the principal of a client, compile its policies, and check whether it may connect."""
        client_id = connect.client_id or f"$GEN/{uuid.uuid4()}"
        if connect.client_id.startswith("$"):
            return Refused(2, f"the client id {connect.client_id!r} begins with '$', which AWS IoT reserves")
        objection = self._connects.objection(client_id, self._monotonic())
        if objection is not None:
            return Refused(3, objection)
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
        peer.context = _Client(authorizer, presence, _bucket(self._rate))
        keep_alive = self._limits.keep_alive(connect.keep_alive)
        # A client id belongs to the account: any user of the account can take over the connection that has it.
        return Accepted(client_id, keep_alive, owner=self._identities.account_id)

    def _identify(self, peer: Peer, connect: Connect) -> tuple[Principal, Sides] | str:
        """Return the principal of a client with its policies, or why there is none."""
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
            asked = f"there is no custom authorizer {request.name!r}" if request.name else "it has no certificate"
            return f"it is not known who the client is: {asked}"
        grant = authorizer.answer(request)
        return grant if isinstance(grant, str) else (Principal(grant.principal), Sides(None, tuple(grant.policies)))

    def _context(self, peer: Peer, connect: Connect, client_id: str, principal: Principal) -> ConnectionContext:
        identities = self._identities
        certificate: Mapping[str, Any] = {}
        if peer.tls is not None and peer.target is None:
            certificate = peer.tls.getpeercert() or {}
        return ConnectionContext(
            client_id=client_id,
            region=identities.region,
            account_id=identities.account_id,
            partition=identities.partition,
            source_ip=peer.address[0],
            domain_name=_host_of(peer.header("host")),
            secure=peer.tls is not None,
            thing=identities.thing(client_id, principal.name),
            identity_id=principal.identity_id,
            identity_pool_id=principal.identity_pool_id,
            authenticated_by=principal.authenticated_by,
            certificate=_attributes(certificate, principal.name) if certificate else {},
            will_topic=None if connect.will is None else connect.will.topic,
            persistent=not connect.clean_session,
        )

    # --- authorization ---

    def authorize(self, peer: Peer, access: Access) -> bool | Verdict:
        """Permit or deny one PUBLISH, one Topic Filter, or one message to be delivered."""
        client: _Client = peer.context
        if access.action == "subscribe":
            return self._subscribe(client, access)
        if access.action == "publish":
            objection = self._limits.objection_to_publish(access.topic, None, access.qos)
            if objection is not None:
                return self._closing(objection)
            decision = client.authorizer.publish(access.topic, retain=access.retain)
            if not decision:
                return self._denied(decision)
        elif not (decision := client.authorizer.receive(access.topic)):
            return Verdict(False, reason=decision.reason)
        for bucket, whose in ((client.messages, "one connection"), (self._moved[access.action], "the account")):
            if bucket is not None and not bucket.take(self._monotonic()):
                said = f"it is beyond the {bucket.rate:g} messages a second of {whose}, and discarded"
                return Verdict(False, reason=said, acknowledge=False)
        if access.action == "publish" and access.topic.startswith("$") and not self._limits.reserved_topics:
            return Verdict(False, reason="it is for a service of AWS, and there is none here: acknowledged and dropped")
        return ALLOWED

    def _subscribe(self, client: _Client, access: Access) -> Verdict:
        # AWS IoT authorizes the whole name of a shared subscription: topicfilter/$share/group/filter.
        topic_filter = f"$share/{access.group}/{access.topic}" if access.group else access.topic
        objection = self._limits.objection_to_filter(topic_filter)
        if objection is not None:
            return self._closing(objection)
        decision: Decision = client.authorizer.subscribe(topic_filter)
        if not decision:
            return self._denied(decision)
        rate = self._subscribed
        if rate is not None and not rate.take(self._monotonic()):
            return Verdict(False, reason=f"it is beyond the {rate.rate:g} Topic Filters a second of the account")
        return Verdict(True, max_qos=self._limits.max_qos)

    def _denied(self, decision: Decision) -> Verdict:
        return (
            self._closing(decision.reason) if self._limits.close_on_denial else Verdict(False, reason=decision.reason)
        )

    def _closing(self, reason: str) -> Verdict:
        """Return the verdict that closes a connection. The client is sent the reason only in the mode `explain`."""
        here = f"arn:{self._identities.partition}:iot:{self._identities.region}:{self._identities.account_id}:"
        return Verdict(
            False, close=True, reason=reason, close_reason=reason.replace(here, "") if self._explains else ""
        )

    # --- lifecycle messages ---

    def on_connected(self, peer: Peer) -> None:
        """Publish that a client has connected."""
        client: _Client = peer.context
        self._connected[peer.client_id] = client
        if self._limits.websocket_life is not None and peer.target is not None:
            loop = asyncio.get_running_loop()
            client.ending = loop.call_later(
                self._limits.websocket_life, self._end, peer.client_id, "WEBSOCKET_TTL_EXPIRATION"
            )
        if self._limits.lifecycle_events:
            self._publish_event(client.presence.connected())

    def on_disconnected(self, peer: Peer, error: MQTTError | None) -> None:
        """Publish that a client has disconnected."""
        client: _Client = peer.context
        if self._connected.get(peer.client_id) is client:
            del self._connected[peer.client_id]
        if client.ending is not None:
            client.ending.cancel()
        if self._limits.lifecycle_events:
            self._publish_event(client.presence.disconnected(error, client.ended_by))

    def ends(self, client_id: str, reason: str) -> None:
        """Record why a client's connection is about to be closed, by AWS's name of the reason."""
        client = self._connected.get(client_id)
        if client is not None:
            client.ended_by = reason

    def _end(self, client_id: str, reason: str) -> None:
        self.ends(client_id, reason)
        self._disconnect(client_id)

    def _publish_event(self, message: tuple[str, bytes] | None) -> None:
        if message is not None:
            self._publish(*message)


def _host_of(header: str | None) -> str | None:
    """Return the host of a Host header without its port; an IPv6 address stays in brackets (RFC 3986 §3.2.2)."""
    if header is None:
        return None
    host, bracket, _ = header.rpartition("]")
    return (f"{host}]" if bracket else header.partition(":")[0]).lower()


def _is_signed(peer: Peer) -> bool:
    authorization = peer.header("authorization") or ""
    return "X-Amz-Signature=" in (peer.target or "") or authorization.startswith("AWS4-")


def _attributes(certificate: Mapping[str, Any], certificate_id: str) -> dict[str, str | Sequence[str]]:
    """Return the attributes of a client's certificate by AWS's names, from the result of `ssl`'s `getpeercert`."""
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
