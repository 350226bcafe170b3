"""Create the drawings and the guided tour of docs/ from the code. `make study` writes them.

Layers: from the table of tests/test_layers.py. States: each machine is put into each state and receives each packet;
the packets that its `HANDLERS` accept and the next states are drawn. Flows of QoS 1 and 2: from `STEPS`. Sequences:
two machines are connected in memory, and their packets are drawn as a tap records them. The tour names functions;
their lines are looked up.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import drawing
from ledger import ROOT

from mqttws import (
    ClientMachine,
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
    ServerMachine,
    Session,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)
from mqttws.protocol.machine import CLOSED, CONNECTED, CONNECTING, NEW
from mqttws.tap import SessionReader, summary
from mqttws.tap.state import STEPS
from mqttws.testing import Pair

PICTURES = ROOT / "docs" / "diagrams"
TOUR = ROOT / "docs" / "tour.md"
SAMPLES: list[Packet] = [
    Connect("c"), ConnAck(), ConnAck(5),
    Publish("a"), Publish("a", b"", 1, packet_id=1), Publish("a", b"", 2, packet_id=2), PubAck(3), PubRec(4),
    PubRel(2), PubComp(5), Subscribe(5, [("a", 0)]), SubAck(1, [0]), Unsubscribe(6, ["a"]), UnsubAck(2),
    PingReq(), PingResp(), Disconnect(),
]  # fmt: skip


# States.


def client_in(state: str) -> ClientMachine:
    """Return a client's machine in a state, with a pending request of each kind."""
    machine = ClientMachine(Connect("c"), Session())
    if state is not NEW:
        machine.start(0.0)
    if state is CONNECTED:
        machine.receive_data(ConnAck().encode(), 0.0)
        machine.subscribe([("a", 0)])
        machine.unsubscribe(["a"])
        for qos in (1, 2, 2):
            machine.publish(Message("a", b"", qos))
        machine.data_to_send(0.0)
        machine.receive_data(PubRec(5).encode(), 0.0)
    machine.data_to_send(0.0)
    machine.events.clear()
    return machine


def server_in(state: str) -> ServerMachine:
    """Return a server's machine in a state."""
    machine = ServerMachine()
    if state is not NEW:
        machine.receive_data(Connect("c").encode(), 0.0)
    if state is CONNECTED:
        machine.accept(Session(), False, 0.0)
        machine.publish(Message("a", b"", 1))
        machine.publish(Message("a", b"", 2))
    machine.data_to_send(0.0)
    machine.events.clear()
    return machine


