"""TLS for clients without a socket: ciphertext is passed in and out as bytes.

Both drivers move only TCP bytes; TLS is a layer between these and the connection. It also avoids a problem of
`SSLSocket`, which can hold decrypted data that `select` does not report.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from mqttws.errors import CertificateError, ConnectError
from mqttws.protocol.outgoing import LONG

#: The maximum size of a record's plaintext, in bytes. Spec: RFC 8446 §5.1
_CHUNK = 16 * 1024
#: The maximum number of servers whose sessions are kept.
_SERVERS = 8
#: Seconds after which the certificate of a server must be verified again, even if sessions were resumed meanwhile.
_MOST_UNVERIFIED = 24 * 3600.0

_NOTHING = memoryview(b"")

TLSOption = ssl.SSLContext | bool | None


def check_context(tls: object) -> None:
    """Check the option `tls`.

    Raises:
        TypeError: It is not an `ssl.SSLContext`.
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
    """Return a TLS context for a client: TLS 1.2 or later, with verification of the server's certificate and name.

    Args:
        ca_file: PEM file of the authorities to trust; None: those of the system.
        certificate: PEM file of the client's certificate; None: the client has none.
        key: PEM file of its private key; None: the key is in the file of the certificate.
        key_password: The password of the private key; None if it is not encrypted.
        alpn: Application protocols to offer, such as "x-amzn-mqtt-ca".
        insecure_no_verification: Whether to trust any server. Use this only for tests: an intermediary can read and
            change all data.

    Returns:
        A new context, which may be changed further.

    Raises:
        OSError: A file cannot be read.
        ssl.SSLError: A file does not have the expected contents.
        ValueError: There is a key without a certificate, or the key is encrypted and there is no `key_password`.
    """
    if key is not None and certificate is None:
        raise ValueError("a key needs the certificate of the client")
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file is not None else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None:
        # Without a password OpenSSL would read one from the terminal, for which a service would wait forever.
        password = key_password if key_password is not None else _no_password
        context.load_cert_chain(str(certificate), str(key) if key is not None else None, password)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if insecure_no_verification:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _no_password() -> NoReturn:
    """Called by OpenSSL for the password of an encrypted key."""
    raise ValueError("the private key is encrypted, and there is no key_password")


class TLSMemory:
    """The TLS state that the connections of a client share: the context, and the last session with each server.

    A handshake that resumes a session exchanges no certificates, and needs little computation. A server issues the
    session as a ticket, after the handshake (TLS 1.3) or during it. It need not accept it later; then the handshake is
    a full one. A context with `ssl.OP_NO_TICKET` has no sessions. A session contains the identity proved by the
    client's certificate, so use another context for another certificate. Spec: RFC 8446 §2.2, §C.4

    A resumed handshake verifies no certificate, but relies on an earlier one that did: see `Resumable.usable`. A
    session is offered to the server only once, so that a server that cannot handle it gets a full handshake next.

    Args:
        context: See `tls_context`; None or True: a default one is created when it is first needed.
    """

    def __init__(self, context: ssl.SSLContext | Literal[True] | None) -> None:
        self._context = None if context is True else context
        self._last: dict[tuple[str, int], TLSPipe] = {}

    def pipe(self, host: str, port: int, now: float) -> TLSPipe:
        """Return the TLS layer for a new connection.

        Args:
            host: The host name or address of the server.
            port: The port of the server.
            now: The current time in seconds.

        Raises:
            ssl.SSLError, OSError: The context cannot be created.
        """
        if self._context is None:
            self._context = tls_context()  # kept: reading the system's authorities takes longer than a handshake
        last = self._last.pop((host, port), None)
        pipe = self._last[host, port] = TLSPipe(self._context, host, now, last.session if last is not None else None)
        if len(self._last) > _SERVERS:
            del self._last[next(iter(self._last))]
        return pipe


class Resumable(NamedTuple):
    """A TLS session, and how the server's certificate was verified for it.

    Attributes:
        session: The session of OpenSSL.
        verified_at: When the last connection began for which the certificate was verified, in seconds.
        verification: The settings with which the context verified it.
    """

    session: ssl.SSLSession
    verified_at: float
    verification: object

    def usable(self, context: ssl.SSLContext, now: float) -> bool:
        """Return whether the certificate was verified recently, and with the present settings of the context."""
        is_recent = now - self.verified_at < _MOST_UNVERIFIED
        return is_recent and self.verification == _verification_by(context)


