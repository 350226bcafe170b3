"""AWS IoT: signed WebSocket URLs for MQTT, and the region of a host.

AWS IoT differs from other services in three ways: the session token is appended after signing; the service's signing
name is `iotdevicegateway`; and the Host that is signed is the one that the client will send, which has no port if the
port is the scheme's default.

From one connection to the next only the time changes. For the current day and credentials, `IotUrlSigner` keeps the
SHA-256 state of everything before the date, so that each further URL costs four short hashes. `presign_iot_url` uses
the same signer, and caches one for each endpoint.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple, NoReturn

from . import canonical as c
from .credentials import Credentials, CredentialsLike, CredentialsProvider, fetch
from .errors import RegionUnknown, SigningError
from .presigning import AUTH_PARAMETERS, checked_expires, presign
from .signing import ALGORITHM, SigningKey, amz_date, check_scope, signing_key

__all__ = ["IOT_SERVICE", "IotUrlSigner", "SignedUrl", "dns_suffix", "presign_iot_url", "region_from_endpoint"]

IOT_SERVICE: Final = "iotdevicegateway"
SIGNERS_CACHED: Final = 16

_OWN_PORTS = {"wss": 443, "ws": 80}
_is_host = re.compile(r"[a-z0-9_][a-z0-9_.-]*|\[[0-9a-f:.]+\]").fullmatch
_not_in_a_url = re.compile(r"[^!-~]")
_is_label = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?").fullmatch

# For each partition of AWS: its DNS suffixes, including the dual-stack one, and the form of its regions.
_PARTITIONS = (
    (("amazonaws.com", "api.aws"), re.compile(r"(?!cn-)(?:[a-z]{2}|us-gov)-[a-z]+-\d{1,2}")),
    (("amazonaws.com.cn", "api.amazonwebservices.com.cn"), re.compile(r"cn-[a-z]+-\d{1,2}")),
    (("amazonaws.eu", "api.amazonwebservices.eu"), re.compile(r"eusc-[a-z]{2}-[a-z]+-\d{1,2}")),
    (("c2s.ic.gov", "api.aws.ic.gov"), re.compile(r"us-iso-[a-z]+-\d{1,2}")),
    (("sc2s.sgov.gov", "api.aws.scloud"), re.compile(r"us-isob-[a-z]+-\d{1,2}")),
    (("cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"), re.compile(r"eu-isoe-[a-z]+-\d{1,2}")),
    (("csp.hci.ic.gov", "api.aws.hci.ic.gov"), re.compile(r"us-isof-[a-z]+-\d{1,2}")),
)


class SignedUrl(str):
    """A signed URL: a `str` that is a credential, so its `repr` hides the query and pickling is refused.

    `str(url)` returns the plain text, to send it or to print it on purpose.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"SignedUrl({self.partition('?')[0] + '?<hidden>'!r})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a signed URL is a credential and cannot be pickled: sign again in the other process")


# --- the endpoint ---------------------------------------------------------------------------------------------------


class Endpoint(NamedTuple):
    """The parts of an endpoint: the scheme, the host without a port, the Host header to send, the path, the query."""

    scheme: str
    host: str
    host_header: str
    path: str
    query: str

    def __repr__(self) -> str:
        return f"Endpoint({self.scheme}://{self.host_header}{self.path}?<hidden>)"


def parse_endpoint(endpoint: str) -> Endpoint:
    """Parse `wss://host[:port][/path][?query]`. The scheme defaults to `wss` and the path to `/mqtt`.

    Raises:
        SigningError: `endpoint` does not have this form. The message shows at most the host: a query can hold secrets.
    """
    if not isinstance(endpoint, str):
        raise SigningError(f"endpoint: expected a str such as 'wss://host/mqtt', got {type(endpoint).__name__}")
    scheme, separator, rest = endpoint.partition("://")
    if not separator:
        scheme, rest = "wss", endpoint
    scheme = scheme.lower()
    if scheme not in _OWN_PORTS:
        raise SigningError("endpoint: expected a URL of wss:// (or of ws://, without TLS), got another scheme")
    authority, path_and_query = re.fullmatch(r"([^/?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    if "#" in path_and_query:
        raise SigningError("endpoint: expected no fragment ('#'), which is never sent")
    if "@" in authority:
        raise SigningError("endpoint: expected a host without a user name; pass the credentials as an argument")
    host, port = _host_and_port(authority, hidden=_may_have_a_password(endpoint))
    path, _, query = path_and_query.partition("?")
    header = host if port in (None, _OWN_PORTS[scheme]) else f"{host}:{port}"
    # People write URLs with spaces and other scripts; on the wire a path is visible ASCII only.
    path = _not_in_a_url.sub(lambda match: c.encode(match[0]), path)
    return Endpoint(scheme, host, header, path or "/mqtt", query)


def _may_have_a_password(endpoint: str) -> bool:
    """Return whether the host of an endpoint may be the beginning of user information: `u:pass/word@host`."""
    return "@" in endpoint


def _host_and_port(authority: str, hidden: bool) -> tuple[str, int | None]:
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::([0-9]{0,5}))?", authority.lower())
    if found is None or not authority.isascii() or not _is_host(found[1]):
        raise SigningError(
            "endpoint: expected a host of ASCII letters, digits, '-' and '.', and perhaps a port"
            + ("" if hidden else f"; got {authority[:80]!r}")
        )
    port = int(found[2]) if found[2] else None
    if port is not None and not 1 <= port <= 65_535:
        raise SigningError("endpoint: expected a port of 1 to 65,535" + ("" if hidden else f", got {port}"))
    return found[1], port


