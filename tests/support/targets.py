"""The targets of the fuzzer, the mutator and the property tests. Each takes bytes and checks its invariants.

    decoder    the bytes are a stream of MQTT
    frames     the bytes are frames of a WebSocket that is open, at a server and at a client
    handshake  the bytes are an HTTP request to a server, and a response to a client
    server     the bytes are sent by a client to a server's machine
    client     the bytes are sent by a server to a client's machine
    topics     the bytes are Topic Filters and Topic Names, one a line
    verify     the bytes are the target of a request, then its headers, one a line
    policy     the bytes are a policy document in JSON

How a stream is cut into pieces depends only on the bytes, so that a finding is one file.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from mqttws import (
    ClientConnection,
    ClientMachine,
    Connect,
    Decoder,
    LocalProtocolError,
    MalformedPacket,
    Message,
    MQTTError,
    Packet,
    Publish,
    ServerConnection,
    ServerMachine,
    Session,
    check_topic,
    check_topic_filter,
    topic_matches,
)
from mqttws.broker.retained import Retained
from mqttws.codec.topics import TopicTree
from mqttws.codec.wire import decode_remaining_length
from mqttws.protocol.client_handshake import ClientWebSocket
from mqttws.protocol.events import Closed, ConnectReceived, Ended, SubscribeReceived, UnsubscribeReceived
from mqttws.protocol.framing import WebSocketFraming
from mqttws.protocol.handshake import ServerWebSocket
from mqttws.protocol.plain import Framing
from pubsub.aws.local.policy import Authorizer, ConnectionContext, PolicyDocument, PolicyError
from sigv4 import Credentials, Rejected, Verified, verify

Target = Callable[[bytes], None]


def pieces(data: bytes) -> list[bytes]:
    """Cut data into pieces of 1 to 20 bytes, or a few longer ones, deterministically."""
    chance = random.Random(zlib.crc32(data))
    most = chance.choice((1, 3, 20, 200))
    cut, position = [], 0
    while position < len(data):
        size = chance.randint(1, most)
        cut.append(data[position : position + size])
        position += size
    return cut


# --- the decoder ---


def decode(chunks: list[bytes]) -> tuple[list[Packet], str | None]:
    decoder = Decoder(4096)
    packets: list[Packet] = []
    try:
        for chunk in chunks:
            packets += decoder.feed(chunk)
        if decoder.fault is not None:
            raise decoder.fault
    except MalformedPacket as error:
        fault = error
    else:
        return packets, None
    try:
        decoder.feed(b"\xc0\x00")
    except MalformedPacket as error:
        if error is not fault:
            raise AssertionError("the decoder reports another fault for a malformed stream") from error
    else:
        raise AssertionError("the decoder continued after a fault")
    return packets, str(fault)


def decoder(data: bytes) -> None:
    """Check the decoder: no exception but `MalformedPacket`; the same packets and the same fault however the stream is
    cut; every packet is equal after encoding and decoding; the message of a fault is printable.
    """
    packets, fault = decode([data])
    assert (packets, fault) == decode(pieces(data))
    assert fault is None or fault.isprintable()
    for packet in packets:
        assert decode([packet.encode()]) == ([packet], None)


# --- the framing ---


def transcript(framing: WebSocketFraming, chunks: list[bytes]) -> tuple[bytes, list[str], bytes, bool]:
    """Feed a framing. Return the payload, the other events, the answers, and whether it is finished."""
    payload, happened, sent = b"", [], b""
    for chunk in chunks:
        for event in framing.receive_data(chunk):
            assert not (happened and happened[-1].startswith("ended")), "something came after the end"
            if isinstance(event, bytes):
                payload += event
            elif isinstance(event, Ended):
                assert isinstance(event.error, MQTTError)
                assert str(event.error).isprintable(), str(event.error)
                happened.append(f"ended: {event.error!r}")
            else:
                happened.append(type(event).__name__)
        sent += framing.data_to_send()
    return payload, happened, sent, framing.finished


def no_entropy(count: int) -> bytes:
    return bytes(count)


def open_server() -> ServerWebSocket:
    framing = ServerWebSocket()
    framing.receive_data(
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    )
    framing.accept_upgrade()
    framing.data_to_send()
    return framing


def open_client() -> ClientWebSocket:
    server = ServerWebSocket()
    client = ClientWebSocket("a", "/", entropy=no_entropy)
    server.receive_data(client.data_to_send())
    server.accept_upgrade()
    client.receive_data(server.data_to_send())
    assert client.opened
    return client


def frames(data: bytes) -> None:
    """Check open framings: no exception; nothing after `Ended`; the same payload, end and answers however the stream
    is cut; no more payload than received bytes; the message of a fault is printable.
    """
    for opened in (open_server, open_client):
        whole = transcript(opened(), [data])
        cut = transcript(opened(), pieces(data))
        assert whole[0] == cut[0]
        assert whole[3] == cut[3]
        assert len(whole[0]) <= len(data)
        if any("text message" in what for what in whole[1] + cut[1]):
            continue  # ill-formed text is refused for the first error found: being text, or being ill-formed
        assert whole[1] == cut[1], (whole[1], cut[1])
        if opened is open_server:  # the masks of a client's answers are random
            assert whole[2] == cut[2]


def handshake(data: bytes) -> None:
    """Check framings before their handshake, as `frames` does; a request is answered by one HTTP response."""
    for make in (ServerWebSocket, partial(ClientWebSocket, "a", "/", entropy=no_entropy)):
        whole = transcript(make(), [data])
        cut = transcript(make(), pieces(data))
        assert [what.partition(":")[0] for what in whole[1]] == [what.partition(":")[0] for what in cut[1]]
        assert whole[3] == cut[3]
        if make is ServerWebSocket and whole[2]:
            assert whole[2].startswith(b"HTTP/1.1 ")
            assert whole[2].count(b"HTTP/1.1 ") == 1
            head = whole[2].partition(b"\r\n\r\n")[0]
            assert b"\0" not in head
            assert b"\n" not in head.replace(b"\r\n", b"")


# --- the machines ---


def regimes(data: bytes) -> list[tuple[list[bytes], bool]]:
    """Return the ways to drive a machine: the pieces, and whether its output is taken after each, as a driver does.

    Whether an acknowledgement is expected depends on what was sent before it, so only the first two must agree.
    """
    return [([data], False), (pieces(data), False), (pieces(data), True)]


def live(
    connection: ServerConnection | ClientConnection, chunks: list[bytes], writing: bool, act: Callable[[Any], None]
) -> list[str]:
    """Drive a connection to its end and return its events."""
    now, seen, events = 0.0, [], []
    for chunk in chunks:
        connection.receive_data(chunk, now)
        for event in connection.events():
            events.append(event)
            act(event)
        if writing:
            connection.data_to_send(now)
        deadline = connection.next_deadline()
        assert deadline is None or deadline >= now
    for time in (1.0, 1e6, 2e6):
        connection.handle_timeout(time)
        connection.data_to_send(time)
    connection.receive_eof(3e6)
    connection.data_to_send(3e6)
    events += connection.events()
    assert connection.finished
    assert connection.data_to_send(4e6) == b""
    for event in events:
        seen.append(f"{event!r} {event.error}" if isinstance(event, Closed) else repr(event))
    closed = [position for position, event in enumerate(events) if isinstance(event, Closed)]
    assert closed == [len(events) - 1], "`Closed` comes once, and last"
    assert seen[-1].isprintable()
    return seen


def first_packet(data: bytes) -> int:
    """Return the size of the first packet; 0 if there is no complete fixed header."""
    try:
        header = decode_remaining_length(data, 1)
    except MalformedPacket:
        return 0
    return 0 if header is None else sum(header)


def server(data: bytes) -> None:
    """Check the server's connection: no exception; `Closed` is reported once and last; the connection ends; the same
    events however the stream is cut after the first packet. (Bytes received together with a CONNECT are held until it
    is answered, and are lost if the connection fails before.)
    """
    transcripts = []
    first = first_packet(data)
    for behind, writing in regimes(data[first:]):
        chunks = [data[:first], *behind] if first else behind
        connection = ServerConnection(ServerMachine(max_packet_size=4096, packet_timeout=5.0), Framing(), 0.0)
        session = Session()
        for qos in (0, 1, 2):
            session.publish(Message("a", b"x", qos))

        def act(event: Any, connection: Any = connection, session: Session = session) -> None:
            if connection.closed:
                return
            if isinstance(event, ConnectReceived):
                connection.accept(session, False, 0.0)
            elif isinstance(event, SubscribeReceived):
                connection.suback(event.subscribe.packet_id, [qos for _, qos in event.subscribe.topic_filters])
            elif isinstance(event, UnsubscribeReceived):
                connection.unsuback(event.unsubscribe.packet_id)
            elif isinstance(event, Publish):
                connection.acknowledge(event)

        transcripts.append(live(connection, chunks, writing, act))
    assert transcripts[0] == transcripts[1], transcripts


def client(data: bytes) -> None:
    """Check the client's connection, as `server` does, while messages and requests are in flight."""
    transcripts = []
    for chunks, writing in regimes(data):
        session = Session()
        for qos in (0, 1, 2):
            session.publish(Message("a", b"x", qos))
        session.subscribe([("a", 1), ("b", 2)])
        session.unsubscribe(["c"])
        machine = ClientMachine(Connect("c", keep_alive=60), session, max_packet_size=4096)
        connection = ClientConnection(machine, Framing(), 0.0)
        connection.data_to_send(0.0)

        def act(event: Any, connection: Any = connection) -> None:
            if isinstance(event, Publish):
                connection.acknowledge(event)

        transcripts.append(live(connection, chunks, writing, act))
    assert transcripts[0] == transcripts[1], transcripts


