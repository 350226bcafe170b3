"""Development certificates: who is trusted with them, in TLS handshakes in memory, and the errors for wrong calls."""

from __future__ import annotations

import ssl
import subprocess
import sys

import pytest
from cryptography import x509
from self_signed import encrypt

import mqttws
from mqttws.testing import Authority, mint_authority


@pytest.fixture(scope="module")
def authority() -> Authority:
    return mint_authority()


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> ssl.SSLObject:
    """Run a handshake in memory and send a byte from the server: TLS 1.3 reports a refused certificate only then."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_end = client.wrap_bio(down, up, server_hostname=name)
    server_end = server.wrap_bio(up, down, server_side=True)
    steps = [client_end.do_handshake, server_end.do_handshake]
    steps += [lambda: server_end.write(b"!"), lambda: client_end.read(1)]
    done: set[int] = set()
    for _ in range(10):
        for number, step in enumerate(steps):
            if number not in done and (number < 2 or number - 1 in done):
                try:
                    step()
                    done.add(number)
                except ssl.SSLWantReadError:
                    pass
        if len(done) == len(steps):
            return server_end
    raise AssertionError(f"the handshake stopped at {done}")


@pytest.mark.parametrize("name", ["127.0.0.1", "::1", "localhost", "broker.test"])
def test_a_server_is_trusted_by_name_and_address(authority: Authority, name: str) -> None:
    server = authority.issue("localhost", "127.0.0.1", "::1", "broker.test")
    handshake(authority.client_context(), server.server_context(), name)


@pytest.mark.parametrize("others", [(), ("localhost",)])
def test_a_host_name_may_be_longer_than_a_common_name(authority: Authority, others: tuple[str, ...]) -> None:
    """As those of VPC endpoints are. A common name has at most 64 characters."""
    name = "vpce-0123456789abcdef0-abcdefgh.iot.data.iot.ap-southeast-2.vpce.amazonaws.com"
    server = authority.issue(name, *others)
    for each in (name, *others):
        handshake(authority.client_context(), server.server_context(), each)
    certificate = x509.load_pem_x509_certificate(server.certificate)
    assert [attribute.value for attribute in certificate.subject] == list(others)
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert alternatives.critical is not bool(others)  # RFC 5280, section 4.2.1.6
    with pytest.raises(ValueError, match="64"):
        authority.issue(common_name=name)


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        (lambda a: a.issue("other.test"), "localhost"),
        (lambda a: a.issue("localhost", days=-1), "localhost"),
        (lambda a: mint_authority().issue("localhost"), "localhost"),
        (lambda a: a.issue("localhost", identity_for="client"), "localhost"),
    ],
    ids=["wrong name", "expired", "unknown authority", "a client's"],
)
def test_untrusted_certificates_are_refused(authority: Authority, identity, name: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(authority.client_context(), identity(authority).server_context(), name)


def test_a_client_presents_its_certificate(authority: Authority) -> None:
    server = authority.issue("localhost").server_context(client_authority=authority.certificate)
    device = authority.issue(common_name="device-1", identity_for="client")
    shown = handshake(device.client_context(authority.certificate), server, "localhost").getpeercert()
    assert shown is not None
    assert shown["subject"] == ((("commonName", "device-1"),),)
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
        handshake(authority.client_context(), server, "localhost")


def test_only_the_owner_can_read_a_key_file(authority: Authority, tmp_path) -> None:
    identity = authority.issue("localhost")
    (tmp_path / "x.key").write_text("of someone with other manners")
    (tmp_path / "x.key").chmod(0o644)
    certificate, key = identity.write(tmp_path, "x")
    assert certificate.read_bytes() == identity.certificate
    assert key.read_bytes() == identity.key
    assert key.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in repr(identity)


def test_a_certificate_without_names_is_refused(authority: Authority) -> None:
    with pytest.raises(ValueError, match="needs a name"):
        authority.issue()
    with pytest.raises(ValueError, match="'server' or 'client'"):
        authority.issue("localhost", identity_for="both")


def test_a_key_without_a_certificate_is_refused() -> None:
    with pytest.raises(ValueError, match="a key needs the certificate of the client"):
        mqttws.tls_context(key="client.key")


def test_an_encrypted_key_without_its_password_is_refused(authority: Authority, tmp_path) -> None:
    """OpenSSL would read the password from the terminal of the process, if there is one."""
    certificate, key = authority.issue("localhost").write(tmp_path, "x")
    encrypt(key, b"hunter2")
    with pytest.raises(ValueError, match="the private key is encrypted, and there is no key_password"):
        mqttws.tls_context(certificate=certificate, key=key)
    with pytest.raises(ssl.SSLError):
        mqttws.tls_context(certificate=certificate, key=key, key_password="")
    assert mqttws.tls_context(certificate=certificate, key=key, key_password="hunter2")


def test_a_missing_package_is_named() -> None:
    script = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from mqttws.testing import mint_authority\n"
        "try: mint_authority()\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert "mqttws-pubsub[certs]" in run.stdout
