"""TLS without a socket: ciphertext in and out of memory.

Both drivers move plain TCP bytes and nothing else; TLS lies between those and the connection. `select` does not see
what an `SSLSocket` has already decrypted; here there is nothing to overlook.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

from mqttws.errors import CertificateError, ConnectError

_CHUNK = 64 * 1024

TLSOption = ssl.SSLContext | bool | None


def check_context(tls: object) -> None:
    """Check the option `tls`, where there is one.

    Raises:
        TypeError: it is no context.
    """
    if not isinstance(tls, ssl.SSLContext):
        hint = "; ws:// and mqtt:// are the URLs without TLS" if tls is False else ""
        raise TypeError(
            f"tls must be an ssl.SSLContext (see tls_context), True or None, not {type(tls).__name__}{hint}"
        )


def tls_context(
    *,
    ca_file: str | Path | None = None,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
    key_password: str | None = None,
    alpn: Sequence[str] = (),
    insecure_no_verification: bool = False,
) -> ssl.SSLContext:
    """Make a client's TLS context: TLS 1.2 or later, the server's certificate and name verified.

    Args:
        ca_file: PEM file of the authorities to trust; None: those of the system.
        certificate: PEM file of the client's certificate.
        key: PEM file of its private key; None: in the same file.
        key_password: of the private key.
        alpn: application protocols to offer, such as "x-amzn-mqtt-ca".
        insecure_no_verification: trust whoever answers. Only for tests: anyone on the way can read and change all.

    Raises:
        OSError: a file cannot be read.
        ssl.SSLError: a file is not what it should be.
    """
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file is not None else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None:
        context.load_cert_chain(str(certificate), str(key) if key is not None else None, key_password)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if insecure_no_verification:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class TLSPipe:
    """A client's TLS over bytes.

    Args:
        context: see `tls_context`.
        server_hostname: for SNI, and to check the certificate against.
    """

    def __init__(self, context: ssl.SSLContext, server_hostname: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self.established = False
        self.eof = False  # the peer has said that it sends nothing more

    def receive_data(self, data: bytes) -> bytes:
        """Take ciphertext.

        Returns:
            The plaintext in it.

        Raises:
            CertificateError: the server's certificate cannot be trusted.
            ConnectError: the handshake failed otherwise, or the stream was tampered with.
        """
        self._incoming.write(data)
        try:
            if not self.established:
                self._tls.do_handshake()
                self.established = True
            plaintext = []
            while chunk := self._tls.read(_CHUNK):
                plaintext.append(chunk)
            self.eof = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.eof = True
        except ssl.SSLCertVerificationError as error:
            raise CertificateError(f"the server's certificate cannot be trusted: {error.verify_message}") from None
        except ssl.SSLError as error:
            stage = "an established TLS stream broke" if self.established else "the TLS handshake failed"
            raise ConnectError(f"{stage}: {error.reason or error.strerror or type(error).__name__}") from None
        return b"".join(plaintext) if self.established else b""

    def send(self, data: bytes) -> None:
        """Take plaintext to send; only once `established`."""
        self._tls.write(data)

    def close(self) -> None:
        """Say that nothing more will be sent (close_notify)."""
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # the peer's part is not waited for

    def data_to_send(self) -> bytes:
        """Take the ciphertext that is to be sent now."""
        return self._outgoing.read()