# --- topics ---


def matches(topic_filter: str, topic: str) -> bool:
    """Match level by level, from the left, as the standard describes. Spec: §4.7."""

    def from_here(filter_levels: list[str], topic_levels: list[str]) -> bool:
        if filter_levels == ["#"]:
            return True
        if not filter_levels or not topic_levels:
            return not filter_levels and not topic_levels
        return filter_levels[0] in ("+", topic_levels[0]) and from_here(filter_levels[1:], topic_levels[1:])

    if topic.startswith("$") and topic_filter[0] in "+#":
        return False
    return from_here(topic_filter.split("/"), topic.split("/"))


def topics(data: bytes) -> None:
    """Check topics: only `LocalProtocolError` for invalid ones; `topic_matches`, the tree of filters and that of
    retained messages agree with the naive matching; a tree is empty after all its entries are removed.
    """
    lines = [line.decode(errors="surrogateescape") for line in data[:2000].split(b"\n")][:30]
    names, filters = [], []
    for line in lines:
        for check, good in ((check_topic, names), (check_topic_filter, filters)):
            try:
                check(line)
                good.append(line)
            except LocalProtocolError:
                pass
    tree: TopicTree[int] = TopicTree()
    retained = Retained()
    for topic_filter in filters:
        tree.set(topic_filter, topic_filter, 0)
    for name in names:
        retained.set(Message(name, b"x", 0, True))
    for name in names:
        expected = {topic_filter for topic_filter in filters if matches(topic_filter, name)}
        assert {topic_filter for topic_filter in filters if topic_matches(topic_filter, name)} == expected
        found = [key for key, _ in tree.match(name)]
        assert len(found) == len(expected)
        assert set(found) == expected
    for topic_filter in filters:
        kept = [message.topic for message in retained.match(topic_filter)]
        assert len(kept) == len(set(kept))
        assert set(kept) == {name for name in names if matches(topic_filter, name)}
    for topic_filter in filters:
        tree.discard(topic_filter, topic_filter)
    for name in names:
        retained.set(Message(name, b"", 0, True))
    assert not tree._root.children
    assert not retained._root.children
    assert (retained.bytes, retained.levels) == (0, 0)


