"""Write a self-signed certificate, for tests that need one file for everything, and encrypt the key of a file."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import pytest


def self_signed(path: Path) -> Path:
    """Write a key and a certificate for 127.0.0.1, server and client alike, into one PEM file. Return its path."""
    pytest.importorskip("cryptography", reason="cryptography, which creates the certificate, is not installed")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "device")])
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
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
    return path


def encrypt(path: Path, password: bytes) -> None:
    """Encrypt the private key with which a PEM file begins."""
    from cryptography.hazmat.primitives import serialization

    pem = path.read_bytes()
    key, end, rest = pem.partition(b"-----END PRIVATE KEY-----\n")
    encrypted = serialization.load_pem_private_key(key + end, None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(password)
    )
    path.write_bytes(encrypted + rest)
