"""CONNECT, CONNACK, PINGREQ, PINGRESP and DISCONNECT: the packets that open, check and close a connection.

Spec: §3.1, §3.2, §3.12 to §3.14
"""

from __future__ import annotations

from mqttws.codec.packet import Packet, with_fixed_header
from mqttws.codec.publishing import Message, check_qos
from mqttws.codec.topics import check_topic
from mqttws.codec.wire import BYTES, MAX_UINT16, Reader, encode_binary, encode_string, encode_uint16
from mqttws.errors import LocalProtocolError, MalformedPacket
from mqttws.hints import Final, NoReturn

#: Protocol Level -> Protocol Name. 4 is MQTT 3.1.1; 3 is MQTT 3.1, which many clients still use.
PROTOCOL_NAMES: Final = {3: "MQIsdp", 4: "MQTT"}
#: Protocol Level -> the Protocol Name and the level, encoded. Spec: §3.1.2.1, §3.1.2.2
_BEGINNINGS: Final = {level: encode_string(name) + BYTES[level] for level, name in PROTOCOL_NAMES.items()}

# The Connect Flags. Spec: §3.1.2.3, figure 3.4
_RESERVED: Final = 0x01
_CLEAN_SESSION: Final = 0x02
_WILL: Final = 0x04
_WILL_QOS: Final = 0x18
_WILL_RETAIN: Final = 0x20
_PASSWORD: Final = 0x40
_USERNAME: Final = 0x80


class UnsupportedLevel(MalformedPacket):
    """A CONNECT with an unsupported protocol level.

    Attributes:
        level: The protocol level of the CONNECT.
    """

    def __init__(self, level: int, name: str) -> None:
        super().__init__(f"protocol level {level} of {name!r} is not supported", "MQTT-3.1.2-2")
        self.level = level