def region_from_endpoint(endpoint: str) -> str:
    """Infer the region from an AWS IoT host of any form (`-ats`, `data`, FIPS, VPC endpoint) and any partition.

    Args:
        endpoint: A host, with or without a port, or a `wss` URL. Case and a final dot are ignored.

    Returns:
        The region, for example `eu-west-1`.

    Raises:
        RegionUnknown: The host does not belong to AWS IoT (it may be a custom domain); give the region.
        SigningError: `endpoint` is not an endpoint.
    """
    host = parse_endpoint(endpoint).host
    region = _region_of(host.removesuffix("."))
    if region is None:
        shown = "" if _may_have_a_password(endpoint) else f" {host!r}"
        raise RegionUnknown(
            f"the host{shown} does not name its region, as <id>-ats.iot.<region>.amazonaws.com does; "
            "give the region, for example region='eu-west-1'"
        )
    return region


def dns_suffix(region: str) -> str:
    """Return the DNS suffix of AWS's services in a region, by its partition.

    Args:
        region: The region, for example `eu-west-1`.

    Returns:
        The suffix, for example `amazonaws.com`, which is also that of an unknown region; in China `amazonaws.com.cn`.
    """
    known = (suffixes[0] for suffixes, regions in _PARTITIONS if regions.fullmatch(region))
    return next(known, "amazonaws.com")


def _region_of(host: str) -> str | None:
    for suffixes, regions in _PARTITIONS:
        for suffix in suffixes:
            if host.endswith("." + suffix):
                labels = host.removesuffix("." + suffix).split(".")
                if labels[-1] == "vpce":
                    labels.pop()
                if len(labels) > 1 and labels[-2] in ("iot", "iot-fips") and all(map(_is_label, labels)):
                    return labels[-1] if regions.fullmatch(labels[-1]) else None
    return None


# --- signing --------------------------------------------------------------------------------------------------------


class _Prepared(NamedTuple):
    """The parts of a signed URL that depend only on the day and the credentials."""

    credentials: Credentials
    day: str
    key: SigningKey
    request: Any  # the SHA-256 state of the canonical request, up to the date
    request_end: str  # the canonical request after the date
    url_start: str  # the URL up to the date
    url_end: str  # from the date to the signature
    token: str  # the session token's parameter, appended after the signature

    def __repr__(self) -> str:
        return f"_Prepared(<hidden>, day={self.day})"


