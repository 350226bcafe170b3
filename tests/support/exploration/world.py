"""The explored world: the actions possible in a state, and the state that follows from each.

A state of the world is a tuple of small numbers: the faults left, the state of the broker, and for each client its
state and those of its new and its old wire. Tables map the numbers to values. A part's step is looked up by its state
and input. Only the first time does the real code run, on a copy made for it: so an edge of the explored graph costs a
few look-ups, and a snapshot costs only what changed.

A wire is two lists of packets. Each direction is open; or dying: a prefix of its packets may still arrive, and then
the end of the connection; or gone. A client may have one old wire that the broker has not closed yet.

`Live` does the same steps without tables, on parts that are never copied. It replays traces, and checks the tables.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from exploration.clients_core import CorePart
from exploration.meaning import digest, freeze, thaw
from exploration.parts import BrokerPart, ClientPart, Part, Program, Violation
from mqttws.protocol import outgoing

#: An action and its subject: ("step", client), ("take", client), ("connect", client), ("up", client, wire),
#: ("down", client), ("end up", client, wire), ("end down", client), ("cut", client), ("silence", client),
#: ("silent server", client, wire), ("crash", name), ("expire",); and any of them with ("... crash k") for a process
#: that ends after its k-th commit.
Action = tuple[Any, ...]
State = tuple[int, ...]
#: What leaves a process: (client, 0 or 1 for its new or old wire, packets, whether it hangs up).
Out = tuple[tuple[int, int, tuple[bytes, ...], bool], ...]
OPEN, DYING, GONE = 0, 1, 2
Wire = tuple[tuple[bytes, ...], tuple[bytes, ...], int, int]  # packets to broker and client, state of each direction
NO_WIRE: Wire = ((), (), GONE, GONE)


@dataclass(frozen=True)
class Scenario:
    """A scenario to explore, with its bounds.

    Attributes:
        name: its name.
        programs: the programs of the clients.
        setup: the number of steps of each program that are done, and answered, before the exploration begins; -1 if it
            does not connect before.
        losses: how many connections the network loses.
        losing: the clients whose connections may be lost.
        crashes: how many processes end.
        expiries: how often the broker expires the sessions of disconnected clients.
        crashing: which processes may end: indices of clients, -1 for the broker.
        broker_durable: whether the broker has a store.
        broker_window: the maximum number of messages in flight to one client.
        cuts: whether packets may be cut at any byte.
        promise: the conditions of a state at rest: see `promises.py`.
        identifiers: the number of packet identifiers.
    """

    name: str
    programs: tuple[Program, ...]
    setup: tuple[int, ...] = ()
    losses: int = 0
    losing: tuple[int, ...] = (0, 1, 2)
    crashes: int = 0
    expiries: int = 0
    crashing: tuple[int, ...] = (-1, 0, 1)
    broker_durable: bool = True
    broker_window: int = 2
    cuts: bool = False
    promise: str = "exact"
    identifiers: int = 65_535


class Table:
    """A mapping of values to consecutive numbers, and back."""

    def __init__(self) -> None:
        self.numbers: dict[Hashable, int] = {}
        self.values: list[Any] = []

    def number(self, key: Hashable, value: Any) -> int:
        """Return the number of a key; a new key gets the next number and is stored with its value."""
        number = self.numbers.setdefault(key, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


@dataclass
class Step:
    """The result of an input: the part's state, its output and the number of commits."""

    state: int
    out: Out
    commits: int


@dataclass
class Facts:
    """The facts about a client's state that decide which actions are possible."""

    inputs: list[tuple[str, tuple[Any, ...]]]
    connected: bool  # whether it has a connection
    over: bool  # whether it makes no more connections
    closing: bool  # whether it is closing
    position: int


