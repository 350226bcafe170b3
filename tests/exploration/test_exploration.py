"""Every state within small bounds satisfies every property; planted faults show that violations are detected."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import exploration
import pytest
from exploration import Explorer, Live, Program, Result, Scenario, as_test, delivery
from exploration.meaning import MEANINGLESS
from exploration.scenarios import take_over
from exploration.survey import Survey, compiler

from mqttws import compiled
from mqttws.protocol.receiving import Receiver

HERE = Path(__file__).parent
PRODUCT = HERE.parent.parent / "mqttws"
sys.path.insert(0, str(HERE))

from faults import FAULTS  # noqa: E402  (found by the line above)
from hunt import bounds, hunt  # noqa: E402
from picture import DOCS, pictures  # noqa: E402
from reference import BEYOND, LONG, QUICK  # noqa: E402

#: The number of faults planted in each run of the suite; `make explore` plants all of them.
SAMPLE = 6
#: More states than any scenario here has, so that endless states do not fill the memory.
MOST = 500_000
interpreted = pytest.mark.skipif(compiled, reason="the slots of compiled objects cannot be visited")
pytestmark = interpreted

_states: dict[str, int] = {}


def need_compiler() -> None:
    if compiler() is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("a C compiler is missing: make peers")


def explored(scenario: Scenario, figures: dict[str, str]) -> Result:
    result = Explorer(scenario, most=MOST).run()
    assert not result.violation, as_test(scenario, result.trace, result.violation)
    assert result.complete
    assert result.rests
    _states[scenario.name] = result.states
    figures["states explored"] = f"{sum(_states.values()):,} in {len(_states)} scenarios (make explore: all of them)"
    return result


@pytest.mark.parametrize("scenario", QUICK, ids=lambda scenario: scenario.name)
def test_every_state_satisfies_every_property(scenario: Scenario, figures: dict[str, str]) -> None:
    explored(scenario, figures)


@pytest.mark.parametrize(("scenario", "found"), BEYOND, ids=lambda value: getattr(value, "name", ""))
def test_exactly_the_permitted_losses_and_duplicates_occur(
    scenario: Scenario, found: set[str], figures: dict[str, str]
) -> None:
    assert set(explored(scenario, figures).found) == found


@pytest.mark.parametrize("scenario", [delivery(1, 2, losses=1), delivery(2, losses=1, crashes=1), take_over(1)])
def test_live_parts_that_are_never_copied_agree_in_each_state(scenario: Scenario) -> None:
    """If the tables, the copies or the meaning of states were wrong, a trace without them would differ."""
    explorer = Explorer(scenario)
    explorer.run()
    states, choices = list(explorer.states()), random.Random(4711)
    for _ in range(60):
        live = Live(scenario, explorer.world)
        state = explorer.world.root
        assert live.state == state
        for action in explorer.trace_to(choices.choice(states)):
            state = explorer.world.after(state, action)
            live.do(*action)
            assert live.state == state


def test_the_attributes_ignored_in_a_state_exist() -> None:
    """A renamed counter would count as meaning: states would never repeat."""
    files = (*PRODUCT.rglob("*.py"), *Path(exploration.__file__).parent.glob("*.py"))
    sources = [path.read_text("utf-8") for path in files]
    for name, attributes in MEANINGLESS.items():
        there = [source for source in sources if re.search(rf"^class {name}\b", source, re.MULTILINE)]
        assert there, name
        for attribute in attributes:
            written = re.compile(rf"self\.{attribute}\b|\"{attribute}\"|^    {attribute}:", re.MULTILINE)
            assert any(map(written.search, there)), f"{name}.{attribute}"


@pytest.mark.parametrize(
    "scenario",
    [delivery(2, losses=1), delivery(1, losses=1, crashes=1), take_over(1), delivery(0, cuts=True)],
    ids=lambda scenario: scenario.name,
)
def test_the_compiled_search_finds_the_same(scenario: Scenario) -> None:
    need_compiler()
    found, again = (
        {name: value for name, value in vars(search(scenario).run()).items() if name != "seconds"}
        for search in (Explorer, Survey)
    )
    assert found == again


def test_the_compiled_search_finds_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    need_compiler()
    program = Program("s", durable=False)
    result = Survey(Scenario("fight", (program, program))).run()
    assert result.violation == "without any fault it continues for ever"
    monkeypatch.setattr(Receiver, "begin", lambda self, session_present: self._received.clear())
    result = Survey(delivery(2, losses=1)).run()
    assert result.violation == "message 0-1 of QoS 2 is seen twice"
    assert len(result.trace) == 10


def test_endless_take_overs_are_detected() -> None:
    program = Program("s", durable=False)
    result = Explorer(Scenario("fight", (program, program)), most=20_000).run()
    assert result.violation == "without any fault it continues for ever"


@pytest.mark.parametrize("search", [Explorer, Survey])
def test_a_bound_of_states_stops_the_search(search: type[Explorer | Survey]) -> None:
    if search is Survey:
        need_compiler()
    result = search(delivery(2, losses=1), most=50).run()
    assert not result.complete
    assert 50 <= result.states < 70


# Planted faults.


def test_no_violation_is_found_without_a_fault() -> None:
    shown = {scenario.name for scenario in (*QUICK, *LONG, *(scenario for scenario, _ in BEYOND))}
    assert {scenario.name for scenario in bounds()} <= shown


@pytest.mark.parametrize("fault", FAULTS[3 :: len(FAULTS) // SAMPLE], ids=lambda fault: fault.title)
def test_a_planted_fault_is_found(fault) -> None:
    find = hunt(fault)
    assert find.violation, f"{fault.title} survives {find.states:,} states"
    assert not find.violation.startswith(("AttributeError", "NameError", "TypeError")), (
        "the planted code raises an exception, which is no delivery fault"
    )


def test_every_fault_fits_the_code() -> None:
    code = """
