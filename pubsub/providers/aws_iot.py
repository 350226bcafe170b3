"""The provider for AWS IoT, with signed URLs, a custom authorizer or a client certificate.

The kind of authentication determines what happens at each attempt:

    credentials          url() fetches the current credentials, and signs the endpoint's URL with the corrected time
    a callable endpoint  url() returns its result: the URL is signed elsewhere, by a backend that has the credentials
    custom authorizer    url(), and new headers, because the token may have changed
    certificate          url() is fixed; the TLS context has the certificate, and on port 443 the ALPN name

Nothing that expires is cached here. The source of the credentials decides when to fetch new ones. Only the
clock is corrected here, by the `Date` of a 403 (`CorrectedClock`); then the attempt is repeated, once.

AWS IoT closes the connection of a client that does something forbidden, without a reason. So this provider refuses what
is known to be forbidden (`IoTLimits`) before it is sent, and the client keeps below AWS's rates.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack
from weakref import WeakValueDictionary

from mqttws import HandshakeRejected, Message, Reconnect, tls_context
from pubsub.aws.connect_turns import ConnectTurns
from pubsub.aws.corrected_clock import CorrectedClock, read_date
from pubsub.aws.endpoint_url import FreshHeaders, alpn_for, unsigned_url
from pubsub.aws.errors import AWSIoTError, BeyondLimit, ConnectionCut, Reason, explain_error
from pubsub.aws.limits import IoTLimits
from pubsub.errors import ProviderError
from pubsub.providers.base import ClientOptions, Provider
from pubsub.providers.endpoints import EndpointOption, Urls, ask, ask_async, freeze, given, one_or_all
from sigv4 import (
    Credentials,
    CredentialsSource,
    IotUrlSigner,
    RegionUnknown,
    SigningError,
    fetch,
    fetch_async,
    region_from_endpoint,
)

if TYPE_CHECKING:
    from pubsub.aws.cognito import CognitoIdentity, LoginsSource
    from pubsub.aws.custom_auth import CustomAuthorizer

__all__ = ["AWSIoTProvider"]

logger = logging.getLogger("pubsub")

#: Seconds without acknowledgement after which a message counts as throttled. AWS IoT acknowledges accepted messages
#: much sooner.
_RESEND_AFTER = 5.0
#: Seconds after credentials were discarded in which they are not discarded again.
_PAUSE = 60.0
#: In the thread or task of an attempt: the provider, and the custom authorizer with the token of that attempt. Attempts
#: of several connections run at the same time, and each must send its own token.
_attempt: ContextVar[tuple[AWSIoTProvider, CustomAuthorizer] | None] = ContextVar("pubsub_attempt", default=None)


class AWSIoTProvider(Provider):
    """A provider for the message broker of AWS IoT.

    Pass at most one of `credentials`, `custom_authorizer`, `certificate` and a callable endpoint. Without any, the
    credentials come from the configured Cognito identity pool (`aws_cognito_identity_pool_id`).

    Args:
        aws_pubsub_region: The region; None: the configured one, or that in the endpoint's host name.
        aws_pubsub_endpoint: `wss://<id>-ats.iot.<region>.amazonaws.com/mqtt`, or only the host; several endpoints, such
            as those of two regions, all of which an attempt tries; or a callable that returns a URL signed elsewhere,
            or several, and is called once for each attempt. The callable may block; with asyncio it may also be a
            coroutine function. None: the configured endpoint.
        credentials: The source of credentials: `sigv4.Credentials`, a `CognitoIdentity`, any object with
            `get_frozen_credentials()` as in botocore, or a callable; with asyncio also a coroutine function.
        custom_authorizer: The parameters for a custom authorizer.
        certificate: PEM file with a client certificate, for MQTT over TLS.
        key: PEM file with its private key; None: in the same file.
        key_password: The password of that key; None if it is not encrypted.
        ca_file: PEM file with the trusted authorities; None: those of the system, which include Amazon's.
        alpn: The TLS application protocol to offer; None: the required one on port 443, none on other ports.
        logins: The user's logins for the configured identity pool; see `CognitoIdentity`.
        limits: The limits that are checked before something is sent, and the rates that the client keeps.
        service: The service name in the signature.
        expires: Seconds for which a signed URL is valid, 1 to 604,800; None leaves that to AWS IoT.
        skew: Seconds by which a clock may be off.
        clock: Returns the time in seconds since 1970.
        name: The name for the argument `provider` of other methods; None: "AWSIoTProvider".
        offline: "queue" or "raise"; see `Provider`.
        **options: See `ClientOptions`. `keep_alive` is changed to a value that AWS IoT accepts, 30 to 1,200 seconds; 0
            becomes 1,200.

    Raises:
        ProviderError: More than one kind of authentication was given.
        BeyondLimit: The will exceeds a limit of AWS IoT, which would refuse each attempt to connect.
        TypeError: There is no such option, or it has the wrong type.
        ValueError, LocalProtocolError: An option is out of its range, or breaks a rule of the standard.
    """

    kind: ClassVar[str] = "AWSIoTProvider"

    def __init__(
        self,
        aws_pubsub_region: str | None = None,
        aws_pubsub_endpoint: EndpointOption | None = None,
        credentials: CredentialsSource | None = None,
        *,
        custom_authorizer: CustomAuthorizer | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        key_password: str | None = None,
        ca_file: str | Path | None = None,
        alpn: str | None = None,
        logins: LoginsSource | None = None,
        limits: IoTLimits | None = None,
        service: str = "iotdevicegateway",
        expires: int | None = None,
        skew: float = 300.0,
        clock: Callable[[], float] = time.time,
        name: str | None = None,
        offline: Literal["queue", "raise"] = "queue",
        **options: Unpack[ClientOptions],
    ) -> None:
        ways = {"credentials": credentials, "custom_authorizer": custom_authorizer, "certificate": certificate}
        given = [way for way, value in ways.items() if value is not None]
        if callable(aws_pubsub_endpoint):
            given.append("an aws_pubsub_endpoint that signs")
        if len(given) > 1:
            raise ProviderError(f"{' and '.join(given)} are given; pass only one kind of authentication")
        settings = {
            "aws_pubsub_region": aws_pubsub_region,
            "aws_pubsub_endpoint": freeze(aws_pubsub_endpoint),
            "key": key,
            "key_password": key_password,
            "ca_file": ca_file,
            "alpn": alpn,
            "logins": logins,
            "service": service,
            "expires": expires,
            **ways,
        }
        self._limits = limits or IoTLimits()
        super().__init__(name=name, offline=offline, settings=settings, **options)
        self._clock = CorrectedClock(clock, skew=skew)
        self._made_with = (self._limits, skew, clock)
        self._last_asked: tuple[str, str] | None = None  # the last publish or subscription
        self._last_cut: ConnectionCut | None = None
        self._warned_of: tuple[str, str] | None = None
        self._check_will()
        self._clamp_keep_alive()
        self._check_region()
        self._signers: tuple[tuple[list[str], str | None], list[IotUrlSigner]] | None = None
        self._identity: tuple[tuple[str, Any], CognitoIdentity] | None = None
        # Those of all copies of this provider, by pool, endpoint and the logins' `id`, which the identity keeps alive.
        self._identities: WeakValueDictionary[tuple[str, Any, int], CognitoIdentity] = WeakValueDictionary()
        self._ends: datetime | None = None
        self._discarded_at: float | None = None

    # --- configuration ---

    def same_as(self, other: Provider) -> bool:
        """Compare settings and options, including limits, skew and clock; see `Provider.same_as`."""
        return super().same_as(other) and isinstance(other, AWSIoTProvider) and self._made_with == other._made_with

    def configure(self, settings: Mapping[str, Any]) -> bool:
        """Set the settings; see `Provider.configure`."""
        changed = super().configure(settings)
        self._check_region()
        return changed

    def _check_will(self) -> None:
        given = self._options.get("will")
        if given is None:
            return
        will = given if isinstance(given, Message) else Message(*given)
        qos = min(will.qos, self._max_qos)  # as the client sends it
        objection = self._limits.objection_to_publish(will.topic, len(will.payload), qos)
        if objection is not None:
            raise BeyondLimit(f"the will cannot be published: {objection}")

    def _clamp_keep_alive(self) -> None:
        asked = self._options.get("keep_alive")
        taken = None if asked is None else self._limits.keep_alive(asked)
        if taken is not None and taken != asked:
            logger.warning(
                "%s: keep_alive is %d; AWS IoT accepts %d to %d seconds, and treats 0 as the maximum: %d is used",
                self.name,
                asked,
                self._limits.min_keep_alive,
                self._limits.max_keep_alive,
                taken,
            )
            self._options["keep_alive"] = taken

    def _check_region(self) -> None:
        """Warn if the region of the signature is not the one in the host name of an endpoint."""
        region = self._settings.get("aws_pubsub_region")
        if not self._settings.get("aws_pubsub_endpoint") or not region or self._way() != "credentials":
            return
        for endpoint in self._endpoints():
            try:
                named = region_from_endpoint(endpoint)
            except SigningError:  # a custom domain, which contains no region; an invalid endpoint fails when it is used
                continue
            self._compare_regions(named, region)

    def _compare_regions(self, named: str, region: str) -> None:
        if named != region and self._warned_of != (named, region):
            self._warned_of = (named, region)
            logger.warning(
                "%s: aws_pubsub_region is %r, but the endpoint's host is in %r and will refuse the signature; set that "
                "region, or none",
                self.name,
                region,
                named,
            )

    # --- where to connect ---

    def url(self) -> Urls:
        """Return the URL to connect to, or several, with a new signature if they are signed.

        Raises:
            ProviderError: A setting is missing.
            CredentialsUnavailable: There are no credentials.
        """
        way = self._way()
        if way == "signed":
            return ask(self.name, self._settings["aws_pubsub_endpoint"])
        if way == "credentials":
            return self._sign(fetch(self._source()))
        if way == "custom_authorizer":
            return self._begin_attempt(self._settings["custom_authorizer"].for_attempt())
        return one_or_all(self._plain_urls(None))

    def url_async(self) -> Urls | Awaitable[Urls]:
        """Return the same as `url` without blocking. What may block is called in a thread, or awaited."""
        authorizer: CustomAuthorizer | None = self._settings.get("custom_authorizer")
        if self._way() == "certificate" or (authorizer is not None and not callable(authorizer.token)):
            return self.url()
        return self._url_later()

    async def _url_later(self) -> Urls:
        way = self._way()
        if way == "signed":
            return await ask_async(self.name, self._settings["aws_pubsub_endpoint"])
        if way == "custom_authorizer":
            return self._begin_attempt(await asyncio.to_thread(self._settings["custom_authorizer"].for_attempt))
        source = self._source()
        awaited = getattr(source, "get_frozen_credentials_async", None)
        return self._sign(await awaited() if awaited is not None else await fetch_async(source, asyncio.to_thread))

    def _begin_attempt(self, authorizer: CustomAuthorizer) -> Urls:
        """Return the URLs of an attempt, and keep its custom authorizer for the headers, which it reads next."""
        _attempt.set((self, authorizer))
        return one_or_all(self._plain_urls(authorizer))

    def _sign(self, credentials: Credentials) -> Urls:
        self._ends = credentials.expires_at
        now = self._clock.date()
        return one_or_all([str(signer.presign(credentials, now)) for signer in self._url_signers()])

    def _url_signers(self) -> list[IotUrlSigner]:
        """Return the signer of each endpoint."""
        made_of = self._endpoints(), self._settings.get("aws_pubsub_region")
        if self._signers is None or self._signers[0] != made_of:
            self._signers = made_of, [self._url_signer(endpoint, made_of[1]) for endpoint in made_of[0]]
        return self._signers[1]

    def _url_signer(self, endpoint: str, region: str | None) -> IotUrlSigner:
        try:
            return IotUrlSigner(
                endpoint, region, service=self._settings["service"], expires=self._settings.get("expires")
            )
        except RegionUnknown as error:
            raise ProviderError(f"{self.name} needs aws_pubsub_region: {error}") from None
        except SigningError as error:
            raise ProviderError(f"{self.name}: {error}") from None

    def _plain_urls(self, authorizer: CustomAuthorizer | None) -> list[str]:
        """Return the URLs for a certificate, or for a custom authorizer."""
        return [unsigned_url(endpoint, authorizer) for endpoint in self._endpoints()]

    def _endpoints(self) -> list[str]:
        example = "wss://<id>-ats.iot.eu-west-1.amazonaws.com/mqtt"
        return given(self.name, self._settings.get("aws_pubsub_endpoint"), example)

    def _way(self) -> str:
        """Return the kind of authentication."""
        if callable(self._settings.get("aws_pubsub_endpoint")):
            return "signed"
        ways = ("custom_authorizer", "certificate")
        return next((way for way in ways if self._settings.get(way) is not None), "credentials")

    # --- credentials ---

    def _source(self) -> CredentialsSource:
        source: CredentialsSource | None = self._settings.get("credentials")
        if source is not None:
            return source
        pool = self._settings.get("aws_cognito_identity_pool_id")
        if not pool:
            raise ProviderError(
                f"{self.name} has no credentials: pass credentials=, custom_authorizer= or certificate= to it, or "
                "configure aws_cognito_identity_pool_id"
            )
        from pubsub.aws.cognito import CognitoIdentity

        logins, endpoint = self._settings.get("logins"), self._settings.get("aws_cognito_identity_endpoint")
        made_of = (str(pool), (logins, endpoint))
        if self._identity is None or self._identity[0] != made_of:
            key = str(pool), endpoint, id(logins)
            identity = self._identities.get(key) or CognitoIdentity(str(pool), logins=logins, endpoint=endpoint)
            self._identity = made_of, self._identities.setdefault(key, identity)
        return self._identity[1]

    def reauthenticate(self) -> None:
        """Discard cached credentials, if their source can, so that the next attempt fetches new ones."""
        source = self._settings.get("credentials") or (self._identity[1] if self._identity is not None else None)
        expire = getattr(source, "expire", None)
        if callable(expire):
            expire()

    # --- how to connect ---

    def client_options(self) -> dict[str, Any]:
        """Return the options of the client.

        Raises:
            ProviderError: A setting is missing.
        """
        options = super().client_options()
        way = self._way()
        if way == "credentials":
            self._url_signers()
            self._source()
        elif way != "signed":
            self._endpoints()
        authorizer: CustomAuthorizer | None = self._settings.get("custom_authorizer")
        if authorizer is not None and authorizer.via == "headers":
            without = authorizer.without_token()

            def authorizer_of_attempt() -> CustomAuthorizer:
                maker, made = _attempt.get() or (None, without)
                return made if maker is self else without

            options["headers"] = FreshHeaders(options.get("headers", ()), authorizer_of_attempt)
        if "tls" not in options:
            tls = self._tls(way)
            if tls is not None:
                options["tls"] = tls
        most = self._limits.max_filters
        options["max_filters"] = min(options.get("max_filters", 100), most or 100)
        options.setdefault("publish_rate", self._limits.publish_rate)
        options.setdefault("resend_after", _RESEND_AFTER)
        options["reconnect"] = self._paced(options.get("reconnect", True))
        return options

    def _paced(self, reconnect: bool | Reconnect) -> bool | Reconnect:
        """Limit the rate of attempts to that which AWS IoT accepts of one client identifier."""
        rate = self._limits.client_connect_rate
        if reconnect is False or rate is None:
            return reconnect
        given = reconnect if isinstance(reconnect, Reconnect) else Reconnect()
        return given.__replace__(interval=max(given.interval, 1 / rate))

    def with_turns(self, options: dict[str, Any]) -> dict[str, Any]:
        """Add the rate at which AWS IoT accepts CONNECTs of one client id; see `Provider.with_turns`."""
        rate, client_id = self._limits.client_connect_rate, options.get("client_id")
        if rate is None or client_id is None:
            return options
        endpoints = [] if self._way() == "signed" else self._endpoints()
        turns = ConnectTurns(endpoints, client_id, rate, options.get("connect_budget"))
        return {**options, "connect_budget": turns}

    def _tls(self, way: str) -> Any:
        """Return a TLS context; None if the default one is right."""
        alpn = self._settings.get("alpn") or self._alpn(way)
        certificate, ca_file = self._settings.get("certificate"), self._settings.get("ca_file")
        if certificate is None and ca_file is None and alpn is None:
            return None
        try:
            return tls_context(
                ca_file=ca_file,
                certificate=certificate,
                key=self._settings.get("key"),
                key_password=self._settings.get("key_password"),
                alpn=[] if alpn is None else [alpn],
            )
        except OSError as error:  # an ssl.SSLError is one
            raise ProviderError(
                f"{self.name}: certificate, key and ca_file cannot be used: {error.strerror or error}"
            ) from None
        except ValueError as error:
            raise ProviderError(f"{self.name}: {error}") from None

    def _alpn(self, way: str) -> str | None:
        if way not in ("certificate", "custom_authorizer"):
            return None
        authorizer: CustomAuthorizer | None = self._settings.get("custom_authorizer")
        urls = self._plain_urls(authorizer and authorizer.without_token())
        first, *others = {alpn_for(url, way) for url in urls}
        if others:
            raise ProviderError(
                f"{self.name}: its endpoints on port 443 need a protocol name in TLS (ALPN), but the others none; "
                "use endpoints with the same port, or set alpn="
            )
        return first

    @property
    def max_subscriptions(self) -> int | None:
        """The maximum number of Topic Filters of one connection, by the limits of AWS IoT."""
        return self._limits.max_subscriptions

    @property
    def subscribe_rate(self) -> float | None:
        """The maximum rate of Topic Filters, per second, of all connections' SUBSCRIBEs, by the limits of AWS IoT."""
        return self._limits.subscribe_rate

    def objection_to_publish(self, topic: str, payload: bytes, qos: int) -> BeyondLimit | None:
        """Return an error if a message exceeds a limit of AWS IoT; see `Provider.objection_to_publish`."""
        objection = self._limits.objection_to_publish(topic, len(payload), min(qos, self._max_qos))
        if objection is not None:
            return BeyondLimit(objection)
        self._last_asked = ("the message to", topic)
        return None

    def objections_to_subscribe(self, wanted: Mapping[str, int], standing: Collection[str]) -> dict[str, Exception]:
        """Return an error for each Topic Filter that exceeds a limit; see `Provider.objections_to_subscribe`."""
        objections: dict[str, Exception] = {}
        count, most = len(standing), self._limits.max_subscriptions
        for topic_filter, qos in wanted.items():
            said = self._limits.objection_to_filter(topic_filter, min(qos, self._max_qos))
            if said is None and topic_filter not in standing:
                count += 1
                if count > most:
                    said = f"{topic_filter!r} would be subscription {count} of the connection; AWS IoT accepts {most}"
            if said is not None:
                objections[topic_filter] = BeyondLimit(said)
            else:
                self._last_asked = ("the subscription to", topic_filter)
        return objections

    # --- errors ---

    def explain(self, error: Exception) -> Exception:
        """Return an explanation of an error: the clock, the token, the signature, a policy or a limit is the cause.

        Args:
            error: The error.
        """
        meaning = explain_error(
            error,
            clock=self._clock,
            ends=self._ends,
            client_id=self._options.get("client_id"),
            last_asked=self._last_asked,
            last_cut=self._last_cut,
        )
        if isinstance(meaning, ConnectionCut):
            self._last_cut = meaning
        return meaning

    def recover(self, error: Exception) -> bool:
        """Correct the clock with the date of a 403, or discard expired credentials.

        Args:
            error: The error of the attempt.

        Returns:
            Whether to make another attempt immediately.
        """
        if not isinstance(error, HandshakeRejected) or error.status != 403 or self._way() == "signed":
            return False
        meaning = self.explain(error)  # before the clock is corrected
        date = read_date(dict(error.headers).get("date"))
        # The date of a proxy's response would not be that of AWS's clock.
        answered_by_aws = any(name.startswith("x-amzn-") for name, _ in error.headers)
        if date is not None and answered_by_aws and self._clock.correct(date):
            logger.warning("%s: %s; the clock is corrected with the date of the response", self.name, meaning)
            return True
        expired = isinstance(meaning, AWSIoTError) and meaning.reason is Reason.EXPIRED_TOKEN
        return expired and self._discard_credentials()

    def _discard_credentials(self) -> bool:
        """Discard credentials that have expired according to AWS, unless that was done within `_PAUSE` seconds.

        Their source may return the same ones again, so it is not called at each attempt.
        """
        now = time.monotonic()
        if self._discarded_at is not None and now - self._discarded_at < _PAUSE:
            return False
        self._discarded_at = now
        self.reauthenticate()
        return True
