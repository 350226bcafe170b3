"""Check that the explored runs are runs of the model `docs/model/delivery.pml`, whose steps Spin lists.

Spin's verifier visits every state of the model and prints every step. Each state of the explored world is mapped to a
state of the model, once for the hop from the publisher to the broker and once for the hop to the subscriber. Then each
edge of the explored graph must be a path of a few steps of the model, of the kinds permitted for its action.

The mapping omits what the states of the code do not contain: how often the broker has routed a copy of QoS 1, the
number of losses left, and whether the receiver's connection is newer than the sender's.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

from exploration import Explorer, delivery
from exploration.parts import BrokerPart, ClientPart
from exploration.world import OPEN, Action, State, World

from mqttws.codec.decoder import Decoder
from mqttws.codec.publishing import PubAck, PubComp, Publish, PubRec, PubRel
from mqttws.protocol.session import Session

MODEL = Path(__file__).parents[2] / "docs" / "model" / "delivery.pml"
#: phases, held, owed, seen, inbox, to the receiver, to the sender, whether the ends are up, whether it is broken.
Mapped = tuple[Any, ...]
Steps = dict[Mapped, set[tuple[str, Mapped]]]
NEW, WAITING, PUBLISHED, RELEASED, DONE = range(5)
KINDS = {Publish: 1, PubAck: 2, PubRec: 3, PubRel: 4, PubComp: 5}

_ENDS = frozenset({"lose", "sender off", "receiver off"})
#: Action of the world -> permitted steps of the model.
ALLOWED: dict[str, frozenset[str]] = {
    "step": frozenset({"submit", "send"}),
    "take": frozenset({"take"}),
    "connect": frozenset(),
    "up": _ENDS | {"submit", "send", "receive", "take", "answered", "sender on", "receiver on"},
    "down": _ENDS | {"send", "receive", "answered", "sender on", "receiver on"},
    "end up": _ENDS,
    "end down": _ENDS,
    "cut": frozenset({"break"}),
    "silence": _ENDS | {"break"},
    "silent server": _ENDS | {"break"},
}


def tool() -> str | None:
    """Return the path of Spin; None if it or a C compiler is missing."""
    return shutil.which("spin") if shutil.which("cc") or shutil.which("gcc") else None


def verify(first: int, second: int, losses: int = 1, *, show: bool = False) -> str:
    """Check the model by Spin, with two messages of these QoS. Return the verifier's output."""
    with tempfile.TemporaryDirectory() as folder:
        defines = [f"-DQ0={first}", f"-DQ1={second}", f"-DLOSSES={losses}"]
        commands = [
            ["spin", "-a", *defines, str(MODEL)],
            ["cc", "-O0", "-w", "-DNOREDUCE", *(["-DPRINTF"] if show else []), "-o", "pan", "pan.c"],
            ["./pan", "-m100000"],
        ]
        for command in commands:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=True)
        return done.stdout


def _parse(line: str, most_seen: tuple[int, ...] | None) -> Mapped:
    _, phases, held_owed, seen, inbox, up, down, flags, _ = line.split()
    places = [
        tuple(group for group in rest.split(".")[: int(count)])
        for count, rest in ((each[1:].split(":")) for each in (inbox, up, down))
    ]
    assert all(int(each[1]) <= 4 for each in (inbox, up, down)), line  # the number printed
    return (
        tuple(map(int, phases)),
        tuple(map(int, held_owed)),
        None if most_seen is None else tuple(map(min, map(int, seen), most_seen)),
        *places,
        (flags[0] == "1", flags[1] == "1", flags[3] == "1"),
    )


@cache
def printed(first: int, second: int) -> str:
    """Return the model's steps as Spin prints them, with as many losses as in the exploration."""
    return verify(first, second, show=True)


def steps_of(first: int, second: int, most_seen: tuple[int, ...] | None) -> Steps:
    """List the model's steps; for the hop to the subscriber with how often it has seen each message, up to a number."""
    steps: Steps = defaultdict(set)
    before: Mapped = ()
    name = ""
    for line in printed(first, second).splitlines():
        if line.startswith("< "):
            before = _parse(line, most_seen)
        elif line.startswith("= "):
            name = line[2:]
        elif line.startswith("> "):
            steps[before].add((name, _parse(line, most_seen)))
    return steps


