"""Compare `dissect` with tshark on generated packets, field by field, over TCP and WebSocket.

As a program: `python tests/support/agreeing.py 100000`.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import tsharks

from mqttws import (
    ConnAck,
    Connect,
    Disconnect,
    Message,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)
from mqttws.protocol.frames import binary_frame
from mqttws.tap import SessionReader, packet_fields
from pubsub.look.saving import saver_for

REQUEST = (
    b"GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)
#: Our field -> tshark's.
NAMES = {
    "packet type and flags": "mqtt.hdrflags",
    "remaining length": "mqtt.len",
    "length of the protocol name": "mqtt.proto_len",
    "protocol name": "mqtt.protoname",
    "protocol level": "mqtt.ver",
    "connect flags": "mqtt.conflags",
    "keep alive": "mqtt.kalive",
    "length of the client identifier": "mqtt.clientid_len",
    "client identifier": "mqtt.clientid",
    "length of the will topic": "mqtt.willtopic_len",
    "will topic": "mqtt.willtopic",
    "length of the will message": "mqtt.willmsg_len",
    "will message": "mqtt.willmsg",
    "length of the user name": "mqtt.username_len",
    "user name": "mqtt.username",
    "length of the password": "mqtt.passwd_len",
    "password": "mqtt.passwd",
    "acknowledge flags": "mqtt.conack.flags",
    "return code": "mqtt.conack.val",
    "length of the Topic Name": "mqtt.topic_len",
    "Topic Name": "mqtt.topic",
    "packet identifier": "mqtt.msgid",
    "payload": "mqtt.msg",
    "length of a Topic Filter": "mqtt.topic_len",
    "a Topic Filter": "mqtt.topic",
    "requested QoS": "mqtt.sub.qos",
    "return codes": "mqtt.suback.qos",
}
#: Our bit -> tshark's. tshark does not show the other bits of the same byte.
BITS = {
    "DUP": "mqtt.dupflag", "QoS": "mqtt.qos", "RETAIN": "mqtt.retain", "type": "mqtt.msgtype",
    "user name": "mqtt.conflag.uname", "password": "mqtt.conflag.passwd", "will retain": "mqtt.conflag.retain",
    "will QoS": "mqtt.conflag.qos", "will": "mqtt.conflag.willflag", "clean session": "mqtt.conflag.cleansess",
    "session present": "mqtt.conack.flags.sp",
}  # fmt: skip
_SERVERS = (ConnAck, SubAck, UnsubAck, PingResp)

#: (offset, bytes in hexadecimal, tshark's name), and the bits as (tshark's name, value).
Taken = tuple[list[tuple[int, str, str]], list[tuple[str, int]]]


def packets(count: int, seed: int) -> Iterator[Packet]:
    """Generate packets of every type."""
    chance = random.Random(seed)

    def text(most: int, letters: str = 'abc/ é日😀$+#"\\<&') -> str:
        return "".join(chance.choices(letters, k=chance.randint(0, most)))

    def topic() -> str:
        return text(chance.choice((8, 300)), "abc/é日😀$ ") or "t"

    def payload() -> bytes:
        return chance.randbytes(chance.choice((0, 1, chance.randint(0, 40), chance.randint(100, 20_000))))

    def filters() -> list[str]:
        return [chance.choice((topic(), "+/a/#", "#", "+")) for _ in range(chance.randint(1, 6))]

    def connect() -> Connect:
        name = text(12)
        user = chance.choice((None, text(9)))
        password = None if user is None else chance.choice((None, chance.randbytes(chance.randint(0, 9))))
        will = chance.choice((None, Message(topic(), payload(), chance.randint(0, 2), chance.random() < 0.5)))
        return Connect(name, not name or chance.random() < 0.5, chance.randint(0, 65_535), will, user, password)

    def publish() -> Publish:
        qos = chance.randint(0, 2)
        dup, number = (chance.random() < 0.3, chance.randint(1, 65_535)) if qos else (False, None)
        return Publish(topic(), payload(), qos, chance.random() < 0.5, dup, number)

    def number() -> int:
        return chance.randint(1, 65_535)

    makers = [
        connect,
        publish,
        lambda: ConnAck(chance.randint(1, 5)) if chance.random() < 0.5 else ConnAck(0, chance.random() < 0.5),
        lambda: chance.choice((PubAck, PubRec, PubRel, PubComp, UnsubAck))(number()),
        lambda: Subscribe(number(), [(one, chance.randint(0, 2)) for one in filters()]),
        lambda: SubAck(number(), chance.choices((0, 1, 2, 0x80), k=chance.randint(1, 9))),
        lambda: Unsubscribe(number(), filters()),
        lambda: chance.choice((PingReq, PingResp, Disconnect))(),
    ]
    for _ in range(count):
        yield chance.choice(makers)()


def ours(packet: Packet) -> Taken:
    """Return the fields of a packet as `dissect` reports them."""
    data = packet.encode()
    fields, bits = [], []
    for field in packet_fields(data):
        fields.append((field.start, data[field.start : field.start + field.size].hex(), NAMES[field.name]))
        if field.name != "requested QoS":
            bits += [(BITS[name], value) for name, _, value in field.bits if name in BITS]
    return fields, bits


def theirs(frame: ElementTree.Element) -> Iterator[Taken]:
    """Return the fields of each packet of a frame as tshark reports them."""
    for proto in frame.iter("proto"):
        if proto.get("name") != "mqtt":
            continue
        base = int(proto.attrib["pos"])
        fields, bits = [], []
        for field in proto.findall("field"):
            name = field.attrib["name"]
            if field.get("hide") != "yes" and int(field.attrib.get("size", "0")) and "value" in field.attrib:
                fields.append((int(field.attrib["pos"]) - base, field.attrib["value"], name))
            bits += [
                (bit.attrib["name"], int(bit.attrib["value"], 16))
                for bit in field.findall("field")
                if bit.attrib["name"] in BITS.values()
            ]
        yield fields, bits


def disagreements(count: int, seed: int, websocket: bool, directory: Path) -> list[str]:
    """Compare `count` packets and return a description of each difference."""
    path = directory / "agree.pcapng"
    saver = saver_for(str(path), True)
    reader = SessionReader()
    saver.add(reader.opened(0.0), True)
    if websocket:
        saver.add(reader.receive_data("client", REQUEST, 0.0), True)
        saver.add(reader.receive_data("server", RESPONSE, 0.0), True)
    # tshark takes the version of MQTT from the CONNECT.
    sent = [Connect("first"), *packets(count - 1, seed)]
    for number, packet in enumerate(sent):
        sender = "server" if isinstance(packet, _SERVERS) else "client"
        data = packet.encode()
        if websocket:
            data = binary_frame(data, number.to_bytes(4, "big") if sender == "client" else None)
        saver.add(reader.receive_data(sender, data, 1.0 + number), True)
    saver.close()
    found = [ours(packet) for packet in sent]
    seen = list(_dissected_by_tshark(path))
    if len(seen) != len(found):
        return [f"tshark sees {len(seen):,} packets of {len(found):,}"]
    pairs = zip(sent, found, seen, strict=True)
    return [f"{packet!r}:\n  we say     {own}\n  tshark says {other}" for packet, own, other in pairs if own != other]


def _dissected_by_tshark(path: Path) -> Iterator[Taken]:
    with subprocess.Popen(tsharks.command(path, "-T", "pdml", "-J", "mqtt"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _, element in ElementTree.iterparse(process.stdout):
            if element.tag == "packet":
                yield from theirs(element)
                element.clear()
    assert process.returncode == 0


def main(count: int) -> int:
    """Compare `count` packets over each transport, 5,000 at a time."""
    for websocket in (False, True):
        for seed in range(-(-count // 5000)):
            with tempfile.TemporaryDirectory() as directory:
                found = disagreements(min(5000, count - 5000 * seed), seed, websocket, Path(directory))
            if found:
                print("\n".join(found[:5]))
                return 1
        print(f"{count:,} packets in {'WebSocket' if websocket else 'TCP'}: tshark and dissect agree on every field")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
