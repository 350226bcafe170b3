"""What the tests of the broker share: brokers that end with the test, and raw clients of them."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import settings
from wire import Wire

from mqttws.broker import Broker

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start(stack: ExitStack) -> Callable[..., Broker]:
    """Start a broker; it stops with the test."""

    def start(**options: Any) -> Broker:
        return stack.enter_context(Broker(**options))

    return start


@pytest.fixture
def broker(start: Callable[..., Broker]) -> Broker:
    return start()


@pytest.fixture
def wire(stack: ExitStack, request: pytest.FixtureRequest) -> Callable[..., Wire]:
    """Make a raw client of a broker, by default over TCP of the test's own `broker`."""

    def wire(broker: Broker | None = None, scheme: str = "mqtt", **options: Any) -> Wire:
        broker = broker or request.getfixturevalue("broker")
        return stack.enter_context(Wire(broker.url_of(scheme), **options))

    return wire


@pytest.fixture
def client(wire: Callable[..., Wire]) -> Callable[..., Wire]:
    """Make a raw client and connect it."""

    def client(client_id: str = "", broker: Broker | None = None, scheme: str = "mqtt", **fields: Any) -> Wire:
        return wire(broker, scheme).connect(client_id, **fields)

    return client


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a file with a key and a certificate that is its own authority: for 127.0.0.1, server and client alike."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def server_tls(pem: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context
