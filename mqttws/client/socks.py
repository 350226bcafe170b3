"""A tunnel through a SOCKS5 proxy: bytes in, bytes out. The proxy looks the server's name up.

::

    client  05 n methods                    which ways of authentication it offers: 00 none, 02 user and password
    proxy   05 method                       which one it takes; FF: none of them
    client  01 n user n password            where the method is 02
    proxy   01 status                       00: right
    client  05 01 00 03 n host port(2)      CONNECT to a name
    proxy   05 reply 00 type address port   reply 00: the tunnel is there

Spec: RFC 1928, RFC 1929
"""

from __future__ import annotations

import ipaddress
from typing import Final

from mqttws.client.url import Endpoint
from mqttws.errors import ConnectError

_NO_AUTHENTICATION: Final = 0x00
_USER_AND_PASSWORD: Final = 0x02
#: RFC 1928 §6
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
#: Type of an address -> its size; 3, a name, has its size in its first byte.
_ADDRESS_SIZES: Final = {1: 4, 4: 16}


class SocksTunnel:
    """The handshake of a client with a SOCKS5 proxy.

    Args:
        credentials: user name and password, each 1 to 255 bytes; None: none.
        endpoint: where the tunnel leads.

    Attributes:
        established: whether the tunnel is there.

    Raises:
        ConnectError: a name is too long for the protocol.
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
        """Take bytes of the proxy.

        Returns:
            What came through the tunnel, once it is `established`.

        Raises:
            ConnectError: the proxy refuses, or does not speak SOCKS5.
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

    # The steps. Each returns whether it had enough data.

    def _take(self, size: int, version: int) -> bytes | None:
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
        if len(self._in) < 5:
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
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode()
        if len(name) > 255:
            raise ConnectError("the server's name is longer than the 255 bytes that SOCKS5 takes") from None
        return b"\x03" + bytes((len(name),)) + name
    return (b"\x01" if address.version == 4 else b"\x04") + address.packed