class Connect(Packet):
    """CONNECT: the first packet of a client, sent once on each Network Connection.

    ::

        byte 1           0001 0000
        byte 2..         remaining length
        protocol name    length (2), "MQTT"
        protocol level   (1), 4
        connect flags    (1): user name | password | will retain | will QoS (2) | will | clean session | 0
        keep alive       (2), seconds
        client id        length (2), UTF-8
        will topic       length (2), UTF-8   } if the will flag is set
        will message     length (2), bytes   }
        user name        length (2), UTF-8     if its flag is set
        password         length (2), bytes     if its flag is set

    Args:
        client_id: 0 to 65,535 bytes of UTF-8; empty only with a clean session, and then the server assigns one.
        clean_session: Whether both sides discard an earlier session now, and this session when the connection ends.
        keep_alive: Seconds, 0 to 65,535: the longest time in which the client sends nothing. 0 disables.
        will: The message that the server publishes when the connection ends without a DISCONNECT.
        username: 0 to 65,535 bytes of UTF-8.
        password: 0 to 65,535 bytes; only with a user name.
        protocol_level: 4 (MQTT 3.1.1), or 3 (MQTT 3.1, protocol name "MQIsdp").

    Spec: §3.1, [MQTT-3.1.2-1] to [MQTT-3.1.2-22], [MQTT-3.1.3-1] to [MQTT-3.1.3-11]
    """

    __slots__ = ("clean_session", "client_id", "keep_alive", "password", "protocol_level", "username", "will")

    type = 1
    __match_args__ = ("client_id", "clean_session", "keep_alive", "will", "username", "password", "protocol_level")
    secret_fields = frozenset({"username", "password"})  # AWS custom authorizers carry a token in the user name

    def __init__(
        self,
        client_id: str = "",
        clean_session: bool = True,
        keep_alive: int = 60,
        will: Message | None = None,
        username: str | None = None,
        password: bytes | None = None,
        protocol_level: int = 4,
        _checked: bool = False,  # True from the decoder's shortcut, which has made the same checks
    ) -> None:
        self.client_id = client_id
        self.clean_session = clean_session
        self.keep_alive = keep_alive
        self.will = will
        self.username = username
        self.password = password
        self.protocol_level = protocol_level
        if _checked:
            return
        if protocol_level != 4 and protocol_level not in PROTOCOL_NAMES:
            raise LocalProtocolError(f"the protocol level is {protocol_level}; it must be 4 or 3", "MQTT-3.1.2-2")
        if not client_id and not clean_session:
            raise LocalProtocolError("an empty client identifier needs a clean session", "MQTT-3.1.3-7")
        if not isinstance(keep_alive, int) or not 0 <= keep_alive <= MAX_UINT16:
            raise LocalProtocolError(f"the keep alive is {keep_alive} s; it must be an int, 0 to 65,535", "§3.1.2.10")
        if password is not None and username is None:
            raise LocalProtocolError("a password needs a user name", "MQTT-3.1.2-22")
        if len(client_id) > MAX_UINT16 or not client_id.isascii() or "\0" in client_id:
            encode_string(client_id, "the client identifier")  # which has the exact checks
        if username is not None:
            encode_string(username, "the user name")
        if password is not None:
            encode_binary(password, "the password")
        if will is not None:
            encode_binary(will.payload, "the will message")

    def encode(self) -> bytes:
        """Return the whole packet, encoded."""
        flags = _CLEAN_SESSION if self.clean_session else 0
        payload = encode_string(self.client_id)
        if self.will is not None:
            flags |= _WILL | self.will.qos << 3 | (_WILL_RETAIN if self.will.retain else 0)
            payload += check_topic(self.will.topic, "the will topic") + encode_binary(self.will.payload)
        if self.username is not None:
            flags |= _USERNAME
            payload += encode_string(self.username)
        if self.password is not None:
            flags |= _PASSWORD
            payload += encode_binary(self.password)
        body = _BEGINNINGS[self.protocol_level] + BYTES[flags] + encode_uint16(self.keep_alive) + payload
        return with_fixed_header(b"\x10", body)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Connect can hold credentials and cannot be pickled or copied")

    @classmethod
    def decode(cls, flags: int, reader: Reader) -> Connect:
        """Decode a CONNECT; see `Packet.decode`.

        Raises:
            MalformedPacket: With the statement "MQTT-3.1.2-2" for an unsupported protocol level, and "MQTT-3.1.3-8"
                for an empty client identifier without a clean session. A server answers these two with a CONNACK
                before it closes the connection.
        """
        name = reader.binary("the protocol name")
        level = reader.uint8("the protocol level")
        if name not in (b"MQTT", b"MQIsdp"):
            raise MalformedPacket(f"the protocol name is {name[:16]!r}; it must be 'MQTT'", "MQTT-3.1.2-1")
        if level not in PROTOCOL_NAMES or PROTOCOL_NAMES[level].encode() != name:
            raise UnsupportedLevel(level, name.decode())
        connect_flags = reader.uint8("the connect flags")
        if level == 3:
            # MQTT 3.1 uses neither this bit nor the flags of the fixed header, nor those of the will without a will.
            connect_flags &= ~_RESERVED
            if not connect_flags & _WILL:
                connect_flags &= ~(_WILL_QOS | _WILL_RETAIN)
        elif flags:
            raise MalformedPacket(f"the flags of Connect are {flags:04b}; they must be 0000", cls.flags_statement)
        _check_connect_flags(connect_flags)
        keep_alive = reader.uint16("the keep alive")
        client_id = reader.string("the client identifier")
        will = None
        if connect_flags & _WILL:
            will = Message(
                reader.string("the will topic"),
                reader.binary("the will message"),
                (connect_flags & _WILL_QOS) >> 3,
                bool(connect_flags & _WILL_RETAIN),
            )
        # In MQTT 3.1 §3.1 the remaining length takes precedence over these two flags: the strings may be missing.
        username = reader.string("the user name") if connect_flags & _USERNAME and (level > 3 or reader) else None
        password = reader.binary("the password") if connect_flags & _PASSWORD and (level > 3 or reader) else None
        reader.end()
        clean_session = bool(connect_flags & _CLEAN_SESSION)
        if not client_id and not clean_session:
            raise MalformedPacket("an empty client identifier needs a clean session", "MQTT-3.1.3-8")
        return cls(client_id, clean_session, keep_alive, will, username, password, level)


