"""AWS IoT takes one CONNECT a second with a client id: all connections of a process with it keep their distance."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from pubsub_faces import Loop, Threads

from mqttws import ConnectBudget
from pubsub import AWSIoTProvider, Sharded
from pubsub.aws import connect_turns
from pubsub.aws.connect_turns import ConnectTurns
from pubsub.aws.limits import IoTLimits
from pubsub.aws.local.endpoint import LocalIoTEndpoint
from sigv4 import Credentials

HOST = "abc-ats.iot.eu-west-1.amazonaws.com"
#: Here four a second, so that the tests are short.
LIMITS = IoTLimits(client_connect_rate=4.0)
INTERVAL = 0.25


@pytest.fixture(autouse=True)
def _empty_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect_turns, "_budgets", {})


class Account:
    """An endpoint, and providers for it whose turns and attempts are recorded.

    Attributes:
        attempts: when each attempt was made.
        turns: client id -> the times of its turns. An attempt of a busy process may be later than its turn.
        waits: the seconds from each reservation to the reserved time.
    """

    def __init__(self, iot: LocalIoTEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
        self.iot = iot
        self.attempts: list[float] = []
        self.turns: dict[str, list[float]] = defaultdict(list)
        self.waits: list[float] = []
        reserve, begin = ConnectTurns.reserve, ConnectTurns.begin

        def reserved(turns: ConnectTurns, now: float) -> float:
            turn = reserve(turns, now)
            self.waits.append(turn - now)
            return turn

        def begun(turns: ConnectTurns, now: float) -> float:
            turn = begin(turns, now)
            if turn <= now:
                self.turns[turns._key[1]].append(now)
            return turn

        monkeypatch.setattr(ConnectTurns, "reserve", reserved)
        monkeypatch.setattr(ConnectTurns, "begin", begun)

    def provider(self, client_id: str | None = "c", **options: Any) -> AWSIoTProvider:
        def credentials() -> Credentials:
            self.attempts.append(time.monotonic())
            return self.iot.credentials

        options = {"limits": LIMITS, "reconnect": False, "timeout": 30, **options}
        return AWSIoTProvider(self.iot.region, self.iot.url, credentials, client_id=client_id, **options)

    @property
    def shortest(self) -> float:
        """Return the shortest time between two turns of a client id. Each attempt must have had its turn before."""
        turns = sorted(itertools.chain(*self.turns.values()))
        assert len(turns) == len(self.attempts)
        assert all(turn <= attempt for turn, attempt in zip(turns, sorted(self.attempts), strict=True))
        return min(later - earlier for each in self.turns.values() for earlier, later in itertools.pairwise(each))


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    with LocalIoTEndpoint(limits=LIMITS, refuse_replays=False) as iot:
        yield Account(iot, monkeypatch)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connected(face: type[Any], provider: Any, stack: ExitStack) -> Any:
    api = face(provider)
    stack.callback(api.end)
    api.call(api.ps.connect)
    return api


@pytest.mark.parametrize("face", [Threads, Loop])
def test_one_that_replaces_another_waits(face: type[Any], account: Account, stack: ExitStack) -> None:
    for _ in range(4):
        api = connected(face, account.provider(), stack)
        api.call(api.ps.close)
    assert len(account.attempts) == 4
    assert account.shortest >= INTERVAL


def test_both_faces_and_many_threads_share_the_turns(account: Account, stack: ExitStack) -> None:
    faces = (Threads, Loop, Threads, Loop, Threads)
    threads = [threading.Thread(target=connected, args=(face, account.provider(), stack)) for face in faces]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(account.attempts) == 5
    assert account.shortest >= INTERVAL


def test_other_client_ids_do_not_wait(account: Account, stack: ExitStack) -> None:
    for number in range(8):
        connected(Threads, account.provider(f"c{number}"), stack)
    connected(Threads, account.provider(None), stack)
    connected(Threads, account.provider(None), stack)
    assert len(account.attempts) == 10
    assert account.waits == [0.0] * 8  # nobody else can have the ids of the last two


def test_a_pool_paces_each_of_its_connections(account: Account, stack: ExitStack) -> None:
    for _ in range(2):
        connected(Threads, Sharded(account.provider("s"), (3, 3), connect_rate=500), stack).ps.close()
    assert sorted(map(len, account.turns.values())) == [2] * 6
    assert account.shortest >= INTERVAL


def test_a_refused_upgrade_takes_no_turn(account: Account, stack: ExitStack) -> None:
    """The clock is off: it is corrected by the 403, and the next attempt follows immediately."""
    limits = IoTLimits(client_connect_rate=0.02)
    provider = account.provider("late", limits=limits, clock=lambda: time.time() - 3600)
    connected(Threads, provider, stack)
    assert len(account.attempts) == 2
    assert len(account.turns["late"]) == 1


def test_the_clients_own_budget_applies_too(account: Account, stack: ExitStack) -> None:
    budget = ConnectBudget(2.0)
    connected(Threads, account.provider("a", connect_budget=budget), stack)
    connected(Threads, account.provider("b", connect_budget=budget), stack)
    (first,), (second,) = account.turns.values()
    assert second - first >= 0.5


def test_without_a_rate_there_are_no_turns() -> None:
    keys = Credentials("AKID", "secret")
    unlimited = AWSIoTProvider("eu-west-1", HOST, keys, client_id="c", limits=IoTLimits(client_connect_rate=None))
    assert unlimited.with_turns({"client_id": "c"}) == {"client_id": "c"}


# The turns themselves.


def test_turns_are_those_of_the_endpoint_and_the_client_id() -> None:
    def turn(*endpoints: str, client_id: str = "c") -> float:
        return ConnectTurns(endpoints, client_id, 1.0, None).reserve(100.0)

    turns = [turn(HOST), turn(f"wss://{HOST}/mqtt"), turn(f"wss://{HOST.upper()}:443/mqtt")]
    assert turns == pytest.approx([100.0, 101.01, 102.02])  # a hundredth more than a second each
    assert turn(f"mqtts://{HOST}:8883") == pytest.approx(103.03)
    assert turn(HOST, client_id="other") == 100.0
    assert turn("wss://other.example/mqtt") == 100.0
    assert [turn("ws://127.0.0.1:1234/mqtt"), turn("ws://127.0.0.1:1235/mqtt")] == [100.0, 100.0]
    assert turn(HOST, "other.example") == 100.0
    assert turn("wss://other.example/mqtt", HOST) == 101.01
    assert [turn(), turn()] == [100.0, 101.01]  # signed elsewhere: the client id is all that is known
    assert turn("wss://host:none/mqtt") == 100.0  # is refused when it is connected to


def test_turns_begin_when_the_clients_own_budget_lets_it() -> None:
    own = ConnectBudget(0.1)
    assert ConnectTurns([HOST], "c", 1.0, own).reserve(100.0) == 100.0
    assert ConnectTurns([HOST], "c", 1.0, own).reserve(100.0) == pytest.approx(110.1)
    assert ConnectTurns([HOST], "c", 1.0, None).reserve(100.0) == pytest.approx(111.11)


def test_an_attempt_begins_when_both_budgets_let_it() -> None:
    own = ConnectBudget(0.1)
    turns = ConnectTurns([HOST], "c", 1.0, own)
    assert turns.reserve(100.0) == turns.begin(100.0) == 100.0
    assert turns.begin(100.5) > 110.0  # the client's own has had its attempt
    assert ConnectTurns([HOST], "c", 1.0, None).begin(100.5) > 101.0  # and the client id has had its
    assert turns.begin(115.0) == 115.0


def test_the_table_is_bounded() -> None:
    for number in range(connect_turns._MOST_BUDGETS + 500):
        ConnectTurns([HOST], f"c{number}", 1.0, None).reserve(100.0)
    assert len(connect_turns._budgets) == connect_turns._MOST_BUDGETS
    assert ConnectTurns([HOST], f"c{number}", 1.0, None).reserve(100.0) == 101.01  # the latest are those that stay


def test_no_two_threads_get_one_turn() -> None:
    turns: list[float] = []
    start = threading.Barrier(8)

    def reserve() -> None:
        start.wait(30)
        for _ in range(500):
            turns.append(ConnectTurns([HOST], "c", 1.0, None).reserve(0.0))

    threads = [threading.Thread(target=reserve) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(turns) == pytest.approx([1.01 * number for number in range(4_000)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_while_a_turn_is_reserved() -> None:
    """The child has the lock of no thread that is not there."""
    turns = ConnectTurns([HOST], "c", 1.0, None)
    turns.reserve(0.0)
    budget = next(iter(connect_turns._budgets.values()))
    with budget._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if turns.reserve(0.0) == 1.01 else 1)
    assert os.waitpid(child, 0)[1] == 0