class Mapping:
    """A mapping from states of the world to states of the model.

    Args:
        world: a world with a publisher of two messages of QoS 1 or 2 and a subscriber.
        client: 0 for the hop from the publisher to the broker, 1 for the hop from the broker to the subscriber.
        most_seen: up to which number it counts how often the subscriber has seen each message. The explored states do
            not distinguish a second copy of QoS 1 from a third.
    """

    def __init__(self, world: World, client: int, most_seen: tuple[int, ...] = (3, 3)) -> None:
        self._world = world
        self._client = client
        self._most_seen = most_seen
        self._parts: dict[int, Any] = {}

    def of(self, state: State) -> Mapped:
        """Map a state."""
        client, at = self._client, 2 + 3 * self._client
        broker: BrokerPart = self._part(state[1])
        part: ClientPart = self._part(state[at])
        new, old = (self._world.wires.values[number] for number in state[at + 1 : at + 3])
        known = broker.registry.find(part.program.client_id)
        assert known is not None
        end = next((end for end in broker.ends.values() if end.index == client and end.connection.connected), None)
        client_on = part.connection is not None and part.connection.connected
        if client == 0:
            sender, receiver, sender_on, receiver_on = part.session, known.session, client_on, end is not None
            up, down = (*old[0], *new[0]), new[1]
            broken = not (client_on and new[2] == OPEN and new[3] == OPEN)
            submitted = part.position
        else:
            sender, receiver, sender_on, receiver_on = known.session, part.session, end is not None, client_on
            up, down = new[1], (*old[0], *new[0])
            broken = end is None or end.slot == 1 or new[2] != OPEN or new[3] != OPEN
            submitted = sender.identifiers.last + sum(type(entry) is tuple for entry in sender.sender.queue)
        held, owed = self._held(receiver, receiver_on)
        return (
            tuple(self._phase(sender, message, submitted) for message in (0, 1)),
            (*held, *owed),
            self._seen(part) if client == 1 else None,
            self._inbox(part, receiver_on) if client == 1 else (),
            self._packets(up, (Publish, PubRel)),
            self._packets(down, (PubAck, PubRec, PubComp)),
            (sender_on, receiver_on, broken),
        )

    def _part(self, number: int) -> Any:
        part = self._parts.get(number)
        if part is None:
            part = self._parts[number] = self._world.part(number)
        return part

    @staticmethod
    def _phase(session: Session, message: int, submitted: int) -> int:
        if message >= submitted:
            return NEW
        packet_id = message + 1
        if packet_id in session.sender._published:
            return PUBLISHED
        if packet_id in session.sender._released:
            return RELEASED
        return DONE if packet_id <= session.identifiers.last else WAITING

    @staticmethod
    def _held(session: Session, on: bool) -> tuple[list[int], list[int]]:
        held, owed = [0, 0], [0, 0]
        for packet_id, incoming in session.receiver._received.items():
            taken = incoming is None or incoming.taken
            held[packet_id - 1] = 2 if taken else 1
            owed[packet_id - 1] = int(on and not taken and incoming.copies > 0)
        return held, owed

    def _seen(self, part: ClientPart) -> tuple[int, ...]:
        payloads = [payload for payload, _, _ in part.seen]
        return tuple(map(min, map(payloads.count, (b"0-1", b"0-2")), self._most_seen))

    @staticmethod
    def _inbox(part: ClientPart, on: bool) -> tuple[str, ...]:
        untaken = part.session.receiver._untaken
        fresh = [int(on and publish.qos == 1 and id(publish) in untaken) for publish in part.inbox]
        messages = [publish.payload == b"0-2" for publish in part.inbox]
        return tuple(f"{int(message)}{new}" for message, new in zip(messages, fresh, strict=True))

    @staticmethod
    def _packets(wire: tuple[bytes, ...], kinds: tuple[type, ...]) -> tuple[str, ...]:
        packets = [packet for data in wire for packet in Decoder().feed(data)]
        return tuple(f"{KINDS[type(each)]}{each.packet_id - 1}" for each in packets if isinstance(each, kinds))


def reaches(steps: Steps, before: Mapped, after: Mapped, allowed: frozenset[str], most: int = 9) -> bool:
    """Return whether the model reaches one state from another by steps of these kinds."""
    if before == after:
        return True
    frontier, known = {before}, {before}
    for _ in range(most):
        frontier = {state for each in frontier for name, state in steps.get(each, ()) if name in allowed} - known
        if after in frontier:
            return True
        known |= frontier
    return False


def check(first: int, second: int, hop: int, losses: int = 1) -> tuple[int, int, list[tuple[list[Action], str]]]:
    """Check that every explored run with two messages of these QoS is a run of the model in one hop.

    With QoS 1 only that hop loses connections: a copy from the publisher is another message for the second hop, and the
    model has two messages.

    Returns:
        The number of mapped edges; the number of their different steps; and the edges that are no steps of the model,
        each with its trace.
    """
    losing = (hop,) if 1 in (first, second) else (0, 1)
    explorer = Explorer(delivery(first, second, losses=losses, losing=losing))
    result = explorer.run()
    assert result.complete
    assert not result.violation
    world = explorer.world
    most_seen = tuple(1 if qos == 1 else 3 for qos in (first, second))
    mapping = Mapping(world, hop, most_seen)
    steps = steps_of(first, second, most_seen if hop else None)
    mapped = {state: mapping.of(state) for state in explorer.states()}
    assert mapped[world.root] == _parse("< 00 0000 00 n0: u0: d0: 1100 1", most_seen if hop else None)
    failures: list[tuple[list[Action], str]] = []
    checked: set[tuple[Any, ...]] = set()
    edges = 0
    for state in mapped:
        for action in world.actions(state):
            before, after = mapped[state], mapped[world.after(state, action)]
            edges += 1
            if (before, after, action[0]) not in checked:
                checked.add((before, after, action[0]))
                if not reaches(steps, before, after, ALLOWED[action[0]]):
                    failures.append(([*explorer.trace_to(state), action], f"{before} -> {after}"))
    return edges, len(checked), failures
