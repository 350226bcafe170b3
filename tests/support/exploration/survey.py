"""The search of `Explorer` in C, for some hundred million states. A state takes about 20 bytes.

`search.c` is compiled on first use by the C compiler that the model checker needs, too. It calls back for each row of
edges that it does not know yet, and for each state at rest, which has to be checked.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import time
from array import array
from functools import cache
from pathlib import Path

from exploration import promises
from exploration.edges import Broken, Edges, Group
from exploration.explore import Explorer, Result
from exploration.parts import Violation
from exploration.world import Scenario, World

SOURCE = Path(__file__).with_name("search.c")
COMPLETE, BROKEN, STOPPED, MEMORY, TOO_MANY = range(5)
#: Tags below are those of groups; the others are those of packets that the broker sends.
PUSHES = 1024
_ASK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64)


def compiler() -> str | None:
    """Find a C compiler; None if there is none."""
    return shutil.which("cc") or shutil.which("gcc")


@cache
def _library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "search.so"
        command = [compiler() or "cc", "-O2", "-shared", "-fPIC", "-o", str(made), str(SOURCE)]
        subprocess.run(command, check=True, timeout=120)
        library = ctypes.CDLL(str(made))
    u32, u64, pointer = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p
    library.make.argtypes = [ctypes.c_int, ctypes.c_int, u64, ctypes.c_double, _ASK]
    library.make.restype = pointer
    library.set_group.argtypes = [pointer, ctypes.c_int, ctypes.c_int, u32, u64]
    library.set_push.argtypes = [pointer, u32, u64]
    library.put.argtypes = [pointer, u32, u64, ctypes.c_int64]
    library.put_row.argtypes = [pointer, u32, u64, pointer, u64]
    library.begin.argtypes = [pointer, u64]
    for name in ("search", "circles", "end"):
        getattr(library, name).argtypes = [pointer]
    library.figures.argtypes = [pointer, pointer]
    return library


class Survey:
    """One exploration by the compiled search.

    Args:
        scenario: the scenario to explore.
        most: the maximum number of states; 0 for no limit.
        seconds: time limit; 0 for none.
    """

    def __init__(self, scenario: Scenario, most: int = 0, seconds: float = 0.0) -> None:
        self.world = World(scenario)
        self.edges = Edges(self.world)
        self.result = Result(scenario)
        self._most = most
        self._seconds = seconds
        self._tags: dict[int, Group] = {}
        self._known = 0  # the number of the edges' pushes that the search has
        self._error: BaseException | None = None

    def run(self) -> Result:
        """Explore the scenario, until no memory is left at the latest, and return the result.

        If a property is violated, an `Explorer` finds the shortest trace.
        """
        result, began = self.result, time.monotonic()
        library, ask = _library(), _ASK(self._ask)
        self._search = library.make(self.edges.budget_shift, self.edges.bits, self._most, self._seconds, ask)
        try:
            self._set_groups()
            library.begin(self._search, self.edges.pack(self.world.root))
            status = library.search(self._search)
            if status == COMPLETE:
                status = library.circles(self._search)
            self._conclude(status)
        finally:
            library.end(self._search)
        result.seconds = time.monotonic() - began
        return result

    def _set_groups(self) -> None:
        tags: dict[int, int] = {}
        for budget, groups in enumerate(self.edges.groups):
            for place, group in enumerate(groups):
                tag = tags.setdefault(id(group), 1 + len(tags))
                self._tags[tag] = group
                _library().set_group(self._search, budget, place, tag, group.mask)

    def _ask(self, tag: int, state: int) -> int:
        """Handle a callback. Return 1 on an exception, which cannot pass through C, otherwise 0."""
        try:
            if not tag:
                promises.check(self.world, self.edges.unpack(state))
            elif tag < PUSHES:
                self._fill(tag, state)
            else:
                pushes = self.edges.pushes[tag - PUSHES]
                field = state & pushes.mask
                _library().put(self._search, tag, field, pushes[field])
        except BaseException as error:
            self._error = error
            return 1
        return 0

    def _fill(self, tag: int, state: int) -> None:
        group = self._tags[tag]
        fair, fair_sending, faults, faults_sending = group.row(state)
        group.clear()  # the search stores it
        row = array("q", [len(fair), len(fair_sending), len(faults), len(faults_sending)])
        for plain, sending in ((fair, fair_sending), (faults, faults_sending)):
            row.extend(plain)
            for difference, pushes in sending:
                row.extend([difference, len(pushes), *(PUSHES + each.number for each in pushes)])
        for pushed in self.edges.pushes[self._known :]:
            _library().set_push(self._search, PUSHES + pushed.number, pushed.mask)
        self._known = len(self.edges.pushes)
        _library().put_row(self._search, tag, state & group.mask, row.buffer_info()[0], len(row))

    def _conclude(self, status: int) -> None:
        result, numbers = self.result, (ctypes.c_uint64 * 5)()
        _library().figures(self._search, numbers)
        result.states, result.edges, result.rests, result.depth, result.longest = numbers
        result.parts, result.runs, result.found = len(self.world.parts.values), self.world.runs, self.world.found
        result.complete = status == COMPLETE
        if status == TOO_MANY:
            raise OverflowError("a state has more incoming edges than its counter can hold")
        if isinstance(self._error, (Broken, Violation)) or (status == BROKEN and self._error is None):
            shortest = Explorer(result.scenario).run()
            result.violation, result.trace = shortest.violation, shortest.trace
        elif self._error is not None and not isinstance(self._error, MemoryError):
            raise self._error


__all__ = ["Survey", "compiler"]
