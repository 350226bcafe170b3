"""Run the same scripted server with every client: how each reacts to packets that a server must not send, and to some
that it may.

In a case the server sends bytes after the client has subscribed to everything, and then a message of QoS 1, which a
connected client acknowledges. The standard defines what is right in each case, so no client is the reference, not even
ours.
"""

from __future__ import annotations

import queue
import shutil
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agents import NODE_MODULES, PEERS, PEERS_PYTHON, Agent, has_module

from mqttws import Decoder, PubAck, PubComp, Publish, PubRec, Subscribe
from mqttws.errors import MQTTError

#: Timeout of immediate answers, in seconds.
PATIENCE = 3.0
FENCE = Publish("t", b"fence", 1, False, False, 77)

AGENTS: dict[str, tuple[str | Path, ...]] = {
    "mqttws": (sys.executable, PEERS / "agent.py", "mqttws"),
    "mqttws.aio": (sys.executable, PEERS / "agent.py", "mqttws.aio"),
    "paho": (sys.executable, PEERS / "agent.py", "paho"),
    "awscrt": (sys.executable, PEERS / "agent.py", "awscrt"),
    "aiomqtt": (PEERS_PYTHON, PEERS / "agent.py", "aiomqtt"),
    "gmqtt": (PEERS_PYTHON, PEERS / "agent.py", "gmqtt"),
    "mqttium": (PEERS_PYTHON, PEERS / "agent.py", "mqttium"),
    "zmqtt": (PEERS_PYTHON, PEERS / "agent.py", "zmqtt"),
    "mqtt.js": ("node", PEERS / "agent.mjs"),
}


@dataclass(frozen=True)
class Case:
    """One behaviour of a server.

    Attributes:
        statement: the statement concerned.
        what: a description.
        data: the bytes sent, in hex digits; at "/" the server waits for the client's next answer.
        right: "closes", or the packets that must be answered, or "delivers" and how often.
        when: "connack": instead of the CONNACK; "suback": instead of the SUBACK; "then": after both.
    """

    statement: str
    what: str
    data: str
    right: str = "closes"
    when: str = "then"