def transitions(
    make: Callable[[str], Any], handlers: dict[tuple[str, type[Packet]], str]
) -> dict[tuple[str, str], list[str]]:
    """Try each packet in each state and return the transitions: (state, next state) -> packets."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for state in (NEW, CONNECTING, CONNECTED):
        for packet in SAMPLES:
            if (state, type(packet)) not in handlers:
                continue
            machine = make(state)
            machine.receive_data(packet.encode(), 0.0)
            name = type(packet).__name__.upper()
            if isinstance(packet, ConnAck):
                name += f" {packet.return_code}" if packet.return_code == 0 else " 1 to 5"
            if name not in found[state, machine.state]:
                found[state, machine.state].append(name)
    return dict(found)


#: State of a machine -> its place in the drawing.
_PLACES = {"(": (0, 0), NEW: (1, 0), CONNECTING: (2, 0), CONNECTED: (3, 0), CLOSED: (4, 0)}


def machine_drawing(arrows: dict[tuple[str, str], list[str]], more: list[tuple[str, str, str]]) -> str:
    """Draw the states of a machine."""
    edges = [(before, after, ", ".join(names)) for (before, after), names in arrows.items()]
    return drawing.states(_PLACES, [("(", NEW, ""), *edges, *more])


def flow_drawing() -> str:
    """Draw the states of packet identifiers."""
    places: dict[str, tuple[int, int]] = {}
    edges = []
    for row, (first, packet) in enumerate(_BEGINNINGS.items()):
        begin, column = f"({row}", 1
        places |= {begin: (0, row), first: (1, row)}
        edges.append((begin, first, packet))
        waiting = [first]
        while waiting:
            step = waiting.pop()
            for (before, kind), after in STEPS.items():
                if before != step:
                    continue
                after = after or f"){row}"
                if after not in places:
                    column += 1
                    places[after] = (column, row)
                    waiting.append(after)
                edges.append((step, after, kind.__name__.upper()))
    return drawing.states(places, edges)


#: The first step of a flow -> its cause.
_BEGINNINGS = {
    "published 1": "PUBLISH, QoS 1",
    "published 2": "PUBLISH, QoS 2",
    "subscribe": "SUBSCRIBE",
    "unsubscribe": "UNSUBSCRIBE",
}


# Sequences.


class Recorded(Pair):
    """A pair whose bytes a tap records."""

    def __init__(self, **options: Any) -> None:
        self.reader = SessionReader()
        self.steps: list[tuple[str, str, list[tuple[str, str]]]] = []
        super().__init__(Connect("c"), **options)

    def deliver_to_server(self, count: int | None = None) -> None:
        self._record("client", bytes(self.to_server[:count]))
        super().deliver_to_server(count)

    def deliver_to_client(self, count: int | None = None) -> None:
        self._record("server", bytes(self.to_client[:count]))
        super().deliver_to_client(count)

    def _record(self, sender: str, data: bytes) -> None:
        for record in self.reader.receive_data(sender, data, self.clock()):
            if record.layer in ("mqtt", "http") or record.name == "close":
                words = summary(record).partition(", ")[0] if record.layer == "http" else summary(record)
                changes = [(end, f"{what}: {after or 'done'}") for end, what, _, after in record.changes]
                self.steps.append((sender, f"{record.name} {words}".rstrip(), changes))


def sequence_drawing(*steps: Callable[[Pair], object], opening: bool = False, websocket: bool = False) -> str:
    """Draw the packets between two machines during a function."""
    pair = Recorded(websocket=websocket)
    pair.open()
    if not opening:
        pair.steps.clear()
    for step in steps:
        step(pair)
        pair.run()
    return drawing.sequence(pair.steps)


#: Package -> its description in the drawing of the layers.
_PACKAGES = {
    "hints": "names for type hints, without the import of typing",
    "errors": "the tree of errors",
    "codec": "bytes and packets",
    "protocol": "the state machines: bytes, time and calls in, bytes and events out",
    "client": "a client without I/O",
    "stores": "sessions in files",
    "resolver": "name resolution; the log",
    "sync": "the blocking and the asyncio client",
    "broker": "the embedded broker",
    "tap": "records of what passes, and faults",
    "testing": "helpers for tests",
}


def layers_drawing() -> str:
    """Draw the layers that tests/test_layers.py checks."""
    tree = ast.parse((ROOT / "tests" / "test_layers.py").read_text("utf-8"))
    (table,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.AnnAssign | ast.Assign) and "LAYERS" in ast.unparse(node).partition("=")[0]
    )
    levels = sorted(set(table.values()))
    rows = [[(name, _PACKAGES.get(name, "")) for name in table if table[name] == level] for level in levels]
    above = [
        ("pubsub", "observers, providers, AWS IoT; imports the public names of mqttws and sigv4"),
        ("sigv4", "Signature Version 4; imports the standard library only"),
    ]
    return drawing.layers(rows, above)


def drawings() -> dict[str, str]:
    """Return the drawings by file name."""
    client_more = [(NEW, CONNECTING, "start sends CONNECT"), (CONNECTED, CLOSED, "disconnect sends DISCONNECT")]
    server_more = [
        (CONNECTING, CONNECTED, "accept sends CONNACK 0"),
        (CONNECTING, CLOSED, "refuse sends CONNACK 1 to 5"),
    ]

    def publish(qos: int) -> Callable[[Pair], object]:
        return lambda pair: pair.client.publish(Message("a/b", b"hello", qos))

    return {
        "layers": layers_drawing(),
        "client": machine_drawing(transitions(client_in, ClientMachine.HANDLERS), client_more),
        "server": machine_drawing(transitions(server_in, ServerMachine.HANDLERS), server_more),
        "identifier": flow_drawing(),
        "connecting": sequence_drawing(opening=True, websocket=True),
        **{f"qos{qos}": sequence_drawing(publish(qos)) for qos in (0, 1, 2)},
        "subscribing": sequence_drawing(
            lambda pair: pair.client.subscribe([("a/#", 1)]), lambda pair: pair.client.unsubscribe(["a/#"])
        ),
        "leaving": sequence_drawing(lambda pair: pair.client.disconnect(pair.clock()), websocket=True),
    }


# The tour.

#: Ten stops: "module:function", and its description.
STOPS = [
    (
        "pubsub.sync.api:PubSub.publish",
        "`ps.publish(topic, message)` checks the topic and encodes the message.",
    ),
    (
        "mqttws.sync.client:Client.publish",
        "Nothing waits before it: the calling thread sends it, under the client's lock. Otherwise it would be queued.",
    ),
    ("mqttws.protocol.sending:Sender.next_alone", "A message of QoS 1 gets a packet identifier."),
    ("mqttws.codec.publishing:encode_publish", "Encode the PUBLISH: fixed header, topic, identifier, payload."),
    ("mqttws.protocol.framing:WebSocketFraming.frame", "Put it into a masked frame."),
    ("mqttws.sync.network:Network._send", "Pass the frame to the socket, and record how much of it was accepted."),
    (
        "mqttws.protocol.framing:WebSocketFraming.receive_data",
        "The way back: frames arrive, and their payloads are passed on.",
    ),
    ("mqttws.codec.decoder:Decoder.feed", "Split the stream of MQTT bytes into packets."),
    (
        "mqttws.protocol.receiving:Receiver.receive",
        "With QoS 1 and 2: check whether the message is new, and record that it must be acknowledged.",
    ),
    (
        "pubsub.subscription:SubscriptionCore.deliver",
        "The topic matches: decode the payload and call your function.",
    ),
]


def where(stop: str) -> tuple[str, int]:
    """Return the file, relative to the root, and the line of a stop."""
    module, _, path = stop.partition(":")
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    code = inspect.unwrap(found).__code__
    return str(ROOT.joinpath(inspect.getsourcefile(found) or "").resolve().relative_to(ROOT)), code.co_firstlineno


def tour() -> str:
    """Return the page of the tour."""
    lines = [
        "# One PUBLISH: a guided tour",
        "",
        "Follow one message through the code, in ten stops: from `ps.publish` to the socket, and from the socket to",
        "the callback. `make study` writes this page, and a test checks that a message passes these functions in this",
        "order.",
        "",
    ]
    for number, (stop, words) in enumerate(STOPS, 1):
        file, line = where(stop)
        name = stop.partition(":")[2]
        lines.append(f"{number}. [`{name}`](../{file}#L{line}) ({file}, line {line}). {words}")
    lines += ["", "**Next:** [diagrams](diagrams.md) of the states and flows, [the design](design.md)."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the pages."""
    PICTURES.mkdir(exist_ok=True)
    for name, text in drawings().items():
        (PICTURES / f"{name}.svg").write_text(text, "utf-8")
    TOUR.write_text(tour(), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
