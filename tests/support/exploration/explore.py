"""The explorer: visits every state that a world can reach, once, breadth first.

Breadth first, so that the first trace to a violation is a shortest one. States are packed into integers, and edges are
additions: see `edges.py`. `Survey` is the same search in C, for scenarios of more than a few million states.

Three properties are checked over the whole graph. Each step keeps the invariants that are visible in one process.
Each state in which only faults are possible satisfies the conditions of a state at rest. And the edges that are not
faults have no cycle: so without faults every state comes to rest, whatever the order, in at most as many steps as the
longest path has.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

from exploration import promises
from exploration.edges import Broken, Edges
from exploration.parts import Violation
from exploration.world import Action, Scenario, State, World


@dataclass
class Result:
    """The result of an exploration.

    Attributes:
        scenario: the explored scenario.
        states: the number of distinct states.
        edges: the number of steps between states.
        rests: the number of states at rest, in which only faults are possible.
        depth: the number of steps to the farthest state.
        parts: the number of distinct states of the processes.
        runs: the number of times the real code ran.
        seconds: the duration.
        complete: whether every reachable state was visited.
        longest: steps of the longest run without a fault; 0 if the search was not completed.
        violation: the violated property; "" if there is none.
        trace: a shortest trace to it.
        found: permitted losses and duplicates that occurred, with the number of states at rest in which they had.
    """

    scenario: Scenario
    states: int = 0
    edges: int = 0
    rests: int = 0
    depth: int = 0
    parts: int = 0
    runs: int = 0
    seconds: float = 0.0
    complete: bool = False
    longest: int = 0
    violation: str = ""
    trace: list[Action] = field(default_factory=list)
    found: dict[str, int] = field(default_factory=dict)


class Explorer:
    """One exploration.

    Args:
        scenario: the scenario to explore.
        most: the maximum number of states; 0 for no limit.
        seconds: time limit; 0 for none.

    Attributes:
        levels: the packed states, by their distance from the initial one.
        seen: each packed state with the number of its incoming edges that are not faults.
    """

    def __init__(self, scenario: Scenario, most: int = 0, seconds: float = 0.0) -> None:
        self.world = World(scenario)
        self.edges = Edges(self.world)
        self.levels: list[list[int]] = [[self.edges.pack(self.world.root)]]
        self.seen: dict[int, int] = {self.levels[0][0]: 0}
        self.result = Result(scenario)
        self._most = most
        self._seconds = seconds

    def run(self) -> Result:
        """Explore the scenario and return the result."""
        result, began = self.result, time.monotonic()
        try:
            self._search(began)
            if result.complete:
                self._check_cycles()
        except Broken as broken:
            self._fail(broken.state, broken.action, broken.violation)
        result.states = len(self.seen)
        result.parts = len(self.world.parts.values)
        result.runs = self.world.runs
        result.found = self.world.found
        result.seconds = time.monotonic() - began
        return result

    def _search(self, began: float) -> None:
        result, seen, following = self.result, self.seen, self.edges.following
        for frontier in self.levels:
            reached: list[int] = []
            for state in frontier:
                rests = True
                for after, fair in following(state):
                    result.edges += 1
                    known = seen.get(after)
                    if known is None:
                        known = 0
                        reached.append(after)
                    seen[after] = known + fair
                    rests = rests and not fair
                if rests:
                    result.rests += 1
                    try:
                        promises.check(self.world, self.edges.unpack(state))
                    except Violation as violation:
                        self._fail(state, None, violation)
                        return
                if self._most and len(seen) >= self._most:
                    return
            if self._seconds and time.monotonic() - began > self._seconds:
                return
            if reached:
                self.levels.append(reached)
        result.depth = len(self.levels) - 1
        result.complete = True

    def states(self) -> Iterator[State]:
        """Yield all states in the order of their distance from the initial one."""
        for level in self.levels:
            yield from map(self.edges.unpack, level)

    @cached_property
    def _before(self) -> dict[int, int]:
        """Each packed state with the first predecessor that was expanded; -1 for none."""
        before = {self.levels[0][0]: -1}
        for level in self.levels:
            for state in level:
                with suppress(Broken):
                    for after, _ in self.edges.following(state):
                        before.setdefault(after, state)
        return before

    def trace_to(self, state: State) -> list[Action]:
        """Return a shortest list of actions that lead to a state."""
        packed, trace = self.edges.pack(state), []
        while (before := self._before[packed]) >= 0:
            start, end = self.edges.unpack(before), self.edges.unpack(packed)
            trace.append(next(each for each in self.world.actions(start) if self.world.after(start, each) == end))
            packed = before
        return trace[::-1]

    def _fail(self, state: int, action: Action | None, violation: Violation) -> None:
        self.result.violation = str(violation)
        self.result.trace = self.trace_to(self.edges.unpack(state)) + ([action] if action is not None else [])

    def _check_cycles(self) -> None:
        """Remove states without predecessors repeatedly; the rest contains a cycle."""
        before = self.seen
        ready = [state for state, count in before.items() if not count]
        removed, longest = 0, -1
        while ready:
            longest += 1
            removed += len(ready)
            upcoming = []
            for state in ready:
                for following, fair in self.edges.following(state):
                    before[following] -= fair
                    if fair and not before[following]:
                        upcoming.append(following)
            ready = upcoming
        self.result.longest = longest
        if removed < len(before):
            stuck = next(state for state, count in before.items() if count)
            self._fail(stuck, None, Violation("without any fault it continues for ever"))
