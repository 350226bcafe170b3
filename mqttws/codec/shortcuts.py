"""Fast decoders for the packets that open a connection and subscribe.

Each function reads the body of one packet, in the order of the standard's table, and returns the packet, or None if
anything is wrong. It does not report what is wrong: the reference decoder, `packets.decode`, decodes such a body once
more and raises the error. Constructors do not repeat the checks that these functions make.

`tests/codec/test_decoder.py` checks that both decoders agree on every input.
"""

from __future__ import annotations

from collections.abc import Callable

from mqttws.codec import compiled
from mqttws.codec.connecting import ConnAck, Connect
from mqttws.codec.memory import Memory
from mqttws.codec.packet import Packet
from mqttws.codec.publishing import Message
from mqttws.codec.subscribing import FILTER_MAX_LENGTH, SubAck, Subscribe, Unsubscribe
from mqttws.codec.topics import is_topic, is_topic_filter
from mqttws.hints import Any, Final, i64

#: Makes an object without calling its constructor; None in the compiled build, where this is impossible and not needed.
BLANK: Final[Callable[[type[Any]], Any] | None] = None if compiled else object.__new__

#: The valid values of the Connect Flags. Spec: §3.1.2.3, [MQTT-3.1.2-3], [MQTT-3.1.2-13] to [MQTT-3.1.2-15],
#: [MQTT-3.1.2-22]
_CONNECT_FLAGS: Final = frozenset(
    clean | will | user
    for clean in (0x00, 0x02)
    for will in (0x00, *(0x04 | qos << 3 | retain for qos in (0, 1, 2) for retain in (0x00, 0x20)))
    for user in (0x00, 0x80, 0xC0)
)
#: The body of a CONNACK -> the packet. Packets are never changed, so one object of each is enough. Spec: §3.2.2
_CONNACKS: Final[dict[bytes, ConnAck]] = {
    b"\1\0": ConnAck(0, True),
    **{bytes((0, code)): ConnAck(code) for code in range(6)},
}
_RETURN_CODES: Final = b"\0\1\2\x80"
#: The return codes of a SUBACK in recent use, at most `_CODES_MAX`, as bytes -> the same as integers, checked.
_CODES_MEMORY: Final[Memory[bytes, tuple[int, ...]]] = Memory(4_096, 64 * 1024)
_CODES: Final[dict[bytes, tuple[int, ...]]] = _CODES_MEMORY.table
_CODES_MAX: Final = 16
#: The bytes in recent use of a Topic Filter with the requested QoS -> both, checked; and those of a filter to
#: unsubscribe from -> the filter. Bounded like the encoder's cache.
_REQUEST_MEMORY: Final[Memory[bytes, tuple[str, int]]] = Memory(4_096, 128 * 1024)
_REQUESTS: Final[dict[bytes, tuple[str, int]]] = _REQUEST_MEMORY.table
_FILTER_MEMORY: Final[Memory[bytes, str]] = Memory(4_096, 128 * 1024)
_FILTERS: Final[dict[bytes, str]] = _FILTER_MEMORY.table


def read_connect(body: bytes) -> Connect | None:
    """Read the body of a CONNECT of MQTT 3.1.1. Spec: §3.1."""
    size = len(body)
    if size < 12 or body[:7] != b"\0\4MQTT\4":
        return None
    flags = body[7]
    end = 12 + body[10] * 256 + body[11]
    if end > size or flags not in _CONNECT_FLAGS:
        return None
    will: Message | None = None
    username: str | None = None
    password: bytes | None = None
    try:
        client_id = body[12:end].decode()
        strings = client_id
        if flags > 3:
            if flags & 0x04:
                start = end + 2
                end = start + body[end] * 256 + body[end + 1]
                topic = body[start:end].decode()
                start = end + 2
                end = start + body[end] * 256 + body[end + 1]
                if end > size or not is_topic(topic):
                    return None
                will = _message(topic, body[start:end], flags >> 3 & 3, flags & 0x20 != 0)
            if flags & 0x80:
                start = end + 2
                end = start + body[end] * 256 + body[end + 1]
                username = body[start:end].decode()
                strings += username
                if flags & 0x40:
                    start = end + 2
                    end = start + body[end] * 256 + body[end + 1]
                    password = body[start:end]
    except (IndexError, UnicodeDecodeError):
        return None
    if end != size or "\0" in strings or not (client_id or flags & 0x02):
        return None
    keep_alive = body[8] * 256 + body[9]
    if BLANK is None:
        return Connect(client_id, flags & 0x02 != 0, keep_alive, will, username, password, 4, True)
    connect: Connect = BLANK(Connect)
    connect.client_id = client_id
    connect.clean_session = flags & 0x02 != 0
    connect.keep_alive = keep_alive
    connect.will = will
    connect.username = username
    connect.password = password
    connect.protocol_level = 4
    return connect