class IotUrlSigner:
    """Signs URLs for one AWS IoT endpoint, one for each connection. Threads can share it.

    Args:
        endpoint: `wss://host[:port][/path][?query]`, or a host. Its query parameters are signed as well.
        region: The region; None infers it from the host.
        service: `iotdevicegateway`, or `iotdata`, which older clients use.
        expires: How long each URL is valid, 1 to 604,800 seconds; None leaves it to AWS IoT.

    Raises:
        RegionUnknown: The host does not name its region, and none was given.
        SigningError: An argument cannot be signed.
    """

    def __init__(
        self, endpoint: str, region: str | None = None, *, service: str = IOT_SERVICE, expires: int | None = None
    ) -> None:
        self._endpoint = parse_endpoint(endpoint)
        self._region = region_from_endpoint(endpoint) if region is None else region
        self._service = service
        self._expires = expires
        check_scope(self._region, service)
        if expires is not None:
            checked_expires(expires)
        if any(key in AUTH_PARAMETERS for key, _ in c.query_pairs(self._endpoint.query)):
            raise SigningError("endpoint: expected a URL that is not yet signed, found X-Amz parameters of a signature")
        # One reference, replaced atomically: threads can share a signer without a lock.
        self._prepared: _Prepared | None = None

    def __repr__(self) -> str:
        return f"IotUrlSigner({self._endpoint.host_header!r}, region={self._region!r}, service={self._service!r})"

    @property
    def region(self) -> str:
        """The region of the credential scope."""
        return self._region

    def presign(self, credentials: CredentialsLike | CredentialsProvider, now: datetime) -> SignedUrl:
        """Sign a URL.

        Args:
            credentials: The credentials to sign with.
            now: The aware time of signing.

        Returns:
            The signed URL. It is a credential.

        Raises:
            SigningError: `now` has no time zone.
            CredentialsUnavailable: `credentials` is a provider that has none.
        """
        stamp = amz_date(now)
        prepared = self._prepared
        if prepared is None or prepared[0] is not credentials or prepared[1] != stamp[:8]:  # faster than by name
            prepared = self._prepare(credentials, now, stamp)
        _, _, key, request, request_end, url_start, url_end, token = prepared
        request = request.copy()
        request.update(f"{stamp}{request_end}".encode())
        signature = key.sign(f"{ALGORITHM}\n{stamp}\n{key.scope}\n{request.hexdigest()}")
        return SignedUrl(f"{url_start}{stamp}{url_end}{signature}{token}")

    def _prepare(self, credentials: CredentialsLike | CredentialsProvider, now: datetime, stamp: str) -> _Prepared:
        given = fetch(credentials)
        prepared = self._prepared
        if prepared is not None and prepared.credentials == given and prepared.day == stamp[:8]:
            return prepared
        scheme, _, host, path, query = self._endpoint
        signed = presign(
            "GET",
            f"{path}?{query}",
            headers=[("Host", host)],
            credentials=given,
            region=self._region,
            service=self._service,
            now=now,
            expires=self._expires,
            sign_token=False,
        )
        # X-Amz-Date is never the first or last parameter, and no other parameter can have its name: the text is unique.
        start, end = _around_date(signed.canonical_request, stamp)
        target, _, token = signed.target.partition(signed.signature)
        url_start, url_end = _around_date(target, stamp)
        prepared = self._prepared = _Prepared(
            credentials=given,
            day=stamp[:8],
            key=signing_key(given.secret_key, stamp[:8], self._region, self._service),
            request=sha256(start.encode()),
            request_end=end,
            url_start=f"{scheme}://{host}{url_start}",
            url_end=url_end,
            token=token,
        )
        return prepared


def _around_date(text: str, stamp: str) -> tuple[str, str]:
    start, _, end = text.rpartition(f"&X-Amz-Date={stamp}&")
    return f"{start}&X-Amz-Date=", f"&{end}"


def presign_iot_url(
    endpoint: str,
    credentials: CredentialsLike | CredentialsProvider,
    region: str | None = None,
    now: datetime | None = None,
    service: str = IOT_SERVICE,
    expires: int | None = None,
) -> SignedUrl:
    """Sign the URL of an AWS IoT endpoint for one MQTT connection over WebSocket.

    Args:
        endpoint: `wss://host[:port][/path][?query]`, or a host. Its query parameters are signed as well.
        credentials: The credentials to sign with; a session token is appended after signing.
        region: The region; None infers it from the host.
        now: The aware time of signing; None reads the clock.
        service: `iotdevicegateway`, or `iotdata`, which older clients use.
        expires: How long the URL is valid, 1 to 604,800 seconds; None leaves it to AWS IoT.

    Returns:
        The signed URL. It is a credential.

    Raises:
        RegionUnknown: The host does not name its region (a custom domain does not), and none was given.
        SigningError: An argument cannot be signed.
        CredentialsUnavailable: `credentials` is a provider that has none.

    Examples:
        >>> from datetime import UTC, datetime
        >>> from sigv4 import Credentials, presign_iot_url
        >>> keys = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
        >>> now = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
        >>> presign_iot_url("wss://a1b2c3-ats.iot.eu-west-1.amazonaws.com/mqtt", keys, now=now)
        SignedUrl('wss://a1b2c3-ats.iot.eu-west-1.amazonaws.com/mqtt?<hidden>')
    """
    # The cache needs a hashable key; IotUrlSigner itself refuses an endpoint that is not a str.
    make = _signer if isinstance(endpoint, str) else IotUrlSigner
    signer = make(endpoint, region, service=service, expires=expires)
    return signer.presign(credentials, datetime.now(UTC) if now is None else now)


@lru_cache(maxsize=SIGNERS_CACHED, typed=True)
def _signer(endpoint: str, region: str | None, *, service: str, expires: int | None) -> IotUrlSigner:
    """Return a cached signer: parsing an endpoint costs more than a signature."""
    return IotUrlSigner(endpoint, region, service=service, expires=expires)
