"""`pubsub bench` with refused or lost connections and messages, and with Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import pytest
from benching import PATIENCE, bench, command, measured
from scripted import Scripted

import mqttws
from mqttws.broker import Access, Broker, Limits, Peer, Users, Verdict, hash_password
from pubsub.cli import main
from pubsub.cli.bench import shown_url

# --- failures ---


def test_a_closed_port_is_an_error() -> None:
    done = bench("mqtt://127.0.0.1:1", "--duration", "1", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["connections"]["failed"], found["connections"]["refused"]) == (3, 2, 0)
    assert "nothing was measured" in found["problems"]


def test_some_are_refused_and_the_others_are_measured() -> None:
    names: set[str] = set()

    def first_four(peer: Peer, connect: Any) -> bool:
        names.add(connect.client_id)
        return len(names) <= 4

    with Broker(authenticator=first_four) as broker:
        done = bench(broker.url, "-q", "1", "--publishers", "5", "--subscribers", "2", "--rate", "50", "--duration",
                     "0.5", "--connect-rate", "50", "--json")  # fmt: skip
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert (found["connections"]["made"], found["connections"]["refused"]) == (4, 3)
    assert found["problems"] == ["3 of the connections could not be made"]
    [reason] = found["reasons"]
    assert "not authorized" in reason
    assert found["messages"]["published"] == 25  # by the remaining two
    assert found["messages"]["delivered"] == 50


def test_attempts_end_at_a_full_server() -> None:
    with Broker(limits=Limits(max_connections=5)) as broker:
        done = bench(
            broker.url, "--connections", "1000", "--connect-rate", "200", "--duration", "0.2", "--rate", "10", "--json"
        )
    found = json.loads(done.stdout)["connections"]
    assert done.returncode == 1
    assert found["made"] == 5
    # A late success resets the count, and pending attempts end. All 1,002 would be tried otherwise.
    assert 100 <= found["failed"] < 800
    assert found["untried"] == 1_002 - 5 - found["failed"]


def test_a_password_comes_from_the_environment_and_is_not_shown() -> None:
    with Broker(authenticator=Users({"ada": hash_password("c4n4ry")})) as broker:
        words = ["-u", "ada", "--duration", "0.2", "--rate", "10", "--progress"]
        good = bench(broker.url, *words, PUBSUB_PASSWORD="c4n4ry")
        assert good.returncode == 0
        bad = bench(broker.url + "?token=c4n4ry", *words, "--json", PUBSUB_PASSWORD="wrong-c4n4ry")
        assert bad.returncode == 4
    assert "bad user name or password" in bad.stdout
    for done in (good, bad):
        assert "c4n4ry" not in done.stdout + done.stderr


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_password_is_asked_for_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], processes: str
) -> None:
    """However many runs and processes there are."""
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "c4n4ry-é"

    monkeypatch.setattr("pubsub.cli.options.ask_secret", ask)
    with Broker(authenticator=Users({"ada": hash_password("c4n4ry-é")})) as broker:
        words = ["-u", "ada", "--ask-password", "--duration", "0.2", "--rate", "10", "--processes", processes]
        assert main(["bench", broker.url, "--compare", broker.url, "--rounds", "1", *words]) == 0
    assert asked == ["password of ada: "]
    assert "c4n4ry" not in "".join(capsys.readouterr())


def test_a_url_is_shown_without_its_secrets() -> None:
    assert shown_url("wss://user:c4n4ry@h:1/a/b?c4n4ry=1") == "wss://h:1/a/b"
    assert shown_url("mqtt://c4n4ry@h") == "mqtt://h"
    assert shown_url("ws://h/a@b") == "ws://h/a@b"


def censor(accept: Callable[[str, str], bool | Verdict]) -> Broker:
    """Return a broker that calls a function for each action and topic."""

    def authorizer(peer: Peer, access: Access) -> bool | Verdict:
        return accept(access.action, access.topic)

    return Broker(authorizer=authorizer)


def test_lost_messages_make_the_run_fail_at_qos_1_and_not_at_qos_0() -> None:
    received = 0

    def all_but_every_tenth(action: str, topic: str) -> bool:
        nonlocal received
        received += action == "receive"
        return action != "receive" or received % 10 != 0

    with censor(all_but_every_tenth) as broker:
        words = [broker.url, "--rate", "100", "--duration", "1", "--drain", "0.5", "--json"]
        failed, fine = bench(*words, "-q", "1"), bench(*words, "-q", "0")
    for done, code, problems in ((failed, 1, ["10 deliveries were lost"]), (fine, 0, [])):
        found = json.loads(done.stdout)
        assert done.returncode == code
        assert found["problems"] == problems
        assert (found["messages"]["delivered"], found["messages"]["lost"]) == (90, 10)


@pytest.mark.parametrize(
    ("options", "window"),
    [(["-q", "1", "--window", "7"], 7), (["-q", "2"], 20), (["-q", "2", "--window", "30"], 30)],
    ids=["QoS 1", "QoS 2", "QoS 2 with a larger window"],
)
def test_messages_that_are_never_acknowledged(options: list[str], window: int) -> None:
    with censor(lambda action, topic: Verdict(action != "publish", acknowledge=False)) as broker:
        done = bench(broker.url, *options, "--rate", "100", "--duration", "0.5", "--drain", "0.5", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert found["problems"] == [f"{window} messages were not acknowledged", f"{window} deliveries were lost"]
    messages = found["messages"]
    assert (messages["due"], messages["unsent"]) == (50, 50 - window)
    assert (messages["published"], messages["failed"]) == (window, 0)
    assert found["reasons"] == {}


def test_the_window_is_that_of_the_client_at_qos_2_too() -> None:
    with Scripted() as server:
        words = [server.url, "-q", "2", "--subscribers", "0", "--window", "30", "--duration", "60"]
        with subprocess.Popen(command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                end = server.accept().welcome()
                for number in range(1, 31):
                    packet = end.receive()
                    assert (type(packet), packet.packet_id) == (mqttws.Publish, number)
                end.send("50 02 00 01").expect("62 02 00 01")  # PUBREC, PUBREL: nothing was sent before the PUBREL
            finally:
                process.kill()


def test_rejected_and_lowered_subscriptions() -> None:
    with censor(lambda action, topic: action != "subscribe") as broker:
        done = bench(broker.url, "-q", "1", "--rate", "20", "--duration", "0.3", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["connections"]["subscriptions_rejected"]) == (1, 1)
    assert found["messages"]["expected"] == 0
    with censor(lambda action, topic: Verdict(True, max_qos=0)) as broker:
        found = measured(broker.url, "-q", "1", "--rate", "20", "--duration", "0.3")
    assert found["connections"]["subscriptions_lowered"] == 1


def test_lost_connections_are_restored_and_counted() -> None:
    cut: set[str] = set()

    def once_each(peer: Peer, access: Access) -> bool | Verdict:
        if access.action == "publish" and peer.client_id not in cut:
            cut.add(peer.client_id)
            return Verdict(False, close=True)
        return True

    with Broker(authorizer=once_each) as broker:
        done = bench(broker.url, "-q", "1", "--publishers", "2", "--rate", "50", "--duration", "1", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0  # the messages were sent again, and none is lost
    assert (found["connections"]["lost"], found["connections"]["reconnected"]) == (2, 2)
    assert found["messages"]["delivered"] == found["messages"]["published"] == 50
    assert sum(found["reasons"].values()) == 2


def test_a_rate_that_is_not_reached_is_reported() -> None:
    """The broker accepts ten messages a second from a connection; the report counts the messages that were not sent."""
    with Broker(limits=Limits(publish_rate=10)) as broker:
        words = ["-q", "1", "--rate", "1000", "--duration", "0.5", "--window", "5", "--drain", "0.5"]
        done = bench(broker.url, *words)
        found = json.loads(bench(broker.url, *words, "--json").stdout)
    assert "the rate was not reached" in done.stdout
    messages = found["messages"]
    assert messages["due"] == 500
    assert messages["unsent"] == 500 - messages["published"] > 400
    assert found["latency"]["max_ms"] > 100  # the last of them was late


# --- Ctrl-C ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_early_and_reports(embedded: Broker, number: signal.Signals) -> None:
    words = command(embedded.url, "-q", "1", "--rate", "100", "--duration", "1000", "--json", "--progress")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        guard = threading.Timer(PATIENCE, process.kill)
        guard.start()
        try:
            assert process.stderr is not None
            assert any("delivered" in line for line in process.stderr)
            process.send_signal(number)
            out, _ = process.communicate(timeout=PATIENCE)
        finally:
            guard.cancel()
            process.kill()
    found = json.loads(out)
    assert process.returncode == 0
    assert found["interrupted"] is True
    assert 0 < found["measured_seconds"] < 100
    assert found["messages"]["due"] == found["messages"]["delivered"] > 0


def test_ctrl_c_ends_the_wait_for_missing_messages() -> None:
    with censor(lambda action, topic: action != "receive") as broker:
        words = command(broker.url, "--rate", "50", "--duration", "0.3", "--drain", "1000", "--progress", "--json")
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            guard = threading.Timer(PATIENCE, process.kill)
            guard.start()
            try:
                assert process.stderr is not None
                assert any(line == "waiting: 15 deliveries still to come\n" for line in process.stderr)
                process.send_signal(signal.SIGINT)
                out, _ = process.communicate(timeout=PATIENCE)
            finally:
                guard.cancel()
                process.kill()
    assert process.returncode == 1  # at QoS 0, too, as nothing arrived
    found = json.loads(out)
    assert (found["messages"]["lost"], found["problems"]) == (15, ["all of the 15 deliveries were lost"])


def test_ctrl_c_while_connecting() -> None:
    asked, go_on = threading.Event(), threading.Event()

    async def never(peer: Peer, connect: Any) -> bool:
        asked.set()
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        return False

    with (
        Broker(authenticator=never) as broker,
        subprocess.Popen(command(broker.url, "--json"), stdout=subprocess.PIPE, text=True) as process,
    ):
        try:
            assert asked.wait(PATIENCE)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=PATIENCE)
        finally:
            go_on.set()
            process.kill()
    assert process.returncode == 130
    assert json.loads(out)["problems"] == ["nothing was measured"]