CASES: tuple[Case, ...] = (
    Case("MQTT-3.3.1-4", "PUBLISH with QoS 3", "36 07 0001 74 0009 7878"),
    Case("MQTT-3.3.1-2", "PUBLISH with QoS 0 and DUP", "38 05 0001 74 7878"),
    Case("MQTT-3.3.2-2", "PUBLISH to t/+", "30 07 0003 742f2b 7878"),
    Case("MQTT-3.3.2-2", "PUBLISH to t/#", "30 07 0003 742f23 7878"),
    Case("MQTT-4.7.3-1", "PUBLISH to an empty Topic Name", "30 04 0000 7878"),
    Case("MQTT-1.5.3-1", "PUBLISH to a topic that is no UTF-8", "30 06 0002 74ff 7878"),
    Case("MQTT-1.5.3-1", "PUBLISH to a topic with a surrogate", "30 08 0004 74eda080 7878"),
    Case("MQTT-1.5.3-2", "PUBLISH to a topic with U+0000", "30 06 0002 7400 7878"),
    Case("MQTT-2.3.1-1", "PUBLISH with QoS 1 and identifier 0", "32 07 0001 74 0000 7878"),
    Case("§3.3.2", "PUBLISH whose topic ends too early", "30 04 0009 7474"),
    Case("MQTT-2.2.2-2", "PUBREL with flags 0000", "60 02 0009"),
    Case("MQTT-2.2.2-2", "PINGRESP with flags 0001", "d1 00"),
    Case("MQTT-2.2.2-2", "PUBACK with flags 0010", "42 02 0009"),
    Case("§2.2.1", "SUBSCRIBE from a server", "82 06 0009 0001 74 00"),
    Case("§2.2.1", "CONNECT from a server", "10 0d 0004 4d515454 04 02 003c 0001 7a"),
    Case("§2.2.1", "PINGREQ from a server", "c0 00"),
    Case("§2.2.1", "DISCONNECT from a server", "e0 00"),
    Case("§2.2.1", "packet type 0", "00 00"),
    Case("§2.2.1", "packet type 15", "f0 00"),
    Case("§2.2.3", "a Remaining Length of five bytes", "30 ffffffff01"),
    Case("§3.4", "PUBACK of three bytes", "40 03 0009 00"),
    Case("§3.13", "PINGRESP of three bytes", "d0 01 00"),
    Case("MQTT-3.9.3-2", "SUBACK with return code 3", "90 03 {id} 03", when="suback"),
    Case("MQTT-3.8.4-5", "SUBACK with two return codes for one filter", "90 04 {id} 00 00", when="suback"),
    Case("MQTT-3.2.0-1", "PUBLISH before the CONNACK", "30 05 0001 74 7878 20 02 0000", when="connack"),
    Case("§3.2.2.1", "CONNACK with a reserved flag", "20 02 0200", when="connack"),
    Case("MQTT-3.2.2-1", "a session is present, though a clean one was asked for", "20 02 0100", when="connack"),
    Case("§3.2.2.3", "CONNACK with return code 6", "20 02 0006", when="connack"),
    Case("§3.2", "CONNACK of three bytes", "20 03 000000", when="connack"),
    Case("MQTT-4.3.3-2", "PUBREL for no message", "62 02 0009", "PubComp 9"),
    Case(
        "MQTT-4.3.3-2",
        "the same PUBLISH of QoS 2 three times, then its PUBREL",
        "34 07 0001 74 0005 7878 3c 07 0001 74 0005 7878 3c 07 0001 74 0005 7878 / 62 02 0005",
        "delivers 1",
    ),
    Case(
        "MQTT-4.3.3-2",
        "a PUBLISH of QoS 2, its PUBREL, and a new one with the same identifier",
        "34 07 0001 74 0005 7878 / 62 02 0005 / 34 07 0001 74 0005 7878 / 62 02 0005",
        "delivers 2",
    ),
    Case(
        "MQTT-4.6.0-2",
        "three messages of QoS 1",
        "32 07 0001 74 0005 7878 32 07 0001 74 0006 7878 32 07 0001 74 0004 7878",
        "PubAck 5, PubAck 6, PubAck 4",
    ),
    Case(
        "MQTT-4.6.0-3",
        "three messages of QoS 2",
        "34 07 0001 74 0005 7878 34 07 0001 74 0006 7878 34 07 0001 74 0004 7878",
        "PubRec 5, PubRec 6, PubRec 4",
    ),
)


@dataclass
class Outcome:
    """The reaction of a client: whether it closed, its packets, and the number of delivered messages."""

    closed: bool = False
    sent: list[str] = field(default_factory=list)
    delivered: int = 0
    connected: bool = False

    def words(self, case: Case) -> str:
        """Describe the reaction."""
        if case.right.startswith("delivers"):
            return f"delivers {self.delivered}" + (", closes" if self.closed else "")
        if self.closed:
            return "closes"
        if case.right == "closes":
            sent = f", sends {', '.join(self.sent)}" if self.sent else ""
            if case.when == "connack":
                return ("is connected" if self.connected else "waits, is not connected") + sent
            return ("delivers it" if self.delivered else "goes on") + sent
        return ", ".join(self.sent) or "sends nothing"

    def is_right(self, case: Case) -> bool:
        """Return whether the reaction conforms to the standard."""
        return self.words(case) == case.right