def _check_connect_flags(flags: int) -> None:
    """Check that the Connect Flags of a peer are consistent.

    Spec: §3.1.2.3, [MQTT-3.1.2-3], [MQTT-3.1.2-11], [MQTT-3.1.2-13] to [MQTT-3.1.2-15], [MQTT-3.1.2-22]
    """
    if flags & _RESERVED:
        raise MalformedPacket("the reserved connect flag is set", "MQTT-3.1.2-3")
    if not flags & _WILL:
        if flags & _WILL_QOS:
            raise MalformedPacket("the will QoS is set without a will", "MQTT-3.1.2-13")
        if flags & _WILL_RETAIN:
            raise MalformedPacket("the will retain flag is set without a will", "MQTT-3.1.2-15")
    check_qos((flags & _WILL_QOS) >> 3, "the will QoS", "MQTT-3.1.2-14")
    if flags & _PASSWORD and not flags & _USERNAME:
        raise MalformedPacket("there is a password without a user name", "MQTT-3.1.2-22")


class ConnAck(Packet):
    """CONNACK: the first packet of a server, its answer to CONNECT.

    ::

        byte 1           0010 0000
        byte 2           2
        acknowledge      (1): seven bits 0, session present
        return code      (1): 0 accepted, 1 to 5 refused

    Args:
        return_code: 0 to 5.
        session_present: Whether the server kept the session; False in a refusal.

    Spec: §3.2, [MQTT-3.2.2-1] to [MQTT-3.2.2-6]
    """

    __slots__ = ("return_code", "session_present")

    type = 2
    __match_args__ = ("return_code", "session_present")

    def __init__(self, return_code: int = 0, session_present: bool = False) -> None:
        if not 0 <= return_code <= 5:
            raise LocalProtocolError(f"the ConnAck return code is {return_code}; it must be 0 to 5", "§3.2.2.3")
        if return_code and session_present:
            raise LocalProtocolError("a ConnAck that refuses must not have session_present set", "MQTT-3.2.2-4")
        self.return_code = return_code
        self.session_present = session_present

    def encode(self) -> bytes:
        """Return the whole packet, encoded."""
        return (b"\x20\x02\x01" if self.session_present else b"\x20\x02\x00") + BYTES[self.return_code]

    @classmethod
    def decode(cls, flags: int, reader: Reader) -> ConnAck:
        """Decode a CONNACK; see `Packet.decode`."""
        acknowledge = reader.uint8("the acknowledge flags")
        return_code = reader.uint8("the return code")
        reader.end()
        if acknowledge > 1:
            raise MalformedPacket(f"reserved acknowledge flags are set: {acknowledge:#04x}", "§3.2.2.1")
        return cls(return_code, bool(acknowledge))


class PingReq(Packet):
    """PINGREQ: keeps the connection alive, and requests a PINGRESP. Two bytes: C0 00. Spec: §3.12."""

    __slots__ = ()
    type = 12


class PingResp(Packet):
    """PINGRESP: the server's answer to PINGREQ. Two bytes: D0 00. Spec: §3.13."""

    __slots__ = ()
    type = 13


class Disconnect(Packet):
    """DISCONNECT: the last packet of a client; the server discards the will. Two bytes: E0 00.

    Spec: §3.14, [MQTT-3.14.1-1], [MQTT-3.14.4-3]
    """

    __slots__ = ()
    type = 14
    flags_statement = "MQTT-3.14.1-1"