# --- AWS ---

_KEYS = Credentials("ASIAEXAMPLE", "c4n4ry/secret", "c4n4ry/token")
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def door(data: bytes) -> None:
    """Check `sigv4.verify`: it never raises, and never reports an internal error (code "setup"); nothing is accepted
    that the signer did not sign; its result contains no secret, and is printable.
    """
    target, *lines = data.decode("latin-1").split("\n")
    headers = [(name, value) for name, _, value in (line.partition(":") for line in lines)]
    answer = verify("GET", target, headers, lookup={_KEYS.access_key: _KEYS}.get, now=NOW)
    if isinstance(answer, Verified):
        assert answer.access_key == "ASIAEXAMPLE"
        assert "X-Amz-Signature=" in target or any(name.lower() == "authorization" for name, _ in headers)
        return
    assert isinstance(answer, Rejected)
    assert answer.code != "setup", answer
    assert "c4n4ry/" not in answer.reason
    assert answer.reason.isprintable(), answer.reason


_HERE = ConnectionContext(client_id="device*1", region="eu-west-1", account_id="123456789012", source_ip="::1")


def policy(data: bytes) -> None:
    """Check the policy engine: a document is read, or refused by `PolicyError` in one printable line; an evaluation
    never raises; without a statement that allows, nothing is allowed; a statement that denies everything prevails.
    """
    try:
        document = PolicyDocument.parse(data, name="p")
    except PolicyError as error:
        refusal = str(error)
    else:
        refusal = ""
    assert refusal.isprintable(), refusal
    if refusal:
        return
    everything = PolicyDocument.parse(
        '{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"*","Resource":"*"}}', name="deny"
    )
    alone = Authorizer(_HERE, iot=[document], clock=lambda: 1.7e9)
    denied = Authorizer(_HERE, role=[document], iot=[everything], clock=lambda: 1.7e9)
    for ask in ("publish", "subscribe", "receive"):
        for name in ("a/b", "device*1", "*", "$aws/things/x"):
            decision = getattr(alone, ask)(name)
            assert decision.reason.isprintable(), decision.reason
            assert not decision or any(statement.allows for statement in document.statements)
            assert not getattr(denied, ask)(name)
    assert not denied.connect()
    assert isinstance(alone.connect().allowed, bool)


TARGETS: dict[str, Target] = {
    "decoder": decoder,
    "frames": frames,
    "handshake": handshake,
    "server": server,
    "client": client,
    "topics": topics,
    "verify": door,
    "policy": policy,
}