class Server(threading.Thread):
    """A server that runs one case with one client.

    Args:
        case: the case.
    """

    def __init__(self, case: Case) -> None:
        super().__init__(daemon=True)
        self.case = case
        self.outcome = Outcome()
        self.closed_at = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"

    def run(self) -> None:
        """See `Thread.run`."""
        with self._listener:
            self._listener.settimeout(20)
            try:
                connection, _ = self._listener.accept()
                with connection:
                    self._serve(connection)
            except OSError:
                self.outcome.closed = True

    def _serve(self, connection: socket.socket) -> None:
        case, decoder = self.case, Decoder()
        subscribed = done = False
        pieces = case.data.split("/")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = connection.recv(65_536)
            except TimeoutError:
                break
            if not data:
                self.outcome.closed = True
                return
            try:
                packets = decoder.feed(data)
            except MQTTError as error:
                self.outcome.sent.append(f"unreadable: {error}")
                return
            for packet in packets:
                name = type(packet).__name__
                if name == "Connect":
                    if case.when == "connack":
                        connection.sendall(bytes.fromhex(pieces.pop(0)))
                        deadline = time.monotonic() + PATIENCE
                    else:
                        connection.sendall(b"\x20\2\0\0")
                elif isinstance(packet, Subscribe) and not subscribed:
                    subscribed = True
                    packet_id = f"{packet.packet_id:04x}"
                    if case.when == "suback":
                        connection.sendall(bytes.fromhex(case.data.format(id=packet_id)))
                    else:
                        connection.sendall(bytes.fromhex(f"90 03 {packet_id} 02"))
                        if case.when == "then":
                            connection.sendall(bytes.fromhex(pieces.pop(0)))
                    if not pieces:
                        connection.sendall(FENCE.encode())
                    deadline = time.monotonic() + PATIENCE
                elif packet == PubAck(77):
                    done = True
                    deadline = time.monotonic() + 0.3
                elif name == "Disconnect":
                    self.outcome.closed = self.outcome.closed or not done
                    return
                elif name not in ("PingReq", "Unsubscribe"):
                    self.outcome.sent.append(f"{name} {getattr(packet, 'packet_id', '')}".strip())
                    if pieces and isinstance(packet, (PubComp, PubRec)):
                        connection.sendall(bytes.fromhex(pieces.pop(0)))
                        if not pieces:
                            connection.sendall(FENCE.encode())
        if not done and not self.outcome.closed and case.when != "connack":
            self.outcome.sent.append("no PUBACK for the next message")


def try_out(agent: Agent, case: Case) -> Outcome:
    """Run a case with a client."""
    server = Server(case)
    server.start()
    client = None
    try:
        client = agent.connect(server.url, f"c{uuid.uuid4().hex[:12]}", True, None, Path())
        server.outcome.connected = True
        client.subscribe("#", 2)
    except (AssertionError, queue.Empty):
        pass  # the library has raised an error, or does not return
    server.join(20)
    outcome = server.outcome
    if client is not None:
        time.sleep(0.05)  # messages delivered before the fence may arrive after it, because they pass through a pipe
        while not client.messages.empty():
            _, payload, _, _ = client.messages.get()
            outcome.delivered += payload == b"xx"
    return outcome


def there(name: str) -> bool:
    """Return whether a library is installed."""
    command = AGENTS[name]
    if name == "mqtt.js":
        return shutil.which("node") is not None and (NODE_MODULES / "mqtt").exists()
    module = {"paho": "paho.mqtt"}.get(name, name)
    return has_module(Path(str(command[0])), module)


@contextmanager
def agent_of(name: str) -> Iterator[Agent]:
    """Run the agent of a library."""
    agent = Agent(*AGENTS[name], quiet=True)
    try:
        yield agent
    finally:
        agent.kill()  # without waiting for a broken library


def outcomes_of(name: str, afresh: bool = True) -> tuple[str, list[tuple[Case, Outcome]]]:
    """Run every case with a client. Return its version and its reactions.

    Args:
        name: the name of the client.
        afresh: whether each case runs in a new process, so that a library broken by one case does not fail the next.
    """
    with ExitStack() as stack:
        agent = stack.enter_context(agent_of(name))
        version = agent.ask("version")
        outcomes = []
        for case in CASES:
            if afresh:
                with agent_of(name) as new:
                    outcomes.append((case, try_out(new, case)))
            else:
                outcomes.append((case, try_out(agent, case)))
    return version, outcomes
