"""The edges of a world as additions, which makes the exploration fast.

A state is packed into one integer. Its fields are the remaining faults, the broker's state, and for each client the
number of its *end*: the client's state and those of its two wires. An action of one client depends only on its end. An
action that involves the broker depends only on the broker's state and one end. So the edges of a state are found in a
few tables, each indexed by some fields of the state. An edge is the difference between two states: the next state is
`state + difference`. If the broker sends packets to another client, the change of that client's end is looked up by its
field and added, too.

`World.fair`, `World.faults` and `World.moved` define the edges and fill the tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from exploration.parts import Violation
from exploration.world import Action, Out, State, Table, World

#: Number of clients -> bits of the broker's field and of the field of a client's end. The rest of 64 bits holds the
#: remaining faults and a counter of `search.c`.
BITS = {1: (18, 18), 2: (17, 18), 3: (14, 13)}
#: A difference, and the packets for other clients.
Sending = tuple[int, tuple["Pushes", ...]]
#: Edges that depend on the same fields: those that are not faults, without and with packets for other clients, and
#: the same for faults.
Row = tuple[tuple[int, ...], tuple[Sending, ...], tuple[int, ...], tuple[Sending, ...]]


class Broken(Exception):
    """An edge violates a property.

    Attributes:
        state: the packed state at which it begins.
        action: the action of the edge.
        violation: the violated property.
    """

    def __init__(self, state: int, action: Action, violation: Violation) -> None:
        super().__init__(state, action, violation)
        self.state = state
        self.action = action
        self.violation = violation


class Pushes(dict[int, int]):
    """The field of a client's end -> the difference that packets from the broker make to it."""

    def __init__(self, edges: Edges, client: int, out: Out) -> None:
        super().__init__()
        self._edges = edges
        self._client = client
        self._out = out
        self.number = len(edges.pushes)
        self.mask = edges.mask(client, False)
        edges.pushes.append(self)

    def __missing__(self, field: int) -> int:
        edges, client = self._edges, self._client
        end = edges.ends[client].values[field >> edges.shifts[client]]
        after = edges.pushed(list(end), self._out)
        change = self[field] = edges.field(client, tuple(after)) - field
        return change


class Group(dict[int, Row]):
    """The rows of one client, of the broker with one client, or of the broker; indexed by the fields in `mask`."""

    def __init__(self, edges: Edges, client: int, with_broker: bool) -> None:
        super().__init__()
        self._edges = edges
        self._client = client
        self._with_broker = with_broker
        self.mask = edges.mask(client, with_broker)

    def row(self, state: int) -> Row:
        """Compute and store the row of a state.

        Raises:
            Broken: an edge violates a property.
        """
        edges, world, client = self._edges, self._edges.world, self._client
        whole = edges.unpack(state)
        kinds: list[tuple[Any, ...]] = []
        for actions in ([] if client < 0 else world.fair(whole, client), world.faults(whole, client)):
            plain: list[int] = []
            sending: list[Sending] = []
            for action in actions:
                if world.meets_broker(action) != self._with_broker:
                    continue
                try:
                    difference, pushes = edges.difference(whole, client, *world.moved(whole, action))
                except Violation as violation:
                    raise Broken(state, action, violation) from None
                if pushes:
                    sending.append((difference, pushes))
                else:
                    plain.append(difference)
            kinds += [tuple(plain), tuple(sending)]
        row = self[state & self.mask] = cast(Row, tuple(kinds))
        return row


