"""Replay a trace on live parts, without tables or copies.

A test replays a trace of the explorer this way, and the explorer itself is checked against it: along any trace the
two must agree in each state.
"""

from __future__ import annotations

from typing import Any

from exploration import promises
from exploration.meaning import thaw
from exploration.parts import Part, length_of
from exploration.world import Action, Scenario, State, Step, World
from mqttws.codec.decoder import Decoder


class Live(World):
    """The world of a scenario, changed in place by each action.

    Args:
        scenario: the scenario of the trace.
        beside: an explored world; equal states get its numbers.

    Attributes:
        state: the current state.
    """

    def __init__(self, scenario: Scenario, beside: World | None = None) -> None:
        self._parts: dict[int, Part] = {}
        super().__init__(scenario)
        if beside is not None:
            self.parts, self.wires, self.facts, self.no_wire = beside.parts, beside.wires, beside.facts, beside.no_wire
            self.root = self._begin_again()
        self.state: State = self.root

    def _begin_again(self) -> State:
        self._parts.clear()
        self._limit = self.scenario.setup or None
        return self._begin()

    def do(self, *action: Any) -> None:
        """Do an action.

        Raises:
            Violation: it violates a property.
            LookupError: it is not possible here.
        """
        try:
            self.state = self.after(self.state, action)
        except LookupError:
            raise LookupError(f"{action} cannot happen here") from None

    def run(self, place: int, number: int, verb: str, arguments: tuple[Any, ...], crash: int = 0) -> Step:
        """See `World.run`."""
        part = self._parts.get(place)
        if part is None:  # the initial state
            part = self._parts[place] = self.part(number)
        commits = part.run(verb, arguments, crash)
        out = tuple(part.out)
        part.out = []
        return Step(self.intern(part), out, commits)

    def part(self, number: int) -> Any:
        """See `World.part`."""
        return thaw(self.parts.values[number])

    def rest(self) -> None:
        """Check the conditions of a state at rest.

        Raises:
            Violation: a condition does not hold.
        """
        promises.check(self, self.state)


def words(world: World, state: State, action: Action) -> str:
    """Describe an action, for the reader of a trace."""
    verb = action[0]
    if verb == "crashing":
        return f"{words(world, state, action[2:])}; the process ends after commit {action[1]}"
    subject = "" if len(action) < 2 else "the broker" if action[1] == -1 else f"client {action[1]}"
    wire = (
        world.wires.values[state[3 + 3 * action[1] + (action[2] if len(action) > 2 else 0)]]
        if subject[:1] == "c"
        else None
    )
    if verb in ("up", "down") and wire is not None:
        data = wire[verb == "down"][0]
        whole = Decoder().feed(data) if length_of(data) == len(data) else []
        part = f"{action[-1]} bytes of " if len(action) == (4 if verb == "up" else 3) else ""
        return f"{'the broker' if verb == 'up' else subject} gets {part}{whole[0] if whole else data.hex()}"
    if verb == "step":
        step = world.scenario.programs[action[1]].steps[world.facts[state[2 + 3 * action[1]]].position]
        return f"{subject}: {' '.join(map(str, step))}"
    return {
        "take": f"the program of {subject} takes a message",
        "connect": f"{subject} connects",
        "cut": f"the network loses the connection of {subject}",
        "end up": f"the broker sees that the connection of {subject} has ended",
        "end down": f"{subject} sees that its connection has ended",
        "silence": f"{subject} times out, and closes its connection",
        "silent server": f"the broker times out waiting for {subject}, and closes the connection",
        "refuse": f"{subject} is refused a connection",
        "hasten": f"the time-out of closing {subject} expires",
        "crash": f"the process of {subject} ends and is restarted",
        "expire": "the sessions of disconnected clients expire",
    }[verb]


def as_test(scenario: Scenario, trace: list[Action], violation: str, name: str = "it") -> str:
    """Return the source of a test that replays a trace."""
    world = World(scenario)
    state = world.root
    lines = [f"def test_{name}() -> None:", f"    live = Live({scenario!r})"]
    for number, action in enumerate(trace, 1):
        call = f"live.do({', '.join(map(repr, action))})"
        said = words(world, state, action)
        if number == len(trace):
            try:
                world.after(state, action)
            except Exception:
                lines += [f"    with pytest.raises(Violation):  # {violation}", f"        {call}  # {said}"]
                return "\n".join(lines)
        state = world.after(state, action)
        lines.append(f"    {call}  # {said}")
    lines += [f"    with pytest.raises(Violation):  # {violation}", "        live.rest()"]
    return "\n".join(lines)
