"""`pubsub bench` as a user meets it: real processes against the embedded broker and Mosquitto."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mosquitto import Mosquitto

from mqttws import mint_authority
from mqttws.broker import Access, Broker, Limits, Peer, Users, Verdict, hash_password
from pubsub.bench import report, system
from pubsub.bench.plan import Plan
from pubsub.cli import main
from pubsub.cli.bench import add_arguments, shown_url

#: Seconds within which a command must have answered; a bound, not a measure.
PATIENCE = 60
ROOT = Path(__file__).resolve().parents[2]

FIGURES = ["count", "mean_ms", "min_ms", "p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms"]
#: What programs may rely on; `docs/bench.md` explains each.
KEYS = {
    "": "format url plan open_loop interrupted measured_seconds connections messages throughput latency "
    "acknowledgement lag relative_error process reasons seconds problems",
    "plan": "publishers subscribers idle qos size rate window duration warmup drain topic spread retain "
    "connect_rate run",
    "connections": "asked made failed refused untried lost reconnected given_up subscriptions_rejected "
    "subscriptions_lowered connecting",
    "messages": "due unsent published acknowledged failed unacknowledged expected delivered lost duplicated "
    "out_of_order foreign",
    "throughput": "published_per_second acknowledged_per_second delivered_per_second",
    "latency": " ".join([*FIGURES, "buckets_ms"]),
    "acknowledgement": " ".join(FIGURES),
    "lag": " ".join(FIGURES),
    "process": "cpu_share cpu_us_per_message peak_rss_bytes",
}
SECOND = "at published_per_second acknowledged_per_second delivered_per_second p50_ms p99_ms max_ms under_way"


def command(*words: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "pubsub", "bench", *words]


def bench(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words),
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def measured(*words: str) -> dict[str, Any]:
    """The document of a run that went well, and said nothing else."""
    done = bench(*words, "--json")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


def tcp(broker: Broker) -> str:
    return next(url for url in broker.urls if url.startswith("mqtt:"))


# --- what is counted ---


@pytest.mark.parametrize("qos", ["0", "1", "2"])
@pytest.mark.parametrize("scheme", ["ws", "mqtt"])
def test_every_message_of_the_schedule_is_accounted_for(broker: Broker, scheme: str, qos: str) -> None:
    url = broker.url if scheme == "ws" else tcp(broker)
    found = measured(url, "-q", qos, "--rate", "300", "--duration", "1", "--publishers", "3", "--subscribers", "2")
    messages = found["messages"]
    assert messages["due"] == messages["published"] == messages["acknowledged"] == 300
    assert messages["expected"] == messages["delivered"] == found["latency"]["count"] == 600
    assert found["acknowledgement"]["count"] == (0 if qos == "0" else 300)
    assert found["lag"]["count"] == 300
    for name in ("unsent", "failed", "unacknowledged", "lost", "duplicated", "out_of_order", "foreign"):
        assert messages[name] == 0, name
    assert found["open_loop"] is True
    assert found["connections"]["made"] == found["connections"]["connecting"]["count"] == 5
    assert (found["problems"], found["reasons"]) == ([], {})


@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_as_fast_as_it_goes_loses_nothing_either(qos: str) -> None:
    with Broker(limits=Limits(max_queued=1 << 20, max_queued_bytes=1 << 30, max_write_buffer=1 << 30)) as broker:
        found = measured(broker.url, "-q", qos, "--duration", "0.5", "--publishers", "2", "--share", "--window", "20")
    messages = found["messages"]
    assert messages["published"] == messages["acknowledged"] == messages["delivered"] > 0
    assert (found["open_loop"], messages["due"], messages["unsent"]) == (False, None, None)


def test_the_document_has_the_keys_that_programs_rely_on(broker: Broker) -> None:
    found = measured(broker.url, "-q", "1", "--rate", "100", "--duration", "1", "--warmup", "1")
    for name, keys in KEYS.items():
        assert list(found[name] if name else found) == keys.split(), name
    assert found["format"] == 1
    assert all(list(second) == SECOND.split() for second in found["seconds"])
    moments = [second["at"] for second in found["seconds"]]
    assert moments == sorted({0.0, 1.0}.intersection(moments)) != []  # one that a busy machine cut short is left out
    assert (found["messages"]["delivered"], found["latency"]["count"]) == (200, 100)  # the warm-up does not count
    assert sum(count for _, _, count in found["latency"]["buckets_ms"]) == 100
    figures = [found["latency"][name] for name in ("min_ms", "p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms")]
    assert figures == sorted(figures)
    assert figures[0] > 0


def test_the_page_explains_every_key() -> None:
    page = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
    for keys in [*KEYS.values(), SECOND]:
        for key in keys.split():
            assert f"`{key}`" in page, key


def test_the_page_names_every_option_of_the_load() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    page = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
    for group in parser._action_groups:
        if group.title in ("load", "output"):
            for action in group._group_actions:
                assert f"`{action.option_strings[0]}" in page, action.option_strings


def test_the_page_shows_what_is_printed(broker: Broker) -> None:
    """The captured report of the page has the lines, and the words, that the same command prints today."""
    page = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
    captured = re.search(r"^```\n\$ pubsub bench (.*?)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert captured is not None
    url, *words = captured[1].split()
    done = bench(broker.url, *words[: words.index("--warmup")], "--duration", "1")
    assert done.returncode == 0

    def shape(text: str) -> set[str]:
        """The lines, without their numbers: there may be more bars, or fewer, and a note on a machine that is busy."""
        lines = [re.sub(r"\s*█*$", "", line) for line in text.splitlines() if not line.startswith("note")]
        return {re.sub(r"[\d,.]+", "0", re.sub(r"\s+", " ", line)) for line in lines}

    assert shape(captured[2].replace(url, broker.url)) == shape(done.stdout)


def test_the_report_for_people(broker: Broker) -> None:
    done = bench(tcp(broker), "-q", "1", "--rate", "50", "--duration", "0.5", "--subscribers", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "published        25, " in done.stdout
    assert "delivered        50 of 50, " in done.stdout
    assert "Open loop" in done.stdout
    assert re.search(
        r"^delivered in +p50 [\d.]+ ms, p90 .*, p99 .*, p99\.9 .*, max .*, mean ", done.stdout, re.MULTILINE
    )
    assert "█" in done.stdout
    assert "100.000%" in done.stdout
    closed = bench(tcp(broker), "--duration", "0.2")
    assert "Closed loop" in closed.stdout


def test_only_publishers_only_subscribers_only_connections(broker: Broker) -> None:
    found = measured(broker.url, "-q", "1", "--subscribers", "0", "--rate", "50", "--duration", "0.5")
    assert (found["acknowledgement"]["count"], found["latency"]["count"], found["latency"]["p50_ms"]) == (25, 0, None)
    assert found["messages"]["expected"] == 0
    for words in (["--publishers", "0"], ["--publishers", "0", "--subscribers", "0", "--connections", "3"]):
        found = measured(broker.url, "--duration", "0.2", *words, "--rate", "5", "--connect-rate", "50")
        assert found["connections"]["made"] == found["connections"]["asked"] > 0
        assert found["messages"]["published"] == 0


def test_hundreds_of_connections(broker: Broker) -> None:
    found = measured(
        broker.url, "-q", "1", "--publishers", "50", "--subscribers", "50", "--connections", "100", "--share",
        "--rate", "400", "--duration", "1",
    )  # fmt: skip
    assert found["connections"]["made"] == 200
    assert found["messages"]["delivered"] == found["messages"]["published"] == 400


def test_retained_messages_are_removed(broker: Broker) -> None:
    found = measured(tcp(broker), "--retain", "--rate", "20", "--duration", "0.5", "--topic", "kept/{n}")
    assert found["messages"]["delivered"] == 10
    subscriber = [sys.executable, "-m", "pubsub", "sub", tcp(broker), "kept/#", "-W", "0.3"]
    seen = subprocess.run(subscriber, capture_output=True, timeout=PATIENCE, check=False)
    assert (seen.returncode, seen.stdout) == (27, b"")


# --- Mosquitto, and TLS ---


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mosquitto, Path]]:
    authority, folder = mint_authority(), tmp_path_factory.mktemp("mosquitto")
    server = Mosquitto(folder, authority.issue("127.0.0.1"), authority.certificate)
    try:
        server.start()
        yield server, folder / "ca.crt"
    finally:
        server.stop()


@pytest.mark.parametrize("scheme", ["mqtt", "ws", "mqtts", "wss"])
def test_mosquitto(mosquitto: tuple[Mosquitto, Path], scheme: str) -> None:
    server, authority = mosquitto
    found = measured(
        server.url(scheme), "-q", "2", "--publishers", "2", "--subscribers", "4", "--rate", "100", "--duration", "1",
        *(["--cafile", str(authority)] if scheme in ("mqtts", "wss") else []),
    )  # fmt: skip
    assert found["messages"]["published"] == 100
    assert found["messages"]["delivered"] == 400


def test_mosquitto_lets_nobody_in(mosquitto: tuple[Mosquitto, Path]) -> None:
    done = bench(mosquitto[0].url("closed"), "--duration", "1", "--json")
    assert done.returncode == 4
    found = json.loads(done.stdout)
    assert (found["connections"]["failed"], found["connections"]["refused"]) == (2, 2)


# --- what goes wrong ---


def test_nobody_listens() -> None:
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
    assert found["messages"]["published"] == 25  # by the two that are left
    assert found["messages"]["delivered"] == 50


def test_a_server_that_takes_no_more_is_not_asked_for_ever() -> None:
    with Broker(limits=Limits(max_connections=5)) as broker:
        done = bench(broker.url, "--connections", "1000", "--duration", "0.2", "--rate", "10", "--json")
    found = json.loads(done.stdout)["connections"]
    assert done.returncode == 1
    assert found["made"] == 5
    assert 100 <= found["failed"] < 400  # a late success begins the count anew, and what is under way ends
    assert found["untried"] == 1_002 - 5 - found["failed"]


def test_a_password_comes_from_the_environment_and_shows_nowhere() -> None:
    with Broker(authenticator=Users({"ada": hash_password("c4n4ry")})) as broker:
        words = ["-u", "ada", "--duration", "0.2", "--rate", "10", "--progress"]
        good = bench(broker.url, *words, PUBSUB_PASSWORD="c4n4ry")
        assert good.returncode == 0
        bad = bench(broker.url + "?token=c4n4ry", *words, "--json", PUBSUB_PASSWORD="wrong-c4n4ry")
        assert bad.returncode == 4
    assert "bad user name or password" in bad.stdout
    for done in (good, bad):
        assert "c4n4ry" not in done.stdout + done.stderr


def test_a_url_is_shown_without_its_secrets() -> None:
    assert shown_url("wss://user:c4n4ry@h:1/a/b?c4n4ry=1") == "wss://h:1/a/b"
    assert shown_url("mqtt://c4n4ry@h") == "mqtt://h"
    assert shown_url("ws://h/a@b") == "ws://h/a@b"


def censor(accept: Callable[[str, str], bool | Verdict]) -> Broker:
    """A broker that asks about each action and topic."""

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


def test_messages_that_are_never_acknowledged() -> None:
    with censor(lambda action, topic: Verdict(action != "publish", acknowledge=False)) as broker:
        words = ["-q", "1", "--rate", "100", "--duration", "0.5", "--window", "7", "--drain", "0.5", "--json"]
        done = bench(broker.url, *words)
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert found["problems"] == ["7 messages were not acknowledged", "7 deliveries were lost"]
    messages = found["messages"]
    assert (messages["due"], messages["unsent"], messages["published"], messages["failed"]) == (50, 43, 7, 0)
    assert found["reasons"] == {}


def test_rejected_and_lowered_subscriptions() -> None:
    with censor(lambda action, topic: action != "subscribe") as broker:
        done = bench(broker.url, "-q", "1", "--rate", "20", "--duration", "0.3", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["connections"]["subscriptions_rejected"]) == (1, 1)
    assert found["messages"]["expected"] == 0
    with censor(lambda action, topic: Verdict(True, max_qos=0)) as broker:
        found = measured(broker.url, "-q", "1", "--rate", "20", "--duration", "0.3")
    assert found["connections"]["subscriptions_lowered"] == 1


def test_connections_that_are_cut_are_made_again_and_counted() -> None:
    cut: set[str] = set()

    def once_each(peer: Peer, access: Access) -> bool | Verdict:
        if access.action == "publish" and peer.client_id not in cut:
            cut.add(peer.client_id)
            return Verdict(False, close=True)
        return True

    with Broker(authorizer=once_each) as broker:
        done = bench(broker.url, "-q", "1", "--publishers", "2", "--rate", "50", "--duration", "1", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0  # the messages went again, and none is lost
    assert (found["connections"]["lost"], found["connections"]["reconnected"]) == (2, 2)
    assert found["messages"]["delivered"] == found["messages"]["published"] == 50
    assert sum(found["reasons"].values()) == 2


def test_a_rate_that_is_not_reached_is_told() -> None:
    """The broker takes ten messages a second of one connection; what was due beyond is not passed over in silence."""
    with Broker(limits=Limits(publish_rate=10)) as broker:
        words = ["-q", "1", "--rate", "1000", "--duration", "0.5", "--window", "5", "--drain", "0.5"]
        done = bench(broker.url, *words)
        found = json.loads(bench(broker.url, *words, "--json").stdout)
    assert "the rate was not reached" in done.stdout
    messages = found["messages"]
    assert messages["due"] == 500
    assert messages["unsent"] == 500 - messages["published"] > 400
    assert found["latency"]["max_ms"] > 100  # the last of them had long been due


# --- Ctrl-C ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_early_and_reports(broker: Broker, number: signal.Signals) -> None:
    words = command(broker.url, "-q", "1", "--rate", "100", "--duration", "1000", "--json", "--progress")
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


def test_ctrl_c_ends_the_waiting_for_what_does_not_come() -> None:
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
    assert process.returncode == 0  # at QoS 0
    assert json.loads(out)["messages"]["lost"] == 15


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


# --- progress, terminals ---


def test_progress_is_one_line_a_second_where_it_is_asked_for(broker: Broker) -> None:
    done = bench(broker.url, "--rate", "20", "--duration", "1", "--progress")
    assert re.search(r"^ +1 s  published .* delivered .* p50 .* p99 ", done.stderr, re.MULTILINE)
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_gets_progress_unless_quiet(broker: Broker, quiet: bool) -> None:
    import pty

    ours, theirs = pty.openpty()
    try:
        process = subprocess.run(
            command(broker.url, "--rate", "20", "--duration", "1", *["--quiet"] * quiet),
            stdout=subprocess.PIPE,
            stderr=theirs,
            timeout=PATIENCE,
            check=True,
        )
        os.write(theirs, b"end")
        shown = b""
        while not shown.endswith(b"end"):
            shown += os.read(ours, 10_000)
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.stdout
    assert (b"published" in shown) is not quiet
    if quiet:
        assert shown == b"end"
    else:
        assert shown.endswith(b"\r\x1b[Kend")  # nothing of it is left


# --- the plot ---


def chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG file, their check sums checked."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    position = 8
    while position < len(png):
        size = int.from_bytes(png[position : position + 4], "big")
        kind, data = png[position + 4 : position + 8], png[position + 8 : position + 8 + size]
        check = int.from_bytes(png[position + 8 + size : position + 12 + size], "big")
        assert zlib.crc32(kind + data) == check
        yield kind, data
        position += 12 + size


@pytest.mark.parametrize("words", [["-q", "1", "--rate", "100"], ["--publishers", "0"]])
def test_the_plot_is_a_real_png(broker: Broker, tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "out.png"
    done = bench(broker.url, *words, "--duration", "1", "--plot", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    found = list(chunks(file.read_bytes()))
    assert [found[0][0], found[-1][0]] == [b"IHDR", b"IEND"]
    width, height = (int.from_bytes(found[0][1][at : at + 4], "big") for at in (0, 4))
    assert width > 500 < height
    assert len(zlib.decompress(b"".join(data for kind, data in found if kind == b"IDAT"))) > width * height


def test_without_matplotlib_the_plot_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what Python has for a module that cannot be had
    monkeypatch.setattr("pubsub.bench.plot.find_spec", lambda name: None)
    assert main(["bench", "mqtt://127.0.0.1:1", "--plot", str(tmp_path / "o.png")]) == 2
    assert "pip install 'mqttws-pubsub[bench]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_plot_that_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "o.png"):
        done = bench("mqtt://127.0.0.1:1", "--plot", str(path))
        assert (done.returncode, done.stdout) == (2, "")


# --- options ---


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--size", "10"], "it must be 24"),
        (["--size", "-1"], "no whole number"),
        (["--rate", "0"], "no number above 0"),
        (["--duration", "nan"], "no number above 0"),
        (["--topic", "a/#"], "Topic Name"),
        (["--topic", "a{n}"], "whole level"),
        (["--topic", "a", "--share"], "share"),
        (["--publishers", "0", "--subscribers", "0"], "nothing to do"),
        (["--keepalive", "-1"], "keep"),
        (["--cafile", "/missing"], "cannot be used"),
        (["--progress", "--quiet"], "not allowed with"),
        (["--qos", "3"], "no QoS"),
    ],
)
def test_options_that_cannot_be(capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    try:
        code: int | str | None = main(["bench", "mqtt://127.0.0.1:1", *words])
    except SystemExit as end:
        code = end.code
    assert code == 2
    told = capsys.readouterr()
    assert says in told.err
    assert told.out == ""


def test_a_url_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "http://127.0.0.1/?c4n4ry"]) == 2
    assert "c4n4ry" not in capsys.readouterr().err


# --- the system ---


def test_the_limit_of_open_files_is_raised_as_far_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    limits, asked = [(256, 1_024)], []
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, pair: asked.append(pair))
    system.ask_for_descriptors(100)
    assert asked == []
    system.ask_for_descriptors(900)
    assert asked == [(900 + system.SPARE, 1_024)]
    with pytest.raises(OSError, match=r"at most 1,024.* ask for at most 960"):
        system.ask_for_descriptors(1_000)
    limits.append((256, resource.RLIM_INFINITY))
    system.ask_for_descriptors(50_000)
    assert asked[-1] == (50_000 + system.SPARE, resource.RLIM_INFINITY)


def test_too_few_open_files_are_told_before_anything_runs() -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))

    done = subprocess.run(
        command("mqtt://127.0.0.1:1", "--connections", "500"),
        preexec_fn=few,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert "open files" in done.stderr
    assert done.stdout == ""


def test_a_low_soft_limit_does_not_matter(broker: Broker) -> None:
    def low() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (80, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    done = subprocess.run(
        command(broker.url, "--publishers", "0", "--connections", "100", "--duration", "0.2", "--json"),
        preexec_fn=low,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["connections"]["made"] == 101


@pytest.mark.parametrize("seconds", [0.0002, 0.0015])
def test_the_event_loop_waits_no_shorter_than_it_is_told(seconds: float) -> None:
    async def wait() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(seconds)
        return loop.time() - began

    with asyncio.Runner(loop_factory=system.make_loop) as runner:
        assert runner.run(wait()) >= seconds * 0.99


def test_the_event_loop_wakes_for_what_is_to_be_read() -> None:
    async def wait() -> bytes:
        loop = asyncio.get_running_loop()
        ours, theirs = os.pipe()
        found: asyncio.Future[bytes] = loop.create_future()
        loop.add_reader(ours, lambda: found.set_result(os.read(ours, 9)))
        threading.Timer(0.05, os.write, (theirs, b"x")).start()
        try:
            async with asyncio.timeout(PATIENCE):
                return await found
        finally:
            loop.remove_reader(ours)
            os.close(ours)
            os.close(theirs)

    with asyncio.Runner(loop_factory=system.make_loop) as runner:
        assert runner.run(wait()) == b"x"


# --- what is loaded ---


def test_nothing_else_loads_it() -> None:
    program = (
        "import sys, pubsub, pubsub.cli; from pubsub.cli import main\n"
        "try: main(['sub', '--help'])\nexcept SystemExit: pass\n"
        "assert not [name for name in sys.modules if name.startswith(('pubsub.bench', 'pubsub.cli.bench'))]\n"
        "try: main(['bench', '--help'])\nexcept SystemExit: pass\n"
        "assert 'pubsub.bench.run' in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, timeout=PATIENCE, check=True)


def test_a_plan_is_shown_whole() -> None:
    """No attribute of a plan is missing in the document."""
    assert sorted(vars(Plan())) == sorted(KEYS["plan"].split()) == sorted(report._plan(Plan()))
