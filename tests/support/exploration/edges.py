"""The edges of a world, as additions: what makes exploring fast.

A state is packed into one integer. Its fields are the faults left, the broker's state, and for each client the number
of its *end*: its own state and those of its two wires. An action of one client alone depends on its end alone; one that
the broker has a part in depends on the broker and one end. So the edges from a state are found in a few tables, each by
some fields of the state, and an edge is the difference that it adds to the state: `state + difference`. What the
broker sends to another client's wire is looked up by that client's end, and added too.

The tables are filled by `World.actions` and `World.moved`, which define what an edge is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from exploration.parts import Violation
from exploration.world import Action, Out, State, Table, World

#: Bits of the fields of the broker and of a client's end, by the number of clients. The others of 64 are for the faults
#: left, and for what `search.c` counts.
BITS = {1: (18, 18), 2: (17, 18), 3: (14, 13)}
#: A difference to add, and what is sent to other clients.
Sending = tuple[int, tuple["Pushes", ...]]
#: Edges that depend on the same fields: those that are no faults, those of them that send something to other clients,
#: and the same of faults.
Row = tuple[tuple[int, ...], tuple[Sending, ...], tuple[int, ...], tuple[Sending, ...]]


class Broken(Exception):
    """An edge breaks a promise.

    Attributes:
        state: where it begins.
        action: of that edge.
        violation: the promise.
    """

    def __init__(self, state: int, action: Action, violation: Violation) -> None:
        super().__init__(state, action, violation)
        self.state = state
        self.action = action
        self.violation = violation


class Pushes(dict[int, int]):
    """What a client's field changes by when the broker sends something to it; by the field."""

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
    """The rows of one client alone, of the broker with one client, or of the broker alone; by the fields in `mask`."""

    def __init__(self, edges: Edges, client: int, with_broker: bool) -> None:
        super().__init__()
        self._edges = edges
        self._client = client
        self._with_broker = with_broker
        self.mask = edges.mask(client, with_broker)

    def row(self, state: int) -> Row:
        """Fill the row of a state.

        Raises:
            Broken: an edge of it breaks a promise.
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
        world: whose.

    Attributes:
        bits: how many a state has.
        shifts: where the field of each client's end begins.
        ends: what the numbers in these fields stand for.
        groups: faults left -> the tables that have the edges of a state; the others have none.
        pushes: one for each different thing that is sent to a client.
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
        """List the states that follow from one, and whether each does so without a fault.

        Raises:
            Broken: an edge breaks a promise.
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
        """Return the bits of the field of a client's end, -1 for none, and perhaps of the broker's."""
        field = ((1 << self._end_bits) - 1) << self.shifts[client] if client >= 0 else 0
        return field | ((1 << self._broker_bits) - 1 if with_broker else 0)

    def _broker(self, part: int) -> int:
        number = self._brokers.number(part, part)
        if number >> self._broker_bits:
            raise OverflowError(f"the broker has more than 2 ** {self._broker_bits} states")
        return number

    def field(self, client: int, end: tuple[int, ...]) -> int:
        """Return a client's end as a field."""
        number = self.ends[client].number(end, end)
        if number >> self._end_bits:
            raise OverflowError(f"client {client} has more than 2 ** {self._end_bits} states with its wires")
        return number << self.shifts[client]

    def pack(self, state: State) -> int:
        """Return a state as one integer."""
        packed = self._broker(state[1])
        for client in range(self.world.clients):
            packed += self.field(client, state[2 + 3 * client : 5 + 3 * client])
        return packed + (self._budget(state[0]) << self.budget_shift)

    def unpack(self, packed: int) -> State:
        """Return the state that an integer stands for."""
        state = [self._left(packed >> self.budget_shift), self._brokers.values[packed & ((1 << self._broker_bits) - 1)]]
        for shift, ends in zip(self.shifts, self.ends, strict=True):
            state += ends.values[packed >> shift & ((1 << self._end_bits) - 1)]
        return tuple(state)

    def pushed(self, end: list[int], out: Out) -> list[int]:
        """Let the broker send to one client's end."""
        for _, slot, packets, hangs_up in out:
            end[1 + slot] = self.world.push(end[1 + slot], True, packets, hangs_up)
        return end

    def difference(self, state: State, client: int, place: int, after: list[int], out: Out) -> Sending:
        """Return what an action of a client, -1 for the broker alone, adds to a state; and what is sent to others."""
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
