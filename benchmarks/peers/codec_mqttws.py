"""mqttws: `encode_publish`, which its clients use, and `Publish(...).encode()`, which users of the codec write."""

from __future__ import annotations

import itertools
import random
from functools import partial

import workloads as work
from timing import main, nanoseconds

from mqttws import ConnAck, Connect, Decoder, Message, Publish, SubAck, Subscribe, TopicTree, Unsubscribe
from mqttws.codec.publishing import encode_publish
from mqttws.protocol import masking
from mqttws.testing import Pair
from sigv4 import Credentials, IotUrlSigner, presign, presign_iot_url


def encode(qos: int) -> float:
    packet_id = work.PACKET_ID if qos else None

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            data = encode_publish(work.TOPIC, work.PAYLOAD, qos, False, False, packet_id)
        return data

    assert run(1) == work.encode_publish(work.TOPIC, work.PAYLOAD, qos, packet_id)
    return nanoseconds(run)


def encode_object(qos: int) -> float:
    packet_id = work.PACKET_ID if qos else None

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            data = Publish(work.TOPIC, work.PAYLOAD, qos, False, False, packet_id).encode()
        return data

    assert run(1) == work.encode_publish(work.TOPIC, work.PAYLOAD, qos, packet_id)
    return nanoseconds(run)


PACKETS = {
    "connect": lambda: Connect(work.CLIENT_ID),
    "connack": lambda: ConnAck(),
    "subscribe": lambda: Subscribe(work.PACKET_ID, [(name, 1) for name in work.FILTERS]),
    "suback": lambda: SubAck(work.PACKET_ID, (0, 1, 2, 1)),
    "unsubscribe": lambda: Unsubscribe(work.PACKET_ID, work.FILTERS),
}


def encode_packet(name: str) -> float:
    """Make a packet, and encode it."""
    make = PACKETS[name]

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            data = make().encode()
        return data

    assert Decoder().feed(run(1)) == [make()]
    return nanoseconds(run)


def decode_packet(name: str) -> float:
    packet = PACKETS[name]()
    data, decoder = packet.encode(), Decoder()

    def run(count: int) -> list:
        feed = decoder.feed
        for _ in itertools.repeat(None, count):
            packets = feed(data)
        return packets

    assert run(1) == [packet]
    return nanoseconds(run)


def topics_encode(topics: int) -> float:
    """Encode messages to many topics by turns."""
    names = work.topics(topics)

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            for name in names:
                data = encode_publish(name, work.PAYLOAD)
        return data

    assert run(1) == work.encode_publish(names[-1], work.PAYLOAD)
    return nanoseconds(run, topics)


