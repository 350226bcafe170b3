"""TLS without a socket: ciphertext in and out of memory.

Both drivers move plain TCP bytes and nothing else; TLS lies between those and the connection. `select` does not see
what an `SSLSocket` has already decrypted; here there is nothing to overlook.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mqttws.errors import CertificateError, ConnectError

#: A record holds no more. Spec: RFC 8446 §5.1
_CHUNK = 16 * 1024
#: Servers whose sessions are remembered.
_SERVERS = 8
#: Seconds after which the certificate of a server is verified again, whatever sessions there have been since.
_MOST_UNVERIFIED = 24 * 3600.0

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
    that another certificate wants another context. Spec: RFC 8446 §2.2, §C.4

    A resumed handshake verifies no certificate: it relies on an earlier one that did. See `Resumable.usable`. A session
    is offered to the server once, so that one that cannot deal with it gets a whole handshake next.

    Args:
        context: see `tls_context`; None: one is made when it is needed, once.
    """

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._last: dict[tuple[str, int], TLSPipe] = {}

    def pipe(self, host: str, port: int, now: float) -> TLSPipe:
        """Make the TLS of a new connection.

        Args:
            host: of the server.
            port: of the server.
            now: seconds.

        Raises:
            ssl.SSLError, OSError: the context cannot be made.
        """
        if self._context is None:
            self._context = tls_context()  # to read the system's authorities takes longer than a handshake
        last = self._last.pop((host, port), None)
        pipe = self._last[host, port] = TLSPipe(self._context, host, now, last.session if last is not None else None)
        if len(self._last) > _SERVERS:
            del self._last[next(iter(self._last))]
        return pipe


class Resumable(NamedTuple):
    """A session, and what was verified for it.

    Attributes:
        session: as OpenSSL has it.
        verified_at: when the connection was begun for which the certificate was verified last: seconds.
        verification: how the context did so.
    """

    session: ssl.SSLSession
    verified_at: float
    verification: object

    def usable(self, context: ssl.SSLContext, now: float) -> bool:
        """Return whether the certificate was verified lately, and as the context would verify it now."""
        is_recent = now - self.verified_at < _MOST_UNVERIFIED
        return is_recent and self.verification == _verification_by(context)


class TLSPipe:
    """A client's TLS over bytes.

    Args:
        context: see `tls_context`.
        server_hostname: for SNI, and to check the certificate against.
        now: seconds.
        offered: the session of an earlier connection to the same server; None for none.
    """

    def __init__(
        self, context: ssl.SSLContext, server_hostname: str, now: float, offered: Resumable | None = None
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._offered = offered = offered if offered is not None and offered.usable(context, now) else None
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_hostname=server_hostname,
            session=offered.session if offered is not None else None,
        )
        # When the certificate was verified: now, unless the session is resumed.
        self._verified_at, self._verified_before = now, offered.verified_at if offered is not None else now
        self._verification: object = None
        self.established = False
        self.eof = False  # the peer has said that it sends nothing more

    @property
    def session(self) -> Resumable | None:
        """The session for the next connection; None if this one brought none, or failed with the one it offered."""
        if not self.established:
            return self._offered
        session = self._tls.session
        if session is None or not session.has_ticket:
            return None
        return Resumable(session, self._verified_at, self._verification)

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
                if tls.session_reused:
                    self._verified_at = self._verified_before
                self._verification = _verification_by(tls.context)
                self.established = True
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
        self._offered = None  # with the first of it the server gets the session
        return self._outgoing.read()


def _verification_by(context: ssl.SSLContext) -> object:
    """Return how a context verifies certificates, to be compared. What it trusts can only grow: a count shows that."""
    return context.verify_mode, context.check_hostname, context.verify_flags, context.cert_store_stats()
