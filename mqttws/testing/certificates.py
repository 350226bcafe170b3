"""A certificate authority for development and tests.

Use it to reach a local broker over TLS without disabling verification: give clients the authority's certificate, and
everything else works as in production. Do not use it in production. Everything is PEM, in memory; nothing is written
unless `write` is called. Needs `cryptography` (the extra `certs`).
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography import x509

#: The maximum length of a common name (RFC 5280, appendix A.1); host names can be longer.
_MAX_COMMON_NAME = 64
#: How far in the past the validity of certificates starts, to tolerate different clocks.
_BACKDATED = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its private key.

    Attributes:
        certificate: PEM.
        key: PEM, PKCS#8, not encrypted.
    """

    certificate: bytes
    key: bytes = field(repr=False)

    def write(self, directory: str | Path, name: str) -> tuple[Path, Path]:
        """Write `name`.crt and `name`.key. Only the owner can read the key.

        Args:
            directory: An existing directory.
            name: The name of the files, without a suffix.

        Returns:
            The paths of the certificate and of the key.

        Raises:
            OSError: A file cannot be written.
        """
        certificate, key = Path(directory) / f"{name}.crt", Path(directory) / f"{name}.key"
        certificate.write_bytes(self.certificate)
        key.unlink(missing_ok=True)  # the mode below applies to new files only
        with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(self.key)
        return certificate, key

    def server_context(self, client_authority: bytes | None = None) -> ssl.SSLContext:
        """Return a TLS context for a server with this certificate: TLS 1.2 or later.

        Args:
            client_authority: A CA certificate in PEM; clients must then have a certificate that it signed. None: client
                certificates are not requested.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load_into(context)
        if client_authority is not None:
            context.load_verify_locations(cadata=client_authority.decode())
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_context(self, authority: bytes) -> ssl.SSLContext:
        """Return a TLS context for a client with this certificate: TLS 1.2 or later.

        Args:
            authority: The CA certificate in PEM that must have signed the server's certificate.
        """
        context = ssl.create_default_context(cadata=authority.decode())
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load_into(context)
        return context

    def _load_into(self, context: ssl.SSLContext) -> None:
        """Load certificate and key into a context; `ssl` reads them from files only."""
        with tempfile.TemporaryDirectory() as directory:  # only the owner can read it
            context.load_cert_chain(*self.write(directory, "identity"))


class Authority:
    """A certificate authority. `mint_authority` creates one.

    Args:
        certificate: Its certificate.
        key: Its private key, an object of `cryptography`.

    Attributes:
        certificate: Its certificate in PEM, which clients must trust.
    """

    def __init__(self, certificate: x509.Certificate, key: Any) -> None:
        self._certificate = certificate
        self._key = key
        self.certificate = _pem(certificate)

    def issue(
        self, *names: str, common_name: str | None = None, days: float = 30.0, identity_for: str = "server"
    ) -> Identity:
        """Create a key and a certificate for it.

        Args:
            *names: The host names and IP addresses for which a server's certificate is valid.
            common_name: The common name of the subject, 1 to 64 characters; None: the first of `names` that is not
                longer. If there is none, the subject is empty.
            days: How many days it is valid from now; a negative number creates an expired certificate.
            identity_for: "server" or "client".

        Returns:
            The certificate and the key.

        Raises:
            ValueError: There is no name and no common name, one is not valid, or `identity_for` has another value.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID

        if common_name is None:
            if not names:
                raise ValueError("a certificate needs a name: the host of a server, or the common_name of a client")
            common_name = next((name for name in names if len(name) <= _MAX_COMMON_NAME), None)
        usages = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
        if identity_for not in usages:
            raise ValueError(f"identity_for is {identity_for!r}; it must be 'server' or 'client'")
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(_subject(common_name), self._certificate.subject, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usages[identity_for]]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if names:
            alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
            # Critical with an empty subject: RFC 5280, section 4.2.1.6.
            builder = builder.add_extension(alternatives, critical=common_name is None)
        return Identity(_pem(_signed(builder, self._key)), _key_pem(key))

    def client_context(self) -> ssl.SSLContext:
        """Return a TLS context for a client that trusts only this authority: TLS 1.2 or later."""
        context = ssl.create_default_context(cadata=self.certificate.decode())
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


def mint_authority(common_name: str = "mqttws development authority", days: float = 30.0) -> Authority:
    """Create a certificate authority for development and tests.

    Args:
        common_name: The common name of its subject.
        days: How many days its certificate is valid from now.

    Returns:
        The authority, in memory; its private key is not stored.

    Raises:
        ModuleNotFoundError: `cryptography` is not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "making certificates needs the package 'cryptography': pip install 'mqttws-pubsub[certs]'"
        ) from None
    key = ec.generate_private_key(ec.SECP256R1())
    name = _subject(common_name)
    builder = (
        _builder(name, name, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Authority(_signed(builder, key), key)


def _subject(common_name: str | None) -> x509.Name:
    from cryptography import x509

    return x509.Name([] if common_name is None else [x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, public_key: Any, days: float) -> x509.CertificateBuilder:
    from cryptography import x509

    until = datetime.now(UTC) + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(datetime.now(UTC), until) - _BACKDATED)
        .not_valid_after(until)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _signed(builder: x509.CertificateBuilder, key: Any) -> x509.Certificate:
    from cryptography.hazmat.primitives import hashes

    return builder.sign(key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return data
