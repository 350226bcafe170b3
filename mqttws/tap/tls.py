"""TLS over bytes, at either end of a tap: the near end has a certificate for development, the far one verifies.

One TLS record is decrypted at a time, so that the boundaries of the records are known.
"""

from __future__ import annotations

import ssl
from typing import Final, NamedTuple

_HEADER: Final = 5
_CHUNK: Final = 64 * 1024


class Piece(NamedTuple):
    """The plaintext of a TLS record.

    Attributes:
        data: the plaintext.
        size: bytes of the record on the wire, its header of 5 bytes included.
    """

    data: bytes
    size: int


class TLSLayer:
    """TLS between a socket and plaintext.

    Args:
        context: see `ssl.SSLContext`.
        server_hostname: the name to verify, at the client's side; None: this is the server's side.

    Attributes:
        established: whether the handshake is done.
        eof: whether the peer has said that it sends nothing more.
    """

    def __init__(self, context: ssl.SSLContext, server_hostname: str | None = None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_hostname is None, server_hostname=server_hostname
        )
        self._partial = b""
        self.established = False
        self.eof = False
        if server_hostname is not None:
            self._shake()

    def receive_data(self, data: bytes) -> list[Piece]:
        """Take ciphertext. Return the plaintext in it, one piece a TLS record.

        Raises:
            ssl.SSLError: the handshake failed, or the stream was tampered with.
        """
        data = self._partial + data
        pieces = []
        position = 0
        while len(data) - position >= _HEADER:
            size = _HEADER + int.from_bytes(data[position + 3 : position + _HEADER], "big")
            if len(data) - position < size:
                break
            self._incoming.write(data[position : position + size])
            position += size
            if not self.established:
                self._shake()
            if self.established and (plaintext := self._read()):
                pieces.append(Piece(plaintext, size))
        self._partial = data[position:]
        return pieces

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

    def describe(self) -> str:
        """Name the version and the cipher, once `established`."""
        cipher = self._tls.cipher()
        return f"{self._tls.version()}, {cipher[0] if cipher else 'no cipher'}"

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
            self.established = True
        except ssl.SSLWantReadError:
            pass

    def _read(self) -> bytes:
        plaintext = b""
        try:
            while chunk := self._tls.read(_CHUNK):
                plaintext += chunk
            self.eof = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.eof = True
        return plaintext
