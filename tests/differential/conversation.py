"""Seeded conversations of raw packets with a broker: several clients, legal and illegal packets, in any order.

A conversation is a list of steps; each has a client, an action and a statement of the standard. A seed selects the
steps: of several candidates the one whose statement and state occurred least, so that a run covers them evenly.

After each step, the packets of the broker are read until it has answered a PINGREQ of each connected client. After
that only messages that it routes later can arrive, for which a grace period is allowed. Its free choices are ignored:
the values of packet identifiers, and the order of packets within a step.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from mqttws import (
    Connect,
    Decoder,
    Disconnect,
    Message,
    Packet,
    PingReq,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Subscribe,
    Unsubscribe,
)
from mqttws.errors import MQTTError

CLIENTS = ("a", "b", "c")
#: Timeout of an answer and of the close of a connection, in seconds.
PATIENCE = 1.0
#: The prefix of all topics and client identifiers.
NONCE = "@"
#: All topics, for `clear`.
TOPICS = tuple(f"{NONCE}/{rest}" for rest in ("a", "a/b", "c", "", "a/", "A", "w"))


@dataclass(frozen=True)
class Step:
    """An action of one client.

    Attributes:
        client: the client.
        verb: "connect", "send", "raw", "drop".
        statement: the statement concerned.
        what: a description.
        data: the bytes sent, in hex digits.
        legal: whether a client may do this.
    """

    client: str
    verb: str
    statement: str
    what: str
    data: str = ""
    legal: bool = True

    @property
    def words(self) -> str:
        """The step as a replay shows it: a packet that is allowed with its fields, others as they are described."""
        if not self.legal or not self.data:
            return self.what
        (packet,) = Decoder().feed(bytes.fromhex(self.data))
        if isinstance(packet, Connect):
            will = packet.will
            text = f", will QoS {will.qos}{' RETAIN' if will.retain else ''} to {will.topic}" if will else ""
            return f"CONNECT as {packet.client_id}, {'clean' if packet.clean_session else 'kept'}{text}"
        if isinstance(packet, Publish):
            flags = f"{' DUP' if packet.dup else ''}{' RETAIN' if packet.retain else ''}"
            packet_id = f" id {packet.packet_id}" if packet.packet_id else ""
            return f"PUBLISH QoS {packet.qos}{packet_id}{flags} to {packet.topic}{'' if packet.payload else ', empty'}"
        if isinstance(packet, Subscribe):
            return "SUBSCRIBE " + ", ".join(f"{topic_filter} QoS {qos}" for topic_filter, qos in packet.topic_filters)
        if isinstance(packet, Unsubscribe):
            return "UNSUBSCRIBE " + ", ".join(packet.topic_filters)
        packet_id = getattr(packet, "packet_id", None)
        return type(packet).__name__.upper() + (f" id {packet_id}" if packet_id else "")


#: Illegal packets: statement, description, bytes. Each must close the client's connection.
ILLEGAL: tuple[tuple[str, str, str], ...] = (
    ("MQTT-2.2.2-2", "PINGREQ with flags 0001", "c1 00"),
    ("MQTT-2.2.2-2", "DISCONNECT with flags 0001", "e1 00"),
    ("MQTT-2.2.2-2", "PUBACK with flags 0010", "42 02 0001"),
    ("MQTT-3.8.1-1", "SUBSCRIBE with flags 0000", "80 08 0009 0003 402f61 00"),
    ("MQTT-3.10.1-1", "UNSUBSCRIBE with flags 0000", "a0 07 0009 0003 402f61"),
    ("MQTT-3.6.1-1", "PUBREL with flags 0000", "60 02 0009"),
    ("MQTT-3.3.1-4", "PUBLISH with QoS 3", "36 09 0003 402f61 0009 7878"),
    ("MQTT-3.3.1-2", "PUBLISH with QoS 0 and DUP", "38 07 0003 402f61 7878"),
    ("MQTT-3.3.2-2", "PUBLISH to a/+", "30 09 0005 402f612f2b 7878"),
    ("MQTT-3.3.2-2", "PUBLISH to #", "30 05 0001 23 7878"),
    ("MQTT-4.7.3-1", "PUBLISH to an empty Topic Name", "30 04 0000 7878"),
    ("MQTT-1.5.3-2", "PUBLISH to a topic with U+0000", "30 06 0004 402f6100"),
    ("MQTT-1.5.3-1", "PUBLISH to a topic that is no UTF-8", "30 06 0004 402f61ff"),
    ("MQTT-1.5.3-1", "PUBLISH to a topic with a surrogate", "30 08 0006 402f61eda080"),
    ("MQTT-2.3.1-1", "PUBLISH with QoS 1 and identifier 0", "32 09 0003 402f61 0000 7878"),
    ("MQTT-2.3.1-1", "SUBSCRIBE with identifier 0", "82 08 0000 0003 402f61 00"),
    ("MQTT-2.3.1-1", "UNSUBSCRIBE with identifier 0", "a2 07 0000 0003 402f61"),
    ("MQTT-3.8.3-3", "SUBSCRIBE without a Topic Filter", "82 02 0009"),
    ("MQTT-3.10.3-2", "UNSUBSCRIBE without a Topic Filter", "a2 02 0009"),
    ("MQTT-3.8.3-4", "SUBSCRIBE with QoS 3", "82 08 0009 0003 402f61 03"),
    ("MQTT-3.8.3-4", "SUBSCRIBE with reserved bits", "82 08 0009 0003 402f61 04"),
    ("MQTT-4.7.1-2", "SUBSCRIBE to @/a#", "82 09 0009 0004 402f6123 00"),
    ("MQTT-4.7.1-2", "SUBSCRIBE to @/#/a", "82 0a 0009 0005 402f232f61 00"),
    ("MQTT-4.7.1-3", "SUBSCRIBE to @/a+", "82 09 0009 0004 402f612b 00"),
    ("MQTT-4.7.3-1", "SUBSCRIBE to an empty Topic Filter", "82 05 0009 0000 00"),
    ("MQTT-1.5.3-2", "SUBSCRIBE to a filter with U+0000", "82 09 0009 0004 402f6100 00"),
    ("MQTT-3.1.0-2", "CONNECT a second time", "10 0f 0004 4d515454 04 02 003c 0003 407a7a"),
    ("§2.2.1", "CONNACK from a client", "20 02 0000"),
    ("§2.2.1", "SUBACK from a client", "90 03 0009 00"),
    ("§2.2.1", "PINGRESP from a client", "d0 00"),
    ("§2.2.1", "packet type 0", "00 00"),
    ("§2.2.1", "packet type 15", "f0 00"),
    ("§2.2.3", "a Remaining Length of five bytes", "30 ffffffff01"),
    ("§3.4", "PUBACK of three bytes", "40 03 0001 00"),
    ("§3.12", "PINGREQ of three bytes", "c0 01 00"),
    ("§3.8.3", "SUBSCRIBE whose filter ends too early", "82 06 0009 0009 4000"),
)

#: Illegal CONNECTs: each must be refused, or close the connection.
ILLEGAL_CONNECTS: tuple[tuple[str, str, str], ...] = (
    ("MQTT-3.1.0-1", "PINGREQ instead of CONNECT", "c0 00"),
    ("MQTT-3.1.0-1", "PUBLISH instead of CONNECT", "30 07 0003 402f61 7878"),
    ("MQTT-3.1.2-1", "the protocol name MQXX", "10 0f 0004 4d515858 04 02 003c 0003 407a7a"),
    ("MQTT-3.1.2-2", "the protocol level 9", "10 0f 0004 4d515454 09 02 003c 0003 407a7a"),
    ("MQTT-3.1.2-3", "the reserved flag", "10 0f 0004 4d515454 04 03 003c 0003 407a7a"),
    ("MQTT-3.1.2-14", "a will of QoS 3", "10 16 0004 4d515454 04 1e 003c 0003 407a7a 0003 402f77 0000"),
    ("MQTT-3.1.2-13", "a will QoS without a will", "10 0f 0004 4d515454 04 0a 003c 0003 407a7a"),
    ("MQTT-3.1.2-15", "will retain without a will", "10 0f 0004 4d515454 04 22 003c 0003 407a7a"),
    ("MQTT-3.1.2-22", "a password without a user name", "10 12 0004 4d515454 04 42 003c 0003 407a7a 0001 70"),
    ("MQTT-3.1.3-8", "no client identifier with a kept session", "10 0c 0004 4d515454 04 00 003c 0000"),
    ("MQTT-1.5.3-2", "a client identifier with U+0000", "10 10 0004 4d515454 04 02 003c 0004 407a7a00"),
    ("MQTT-1.5.3-1", "a client identifier that is no UTF-8", "10 10 0004 4d515454 04 02 003c 0004 407a7aff"),
    ("§3.1.3", "bytes after the client identifier", "10 11 0004 4d515454 04 02 003c 0003 407a7a 0000"),
    ("§3.1", "a CONNECT with flags 0001", "11 0f 0004 4d515454 04 02 003c 0003 407a7a"),
)


def _hex(packet: Packet) -> str:
    return packet.encode().hex()


def systematic() -> list[list[Step]]:
    """Return one conversation for each illegal packet, so that none depends on chance."""
    connect = Step("a", "connect", "MQTT-3.1.2-6", "CONNECT, clean, new", _hex(Connect(f"{NONCE}a", True, 60)))
    conversations = [[Step("a", "connect", *each, legal=False)] for each in ILLEGAL_CONNECTS]
    return conversations + [[connect, Step("a", "send", *each, legal=False)] for each in ILLEGAL]


class Generator:
    """A generator of conversations.

    Args:
        seen: how often each kind of step was made in each state; shared by the conversations of a run.
    """

    def __init__(self, seen: Counter[tuple[str, ...]]) -> None:
        self._seen = seen

    def conversation(self, seed: int) -> list[Step]:
        """Return the conversation of a seed."""
        random = Random(seed)
        state = dict.fromkeys(CLIENTS, "new")
        steps: list[Step] = []
        for _ in range(random.randrange(4, 13)):
            candidates = [self._step(random, state) for _ in range(4)]
            step = min(candidates, key=lambda each: self._seen[each.statement, each.what, state[each.client]])
            self._seen[step.statement, step.what, state[step.client]] += 1
            steps.append(step)
            if step.verb == "connect" and step.legal:
                state[step.client] = "connected"
            elif step.verb == "drop" or not step.legal or step.what == "DISCONNECT":
                state[step.client] = "gone"
        return steps

    def _step(self, random: Random, state: dict[str, str]) -> Step:
        client = random.choice(CLIENTS)
        if state[client] != "connected":
            if random.random() < 0.1:
                statement, what, data = random.choice(ILLEGAL_CONNECTS)
                return Step(client, "connect", statement, what, data, legal=False)
            return self._connect(random, client, state[client])
        kind = random.random()
        if kind < 0.12:
            statement, what, data = random.choice(ILLEGAL)
            return Step(client, "send", statement, what, data, legal=False)
        if kind < 0.17:
            return Step(client, "drop", "MQTT-3.1.2-8", "closes without a DISCONNECT")
        if kind < 0.21:
            return Step(client, "send", "MQTT-3.14.4-3", "DISCONNECT", _hex(Disconnect()))
        if kind < 0.25:
            return self._connect(random, client, "takes over")
        return self._message(random, client)

    def _connect(self, random: Random, client: str, state: str) -> Step:
        clean = random.random() < 0.5
        will = None
        if random.random() < 0.3:
            will = Message(f"{NONCE}/w", b"will", random.randrange(3), random.random() < 0.3)
        packet = Connect(f"{NONCE}{client}", clean, 60, will)
        what = f"CONNECT, {'clean' if clean else 'kept'}{', will' if will else ''}, {state}"
        return Step(client, "connect", "MQTT-3.1.2-4" if not clean else "MQTT-3.1.2-6", what, _hex(packet))

    def _message(self, random: Random, client: str) -> Step:
        topic = random.choice(TOPICS[:-1])
        topic_filter = f"{NONCE}/" + random.choice(("a", "a/b", "#", "+", "a/#", "+/b", "a/+", "+/+", ""))
        qos, number = random.randrange(3), random.randrange(1, 4)
        packet_id = number if qos else None
        choice: list[Callable[[], tuple[str, str, Packet]]] = [
            lambda: ("MQTT-3.3.5-1", f"PUBLISH, QoS {qos}", Publish(topic, b"xx", qos, False, False, packet_id)),
            lambda: ("MQTT-3.3.1-5", f"PUBLISH, QoS {qos}, RETAIN", Publish(topic, b"rr", qos, True, False, packet_id)),
            lambda: ("MQTT-3.3.1-10", f"PUBLISH, QoS {qos}, RETAIN, empty", Publish(topic, b"", qos, True, False,
            packet_id)),
            lambda: ("MQTT-4.3.3-2", "PUBLISH, QoS 2, DUP", Publish(topic, b"xx", 2, False, True, number)),
            lambda: ("MQTT-3.8.4-1", f"SUBSCRIBE, QoS {qos}", Subscribe(number + 8, ((topic_filter, qos),))),
            lambda: ("MQTT-3.8.4-4", "SUBSCRIBE, two filters", Subscribe(number + 8, ((topic_filter, qos), (topic, 2 -
            qos)))),
            lambda: ("MQTT-3.10.4-4", "UNSUBSCRIBE", Unsubscribe(number + 8, (topic_filter,))),
            lambda: ("MQTT-3.10.4-5", "UNSUBSCRIBE, unknown filter", Unsubscribe(number + 8, (f"{NONCE}/unknown",))),
            lambda: ("MQTT-4.3.3-2", "PUBREL", PubRel(number)),
            lambda: ("§4.3.2", "PUBACK for no message", PubAck(999)),
            lambda: ("§4.3.3", "PUBREC for no message", PubRec(999)),
            lambda: ("§4.3.3", "PUBCOMP for no message", PubComp(999)),
            lambda: ("MQTT-3.12.4-1", "PINGREQ", PingReq()),
        ]  # fmt: skip
        statement, what, packet = random.choice(choice)()
        return Step(client, "send", statement, what, _hex(packet))


@dataclass
class Client:
    """The connection of one client."""

    socket: socket.socket
    decoder: Decoder = field(default_factory=Decoder)
    connected: bool = False
    closed: bool = False
    pongs: int = 0
    packets: list[str] = field(default_factory=list)


#: The observations of each client after a step: its packets, sorted, and the state of its connection.
Seen = dict[str, tuple[str, ...]]


class Run:
    """One conversation with one broker.

    Args:
        address: the address of its plain TCP listener.
        grace: seconds to wait for messages that are routed later.
        acknowledges: whether the clients acknowledge received messages.
        patience: timeout of an answer, in seconds.
    """

    def __init__(self, address: tuple[str, int], grace: float, acknowledges: bool, patience: float = PATIENCE) -> None:
        self._address = address
        self._grace = grace
        self._acknowledges = acknowledges
        self._patience = patience
        self._clients: dict[str, Client] = {}

    def play(self, steps: list[Step]) -> list[Seen]:
        """Run the conversation. Return the observations after each step."""
        self.clear()
        try:
            return [self._do(step) for step in steps]
        finally:
            for client in self._clients.values():
                client.socket.close()

    def clear(self) -> None:
        """Remove every session and retained message that a conversation can leave at the broker."""
        clients = self._clients = {
            name: Client(socket.create_connection(self._address, self._patience)) for name in (*CLIENTS, "zz")
        }
        for name, client in clients.items():
            self._send(client, Connect(f"{NONCE}{name}", True, 60).encode())
        self._read(lambda: all(client.packets or client.closed for client in clients.values()), self._patience)
        self._send(clients["zz"], b"".join(Publish(topic, b"", 0, True).encode() for topic in TOPICS))
        self._settle()
        for client in clients.values():
            self._send(client, Disconnect().encode())
        self._read(lambda: all(client.closed for client in clients.values()), 0.2)
        for client in clients.values():
            client.socket.close()
        self._clients = {}

    def _do(self, step: Step) -> Seen:
        data = bytes.fromhex(step.data)
        if step.verb == "connect":
            before = self._clients.get(step.client)
            if before is not None and "takes over" not in step.what:
                before.socket.close()
                before.closed = True
                self._settle()  # wait until the broker has handled it, otherwise this would be a take-over
            elif before is not None:
                self._clients[f"{step.client} before"] = before
            client = self._clients[step.client] = Client(socket.create_connection(self._address, self._patience))
            client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._send(client, data)
            self._read(lambda: bool(client.packets) or client.closed, self._patience)
        elif (client := self._clients.get(step.client)) is None or client.closed:  # type: ignore[assignment]
            return {step.client: ("not connected",)}
        elif step.verb == "drop":
            client.socket.close()
            client.closed = True
        else:
            self._send(client, data)
        self._settle()
        return self._take()

    def _send(self, client: Client, data: bytes) -> None:
        try:
            client.socket.sendall(data)
        except OSError:
            client.closed = True

    def _settle(self) -> None:
        """Wait until every client has its PINGRESP, then for messages routed later."""
        open_ones = [client for client in self._clients.values() if client.connected and not client.closed]
        awaited = [(client, client.pongs + 1) for client in open_ones]
        for client in open_ones:
            self._send(client, b"\xc0\0")
        answered = self._read(
            lambda: all(each.closed or each.pongs >= count for each, count in awaited), self._patience
        )
        if not answered:
            for client, count in awaited:
                if not client.closed and client.pongs < count:
                    client.packets.append("no PINGRESP")
                    client.closed = True
        self._read(lambda: False, self._grace)

    def _read(self, enough: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not enough():
            left = deadline - time.monotonic()
            by_socket = {each.socket: each for each in self._clients.values() if not each.closed}
            if left <= 0 or not by_socket:
                return enough()
            for ready in select.select(list(by_socket), [], [], left)[0]:
                self._receive(by_socket[ready])
        return True

    def _receive(self, client: Client) -> None:
        try:
            data = client.socket.recv(65_536)
        except OSError:
            data = b""
        if not data:
            client.closed = True
            client.packets.append("closed")
            return
        try:
            packets = client.decoder.feed(data)
        except MQTTError as error:
            packets = []
            client.packets.append(f"an answer that is not valid: {error}")
            client.closed = True  # what follows cannot be read
        for packet in packets:
            self._take_packet(client, packet)

    def _take_packet(self, client: Client, packet: Packet) -> None:
        name = type(packet).__name__
        if name == "PingResp":
            client.pongs += 1
            return
        text = repr(packet)
        if isinstance(packet, Publish) and packet.packet_id is not None:
            text = text.replace(f"packet_id={packet.packet_id}", "packet_id=?")
        elif name == "PubRel":
            text = "PubRel(packet_id=?)"
        client.packets.append(text)
        if name == "ConnAck":
            client.connected = "return_code=0" in text
        if self._acknowledges:
            if isinstance(packet, Publish) and packet.qos and packet.packet_id:
                self._send(client, (PubAck if packet.qos == 1 else PubRec)(packet.packet_id).encode())
            elif isinstance(packet, PubRel):
                self._send(client, PubComp(packet.packet_id).encode())

    def _take(self) -> Seen:
        seen: Seen = {}
        for name, client in self._clients.items():
            if client.packets:
                seen[name] = tuple(sorted(client.packets))
                client.packets = []
        return seen