def topics_decode(topics: int) -> float:
    """Decode messages to many topics by turns: a stream of the same length, in the same reads, for any number."""
    packets = [work.encode_publish(name, work.PAYLOAD) for name in work.topics(topics)]
    data = list(work.chunks(b"".join(packets * (work.STREAM // topics))))
    decoder = Decoder()

    def run(count: int) -> int:
        packets = 0
        for _ in itertools.repeat(None, count):
            for chunk in data:
                packets += len(decoder.feed(chunk))
        return packets

    assert run(2) == 2 * work.STREAM
    return nanoseconds(run, work.STREAM)


def decode_qos0() -> float:
    data = work.encode_publish(work.TOPIC, work.PAYLOAD)
    decoder = Decoder()

    def run(count: int) -> list:
        feed = decoder.feed
        for _ in itertools.repeat(None, count):
            packets = feed(data)
        return packets

    assert run(1) == [Publish(work.TOPIC, work.PAYLOAD)]
    return nanoseconds(run)


def decode_stream() -> float:
    packets = work.mixed()
    data = list(work.chunks(b"".join(map(work.encode, packets))))

    def run(count: int) -> list:
        for _ in range(count):
            decoder = Decoder()
            decoded = []
            for chunk in data:
                decoded += decoder.feed(chunk)
        return decoded

    decoded = run(1)
    assert len(decoded) == len(packets)
    for packet, wanted in zip(decoded, packets, strict=True):
        if isinstance(wanted, work.Published):
            assert packet == Publish(wanted.topic, wanted.payload, wanted.qos, packet_id=wanted.packet_id)
    return nanoseconds(run, len(packets))


def decode_payload(size: int) -> float:
    """Decode one PUBLISH with a payload of `size` bytes, which arrives in reads of 64 KiB."""
    payload = bytes(size)
    data = list(work.chunks(work.encode_publish(work.TOPIC, payload)))
    decoder = Decoder()

    def run(count: int) -> list:
        for _ in itertools.repeat(None, count):
            for chunk in data:
                packets = decoder.feed(chunk)
        return packets

    assert run(2) == [Publish(work.TOPIC, payload)]
    return nanoseconds(run)


def encode_payload(size: int) -> float:
    payload = bytes(size)

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            data = encode_publish(work.TOPIC, payload)
        return data

    assert run(1) == work.encode_publish(work.TOPIC, payload)
    return nanoseconds(run)


def mask(size: int) -> float:
    """Mask a payload of `size` bytes, as a WebSocket client must."""
    payload = random.Random(size).randbytes(size)

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            masked = masking.mask(payload, work.MASKING_KEY)
        return masked

    assert run(1) == work.mask(payload, work.MASKING_KEY)
    return nanoseconds(run)


def match(subscriptions: int, depth: int = 3) -> float:
    """Find the one matching subscription among `subscriptions`, all of `depth` levels."""
    tree: TopicTree[int] = TopicTree()
    levels = "level/" * (depth - 2)
    for number in range(subscriptions - 1):
        tree.set(f"{levels}room-{number}/+", number, 0)
    tree.set(f"{levels}+/temperature", "wanted", 1)

    def run(count: int) -> list:
        for _ in itertools.repeat(None, count):
            found = list(tree.match(f"{levels}here/temperature"))
        return found

    assert run(1) == [("wanted", 1)]
    return nanoseconds(run)


def signing(sign, times: list) -> float:
    """Time the signing of an AWS IoT URL at changing times."""

    def run(count: int) -> str:
        for _, now in zip(range(count), itertools.cycle(times), strict=False):
            url = sign(now)
        return url

    assert "X-Amz-Signature=" in run(1)
    return nanoseconds(run)


def sign_url() -> float:
    credentials = Credentials(*work.KEYS)
    signer = IotUrlSigner(f"wss://{work.IOT_HOST}/mqtt", expires=work.EXPIRES)
    return signing(lambda now: signer.presign(credentials, now), work.times())


def sign_iot_url() -> float:
    credentials, url = Credentials(*work.KEYS), f"wss://{work.IOT_HOST}/mqtt"
    return signing(lambda now: presign_iot_url(url, credentials, now=now, expires=work.EXPIRES), work.times())


def sign_presign() -> float:
    credentials, headers = Credentials(*work.KEYS), [("Host", work.IOT_HOST)]

    def sign(now) -> str:
        return presign(
            "GET", "/mqtt", headers=headers, credentials=credentials, region=work.REGION,
            service="iotdevicegateway", now=now, expires=work.EXPIRES,
        ).target  # fmt: skip

    return signing(sign, work.times())


def publish_batch(size: int) -> float:
    """Publish `size` messages in one WebSocket message, in memory. Return nanoseconds for each."""
    pair = Pair(Connect("bench")).open()
    message = Message(work.TOPIC, work.MESSAGE)

    def run(count: int) -> bytes:
        client = pair.client
        for _ in itertools.repeat(None, count):
            for _ in range(size):
                client.publish(message)
            data = client.data_to_send(0.0)
            client.machine.events.clear()
        return data

    assert len(run(1)) > size * len(work.MESSAGE)
    return nanoseconds(run, size)


main(
    {
        **{f"encode_{name}": partial(encode_packet, name) for name in PACKETS},
        **{f"decode_{name}": partial(decode_packet, name) for name in PACKETS},
        "topics_encode": topics_encode,
        "topics_decode": topics_decode,
        "sign_url": sign_url,
        "sign_iot_url": sign_iot_url,
        "sign_presign": sign_presign,
        "mask": mask,
        "match": match,
        "publish_batch": publish_batch,
        "encode_qos0": lambda: encode(0),
        "encode_qos1": lambda: encode(1),
        "encode_object_qos0": lambda: encode_object(0),
        "encode_object_qos1": lambda: encode_object(1),
        "decode_qos0": decode_qos0,
        "decode_stream": decode_stream,
        "decode_payload": decode_payload,
        "encode_payload": encode_payload,
    }
)