class World:
    """The world of one scenario.

    Args:
        scenario: the scenario.
    """

    def __init__(self, scenario: Scenario) -> None:
        outgoing.LAST_PACKET_ID = scenario.identifiers
        self.scenario = scenario
        self.clients = len(scenario.programs)
        self.parts = Table()  # meaning -> frozen part
        self.wires = Table()
        self.no_wire = self.wire(NO_WIRE)
        self.facts: dict[int, Facts] = {}
        self.runs = 0  # the number of times the real code ran
        self.found: dict[str, int] = {}  # event that the standard permits -> number of states at rest with it
        self._steps: dict[tuple[Any, ...], Step | Violation] = {}
        self._after: dict[tuple[Any, ...], int] = {}
        self._cuts = False  # False while the scenario is set up
        self._limit: tuple[int, ...] | None = scenario.setup or None
        self.root = self._begin()

    # The parts.

    def intern(self, part: Part) -> int:
        """Return the number of a part's state."""
        key = digest(part.meaning())
        number = self.parts.numbers.get(key)
        if number is None:
            number = self.parts.number(key, freeze(part))
            if isinstance(part, ClientPart):
                closing = isinstance(part, CorePart) and part.core.stopping and not part.over
                connected = part.connection is not None
                self.facts[number] = Facts(part.inputs(), connected, part.over, closing, part.position)
        return number

    def part(self, number: int) -> Any:
        """Return a new copy of a part."""
        return thaw(self.parts.values[number])

    def run(self, place: int, number: int, verb: str, arguments: tuple[Any, ...], crash: int = 0) -> Step:
        """Return the result of an input; run it if it is not in the table yet.

        Args:
            place: the client's index, or -1 for the broker.
            number: the part's state.
            verb: the input.
            arguments: its arguments.
            crash: the commit after which the process ends; 0 for never.

        Raises:
            Violation: it violates a property.
        """
        key = (number, verb, arguments, crash)
        step = self._steps.get(key)
        if step is None:
            self.runs += 1
            part: Part = self.part(number)
            try:
                commits = part.run(verb, arguments, crash)
                out = tuple(part.out)
                part.out = []
                step = Step(self.intern(part), out, commits)
            except Violation as violation:
                step = violation
            except Exception as error:  # a bug in the code under test is a find, too
                step = Violation(f"{type(error).__name__}: {error}")
            self._steps[key] = step
        if isinstance(step, Violation):
            raise step
        return step

    # The wires.

    def wire(self, wire: Wire) -> int:
        """Return the number of a wire's state."""
        if wire[2] == GONE:
            wire = ((), *wire[1:])
        if wire[3] == GONE:
            wire = (wire[0], (), *wire[2:])
        return self.wires.number(wire, wire)

    def push(self, number: int, to_client: bool, packets: tuple[bytes, ...], hangs_up: bool) -> int:
        """Send packets from one end, and close that end if requested."""
        key = (number, to_client, packets, hangs_up)
        after = self._after.get(key)
        if after is None:
            up, down, up_is, down_is = self.wires.values[number]
            if to_client:
                down = down + packets if down_is == OPEN else down
                if hangs_up:
                    up_is, down_is = GONE, max(down_is, DYING)
            else:
                up = up + packets if up_is == OPEN else up
                if hangs_up:
                    up_is, down_is = max(up_is, DYING), GONE
            after = self._after[key] = self.wire((up, down, up_is, down_is))
        return after

    @staticmethod
    def _cut(packet: bytes, place: tuple[int, ...]) -> tuple[bytes, bytes]:
        return (packet[: place[0]], packet[place[0] :]) if place else (packet, b"")

    def _pop(self, wire: Wire, to_client: bool, rest: bytes = b"") -> int:
        up, down, up_is, down_is = wire
        kept = (rest,) if rest else ()
        return self.wire((up, kept + down[1:], up_is, down_is) if to_client else (kept + up[1:], down, up_is, down_is))

    # The states.

    def _begin(self) -> State:
        scenario = self.scenario
        window = scenario.broker_window
        broker = BrokerPart(scenario.broker_durable, window, 1.0 if scenario.expiries else None)
        state = [0, self.intern(broker)]
        for index, program in enumerate(scenario.programs):
            part = (CorePart if program.core else ClientPart)(index, program)
            state += [self.intern(part), self.no_wire, self.no_wire]
        root = tuple(state)
        if self._limit is not None:
            while (action := next(self.actions(root, faults=False), None)) is not None:
                root = self.after(root, action)
            self._limit = None
        self._cuts = scenario.cuts
        return (scenario.losses | scenario.crashes << 4 | scenario.expiries << 8, *root[1:])

    def actions(self, state: State, faults: bool = True) -> Iterator[Action]:
        """List what may happen; first what is no fault, in the order of a network that loses nothing."""
        for client in range(self.clients):
            yield from self._progress(state, client)
        for client in range(self.clients):
            yield from self._connects(state, client)
        if faults and state[0]:
            for process in range(-1, self.clients):
                yield from self.faults(state, process)

    def fair(self, state: State, client: int) -> Iterator[Action]:
        """List what one client and its wires may do next without a fault."""
        yield from self._progress(state, client)
        yield from self._connects(state, client)

    def _progress(self, state: State, client: int) -> Iterator[Action]:
        at = 2 + 3 * client
        number, new, old = state[at : at + 3]
        facts = self.facts[number]
        for verb, _ in facts.inputs:
            if verb == "take" or self._limit is None or facts.position < self._limit[client]:
                yield verb, client
        for slot, wire_number in ((0, new), (1, old)):
            up, down, up_is, down_is = self.wires.values[wire_number]
            if up:
                yield "up", client, slot
                if self._cuts:
                    for place in range(1, len(up[0])):
                        yield "up", client, slot, place
            if down and slot == 0:
                yield "down", client
                if self._cuts:
                    for place in range(1, len(down[0])):
                        yield "down", client, place
            if up_is == DYING:
                yield "end up", client, slot
            if down_is == DYING and slot == 0:
                yield "end down", client

    def _connects(self, state: State, client: int) -> Iterator[Action]:
        number, _, old = state[2 + 3 * client : 5 + 3 * client]
        facts = self.facts[number]
        waits = self._limit is not None and self._limit[client] < 0
        if not facts.connected and not facts.over and not waits and old == self.no_wire:
            yield "connect", client

    def faults(self, state: State, process: int) -> Iterator[Action]:
        """List the faults that a client and its wires may meet next; or, for -1, the broker alone."""
        scenario = self.scenario
        losses, crashes, expiries = state[0] & 15, state[0] >> 4 & 15, state[0] >> 8
        if losses and process in scenario.losing:
            yield from self._losses(state, process)
        if crashes and process in scenario.crashing:
            yield "crash", process
        if crashes and process >= 0:
            for action in self.fair(state, process):
                if self._process_of(action) in scenario.crashing:
                    _, _, step = self._step(state, action, 0)
                    for commit in range(1, step.commits + 1):
                        yield "crashing", commit, *action
                    if step.commits and action[0] == "take" and not scenario.programs[process].once:
                        yield "crashing", -1, *action  # what the program has seen is more than what the process knows
        if expiries and process < 0:
            yield ("expire",)

    def _losses(self, state: State, client: int) -> Iterator[Action]:
        wires = self.wires.values
        number, new, old = state[2 + 3 * client : 5 + 3 * client]
        facts = self.facts[number]
        if wires[new][2] == wires[new][3] == OPEN:
            yield "cut", client
        if facts.connected:
            yield "silence", client
        elif self.scenario.programs[client].core and not facts.over:
            yield "refuse", client
        if facts.closing:
            yield "hasten", client
        for slot, wire_number in ((0, new), (1, old)):
            if wires[wire_number][2] != GONE:
                yield "silent server", client, slot

    @staticmethod
    def _process_of(action: Action) -> int:
        return -1 if action[0] in ("up", "end up") else action[1]

    def is_fault(self, action: Action) -> bool:
        """Return whether an action is a fault, which the bounds count."""
        return action[0] in ("cut", "silence", "refuse", "hasten", "silent server", "crash", "crashing", "expire")

    @staticmethod
    def meets_broker(action: Action) -> bool:
        """Return whether an action is one that the broker has a part in; all others concern one client alone."""
        verb = action[0]
        if verb == "crashing":
            verb = action[2]
        return verb in ("up", "end up", "connect", "silent server", "expire") or action[:2] == ("crash", -1)

    def _step(self, state: State, action: Action, crash: int) -> tuple[int, list[int], Step]:
        """Run the step of one part. Return the part's place, the state so far and the step's result."""
        verb, client = action[0], action[1]
        after = list(state)
        at = 2 + 3 * client
        wire: Wire
        if verb in ("up", "end up"):
            slot = action[2]
            wire = self.wires.values[state[at + 1 + slot]]
            if verb == "up":
                piece, rest = self._cut(wire[0][0], action[3:])
                step = self.run(-1, state[1], "deliver", (client, slot, piece), crash)
                after[at + 1 + slot] = self._pop(wire, False, rest)
            else:
                step = self.run(-1, state[1], "end", (client, slot), crash)
                after[at + 1 + slot] = self.wire((wire[0], wire[1], GONE, wire[3]))
            after[1] = step.state
            return 1, after, step
        wire = self.wires.values[state[at + 1]]
        if verb == "down":
            piece, rest = self._cut(wire[1][0], action[2:])
            step = self.run(client, state[at], "deliver", (piece,), crash)
            after[at + 1] = self._pop(wire, True, rest)
        elif verb == "end down":
            step = self.run(client, state[at], "end", (), crash)
            after[at + 1] = self.wire((wire[0], wire[1], wire[2], GONE))
        elif verb == "connect":
            opened = self.run(-1, state[1], "open", (client,))
            after[1] = opened.state
            after[at + 1 : at + 3] = [self.wire(((), (), OPEN, OPEN)), state[at + 1]]
            step = self.run(client, state[at], "connect", (), crash)
        else:
            step = self.run(client, state[at], verb, (), crash)
        after[at] = step.state
        return at, after, step

    def after(self, state: State, action: Action) -> State:
        """Return the state that follows from an action.

        Raises:
            Violation: it violates a property.
        """
        place, after, out = self.moved(state, action)
        for client, slot, packets, hangs_up in out:
            wire_at = 3 + 3 * client + slot
            after[wire_at] = self.push(after[wire_at], place == 1, packets, hangs_up)
        return tuple(after)

    def moved(self, state: State, action: Action) -> tuple[int, list[int], Out]:
        """Let an action happen. Return whose it was, the state before what it sends is on the wires, and that.

        Raises:
            Violation: a promise is broken by it.
        """
        verb = action[0]
        if verb == "crashing":
            place, after, step = self._step(state, action[2:], action[1])
            after[0] -= 16
        elif self.is_fault(action):
            place, after, step = self._fault(state, action)
        else:
            place, after, step = self._step(state, action, 0)
        return place, after, step.out

    def _fault(self, state: State, action: Action) -> tuple[int, list[int], Step]:
        verb = action[0]
        after = list(state)
        if verb == "expire":
            step = self.run(-1, state[1], "expire", ())
            after[0] -= 256
            after[1] = step.state
            return 1, after, step
        client = action[1]
        if verb == "crash":
            after[0] -= 16
            place = 1 if client < 0 else 2 + 3 * client
            step = self.run(client, state[place], "crash", ())
            after[place] = step.state
            return place, after, step
        after[0] -= 1
        at = 2 + 3 * client
        if verb == "cut":
            up, down, up_is, down_is = self.wires.values[state[at + 1]]
            after[at + 1] = self.wire((up, down, max(up_is, DYING), max(down_is, DYING)))
            return at, after, Step(state[at], (), 0)
        if verb in ("silence", "refuse", "hasten"):
            step = self.run(client, state[at], "time_out" if verb == "silence" else verb, ())
            after[at] = step.state
            return at, after, step
        slot = action[2]
        step = self.run(-1, state[1], "time_out", (client, slot))
        after[1] = step.state
        return 1, after, step
