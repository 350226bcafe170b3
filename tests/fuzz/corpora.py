"""Create the seeds of the corpus: valid input for each target, from which mutation starts.

    python tests/fuzz/corpora.py          writes tests/fuzz/corpus/TARGET/seed-N

An input that violated an invariant is added under a descriptive name, and stays.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from mqttws import (
    ConnAck,
    Connect,
    Disconnect,
    Message,
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
from sigv4 import Credentials, presign_iot_url, sign_headers

CORPUS = Path(__file__).with_name("corpus")
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def seeds() -> dict[str, list[bytes]]:
    """Return the seeds of every target."""
    connect = Connect("id", True, 60, Message("will", b"gone", 1, True), "user", b"password").encode()
    publishes = b"".join(
        packet.encode()
        for packet in (
            Publish("a/b", b"zero"),
            Publish("a/b", b"one", 1, packet_id=1),
            Publish("a/b", b"two", 2, True, packet_id=2),
            Publish("é/\U0001f600", bytes(200), 2, False, True, 2),
        )
    )
    acks = b"".join(cls(number).encode() for cls in (PubAck, PubRec, PubRel, PubComp) for number in (1, 2))
    asks = Subscribe(1, [("a/+", 1), ("#", 2)]).encode() + Unsubscribe(2, ["a/+", "b"]).encode()
    answers = SubAck(3, [1, 0x80]).encode() + UnsubAck(4).encode() + PingResp().encode()
    from_client = connect + publishes + asks + PubRel(2).encode() + PingReq().encode() + acks + Disconnect().encode()
    from_server = ConnAck(0).encode() + publishes + acks + answers
    request = (
        b"GET /mqtt?x=1 HTTP/1.1\r\nHost: a:1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nOrigin: http://a\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Protocol: mqtt, mqttv3.1\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )
    response = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    )
    keys = Credentials("ASIAEXAMPLE", "c4n4ry/secret", "c4n4ry/token")
    host = "a1b2c3-ats.iot.eu-west-1.amazonaws.com"
    url = str(presign_iot_url(f"wss://{host}/mqtt", keys, now=NOW))
    signed = sign_headers(
        "GET",
        "/mqtt",
        headers={"Host": host},
        credentials=keys,
        region="eu-west-1",
        service="iotdevicegateway",
        now=NOW,
    )
    headers = "\n".join(f"{name}:{value}" for name, value in dict(signed.headers).items())
    statement = (
        b'{"Version":"2012-10-17","Id":"x","Statement":[{"Sid":"Talk","Effect":"Allow","Action":["iot:Publish","iot:*"],'
        b'"Resource":["arn:aws:iot:eu-west-1:123456789012:topic/a/${iot:ClientId}/*","*?${*}"],'
        b'"Condition":{"%s":{"%s":[%s]}}},{"Effect":"Deny","NotAction":"iot:C?nnect","NotResource":"*"}]}'
    )
    conditions = [
        (b"StringLike", b"iot:ClientId", b'"dev*","${aws:SourceIp, \'x\'}"'),
        (b"ForAnyValue:StringEqualsIfExists", b"iot:Connection.Thing.Attributes[Floor]", b'"1"'),
        (b"IpAddress", b"aws:SourceIp", b'"::1/64","10.0.0.0/8"'),
        (b"DateLessThan", b"aws:CurrentTime", b'"2026-01-01T00:00:00Z","1700000000"'),
        (b"NumericGreaterThanEquals", b"aws:EpochTime", b'"1e9","-1"'),
        (b"Bool", b"iot:Connection.Thing.IsAttached", b'"true"'),
        (b"ArnLike", b"aws:PrincipalArn", b'"arn:aws:iam::*:role/x"'),
        (b"Null", b"iot:ClientId", b'"false"'),
        (b"BinaryEquals", b"aws:x", b'"AAAA"'),
    ]
    return {
        "decoder": [from_client, from_server, publishes[:30], b"\x10\xff\xff\xff\x7f", b"\x30\x80\x80\x80\x80\x01"],
        "frames": [
            binary_frame(connect, b"\0\0\0\0") + binary_frame(publishes, b"abcd") + b"\x88\x82\0\0\0\0\x03\xe8",
            b"\x02\x85\0\0\0\0" + b"hello" + b"\x89\x81\0\0\0\0p" + b"\x80\x81\0\0\0\0!",
            b"\x82\x05hello\x89\x00\x88\x02\x03\xe8",
            b"\x81\x84\0\0\0\0text",
            b"\x82\xff\0\0\0\0\0\x01\0\0\0\0\0\0",
            b"\x82\xfe\x00\x80\1\2\3\4" + bytes(128),
        ],
        "handshake": [
            request + b"\x82\x80\0\0\0\0",
            response + b"\x82\x02\xc0\x00",
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\nX-A: b\r\n c\r\n\r\nno way",
            b"HTTP/1.1 302 Found\r\nLocation: ws://b/\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
        ],
        "server": [from_client, connect + acks, connect + asks * 3, b"\x10\x0c\0\4MQTT\5\2\0\x3c\0\0"],
        "client": [from_server, ConnAck(5).encode(), ConnAck(0).encode() + answers * 2, publishes],
        "topics": [
            b"a\na/b\na/+\n+/b\n#\na/#\n+/+\n/\n//\n+\n$SYS\n$SYS/#\n$SYS/+\na/b/#",
            "é\né/\ufeff\n+/\ufeff\n\U0001f600/#".encode(),
            b"a+\n#/a\na#\n\0\n\xff\n+a/b\na/#/b",
        ],
        "verify": [
            (url.partition(host)[2] + f"\nHost:{host}").encode(),
            f"/mqtt\n{headers}".encode(),
            b"/mqtt?X-Amz-Algorithm=AWS4-HMAC-SHA256&x-amz-date=1&%58-Amz-Date=2",
        ],
        "policy": [statement % condition for condition in conditions] + [b"[]", b"{}", b'{"Statement":[]}'],
    }


if __name__ == "__main__":
    for target, all_seeds in seeds().items():
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(all_seeds):
            (CORPUS / target / f"seed-{number:02}").write_bytes(seed)