import sys
sys.path[:0] = sys.argv[1:]
from faults import FAULTS
from planting import misfits
misfits(FAULTS)
"""
    folders = [str(HERE), str(HERE.parent / "support")]
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, timeout=120)
    assert not done.stdout
    assert not done.stderr
    assert len(FAULTS) >= 30


def test_a_trace_is_code_that_replays_it() -> None:
    """The printed shortest trace to a fault fails with the fault and passes without it."""
    fault = next(fault for fault in FAULTS if fault.title == "copies are delivered")
    find = hunt(fault)
    assert find.test.startswith("def test_it() -> None:\n")
    code = f"""
import sys
sys.path[:0] = {[str(HERE), str(HERE.parent / "support")]!r}
import pytest
from exploration import Live, Program, Scenario, Violation
from faults import FAULTS
from planting import plant

{find.test}

try:
    test_it()
except BaseException as error:
    print(type(error).__name__)
plant(next(fault for fault in FAULTS if fault.title == {fault.title!r}))
test_it()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "LookupError\n", (
        done.stdout + done.stderr
    )  # without the fault there is no such copy to deliver
    assert done.returncode == 0, done.stderr


def test_a_trace_is_a_session_that_look_opens(tmp_path: Path) -> None:
    """The program takes the message twice because its PUBLISH arrives twice, the second time as a copy."""
    find = hunt(next(fault for fault in FAULTS if fault.title == "copies are delivered"))
    file = tmp_path / "violation.jsonl"
    file.write_text(find.session)
    command = [sys.executable, "-m", "pubsub", "look", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()
    opened = [row for row in rows if "process client 1" in row]
    assert len(opened) == 2, done.stdout  # one before the loss, one after it
    copies = [row for row in rows if "C <--- S  PUBLISH" in row]
    assert len(copies) == 2, done.stdout
    assert "DUP" not in copies[0]
    assert "DUP" in copies[1]
    assert [row.split()[0] for row in copies] == sorted(row.split()[0] for row in copies)  # by the step of the trace
    assert sum("C ---> S  FIN" in row for row in rows) == 1, done.stdout  # it gives the first connection up


def test_the_pictures_are_up_to_date() -> None:
    drawn = pictures()
    assert drawn["qos2-one-loss.svg"] == (DOCS / "qos2-one-loss.svg").read_text(), "run tests/exploration/picture.py"
    assert drawn["qos2-one-loss-whole.svg"].count("<circle") == Explorer(delivery(2, losses=1)).run().states
