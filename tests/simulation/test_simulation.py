"""Thousands of simulated schedules of faults keep every property; planted faults show that violations are detected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from simulation import Action, Schedule, Simulation, Violation, fails, shrink

from mqttws import compiled
from mqttws.protocol.journal import Journal
from mqttws.protocol.machine import Machine
from mqttws.protocol.outgoing import Identifiers
from mqttws.protocol.receiving import Receiver
from mqttws.protocol.sending import Sender
from mqttws.protocol.store import MemoryStore

SCHEDULES = 10_000
#: The number of tests that they are divided into, so that none lasts for minutes on a busy machine.
BLOCKS = 10
#: The number of schedules within which a planted fault must be detected.
ENOUGH = 600
#: For tests that replace methods: compiled code bypasses the replacements. The source is the same.
interpreted = pytest.mark.skipif(compiled, reason="faults cannot be planted in compiled code")


@pytest.fixture(scope="module")
def sums(figures: dict[str, str]) -> Iterator[Counter[str]]:
    """Sum what the tests of the schedules count, for the figures at the end of the run."""
    sums: Counter[str] = Counter()
    yield sums
    figures["schedules simulated"] = ", ".join(f"{count:,} {what}" for what, count in sums.items())


@pytest.mark.parametrize("block", range(BLOCKS))
def test_ten_thousand_schedules_satisfy_every_property(sums: Counter[str], block: int) -> None:
    steps = seen = faults = 0
    for seed in range(block, SCHEDULES, BLOCKS):
        simulation = Simulation(Schedule.of(seed)).run()
        steps += simulation.steps
        seen += len(simulation.seen)
        faults += sum(action.verb != "publish" for action in simulation.schedule.actions)
    assert seen > 4 * SCHEDULES / BLOCKS  # the simulated network is not so bad that nothing arrives
    sums.update(schedules=SCHEDULES // BLOCKS, faults=faults, messages=seen, steps=steps)


def test_a_run_depends_only_on_its_seed() -> None:
    for seed in range(30):
        first, second = (Simulation(Schedule.of(seed)).run() for _ in range(2))
        assert (first.seen, first.accepted, first.steps, first.now) == (
            second.seen,
            second.accepted,
            second.steps,
            second.now,
        )


def test_the_schedules_differ_and_contain_every_fault() -> None:
    schedules = [Schedule.of(seed) for seed in range(200)]
    assert len(set(schedules)) == 200
    found = {(action.verb, action.subject) for each in schedules for action in each.actions if action.verb != "publish"}
    assert found == {
        *(("kill", process) for process in ("publisher", "broker", "subscriber")),
        *((verb, client) for verb in ("cut", "freeze") for client in ("publisher", "subscriber")),
    }
    assert {each.websocket for each in schedules} == {False, True}
    assert {each.window for each in schedules} == {1, 2, 10}


def nothing(*arguments: object) -> None:
    """Do nothing, in place of another function."""


def without_commit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Machine, "_commit", lambda self, store: True)


def deaf_commit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryStore, "commit", nothing)


def messages_not_noted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "keep", nothing)


def messages_not_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "drop", nothing)


def identifiers_not_noted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "taken", nothing)


def identifiers_not_released(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "released", nothing)


def subscriptions_not_noted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "subscribed", nothing)


def copies_delivered(patch: pytest.MonkeyPatch) -> None:
    receive = Receiver.receive

    def always(self: Receiver, publish: object, packet_id: int) -> bool:
        receive(self, publish, packet_id)  # type: ignore[arg-type]
        return True

    patch.setattr(Receiver, "receive", always)


def nothing_sent_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sender, "resume", lambda self, session_present: ([], []))


def sent_again_backwards(patch: pytest.MonkeyPatch) -> None:
    resume = Sender.resume

    def backwards(self: Sender, session_present: bool) -> object:
        packets, done = resume(self, session_present)
        return packets[::-1], done

    patch.setattr(Sender, "resume", backwards)


def identifiers_reused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Identifiers, "allocate", lambda self: 1)


def identifiers_leaked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Identifiers, "release", nothing)


def accepted_before_stored(patch: pytest.MonkeyPatch) -> None:
    """Store QoS 2 identifiers at reception, so that messages not yet taken count as taken."""
    receive = Receiver.receive

    def early(self: Receiver, publish: object, packet_id: int) -> bool:
        new = receive(self, publish, packet_id)  # type: ignore[arg-type]
        if self.journal is not None and packet_id in self._received:
            self.journal.taken(packet_id)
        return new

    patch.setattr(Receiver, "receive", early)


@interpreted
@pytest.mark.parametrize(
    "plant",
    [
        without_commit,
        deaf_commit,
        messages_not_noted,
        messages_not_dropped,
        identifiers_not_noted,
        identifiers_not_released,
        subscriptions_not_noted,
        copies_delivered,
        nothing_sent_again,
        sent_again_backwards,
        identifiers_reused,
        identifiers_leaked,
        accepted_before_stored,
    ],
)
def test_a_planted_fault_is_detected(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert any(fails(Schedule.of(seed)) for seed in range(ENOUGH)), f"{plant.__name__} survives"


@interpreted
def test_a_failure_is_shrunk_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    copies_delivered(monkeypatch)
    failing = next(schedule for seed in range(ENOUGH) if fails(schedule := Schedule.of(seed)))
    small = shrink(failing)
    violation = fails(small)
    assert violation is not None
    assert repr(small) in str(violation)  # the message contains everything for a replay
    assert str(fails(eval(repr(small)))) == str(violation)
    assert [action.verb for action in small.actions].count("publish") == 1
    assert len(small.actions) <= 3
    for index in range(len(small.actions)):
        assert fails(replace(small, actions=small.actions[:index] + small.actions[index + 1 :])) is None
    monkeypatch.undo()
    assert fails(small) is None


def test_a_line_that_is_cut_twice_stays_cut() -> None:
    """A schedule of the long run, in which bytes once arrived after a gap."""
    assert fails(Schedule.of(367_256)) is None


@pytest.mark.parametrize("seed", [855_888, 895_133])
def test_the_simulation_is_not_at_rest_while_a_request_is_pending(seed: int) -> None:
    """A SUBSCRIBE was lost on a frozen line, which the client had not detected yet."""
    assert fails(Schedule.of(seed)) is None


def test_a_simulation_without_faults() -> None:
    schedule = Schedule(0, tuple(Action(float(number), "publish", number, number % 3) for number in range(6)), 10)
    simulation = Simulation(schedule).run()
    assert simulation.seen == [(number, number % 3) for number in range(6)]
    assert simulation.accepted == set(range(6))
    with pytest.raises(Violation):
        raise simulation._violation("shown")
