"""A local AWS IoT endpoint, which checks what AWS IoT checks: signatures, policies, limits.

    with LocalIoTEndpoint() as iot:                                  # one user, who may do everything
        provider = AWSIoTProvider(
            aws_pubsub_endpoint=iot.url, aws_pubsub_region=iot.region, credentials=iot.credentials)

    with LocalIoTEndpoint(Identities.load("identities.toml"), tls=True, explain=True) as iot: ...

It is the embedded broker with the hooks of `endpoint_hooks`, and the local Cognito service if there are
identity pools.  It is for development and tests, and listens on this machine alone by default.

This module only puts together, starts and stops: every decision is made in another.
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
        identities: The users and devices that it knows; None: one user with new keys, `credentials`, who may do
            everything.
        host: The address to listen on; the default is this machine alone.
        port: Of the WebSocket listener; 0 for a free one.
        mqtts_port: Of the listener for MQTT over TLS with client certificates (8883 at AWS); None for none.  It
            needs `tls`.
        cognito_port: The port of the local Cognito service, if there are identity pools; None for no such service.
        tls: True: wss, with a certificate of a new authority (needs the extra `certs`).  Or a server's TLS context.
        names: The names that the new certificate holds for, besides those of this machine.
        explain: Whether a refused client is sent its mistake: in the body of the 403, or in the close frame.
        limits: The limits and departures of AWS IoT.
        skew: Seconds that a client's clock may be off.
        refuse_replays: Whether a signed URL is taken only once.
        allowed_origins: Origins of pages on other hosts that may connect; "*" for all.
        credentials_life: Seconds that the keys from the local Cognito service live.
        clock: Gives the time in seconds since 1970.

    Raises:
        ValueError: `mqtts_port` is given, and `tls` is not.
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
            raise ValueError("mqtts_port is given, and tls is not; MQTT with client certificates needs it")
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
                tells_limits=explain,
            ),
            sys_interval=None,
        )

    def __repr__(self) -> str:
        return f"LocalIoTEndpoint({self.identities!r})"

    # --- what clients need to know ---

    @property
    def url(self) -> str:
        """Where to connect to: `ws://…/mqtt`, or `wss://…/mqtt` with TLS.  Known once it has been started."""
        return self.broker.url

    @property
    def mqtts_url(self) -> str:
        """Where to connect to with a client certificate.

        Raises:
            KeyError: There is no such listener.
        """
        return self.broker.url_of("mqtts")

    @property
    def region(self) -> str:
        """The region that must be signed for."""
        return self.identities.region

    @property
    def cognito_endpoint(self) -> str:
        """The URL of the local Cognito service.

        Raises:
            RuntimeError: It is not running, or there are no identity pools.
        """
        if self._cognito is None:
            raise RuntimeError("no Cognito service runs: start the endpoint, with an identity pool")
        return self._cognito.endpoint

    @property
    def credentials(self) -> Credentials:
        """The keys of the one user, where the endpoint was made without identities.

        Raises:
            AttributeError: It was made with identities, which have their own.
        """
        if self._credentials is None:
            raise AttributeError("the endpoint was made with identities: use the keys of one of them")
        return self._credentials

    @property
    def has_own_user(self) -> bool:
        """Whether it was made without identities, and so has one user with `credentials`."""
        return self._credentials is not None

    @property
    def authority(self) -> bytes:
        """The certificate, PEM, of the authority that clients have to trust.

        Raises:
            AttributeError: It was not made with `tls=True`.
        """
        return self._minted().certificate

    def write_authority(self, path: str | Path) -> Path:
        """Write the authority's certificate to a file, for clients that want one (`NODE_EXTRA_CA_CERTS`)."""
        path = Path(path)
        path.write_bytes(self.authority)
        return path

    def client_context(self) -> ssl.SSLContext:
        """Make the TLS context of a client that trusts only this endpoint."""
        return self._minted().client_context()

    def issue_certificate(
        self, common_name: str, *, policies: Collection[str] = (), thing: str | None = None
    ) -> Identity:
        """Make a client's certificate, and register it.

        Args:
            common_name: Of its subject.
            policies: AWS IoT policies to attach to it.
            thing: A thing to attach it to.
        """
        identity = self._minted().issue(common_name=common_name, identity_for="client")
        self.identities.add_certificate(identity.certificate, policies=policies, thing=thing)
        return identity

    def delete_connection(self, client_id: str, *, clean_session: bool = False, prevent_will: bool = False) -> bool:
        """Close a client's connection, as AWS IoT's DeleteConnection does; it may connect again.

        Args:
            client_id: Of the client.
            clean_session: Whether its persistent session ends, too.
            prevent_will: Whether its will is not published.

        Returns:
            Whether it was connected.

        Raises:
            RuntimeError: The endpoint does not run.
        """
        self._hooks.ends(client_id, "API_INITIATED_DISCONNECT")
        return self.broker.disconnect(client_id, will=not prevent_will, forget=clean_session)

    def _minted(self) -> Authority:
        if self._authority is None:
            raise AttributeError("the endpoint has no authority; create the endpoint with tls=True")
        return self._authority

    # --- its life ---

    def start(self) -> None:
        """Listen, in background threads.  Returns once connections are accepted.

        Raises:
            OSError: A port is taken.
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
            # As at AWS, a registered certificate needs no authority: it is trusted itself.
            context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
            for pem in (self._authority.certificate.decode(), *self.identities.certificates):
                context.load_verify_locations(cadata=pem)
        return context

    def _host_name(self) -> str:
        return "localhost" if self._host in ("", "0.0.0.0", "::") else self._host


def _broker_limits(limits: IoTLimits) -> Limits:
    """Return those of the limits that the broker itself keeps."""
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
