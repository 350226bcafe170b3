"""The client's side of a tunnel through a SOCKS5 proxy, without I/O. The proxy resolves the server's name.

::

    client  05 n methods                    the authentication methods it offers: 00 none, 02 user and password
    proxy   05 method                       the method it selects; FF: none of them
    client  01 n user n password            only with method 02
    proxy   01 status                       00: accepted
    client  05 01 00 03 n host port(2)      CONNECT to a name
    proxy   05 reply 00 type address port   reply 00: the tunnel is open

Spec: RFC 1928, RFC 1929
"""

from __future__ import annotations

import ipaddress

from mqttws.client.url import Endpoint
from mqttws.errors import ConnectError
from mqttws.hints import Final

_NO_AUTHENTICATION: Final = 0x00
_USER_AND_PASSWORD: Final = 0x02
#: Reply code -> its meaning. Spec: RFC 1928 §6
_REPLIES: Final = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
}
#: Type of an address -> its size in bytes. The size of a name, type 3, is in its first byte.
_ADDRESS_SIZES: Final = {1: 4, 4: 16}


class SocksTunnel:
    """The handshake of a client with a SOCKS5 proxy.

    Args:
        credentials: User name and password, each 1 to 255 bytes; None if the proxy needs none.
        endpoint: The destination of the tunnel.

    Attributes:
        established: Whether the tunnel is open.

    Raises:
        ConnectError: The host name is too long for the protocol.
    """

    def __init__(self, credentials: tuple[bytes, bytes] | None, endpoint: Endpoint) -> None:
        self._credentials = credentials
        self._request = b"\x05\x01\x00" + _address(endpoint.host) + endpoint.port.to_bytes(2, "big")
        self._in = bytearray()
        methods = (
            bytes((_NO_AUTHENTICATION,)) if credentials is None else bytes((_NO_AUTHENTICATION, _USER_AND_PASSWORD))
        )
        self._out = bytes((5, len(methods))) + methods
        self._step = self._on_method
        self.established = False

    def receive_data(self, data: bytes) -> bytes:
        """Handle bytes from the proxy.

        Returns:
            The bytes received through the tunnel, once it is `established`.

        Raises:
            ConnectError: The proxy refused the tunnel, or its answer is not SOCKS5.
        """
        self._in += data
        while not self.established and self._step():
            pass
        if not self.established:
            return b""
        rest = bytes(self._in)
        self._in.clear()
        return rest

    def data_to_send(self) -> bytes:
        """Return the bytes to send now."""
        data, self._out = self._out, b""
        return data

    # The steps of the handshake. Each returns False if it needs more data.

    def _take(self, size: int, version: int) -> bytes | None:
        """Remove and return an answer of `size` bytes; None if it is incomplete. Its first byte is the version."""
        if self._in and self._in[0] != version:
            raise ConnectError("the proxy's answer is not SOCKS5")
        if len(self._in) < size:
            return None
        taken = bytes(self._in[:size])
        del self._in[:size]
        return taken

    def _on_method(self) -> bool:
        answer = self._take(2, 5)
        if answer is None:
            return False
        if answer[1] == _USER_AND_PASSWORD and self._credentials is not None:
            user, password = self._credentials
            self._out += b"\x01" + bytes((len(user),)) + user + bytes((len(password),)) + password
            self._step = self._on_status
        elif answer[1] == _NO_AUTHENTICATION:
            self._out += self._request
            self._step = self._on_reply
        else:
            raise ConnectError("the proxy requires an authentication method that was not offered")
        return True

    def _on_status(self) -> bool:
        answer = self._take(2, 1)
        if answer is None:
            return False
        if answer[1] != 0:
            raise ConnectError("the proxy refused user name and password")
        self._out += self._request
        self._step = self._on_reply
        return True

    def _on_reply(self) -> bool:
        if len(self._in) < 5:  # the type of the address, and the first byte of the address, are needed for its size
            return False
        size = self._in[4] + 1 if self._in[3] == 3 else _ADDRESS_SIZES.get(self._in[3], 0)
        answer = self._take(4 + size + 2, 5)
        if answer is None:
            return False
        if answer[1] != 0:
            raise ConnectError(f"the proxy refused the tunnel: {_REPLIES.get(answer[1], f'reply {answer[1]}')}")
        self.established = True
        return True


def _address(host: str) -> bytes:
    """Encode an IP address or a name, with its type."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode()
        if len(name) > 255:
            raise ConnectError("the server's name is longer than the 255 bytes that SOCKS5 allows") from None
        return b"\x03" + bytes((len(name),)) + name
    return (b"\x01" if address.version == 4 else b"\x04") + address.packed