class TLSPipe:
    """The TLS layer of one connection of a client. It does no I/O.

    Args:
        context: See `tls_context`.
        server_hostname: The name for SNI and for the check of the certificate. Its trailing dot, which says that it is
            absolute, belongs to neither. Spec: RFC 6066 §3
        now: The current time in seconds.
        offered: The session of an earlier connection to the same server; None if there is none.

    Attributes:
        established: Whether the handshake is complete.
        eof: Whether the peer has announced that it sends nothing more.
        plaintext: What `send` was given and `data_to_send` has not encrypted yet.
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
            server_hostname=server_hostname.removesuffix("."),
            session=offered.session if offered is not None else None,
        )
        # When the certificate was verified: now, unless the session is resumed.
        self._verified_at, self._verified_before = now, offered.verified_at if offered is not None else now
        self._verification: object = None
        self._fault: ConnectError | None = None  # what has ended TLS
        self.established = False
        self.eof = False
        self.plaintext = _NOTHING

    @property
    def session(self) -> Resumable | None:
        """The session for the next connection; None if the server issued none, or the handshake with it failed."""
        if not self.established:
            return self._offered
        session = self._tls.session
        if session is None or not session.has_ticket:
            return None
        return Resumable(session, self._verified_at, self._verification)

    def receive_data(self, data: bytes) -> None:
        """Take ciphertext from the peer, which `read` and `read_into` decrypt, and continue the handshake.

        Raises:
            CertificateError: The server's certificate cannot be trusted.
            ConnectError: The handshake failed for another reason.
        """
        self._incoming.write(data)
        if self.established:
            return
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            self._offered = None
            raise _failure("the TLS handshake failed", error) from None
        if self._tls.session_reused:
            self._verified_at = self._verified_before
        self._verification = _verification_by(self._tls.context)
        self.established = True

    @property
    def readable(self) -> bool:
        """Whether the handshake is complete, and there is ciphertext to decrypt or an error to raise."""
        return self.established and (self._incoming.pending > 0 or self._tls.pending() > 0 or self._fault is not None)

    def read(self, enough: int) -> bytes:
        """Return the next plaintext. Call this again while it is `readable`.

        Args:
            enough: After so many bytes no further record is decrypted.

        Raises:
            ConnectError: The ciphertext was modified, or the peer has ended TLS with an error. What was decrypted
                before is returned first.
        """
        incoming, tls = self._incoming, self._tls
        chunks = []
        size = 0
        try:
            # Do not read without data: raising SSLWantReadError takes longer than everything else here.
            while size < enough and (incoming.pending or tls.pending()):
                chunk = tls.read(_CHUNK)
                if not chunk:
                    self.eof = True
                    break
                chunks.append(chunk)
                size += len(chunk)
        except ssl.SSLError as error:
            self._interrupted(error)
        if not chunks:
            self._raise_fault()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def read_into(self, buffer: memoryview) -> int:
        """Write the next plaintext into a buffer, until it is full or nothing is left. Return the number of bytes.

        Raises:
            ConnectError: See `read`.
        """
        incoming, tls = self._incoming, self._tls
        count, size = 0, len(buffer)
        try:
            while count < size and (incoming.pending or tls.pending()):
                with buffer[count:] as rest:  # see `Decoder.payload_buffer`
                    more = int(tls.read(size, rest))
                if not more:
                    self.eof = True
                    break
                count += more
        except ssl.SSLError as error:
            self._interrupted(error)
        if not count:
            self._raise_fault()
        return count

    def _interrupted(self, error: ssl.SSLError) -> None:
        """Handle an error of a read: more data is needed, the peer has sent close_notify, or TLS has failed."""
        if isinstance(error, ssl.SSLZeroReturnError):
            self.eof = True
        elif not isinstance(error, ssl.SSLWantReadError):
            self._fault = _failure("the TLS connection failed", error)

    def _raise_fault(self) -> None:
        """Raise what has ended TLS, as a new error: the traceback of the stored one would refer back to this object."""
        if self._fault is not None:
            raise type(self._fault)(*self._fault.args)

    def send(self, data: bytes) -> None:
        """Take plaintext to send. Call this only when `established`, and no plaintext is left."""
        self.plaintext = memoryview(data)

    def close(self) -> None:
        """Send close_notify: nothing more will be sent."""
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # raised because the peer's close_notify has not arrived, which is not needed

    def data_to_send(self) -> bytes:
        """Return the next ciphertext to send. Call this again while there is `plaintext`.

        The plaintext is encrypted in pieces of at least `LONG` bytes, which a remainder is part of.
        """
        self._offered = None  # the first ciphertext contains the session, which must not be offered again
        plaintext = self.plaintext
        if plaintext:
            size = LONG if len(plaintext) >= 2 * LONG else len(plaintext)
            self.plaintext = plaintext[size:] or _NOTHING  # an empty view of the data would keep it
            piece = plaintext[:size]
            while piece:
                piece = piece[self._tls.write(piece) :]
        return self._outgoing.read()


def _failure(stage: str, error: ssl.SSLError) -> ConnectError:
    """Return the error that reports a failure of TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateError(f"the server's certificate cannot be trusted: {error.verify_message}")
    return ConnectError(f"{stage}: {error.reason or error.strerror or type(error).__name__}")


def _verification_by(context: ssl.SSLContext) -> object:
    """Return the settings with which a context verifies certificates, for comparison.

    Trusted certificates can be added to a context but not removed, so comparing their number is enough.
    """
    return context.verify_mode, context.check_hostname, context.verify_flags, context.cert_store_stats()
