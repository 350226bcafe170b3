"""The differential tests: our broker and clients conform; differences are found, shrunk and judged."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mqttws.broker import Broker

sys.path.insert(0, str(Path(__file__).parent))

from brokers import BROKERS, Difference, Duel, compare, side_by_side
from clients import CASES, outcomes_of
from conversation import ILLEGAL, ILLEGAL_CONNECTS, Generator, Run, Step, systematic
from differential import PAGE, REPLAYS, judge

from mqttws import Connect, Message, Publish, PubRel, Subscribe

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


def judged(step: Step, ours: str, theirs: str) -> str:
    return judge(Difference(step.statement, step.what, ours, theirs, replay=[step]))[0]


def test_a_difference_is_judged_by_the_statement() -> None:
    illegal = {step.what: step for (*_, step) in systematic()}
    connect = illegal["a client identifier with U+0000"]
    assert judged(connect, "nothing", "CONNACK 2, session present 0") == "they depart"  # [MQTT-3.1.4-1]
    assert judged(connect, "CONNACK 2, session present 0", "nothing") == "ours departs"
    assert judged(connect, "closed", "CONNACK 0, session present 0") == "they depart"
    assert judged(illegal["no client identifier with a kept session"], "CONNACK 2, session present 0; closed",
                  "CONNACK 0, session present 0") == "they depart"  # fmt: skip
    assert judged(illegal["SUBSCRIBE to @/a#"], "closed", "SUBACK 128") == "both may"
    assert judged(illegal["SUBSCRIBE to @/a#"], "closed", "SUBACK 0") == "they depart"
    assert judged(Step("a", "send", "MQTT-3.12.4-1", "PINGREQ", "c000"), "nothing", "closed") == "open"


@pytest.mark.parametrize(("subscribes_at", "verdict"), [(1, "open"), (2, "both may")])
def test_a_message_that_is_passed_on_at_its_pubrel_reaches_later_subscribers(subscribes_at: int, verdict: str) -> None:
    """A broker that passes QoS 2 on at the PUBREL sends it to a client that subscribed after the PUBLISH, too."""
    replay = [
        Step("a", "connect", "", "CONNECT, clean, new", CONNECT),
        Step("a", "send", "", "PUBLISH, QoS 2", Publish("@/a", b"xx", 2, False, False, 1).encode().hex()),
        Step("a", "send", "", "PUBREL", PubRel(1).encode().hex()),
    ]
    replay.insert(subscribes_at, Step("a", "send", "", "SUBSCRIBE, QoS 1", Subscribe(9, (("@/a", 1),)).encode().hex()))
    assert judge(Difference("MQTT-4.3.3-2", "PUBREL", "nothing", "PUBLISH (QoS 1)", replay=replay))[0] == verdict


def test_of_an_illegal_step_only_what_its_client_receives_is_compared() -> None:
    """A will that follows from the close is no other difference."""
    step = Step("a", "send", "§2.2.1", "packet type 15", "f0 00", legal=False)
    found = compare([step], [{"a": ("closed",), "b": ("Publish(topic='t', qos=0, retain=False, dup=False)",)}], [{}])
    assert found is not None
    assert (found[1].ours, found[1].theirs) == ("closed", "nothing")
    assert compare([step], [{"a": ("closed",)}], [{"a": ("closed",), "b": ("PubRel(packet_id=?)",)}]) is not None


def test_a_replay_shows_what_the_packets_carry() -> None:
    words = [
        Step("a", "connect", "", "CONNECT, kept, new", Connect("@a", False, 60, Message("@/w", b"", 1)).encode().hex()),
        Step("a", "send", "", "SUBSCRIBE, two filters", Subscribe(9, (("@/#", 1), ("@/a", 0))).encode().hex()),
        Step("a", "send", "", "PUBLISH, QoS 1, RETAIN", Publish("@/a", b"x", 1, True, False, 2).encode().hex()),
        Step("a", "drop", "", "closes without a DISCONNECT"),
    ]
    assert [step.words for step in words] == [
        "CONNECT as @a, kept, will QoS 1 to @/w",
        "SUBSCRIBE @/# QoS 1, @/a QoS 0",
        "PUBLISH QoS 1 id 2 RETAIN to @/a",
        "closes without a DISCONNECT",
    ]


def test_each_replay_of_the_page_is_stored() -> None:
    page, replays = PAGE.read_text(), json.loads(REPLAYS.read_text())
    rows = re.findall(r"^\| (\d+) \| .*\| \d+ \|$", page, re.MULTILINE)
    assert len(rows) == sum(map(len, replays.values()))
    for found in replays.values():
        for each in found:
            assert all(Step(**step).words in page for step in each["steps"])


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
