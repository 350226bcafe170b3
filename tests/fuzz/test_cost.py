"""The cost of malicious input: interpreter steps relative to the input's size, and memory.

Steps are counted, not seconds: every executed line of this project, by `sys.settrace`. Twice the input may take at
most twice the steps and a margin, however it is cut.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from targets import NOW, open_client, open_server

from mqttws import ConnAck, Connect, Decoder, Publish, ServerMachine, Subscribe, topic_matches
from mqttws.broker.retained import Retained
from mqttws.codec.publishing import Message
from mqttws.codec.topics import TopicTree
from mqttws.protocol.handshake import ServerWebSocket
from pubsub.aws.local.policy import Authorizer, ConnectionContext, PolicyDocument
from sigv4 import verify


def steps(work: Callable[[], Any]) -> int:
    """Return the number of lines that a function executes."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    gc.disable()  # it could run finalizers of other tests' objects
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
        gc.enable()
    return count


def feed(make: Callable[[], Any], verb: str, chunks: list[bytes], *more: Any) -> Callable[[], None]:
    def work() -> None:
        receiver = getattr(make(), verb)
        for chunk in chunks:
            receiver(chunk, *more)

    return work


def bytewise(data: bytes) -> list[bytes]:
    return [data[position : position + 1] for position in range(len(data))]


def masked(first: int, payload: bytes) -> bytes:
    return bytes((first, 0x80 | len(payload))) + bytes(4) + payload


def subscribe(count: int) -> bytes:
    return Subscribe(1, [(f"{number:04}/+", 0) for number in range(count)]).encode()


def tree(filters: int, levels: int) -> Callable[[], None]:
    def work() -> None:
        topics: TopicTree[int] = TopicTree()
        retained = Retained()
        for number in range(filters):
            topic_filter = "/".join("+a"[number >> level & 1] for level in range(5)) + "/a" * levels
            topics.set(topic_filter, number, 0)
            retained.set(Message(topic_filter.replace("+", "b"), b"x", 0, True))
        list(topics.match("a/a/a/a/a" + "/a" * levels))
        list(retained.match("+/+/+/+/+" + "/+" * levels))

    return work


def judge(count: int) -> Callable[[], object]:
    target = "/a" * count + "?" + "&".join(f"X{number}=%41" for number in range(count))
    headers = [("Host", "a"), *((f"X-{number}", "  a  b") for number in range(count))]
    return lambda: verify("GET", target, headers, lookup={}.get, now=NOW)


_POLICY = PolicyDocument.parse(
    '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"arn:aws:iot:*:*:topic/*a*a*a*a*a*a*a*b"}}',
    name="bomb",
)
_HERE = ConnectionContext(client_id="c", region="eu-west-1", account_id="123456789012")

#: What grows -> a function of an input of that size.
WORK: dict[str, Callable[[int], Callable[[], object]]] = {
    "a packet, byte by byte": lambda n: feed(Decoder, "feed", bytewise(Publish("a", bytes(n)).encode())),
    "small packets, in one piece": lambda n: feed(Decoder, "feed", [Publish("a", b"x").encode() * n]),
    "small packets, byte by byte": lambda n: feed(Decoder, "feed", bytewise(Publish("a", b"x").encode() * n)),
    "a SUBSCRIBE of many filters": lambda n: feed(Decoder, "feed", [subscribe(n)]),
    "a topic of many levels": lambda n: lambda: topic_matches("+/" * n + "#", "a/" * n),
    "frames without payload": lambda n: feed(open_server, "receive_data", [masked(0x82, b"") * n]),
    "pings": lambda n: feed(open_server, "receive_data", [masked(0x89, b"x") * n]),
    "fragments": lambda n: feed(open_server, "receive_data", [masked(0x02, b"x") + masked(0x00, b"x") * n]),
    "fragments, byte by byte": lambda n: feed(
        open_server, "receive_data", bytewise(masked(0x02, b"x") + masked(0x00, b"x") * n)
    ),
    "frames to a client": lambda n: feed(open_client, "receive_data", [b"\x82\x01x" * n]),
    "the head of a request, byte by byte": lambda n: feed(
        ServerWebSocket, "receive_data", bytewise(b"GET / HTTP/1.1\r\nX: " + b"a" * n)
    ),
    "headers of a request": lambda n: feed(
        ServerWebSocket, "receive_data", [b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * n + b"\r\n"]
    ),
    "packets before the CONNECT is answered": lambda n: feed(
        ServerMachine, "receive_data", bytewise(Connect("c").encode() + b"\xc0\0" * n), 0.0
    ),
    "filters in the trees": lambda n: tree(n, 3),
    "levels in the trees": lambda n: tree(20, n),
    "a request to be verified": judge,
    "a topic against a policy of wildcards": lambda n: lambda: Authorizer(_HERE, iot=[_POLICY]).publish("a" * n),
}


@pytest.mark.parametrize("what", WORK)
def test_steps_grow_linearly_with_the_input(what: str) -> None:
    work = WORK[what]
    work(10)()  # fill caches first
    small, large = steps(work(300)), steps(work(1_200))
    assert small > 0
    assert large <= small * 4 + 200, (small, large)


SIZE = 1024 * 1024


def peak(make: Callable[[], Any], verb: str, chunks: list[bytes]) -> int:
    """Return the peak memory of processing the input, without the input itself, including the result."""
    receiver = getattr(make(), verb)
    gc.collect()
    tracemalloc.start()
    try:
        results = [receiver(chunk) for chunk in chunks]
        return tracemalloc.get_traced_memory()[1] if results is not None else 0
    finally:
        tracemalloc.stop()


def chunked(data: bytes, size: int = 65_536) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize(
    ("make", "verb", "chunks"),
    [
        pytest.param(Decoder, "feed", [Publish("a", bytes(SIZE)).encode()], id="a large packet"),
        pytest.param(Decoder, "feed", chunked(Publish("a", bytes(SIZE)).encode()), id="a large packet in pieces"),
        pytest.param(Decoder, "feed", chunked(Publish("a", bytes(SIZE)).encode()[:-1]), id="a packet without its end"),
        pytest.param(Decoder, "feed", [Connect("c" * 65_000).encode()[:-1]], id="a CONNECT without its end"),
        pytest.param(open_server, "receive_data", chunked(masked(0x02, bytes(125)) * 8_000), id="broken fragments"),
        pytest.param(
            open_server, "receive_data", chunked(b"\x82\xff" + SIZE.to_bytes(8, "big") + bytes(4 + SIZE)), id="a frame"
        ),
        pytest.param(
            open_server,
            "receive_data",
            chunked(b"\x02\xff" + SIZE.to_bytes(8, "big") + bytes(4 + SIZE)),
            id="a fragment",
        ),
        pytest.param(open_client, "receive_data", chunked(b"\x89\x7d" + bytes(125)) * 4_000, id="pings"),
        pytest.param(ServerWebSocket, "receive_data", chunked(b"GET /" + b"a" * SIZE), id="a target without end"),
        pytest.param(Decoder, "feed", [b"\x30\xff\xff\xff\x7f" + ConnAck(0).encode()], id="a length announced"),
    ],
)
def test_memory_is_at_most_twice_the_input(make: Callable[[], Any], verb: str, chunks: list[bytes]) -> None:
    size = sum(map(len, chunks))
    assert peak(make, verb, chunks) <= 2 * size + 256 * 1024
