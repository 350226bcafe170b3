"""The differential tests: our broker and clients conform; differences are found, shrunk and judged."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqttws.broker import Broker

sys.path.insert(0, str(Path(__file__).parent))

from brokers import BROKERS, Duel, side_by_side
from clients import CASES, outcomes_of
from conversation import ILLEGAL, ILLEGAL_CONNECTS, Generator, Run, Step, systematic
from differential import judge

CONNECT = "10 0e 0004 4d515454 04 02 003c 0002 4061"


@pytest.fixture
def duel() -> Iterator[Duel]:
    """Run our broker twice."""
    with Broker(sys_interval=None) as one, Broker(sys_interval=None) as other:
        yield Duel(*(("127.0.0.1", int(each.url_of("mqtt").rpartition(":")[2])) for each in (one, other)), 0.01)


def test_our_broker_agrees_with_itself_and_closes_on_illegal_packets(duel: Duel) -> None:
    generator = Generator(Counter())
    for seed in range(12):
        duel.try_out(generator.conversation(seed), seed % 2 > 0)
    assert not duel.found, list(duel.found)
    for steps in systematic():
        (*_, seen) = Run(duel._ours, 0.05, True).play(steps)
        assert "closed" in seen["a"], (steps[-1].what, seen)
    assert len(systematic()) == len(ILLEGAL) + len(ILLEGAL_CONNECTS)


def test_a_conversation_depends_on_the_seed_and_on_earlier_ones() -> None:
    first, second = (Generator(Counter()).conversation(7) for _ in range(2))
    assert first == second
    seen: Counter[tuple[str, ...]] = Counter()
    generator = Generator(seen)
    for seed in range(300):
        generator.conversation(seed)
    made = {what for _, what, _ in seen}
    assert {what for _, what, _ in (*ILLEGAL, *ILLEGAL_CONNECTS)} <= made  # everything occurs soon


def test_a_difference_is_shrunk_and_judged(duel: Duel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that ignores an illegal packet: the shortest conversation that shows it has two steps."""
    play = Run.play

    def lenient(self: Run, steps: list[Step]):
        seen = play(self, steps)
        if self._address == duel._theirs:
            for step, each in zip(steps, seen, strict=True):
                if step.what == "packet type 15" and step.client in each:
                    each[step.client] = tuple(packet for packet in each[step.client] if packet != "closed")
        return seen

    monkeypatch.setattr(Run, "play", lenient)
    steps = [
        Step("b", "connect", "MQTT-3.1.2-6", "CONNECT, clean, new", CONNECT.replace("4061", "4062")),
        Step("a", "connect", "MQTT-3.1.2-6", "CONNECT, clean, new", CONNECT),
        Step("b", "send", "MQTT-3.12.4-1", "PINGREQ", "c0 00"),
        Step("a", "send", "§2.2.1", "packet type 15", "f0 00", legal=False),
        Step("b", "drop", "MQTT-3.1.2-8", "closes without a DISCONNECT"),
    ]
    duel.try_out(steps, True)
    duel.try_out(steps, True)
    (found,) = duel.found.values()
    assert found.replay == [steps[1], steps[3]]
    assert (found.ours, found.count) == ("closed", 2)
    assert judge(found)[0] == "they depart"
    found.ours, found.theirs = "nothing", "closed"
    assert judge(found)[0] == "ours departs"


def test_a_short_run_against_mosquitto() -> None:
    with side_by_side("mosquitto") as (found, version):
        generator = Generator(Counter())
        for seed in range(6):
            found.try_out(generator.conversation(seed), True)
    assert version
    assert not [each.key for each in found.found.values() if judge(each)[0] == "ours departs"]


@pytest.mark.parametrize("name", ["mqttws", "mqttws.aio"])
def test_our_clients_conform_in_each_case(name: str) -> None:
    _, outcomes = outcomes_of(name, afresh=False)
    assert len(outcomes) == len(CASES)
    assert not [(case.what, outcome.words(case)) for case, outcome in outcomes if not outcome.is_right(case)]


def test_every_broker_has_its_own_grace_period() -> None:
    from brokers import GRACE

    assert set(GRACE) == {"ours", *BROKERS}