def _message(topic: str, payload: bytes, qos: int, retain: bool) -> Message:
    if BLANK is None:
        return Message(topic, payload, qos, retain)
    message: Message = BLANK(Message)
    message.topic = topic
    message.payload = payload
    message.qos = qos
    message.retain = retain
    return message


def read_subscribe(body: bytes) -> Subscribe | None:
    """Read the body of a SUBSCRIBE. Spec: §3.8."""
    size: i64 = len(body)
    if size < 6:
        return None
    packet_id = body[0] * 256 + body[1]
    if not packet_id:
        return None
    wanted = []
    position: i64 = 2
    try:
        while position < size:
            end: i64 = position + 3 + body[position + 1]  # in the cache, the high byte of each length is 0
            request = _REQUESTS.get(body[position:end])
            if request is None:
                end += body[position] * 256
                request = _read_request(body[position:end])
                if request is None:
                    return None
            wanted.append(request)
            position = end
    except IndexError:
        return None
    if BLANK is None:
        return Subscribe(packet_id, wanted, True)
    subscribe: Subscribe = BLANK(Subscribe)
    subscribe.packet_id = packet_id
    subscribe.topic_filters = tuple(wanted)
    return subscribe


def _read_request(encoded: bytes) -> tuple[str, int] | None:
    """Decode and check a Topic Filter with the requested QoS, and offer it to the cache. Return None if it is wrong."""
    qos = encoded[-1]
    topic_filter = _read_filter(encoded[:-1])
    if topic_filter is None or qos > 2:
        return None
    if len(encoded) <= FILTER_MAX_LENGTH:
        _REQUEST_MEMORY.offer(encoded, (topic_filter, qos))
    return topic_filter, qos


def _read_filter(encoded: bytes) -> str | None:
    """Decode and check a Topic Filter with its length. Return None if it is wrong, or the packet ended before it."""
    if len(encoded) != 2 + encoded[0] * 256 + encoded[1]:
        return None
    try:
        topic_filter = encoded[2:].decode()
    except UnicodeDecodeError:
        return None
    return topic_filter if is_topic_filter(topic_filter) else None


def read_suback(body: bytes) -> SubAck | None:
    """Read the body of a SUBACK. Spec: §3.9."""
    encoded = body[2:]
    codes = _CODES.get(encoded)
    if codes is None:
        if not encoded or encoded.translate(None, _RETURN_CODES):
            return None
        codes = tuple(encoded)
        if len(encoded) <= _CODES_MAX:
            _CODES_MEMORY.offer(encoded, codes)
    packet_id = body[0] * 256 + body[1]
    if not packet_id:
        return None
    if BLANK is None:
        return SubAck(packet_id, codes, True)
    suback: SubAck = BLANK(SubAck)
    suback.packet_id = packet_id
    suback.return_codes = codes
    return suback


def read_unsubscribe(body: bytes) -> Unsubscribe | None:
    """Read the body of an UNSUBSCRIBE. Spec: §3.10."""
    size: i64 = len(body)
    if size < 5:
        return None
    packet_id = body[0] * 256 + body[1]
    if not packet_id:
        return None
    unwanted = []
    position: i64 = 2
    try:
        while position < size:
            end: i64 = position + 2 + body[position + 1]
            topic_filter = _FILTERS.get(body[position:end])
            if topic_filter is None:
                end += body[position] * 256
                topic_filter = _read_filter(body[position:end])
                if topic_filter is None:
                    return None
                if end - position <= FILTER_MAX_LENGTH:
                    _FILTER_MEMORY.offer(body[position:end], topic_filter)
            unwanted.append(topic_filter)
            position = end
    except IndexError:
        return None
    if BLANK is None:
        return Unsubscribe(packet_id, unwanted, True)
    unsubscribe: Unsubscribe = BLANK(Unsubscribe)
    unsubscribe.packet_id = packet_id
    unsubscribe.topic_filters = tuple(unwanted)
    return unsubscribe


def read_body(first: int, body: bytes) -> Packet | None:
    """Read the body of a packet with this first byte.

    Comparisons, because the compiled build calls the functions directly, without the detour of a table.

    Returns:
        The packet; None if the body is wrong, or if there is no function for its type.
    """
    if first == 0x90:
        return read_suback(body)
    if first == 0x82:
        return read_subscribe(body)
    if first == 0xA2:
        return read_unsubscribe(body)
    if first == 0x10:
        return read_connect(body)
    if first == 0x20:
        return _CONNACKS.get(body)
    return None
