"""A local AWS IoT endpoint, which checks what AWS IoT checks: signatures, policies, limits.

    with LocalIoTEndpoint() as iot:                                  # one user with all permissions
        provider = AWSIoTProvider(
            aws_pubsub_endpoint=iot.url, aws_pubsub_region=iot.region, credentials=iot.credentials)

    with LocalIoTEndpoint(Identities.load("identities.toml"), tls=True, explain=True) as iot: ...

It consists of the embedded broker with the hooks of `endpoint_hooks`, and the local Cognito service if there are
identity pools. It is for development and tests, and by default accepts connections only from this machine.

This module creates, starts and stops these parts; the decisions are in the other modules.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Self

from mqttws.broker import Broker, Departures, Limits
from mqttws.testing import Authority, Identity, mint_authority
from pubsub.aws.limits import IoTLimits
from pubsub.aws.local.cognito import LocalCognito
from pubsub.aws.local.cognito_server import LocalCognitoServer
from pubsub.aws.local.endpoint_hooks import IoTHooks
from pubsub.aws.local.identities import Identities
from pubsub.aws.local.signature_check import SignatureCheck
from sigv4 import Credentials

__all__ = ["LocalIoTEndpoint"]

_ALPN = ["x-amzn-mqtt-ca", "mqtt", "http/1.1"]


class LocalIoTEndpoint:
    """A local AWS IoT endpoint.

    Args:
        identities: The registered users and devices; None: one user with new keys, `credentials`, and all permissions.
        host: The address to listen on; the default accepts connections only from this machine.
        port: The port of the WebSocket listener; 0 for any free port.
        mqtts_port: The port of the listener for MQTT over TLS with client certificates (8883 at AWS); None for no such
            listener. Requires `tls`.
        cognito_port: The port of the local Cognito service, if there are identity pools; None for no such service.
        tls: True: wss, with a certificate of a new authority (requires the extra `certs`). Or a TLS context.
        names: Additional host names in the new certificate, besides those of this machine.
        explain: Whether to send a refused client the reason, in the body of the 403 or in the close frame.
        limits: The limits of AWS IoT and its deviations from the standard.
        skew: Seconds by which a client's clock may be off.
        refuse_replays: Whether a signed URL is accepted only once.
        allowed_origins: Origins of browser pages from other hosts that may connect; "*" for all.
        credentials_life: Seconds for which keys from the local Cognito service are valid.
        clock: Returns the time in seconds since 1970.

    Raises:
        ValueError: There is `mqtts_port` without `tls`.
    """

    def __init__(
        self,
        identities: Identities | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        mqtts_port: int | None = None,
        cognito_port: int | None = 0,
        tls: bool | ssl.SSLContext = False,
        names: Sequence[str] = (),
        explain: bool = False,
        limits: IoTLimits | None = None,
        skew: float = 300.0,
        refuse_replays: bool = True,
        allowed_origins: Collection[str] = (),
        credentials_life: float = 3600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._credentials: Credentials | None = None
        if identities is None:
            identities, self._credentials = Identities.for_one_user()
        if mqtts_port is not None and tls is False:
            raise ValueError("mqtts_port is given, but tls is not; MQTT with client certificates requires it")
        self.identities = identities
        self.limits = limits or IoTLimits()
        self._authority: Authority | None = None
        self._host = host
        self._cognito_port = cognito_port
        self._credentials_life = credentials_life
        self._clock = clock
        self._cognito: LocalCognitoServer | None = None
        self._context = self._server_context(tls, names, mqtts_port is not None)
        signatures = SignatureCheck(
            identities.ring, identities.region, skew=skew, explains=explain, refuse_replays=refuse_replays, clock=clock
        )
        hooks = self._hooks = IoTHooks(
            identities,
            self.limits,
            signatures,
            self._publish,
            lambda client_id: self.broker.disconnect(client_id),
            clock,
            time.monotonic,
            explain,
        )
        self.broker = Broker(
            host,
            ws_port=None if self._context else port,
            wss_port=port if self._context else None,
            tcp_port=None,
            mqtts_port=mqtts_port,
            tls=self._context,
            paths=("/mqtt",),
            allowed_origins=allowed_origins,
            on_upgrade=hooks.on_upgrade,
            authenticator=hooks.authenticate,
            authorizer=hooks.authorize,
            on_connected=hooks.on_connected,
            on_disconnected=hooks.on_disconnected,
            limits=_broker_limits(self.limits),
            departures=Departures(
                parent_level=self.limits.parent_level,
                retained_for_wildcards=self.limits.retained_for_wildcards,
                dollar_topics=True,  # the hooks decide about reserved topics
                lenient_websocket=True,  # as AWS IoT is: its own SDK v1 needs it
                names_limits=explain,
            ),
            sys_interval=None,
        )

    def __repr__(self) -> str:
        return f"LocalIoTEndpoint({self.identities!r})"

    # --- for clients ---

    @property
    def url(self) -> str:
        """The URL to connect to: `ws://…/mqtt`, or `wss://…/mqtt` with TLS. Valid once it has been started."""
        return self.broker.url

    @property
    def mqtts_url(self) -> str:
        """The URL to connect to with a client certificate.

        Raises:
            KeyError: There is no such listener.
        """
        return self.broker.url_of("mqtts")

    @property
    def region(self) -> str:
        """The region that signatures must have."""
        return self.identities.region

    @property
    def cognito_endpoint(self) -> str:
        """The URL of the local Cognito service.

        Raises:
            RuntimeError: The endpoint is not running, or there are no identity pools.
        """
        if self._cognito is None:
            raise RuntimeError("no Cognito service runs: start the endpoint, with an identity pool")
        return self._cognito.endpoint

    @property
    def credentials(self) -> Credentials:
        """The keys of the only user, if the endpoint was created without identities.

        Raises:
            AttributeError: The endpoint was created with identities.
        """
        if self._credentials is None:
            raise AttributeError("the endpoint was made with identities: use the keys of one of them")
        return self._credentials

    @property
    def has_own_user(self) -> bool:
        """Whether the endpoint was created without identities, so that it has one user with `credentials`."""
        return self._credentials is not None

    @property
    def authority(self) -> bytes:
        """The certificate of the authority that clients must trust, in PEM.

        Raises:
            AttributeError: The endpoint was not created with `tls=True`.
        """
        return self._minted().certificate

    def write_authority(self, path: str | Path) -> Path:
        """Write the authority's certificate to a file, for clients that need one (`NODE_EXTRA_CA_CERTS`).

        Args:
            path: The file to write.

        Returns:
            The path.

        Raises:
            AttributeError: The endpoint was not created with `tls=True`.
            OSError: The file cannot be written.
        """
        path = Path(path)
        path.write_bytes(self.authority)
        return path

    def client_context(self) -> ssl.SSLContext:
        """Return the TLS context of a client that trusts only this endpoint."""
        return self._minted().client_context()

    def issue_certificate(
        self, common_name: str, *, policies: Collection[str] = (), thing: str | None = None
    ) -> Identity:
        """Issue a client's certificate, and register it.

        Args:
            common_name: The common name of its subject.
            policies: The names of AWS IoT policies to attach to it.
            thing: The name of a thing to attach it to, or None.

        Returns:
            The certificate and its private key.
        """
        identity = self._minted().issue(common_name=common_name, identity_for="client")
        self.identities.add_certificate(identity.certificate, policies=policies, thing=thing)
        return identity

    def delete_connection(self, client_id: str, *, clean_session: bool = False, prevent_will: bool = False) -> bool:
        """Close a client's connection, like AWS IoT's DeleteConnection. The client may connect again.

        Args:
            client_id: The client identifier.
            clean_session: Whether to delete its persistent session, too.
            prevent_will: Whether to discard its will instead of publishing it.

        Returns:
            Whether it was connected.

        Raises:
            RuntimeError: The endpoint is not running.
        """
        self._hooks.ends(client_id, "API_INITIATED_DISCONNECT")
        return self.broker.disconnect(client_id, will=not prevent_will, forget=clean_session)

    def _minted(self) -> Authority:
        if self._authority is None:
            raise AttributeError("the endpoint has no authority; create the endpoint with tls=True")
        return self._authority

    # --- starting and stopping ---

    def start(self) -> None:
        """Listen, in background threads. Return when connections are accepted.

        Raises:
            OSError: A port is in use.
        """
        self.broker.start()
        try:
            self._start_cognito()
        except BaseException:
            self.broker.stop()
            raise

    def stop(self) -> None:
        """Close every listener and every connection."""
        self._stop_cognito()
        self.broker.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await self.broker.start_async()
        try:
            self._start_cognito()
        except BaseException:
            await self.broker.stop_async()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.to_thread(self._stop_cognito)
        await self.broker.stop_async()

    # --- its parts ---

    def _publish(self, topic: str, payload: bytes) -> None:
        self.broker.publish(topic, payload, qos=1)

    def _start_cognito(self) -> None:
        pools = self.identities.pools
        if pools and self._cognito_port is not None:
            cognito = LocalCognito(pools, self.identities.ring, life=self._credentials_life)
            self._cognito = LocalCognitoServer(
                cognito, self._host, self._cognito_port, context=self._context, clock=self._clock
            )

    def _stop_cognito(self) -> None:
        server, self._cognito = self._cognito, None
        if server is not None:
            server.close()

    def _server_context(
        self, tls: bool | ssl.SSLContext, names: Sequence[str], client_certificates: bool
    ) -> ssl.SSLContext | None:
        if isinstance(tls, ssl.SSLContext):
            return tls
        if not tls:
            return None
        self._authority = mint_authority("local AWS IoT endpoint")
        local = dict.fromkeys(["localhost", "127.0.0.1", "::1", self._host_name(), *names])
        context = self._authority.issue(*local).server_context()
        context.set_alpn_protocols(_ALPN)
        if client_certificates:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(cadata=self._authority.certificate.decode())
            self.identities.trust(context)
        return context

    def _host_name(self) -> str:
        return "localhost" if self._host in ("", "0.0.0.0", "::") else self._host


def _broker_limits(limits: IoTLimits) -> Limits:
    """Return the limits that the broker enforces."""
    return Limits(
        max_in_flight=limits.max_in_flight,
        session_expiry=limits.session_expiry,
        max_subscriptions=limits.max_subscriptions,
        max_filters=limits.max_filters,
        max_client_id_bytes=limits.max_client_id_bytes,
        max_payload=limits.max_payload,
        publish_rate=limits.publish_rate if limits.publish_surplus == "delay" else None,
        byte_rate=limits.byte_rate,
        stored_rate=limits.stored_rate,
        control_characters=True,
    )
