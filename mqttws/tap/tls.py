"""TLS without a socket, for both ends of a tap: as a server towards clients, and as a client towards the server.

TLS records are decrypted one at a time, so that their boundaries are known.
"""

from __future__ import annotations

import ssl
from typing import Final, NamedTuple

_HEADER: Final = 5
_CHUNK: Final = 64 * 1024


class Piece(NamedTuple):
    """The plaintext of a TLS record.

    Attributes:
        data: The plaintext.
        size: The size of the record on the wire in bytes, including its header of 5 bytes.
    """

    data: bytes
    size: int


class TLSLayer:
    """The TLS layer of one end. It does no I/O.

    Args:
        context: See `ssl.SSLContext`.
        server_hostname: The name to verify, for the client's side, as in `TLSPipe`; None for the server's side.

    Attributes:
        established: Whether the handshake is complete.
        eof: Whether the peer has announced that it sends nothing more.
    """

    def __init__(self, context: ssl.SSLContext, server_hostname: str | None = None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        name = None if server_hostname is None else server_hostname.removesuffix(".")
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=name is None, server_hostname=name)
        self._partial = b""
        self.established = False
        self.eof = False
        if server_hostname is not None:
            self._shake()

    def receive_data(self, data: bytes) -> list[Piece]:
        """Handle ciphertext. Return the plaintext, one piece for each TLS record.

        Raises:
            ssl.SSLError: The handshake failed, or the ciphertext was modified.
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
        """Encrypt plaintext to send. Call this only when `established`."""
        self._tls.write(data)

    def close(self) -> None:
        """Send close_notify: nothing more will be sent."""
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # raised because the peer's close_notify has not arrived, which is not needed

    def data_to_send(self) -> bytes:
        """Return the ciphertext to send now."""
        return self._outgoing.read()

    def describe(self) -> str:
        """Return the version and the cipher, when `established`."""
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
