"""`pubsub bench` in real processes, with the embedded broker and Mosquitto."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from benching import PATIENCE, bench, measured
from mosquitto import Mosquitto

from mqttws.broker import Broker, Limits
from mqttws.testing import mint_authority
from pubsub.bench import report
from pubsub.bench.plan import Plan
from pubsub.cli.bench import add_arguments

ROOT = Path(__file__).resolve().parents[2]

FIGURES = ["count", "mean_ms", "min_ms", "p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms"]
#: The keys that programs may rely on; `docs/bench.md` explains each.
KEYS = {
    "": "format url plan open_loop interrupted measured_seconds connections returning messages throughput latency "
    "acknowledgement lag relative_error process reasons seconds problems",
    "plan": "publishers subscribers idle qos size rate window duration warmup drain topic spread retain "
    "connect_rate churn storm processes run",
    "connections": "asked made failed refused untried lost reconnected given_up subscriptions_rejected "
    "subscriptions_lowered churned connecting phases",
    "returning": " ".join(FIGURES) + " all_back_seconds missing busiest_second attempts attempts_busiest_second",
    "messages": "due unsent published acknowledged failed unacknowledged expected delivered lost duplicated "
    "out_of_order foreign",
    "throughput": "published_per_second acknowledged_per_second delivered_per_second connected_per_second",
    "latency": " ".join([*FIGURES, "buckets_ms"]),
    "acknowledgement": " ".join(FIGURES),
    "lag": " ".join(FIGURES),
    "process": "cpu_share cpu_us_per_message cpu_us_per_connection peak_rss_bytes processes busiest_share "
    "waited_share delay",
}
SECOND = "at published_per_second acknowledged_per_second delivered_per_second p50_ms p99_ms max_ms under_way"


def tcp(broker: Broker) -> str:
    return next(url for url in broker.urls if url.startswith("mqtt:"))


# --- counts ---


@pytest.mark.parametrize("qos", ["0", "1", "2"])
@pytest.mark.parametrize("scheme", ["ws", "mqtt"])
def test_every_message_of_the_schedule_is_accounted_for(embedded: Broker, scheme: str, qos: str) -> None:
    url = embedded.url if scheme == "ws" else tcp(embedded)
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


def test_the_rate_includes_the_first_message(embedded: Broker) -> None:
    found = measured(embedded.url, "--rate", "10", "--duration", "0.35")
    assert found["messages"]["published"] == 4
    assert found["throughput"]["published_per_second"] * found["measured_seconds"] == pytest.approx(4)


@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_at_full_speed_nothing_is_lost(qos: str) -> None:
    with Broker(limits=Limits(max_queued=1 << 20, max_queued_bytes=1 << 30, max_write_buffer=1 << 30)) as broker:
        found = measured(broker.url, "-q", qos, "--duration", "0.5", "--publishers", "2", "--share", "--window", "20")
    messages = found["messages"]
    assert messages["published"] == messages["acknowledged"] == messages["delivered"] > 0
    assert (found["open_loop"], messages["due"], messages["unsent"]) == (False, None, None)


def test_the_document_has_the_keys_that_programs_rely_on(embedded: Broker) -> None:
    found = measured(embedded.url, "-q", "1", "--rate", "100", "--duration", "1", "--warmup", "1")
    for name, keys in KEYS.items():
        assert list(found[name] if name else found) == keys.split(), name
    assert found["format"] == 1
    assert all(list(second) == SECOND.split() for second in found["seconds"])
    moments = [second["at"] for second in found["seconds"]]
    assert (
        moments == sorted({0.0, 1.0}.intersection(moments)) != []
    )  # a second that a busy machine cut short is omitted
    assert (found["messages"]["delivered"], found["latency"]["count"]) == (200, 100)  # without the warm-up
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


def test_the_page_shows_what_is_printed(embedded: Broker) -> None:
    """The report on the page has the lines and words that the same command prints now."""
    page = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
    captured = re.search(r"^```\n\$ pubsub bench (.*?)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert captured is not None
    url, *words = captured[1].split()
    done = bench(embedded.url, *words[: words.index("--warmup")], "--duration", "1")
    assert done.returncode == 0

    def shape(text: str) -> set[str]:
        """Return the lines without numbers; the number of bars may differ, and a busy machine adds a note."""
        lines = [re.sub(r"\s*█*$", "", line) for line in text.splitlines() if not line.startswith("note")]
        return {re.sub(r"[\d,.]+", "0", re.sub(r"\s+", " ", line)) for line in lines}

    assert shape(captured[2].replace(url, embedded.url)) == shape(done.stdout)


def test_the_report_for_people(embedded: Broker) -> None:
    done = bench(tcp(embedded), "-q", "1", "--rate", "50", "--duration", "0.5", "--subscribers", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "published        25, " in done.stdout
    assert "delivered        50 of 50, " in done.stdout
    assert "Open loop" in done.stdout
    assert re.search(
        r"^delivered in +p50 [\d.]+ ms, p90 .*, p99 .*, p99\.9 .*, max .*, mean ", done.stdout, re.MULTILINE
    )
    assert "█" in done.stdout
    assert "100.000%" in done.stdout
    closed = bench(tcp(embedded), "--duration", "0.2")
    assert "Closed loop" in closed.stdout


def test_only_publishers_only_subscribers_only_connections(embedded: Broker) -> None:
    found = measured(embedded.url, "-q", "1", "--subscribers", "0", "--rate", "50", "--duration", "0.5")
    assert (found["acknowledgement"]["count"], found["latency"]["count"], found["latency"]["p50_ms"]) == (25, 0, None)
    assert found["messages"]["expected"] == 0
    for words in (["--publishers", "0"], ["--publishers", "0", "--subscribers", "0", "--connections", "3"]):
        found = measured(embedded.url, "--duration", "0.2", *words, "--rate", "5", "--connect-rate", "50")
        assert found["connections"]["made"] == found["connections"]["asked"] > 0
        assert found["messages"]["published"] == 0


def test_hundreds_of_connections(embedded: Broker) -> None:
    found = measured(
        embedded.url, "-q", "1", "--publishers", "50", "--subscribers", "50", "--connections", "100", "--share",
        "--rate", "400", "--duration", "1",
    )  # fmt: skip
    assert found["connections"]["made"] == 200
    assert found["messages"]["delivered"] == found["messages"]["published"] == 400


def test_retained_messages_are_removed(embedded: Broker) -> None:
    found = measured(tcp(embedded), "--retain", "--rate", "20", "--duration", "0.5", "--topic", "kept/{n}")
    assert found["messages"]["delivered"] == 10
    subscriber = [sys.executable, "-m", "pubsub", "sub", tcp(embedded), "kept/#", "-W", "0.3"]
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


def test_mosquitto_refuses_all_connections(mosquitto: tuple[Mosquitto, Path]) -> None:
    done = bench(mosquitto[0].url("closed"), "--duration", "1", "--json")
    assert done.returncode == 4
    found = json.loads(done.stdout)
    assert (found["connections"]["failed"], found["connections"]["refused"]) == (2, 2)


def test_a_plan_is_shown_completely() -> None:
    """Every attribute of a plan is in the document."""
    assert sorted(vars(Plan())) == sorted(KEYS["plan"].split()) == sorted(report._plan(Plan()))