class Edges:
    """The edges of a world.

    Args:
        world: the world.

    Attributes:
        bits: the size of a packed state.
        shifts: the offset of the field of each client's end.
        ends: the tables with the values of these fields.
        groups: remaining faults -> the tables that contain the edges of a state.
        pushes: one for each different list of packets to a client.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        clients = world.clients
        self._brokers = Table()
        self.ends = [Table() for _ in range(clients)]
        self._broker_bits, self._end_bits = BITS[clients]
        self.shifts = [self._broker_bits + self._end_bits * client for client in range(clients)]
        self.budget_shift = self._broker_bits + self._end_bits * clients
        root = world.root[0]
        self._losses, self._crashes = (root & 15) + 1, (root >> 4 & 15) + 1
        self.pushes: list[Pushes] = []
        self._pushes: dict[tuple[int, Out], Pushes] = {}
        self.groups: list[list[Group]] = []
        by_kinds: dict[tuple[bool, ...], list[Group]] = {}
        for budget in range(self._losses * self._crashes * ((root >> 8) + 1)):
            left = self._left(budget)
            kinds = bool(left & 15), bool(left >> 4 & 15), bool(left >> 8)
            if kinds not in by_kinds:
                made = [Group(self, client, broker) for client in range(clients) for broker in (False, True)]
                made += [Group(self, -1, True)] if left else []
                by_kinds[kinds] = made
            self.groups.append(by_kinds[kinds])
        self.bits = self.budget_shift + len(self.groups).bit_length()

    def _left(self, budget: int) -> int:
        rest, losses = divmod(budget, self._losses)
        expiries, crashes = divmod(rest, self._crashes)
        return losses | crashes << 4 | expiries << 8

    def _budget(self, left: int) -> int:
        return (left & 15) + self._losses * ((left >> 4 & 15) + self._crashes * (left >> 8))

    def following(self, state: int) -> Iterator[tuple[int, bool]]:
        """Yield each next state, and whether the edge to it is not a fault.

        Raises:
            Broken: an edge violates a property.
        """
        for group in self.groups[state >> self.budget_shift]:
            key = state & group.mask
            row = group[key] if key in group else group.row(state)
            for plain, sending, fair in ((row[0], row[1], True), (row[2], row[3], False)):
                for difference in plain:
                    yield state + difference, fair
                for difference, pushes in sending:
                    yield state + difference + sum(each[state & each.mask] for each in pushes), fair

    def mask(self, client: int, with_broker: bool) -> int:
        """Return the mask of the field of a client's end, if `client` is not -1, and of the broker's if requested."""
        field = ((1 << self._end_bits) - 1) << self.shifts[client] if client >= 0 else 0
        return field | ((1 << self._broker_bits) - 1 if with_broker else 0)

    def _broker(self, part: int) -> int:
        number = self._brokers.number(part, part)
        if number >> self._broker_bits:
            raise OverflowError(f"the broker has more than 2 ** {self._broker_bits} states")
        return number

    def field(self, client: int, end: tuple[int, ...]) -> int:
        """Return the field of a client's end."""
        number = self.ends[client].number(end, end)
        if number >> self._end_bits:
            raise OverflowError(f"client {client} has more than 2 ** {self._end_bits} states with its wires")
        return number << self.shifts[client]

    def pack(self, state: State) -> int:
        """Pack a state into an integer."""
        packed = self._broker(state[1])
        for client in range(self.world.clients):
            packed += self.field(client, state[2 + 3 * client : 5 + 3 * client])
        return packed + (self._budget(state[0]) << self.budget_shift)

    def unpack(self, packed: int) -> State:
        """Return the state that was packed into an integer."""
        state = [self._left(packed >> self.budget_shift), self._brokers.values[packed & ((1 << self._broker_bits) - 1)]]
        for shift, ends in zip(self.shifts, self.ends, strict=True):
            state += ends.values[packed >> shift & ((1 << self._end_bits) - 1)]
        return tuple(state)

    def pushed(self, end: list[int], out: Out) -> list[int]:
        """Put packets from the broker onto the wires of one client's end."""
        for _, slot, packets, hangs_up in out:
            end[1 + slot] = self.world.push(end[1 + slot], True, packets, hangs_up)
        return end

    def difference(self, state: State, client: int, place: int, after: list[int], out: Out) -> Sending:
        """Return the difference that an action of a client, or of the broker for -1, makes, and packets for others."""
        difference = self._broker(after[1]) - self._broker(state[1])
        difference += (self._budget(after[0]) - self._budget(state[0])) << self.budget_shift
        if client >= 0:
            end = after[2 + 3 * client : 5 + 3 * client]
            own = tuple(each for each in out if each[0] == client)
            for _, slot, packets, hangs_up in own:
                end[1 + slot] = self.world.push(end[1 + slot], place == 1, packets, hangs_up)
            difference += self.field(client, tuple(end)) - self.field(client, state[2 + 3 * client : 5 + 3 * client])
        pushes = []
        for other in sorted({each[0] for each in out} - {client}):
            sent = tuple(each for each in out if each[0] == other)
            found = self._pushes.get((other, sent))
            if found is None:
                found = self._pushes[other, sent] = Pushes(self, other, sent)
            pushes.append(found)
        return difference, tuple(pushes)
