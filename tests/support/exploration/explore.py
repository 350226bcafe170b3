"""The explorer: visits every state that a world can reach, once, breadth first.

Breadth first, so that the first trace to a violation is a shortest one. For each state the index of its predecessor
and the action between them are stored, which is enough to print the trace.

Three properties are checked over the whole graph. Each step keeps the invariants that are visible in one process.
Each state in which only faults are possible satisfies the conditions of a state at rest. And the edges that are not
faults have no cycle: so without faults every state comes to rest, whatever the order, in at most as many steps as the
longest path has.
"""

from __future__ import annotations

import gc
import time
from array import array
from dataclasses import dataclass, field

from exploration import promises
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
        longest: steps of the longest run without a fault; 0 if that was not requested.
        violation: the violated property; None if there is none.
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
        keep_edges: whether to check for cycles; takes 4 bytes an edge.
        seconds: time limit; 0 for none.
    """

    def __init__(self, scenario: Scenario, most: int = 0, keep_edges: bool = True, seconds: float = 0.0) -> None:
        self.world = World(scenario)
        self.index: dict[State, int] = {self.world.root: 0}
        self.result = Result(scenario)
        self._most = most
        self._keep_edges = keep_edges
        self._seconds = seconds
        self._parents = array("I", [0])
        self._by = array("H", [0])
        self._actions: dict[Action, int] = {}
        self._kind = array("I")  # the successors without a fault, and the offset of those of each state
        self._begins = array("Q", [0])

    def run(self) -> Result:
        """Explore the scenario and return the result."""
        result, began = self.result, time.monotonic()
        gc.collect()
        gc.disable()  # millions of tuples of numbers, none of them in a cycle
        try:
            self._search(began)
            if self._keep_edges and result.complete and not result.violation:
                self._check_circles()
        finally:
            gc.enable()
        result.states = len(self.index)
        result.parts = len(self.world.parts.values)
        result.runs = self.world.runs
        result.found = self.world.found
        result.seconds = time.monotonic() - began
        return result

    def _search(self, began: float) -> None:
        world, index, result = self.world, self.index, self.result
        is_fault, after = world.is_fault, world.after
        frontier = [world.root]
        while frontier:
            reached: list[State] = []
            for state in frontier:
                number = index[state]
                kind = 0
                for action in world.actions(state):
                    try:
                        following = after(state, action)
                    except Violation as violation:
                        self._fail(violation, number, action)
                        return
                    result.edges += 1
                    known = index.get(following)
                    if known is None:
                        known = index[following] = len(index)
                        self._parents.append(number)
                        self._by.append(self._actions.setdefault(action, len(self._actions)))
                        reached.append(following)
                    if not is_fault(action):
                        kind += 1
                        if self._keep_edges:
                            self._kind.append(known)
                if not kind:
                    result.rests += 1
                    try:
                        promises.check(world, state)
                    except Violation as violation:
                        self._fail(violation, number, None)
                        return
                if self._keep_edges:
                    self._begins.append(len(self._kind))
                if self._most and len(index) >= self._most:
                    return
            if self._seconds and time.monotonic() - began > self._seconds:
                return
            frontier = reached
            result.depth += bool(reached)
        result.complete = True

    def trace_to(self, number: int) -> list[Action]:
        """Return the actions that lead to a state."""
        actions = list(self._actions)
        trace = []
        while number:
            trace.append(actions[self._by[number]])
            number = self._parents[number]
        return trace[::-1]

    def _fail(self, violation: Violation, number: int, action: Action | None) -> None:
        self.result.violation = str(violation)
        self.result.trace = self.trace_to(number) + ([action] if action is not None else [])

    def _check_circles(self) -> None:
        """Remove states without predecessors repeatedly; the rest contains a cycle."""
        kind, begins = self._kind, self._begins
        states = len(self.index)
        before = array("I", bytes(4 * states))
        for following in kind:
            before[following] += 1
        ready = [state for state in range(states) if not before[state]]
        gone = 0
        while ready:
            self.result.longest += 1
            upcoming = []
            gone += len(ready)
            for state in ready:
                for following in kind[begins[state] : begins[state + 1]]:
                    before[following] -= 1
                    if not before[following]:
                        upcoming.append(following)
            ready = upcoming
        self.result.longest -= 1
        if gone < states:
            stuck = next(state for state in range(states) if before[state])
            self._fail(Violation("without any fault it continues for ever"), stuck, None)
