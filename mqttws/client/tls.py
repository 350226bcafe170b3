"""TLS without a socket: ciphertext in and out of memory.

Both drivers move plain TCP bytes and nothing else; TLS lies between those and the connection. `select` does not see
what an `SSLSocket` has already decrypted; here there is nothing to overlook.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

from mqttws.errors import CertificateError, ConnectError

#: A record holds no more. Spec: RFC 8446 §5.1
_CHUNK = 16 * 1024
#: Servers whose sessions are remembered.
_SERVERS = 8

TLSOption = ssl.SSLContext | bool | None


def check_context(tls: object) -> None:
    """Check the option `tls`.

    Raises:
        TypeError: it is not a context.
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
        insecure_no_verification: trust any server. Only for tests: an intermediary can read and change all data.

    Raises:
        OSError: a file cannot be read.
        ssl.SSLError: a file does not have the expected contents.
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


class TLSMemory:
    """What the connections of a client have in common: the context, and the last session with each server.

    A session spares the next handshake its certificates and most of its arithmetic. A server gives it as a ticket,
    after the handshake (TLS 1.3) or in it, and need not accept it again: then the handshake is a whole one. A context
    with `ssl.OP_NO_TICKET` has none. The identity that a certificate of the client's has proved is the session's, so
    that another certificate wants another context. Spec: RFC 8446 §2.2

    Args:
        context: see `tls_context`; None: one is made when it is needed, once.
    """

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._last: dict[tuple[str, int], TLSPipe] = {}

    def pipe(self, host: str, port: int) -> TLSPipe:
        """Make the TLS of a new connection.

        Raises:
            ssl.SSLError, OSError: the context cannot be made.
        """
        if self._context is None:
            self._context = tls_context()  # to read the system's authorities takes longer than a handshake
        last = self._last.pop((host, port), None)
        pipe = self._last[host, port] = TLSPipe(self._context, host, last.session if last is not None else None)
        if len(self._last) > _SERVERS:
            del self._last[next(iter(self._last))]
        return pipe


class TLSPipe:
    """A client's TLS over bytes.

    Args:
        context: see `tls_context`.
        server_hostname: for SNI, and to check the certificate against.
        session: of an earlier connection to the same server; None for none.
    """

    def __init__(self, context: ssl.SSLContext, server_hostname: str, session: ssl.SSLSession | None = None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname, session=session)
        self._offered = session
        self.established = False
        self.eof = False  # the peer has said that it sends nothing more

    @property
    def session(self) -> ssl.SSLSession | None:
        """The session for the next connection; None if this one brought none, or failed with the one it offered."""
        if not self.established:
            return self._offered
        session = self._tls.session
        return session if session is not None and session.has_ticket else None

    def receive_data(self, data: bytes) -> bytes:
        """Take ciphertext.

        Returns:
            The plaintext in it.

        Raises:
            CertificateError: the server's certificate cannot be trusted.
            ConnectError: the handshake failed otherwise, or the stream was tampered with.
        """
        incoming, tls = self._incoming, self._tls
        incoming.write(data)
        plaintext = []
        try:
            if not self.established:
                tls.do_handshake()
                self.established, self._offered = True, None
            # The exception of a read that finds nothing takes longer than all the rest: none is tried in vain.
            while incoming.pending or tls.pending():
                chunk = tls.read(_CHUNK)
                if not chunk:
                    self.eof = True
                    break
                plaintext.append(chunk)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.eof = True
        except ssl.SSLCertVerificationError as error:
            self._offered = None
            raise CertificateError(f"the server's certificate cannot be trusted: {error.verify_message}") from None
        except ssl.SSLError as error:
            self._offered = None
            stage = "an established TLS stream broke" if self.established else "the TLS handshake failed"
            raise ConnectError(f"{stage}: {error.reason or error.strerror or type(error).__name__}") from None
        return plaintext[0] if len(plaintext) == 1 else b"".join(plaintext)

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
        """Return the ciphertext to send now."""
        return self._outgoing.read()
