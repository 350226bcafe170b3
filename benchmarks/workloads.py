"""The workloads: the messages and byte streams, which are the same for every library.

It imports only the standard library, because it runs in the environment of every peer, and it encodes packets itself,
plainly and without checks. So it is the floor (the cost of building the bytes in Python), and an independent reference
for the measured codec: each case compares its result with the values here before it is timed.

Protocol levels: 4 is MQTT 3.1.1; 5 is MQTT 5 with empty properties, for the peers that support only that.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

#: 27 bytes.
TOPIC = "sensors/room-12/temperature"
#: Of the same length, for messages received before the clock starts.
WARM_TOPIC = "warm-up/room-12/temperature"
#: 20 bytes.
PAYLOAD = b"21.4 degrees Celsius"
#: The payload of the end-to-end cases: 64 bytes.
MESSAGE = b"0123456789abcdef" * 4
#: The packet identifier of the QoS 1 cases.
PACKET_ID = 4_711
#: The Topic Filters of a SUBSCRIBE.
FILTERS = [f"sensors/room-{room}/+" for room in range(4)]
CLIENT_ID = "bench-client"
#: The masking key of the example in RFC 6455 §5.7.
MASKING_KEY = b"\x37\xfa\x21\x3d"
#: The maximum size of a read of a stream; reads end anywhere.
CHUNK = 64 * 1024

#: The messages of a stream to many topics, whatever their number, so that only that differs.
STREAM = 100_000

#: The authority of the servers' certificates.
AUTHORITY = os.path.join(os.environ.get("BENCH_CERTIFICATES", ""), "ca.crt")

#: An AWS IoT URL to sign, with the keys of AWS's documentation.
KEYS = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
IOT_HOST = "a1b2c3d4e5f6g7-ats.iot.eu-west-1.amazonaws.com"
REGION = "eu-west-1"
EXPIRES = 86_400

PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, PINGRESP = 0x40, 0x50, 0x62, 0x70, 0x90, 0xD0


@dataclass(frozen=True)
class Published:
    """A PUBLISH, as plain values."""

    topic: str
    payload: bytes
    qos: int = 0
    packet_id: int | None = None


@dataclass(frozen=True)
class Answer:
    """An answer of a broker: its first byte, and its packet identifier if it has one."""

    first: int
    packet_id: int | None = None


def remaining_length(length: int) -> bytes:
    """Encode a remaining length of any size."""
    encoded = bytearray()
    while length > 127:
        encoded.append(length & 127 | 128)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


def encode_publish(topic: str, payload: bytes, qos: int = 0, packet_id: int | None = None, level: int = 4) -> bytes:
    """Build the bytes of a PUBLISH without any check: the floor."""
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name
    if packet_id is not None:
        body += packet_id.to_bytes(2, "big")
    if level == 5:
        body += b"\0"
    return bytes((0x30 | qos << 1,)) + remaining_length(len(body) + len(payload)) + body + payload


def encode(packet: Published | Answer, level: int = 4) -> bytes:
    """Build the bytes of any packet of a stream."""
    if isinstance(packet, Published):
        return encode_publish(packet.topic, packet.payload, packet.qos, packet.packet_id, level)
    body = b"" if packet.packet_id is None else packet.packet_id.to_bytes(2, "big")
    if packet.first == SUBACK:
        body += b"\0\1" if level == 5 else b"\1"
    return bytes((packet.first, len(body))) + body


def topics(count: int) -> list[str]:
    """Return topics of one length."""
    return [f"sensors/room-{number:06}/temperature" for number in range(count)]


def times() -> list[datetime]:
    """Return the times at which URLs are signed, each a second after the other."""
    start = datetime(2026, 3, 1, tzinfo=UTC)
    return [start + timedelta(seconds=second) for second in range(4_000)]


def payload(size: int) -> bytes:
    """Return a payload of some size; it repeats `MESSAGE`."""
    return (MESSAGE * (size // len(MESSAGE) + 1))[:size]


def mask(payload: bytes, key: bytes) -> bytes:
    """Mask a WebSocket payload byte by byte."""
    return bytes(byte ^ key[number % 4] for number, byte in enumerate(payload))


def mixed(count: int = 10_000, seed: int = 311) -> list[Published | Answer]:
    """Return the packets that a busy client reads: two thirds PUBLISH of three QoS on 50 topics, the rest answers.

    96 % of the payloads have 20 bytes, the others 300 or 3,000.
    """
    chance = random.Random(seed)
    topics = [f"sensors/room-{room:02}/temperature" for room in range(50)]
    packets: list[Published | Answer] = []
    for number in range(count):
        packet_id = number % 65_535 + 1
        kind = chance.random()
        if kind < 0.66:
            size = chance.choices((20, 300, 3_000), (96, 3, 1))[0]
            qos = 0 if kind < 0.40 else 1 if kind < 0.60 else 2
            packets.append(Published(chance.choice(topics), chance.randbytes(size), qos, packet_id if qos else None))
        elif kind < 0.96:
            packets.append(Answer(chance.choices((PUBACK, PUBREC, PUBREL, PUBCOMP), (7, 1, 1, 1))[0], packet_id))
        elif kind < 0.98:
            packets.append(Answer(SUBACK, packet_id))
        else:
            packets.append(Answer(PINGRESP))
    return packets


def chunks(stream: bytes, size: int = CHUNK) -> Iterator[bytes]:
    """Cut a stream into reads."""
    return (stream[start : start + size] for start in range(0, len(stream), size))


def masked_frame(data: bytes, key: bytes) -> bytes:
    """Put up to 65,535 bytes into a client's WebSocket frame."""
    size = len(data)
    number = int.from_bytes(data, "little") ^ int.from_bytes((key * (size // 4 + 1))[:size], "little")
    head = bytes((0x82, 0x80 | size)) if size < 126 else b"\x82\xfe" + size.to_bytes(2, "big")
    return head + key + number.to_bytes(size, "little")


def frame(data: bytes) -> bytes:
    """Put bytes into a server's WebSocket frame."""
    size = len(data)
    if size < 126:
        return bytes((0x82, size)) + data
    long = size > 65_535
    return bytes((0x82, 127 if long else 126)) + size.to_bytes(8 if long else 2, "big") + data
