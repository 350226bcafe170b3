"""`pubsub look` and `pubsub dissect` in separate processes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from wire import PATIENCE

import mqttws
from mqttws.broker import Broker
from mqttws.tap import load
from mqttws.testing import Authority

PUBSUB = [sys.executable, "-m", "pubsub"]


def pubsub(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PUBSUB, *words], input=stdin, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def looking(*words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `pubsub look`, and yield its URL and the process."""
    process = subprocess.Popen([*PUBSUB, "look", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        match = re.search(r"point a client at (\S+?)[;\s]", line)
        assert match, line + process.stderr.read()
        yield match[1], process
    finally:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    return out


def test_a_session_is_shown_summed_up_and_saved(broker: Broker, tmp_path: Path) -> None:
    files = [str(tmp_path / f"s{ending}") for ending in (".jsonl", ".pcapng", ".qlog")]
    with looking(broker.url, *(word for name in files for word in ("--save", name))) as (url, process):
        with mqttws.connect(url, client_id="me", username="u", password="bait") as client:
            client.publish("a/b", b"hello", 2)
        out = end(process)
    assert re.search(r"C ---> S  PUBLISH      'a/b' QoS 2 id 1, 5 bytes of text: 'hello'", out)
    assert re.search(r"PUBCOMP      id 1  \(\d+ > \d+ > \d+ > \d+ in", out)
    assert "1 connections, 7 packets" in out
    assert "bait" not in out
    assert "\x1b" not in out
    loaded = load(Path(files[0]).read_text().splitlines())
    assert loaded.faults == []
    assert pubsub("look", files[0], files[1]).stdout == "no difference: the same packets in the same order\n"
    again = pubsub("look", files[1])
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.count("C ---> S  PUBLISH") == 1


def test_over_tls_with_a_certificate_for_the_run(broker: Broker, authority: Authority, tmp_path: Path) -> None:
    trusted, given = tmp_path / "broker.pem", tmp_path / "near.pem"
    trusted.write_bytes(authority.certificate)
    words = ("--ca-file", str(trusted), "--tls-dev", "--ca-out", str(given))
    with looking(broker.url_of("wss"), *words) as (url, process):
        assert url.startswith("wss://")
        with mqttws.connect(url, tls=mqttws.tls_context(ca_file=given)) as client:
            client.publish("a", b"1", 1)
        assert "PUBACK" in end(process)


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (("mqtt://h", "s.jsonl"), 2, "a URL must be the only argument"),
        (("a", "b", "c"), 2, "at most two files"),
        (("nowhere.jsonl",), 1, "nowhere.jsonl cannot be read"),
        (("nowhere.jsonl", "--port", "7"), 2, "--port is for a broker's URL"),
        (("http://h",), 2, "the scheme is 'http'"),
        (("a.jsonl", "b.jsonl", "--save", "c.jsonl"), 2, "have no effect on two files"),
        (("mqtt://h", "--save", "s.jsonl", "--save", "./s.jsonl"), 2, "./s.jsonl is read or written already"),
        (("mqtt://h", "--faults", "r.toml", "--record-faults", "r.toml"), 2, "r.toml is read or written already"),
        (("mqtt://h", "--insecure"), 2, "are for a broker with TLS"),
        (("mqtt://h", "--save", "s.txt"), 2, "the supported extensions are"),
        (("mqtt://h", "--host", "192.0.2.1"), 1, "cannot listen"),
    ],
)
def test_invalid_arguments_are_refused(words: tuple[str, ...], code: int, complaint: str) -> None:
    done = pubsub("look", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_no_file_is_lost(tmp_path: Path) -> None:
    """What is read is not written to, and nothing is overwritten for an input that cannot be read."""
    session, page = tmp_path / "s.jsonl", tmp_path / "s.html"
    kept = '{"layer":"mqtt","sender":"client","connection":1,"time":0,"data":"c000"}\n'
    session.write_text(kept)
    page.write_text("an earlier page")
    for words in (
        (str(session), "--save", str(session)),
        (str(session), "--save", str(tmp_path / "." / "s.jsonl")),
        (str(tmp_path / "nowhere.jsonl"), "--save", str(page)),
        (str(tmp_path), "--save", str(page)),
    ):
        done = pubsub("look", *words)
        assert done.returncode in (1, 2)
        assert done.stderr.count("\n") == 1
    assert session.read_text() == kept
    assert page.read_text() == "an earlier page"


def test_the_query_of_a_url_is_not_shown(broker: Broker) -> None:
    with looking(broker.url + "?X-Amz-Signature=bait") as (url, process):
        assert "bait" not in url
        end(process)


# dissect.


def test_many_packets_from_words_and_from_standard_input() -> None:
    for done in (pubsub("dissect", "c000", "0x30 03 00 01 61"), pubsub("dissect", stdin="C0,00\n\\x30:03:00:01:61\n")):
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[:2] == [
            "PINGREQ",
            "     0  c0                       packet type and flags         PingReq",
        ]
        assert "     4  61                       Topic Name                    'a'" in done.stdout


def test_frames_are_known_and_can_be_demanded() -> None:
    masked = "82 82 01020304 c1 02"
    done = pubsub("dissect", masked)
    assert done.returncode == 0
    assert "masking key" in done.stdout
    assert "PINGREQ" in done.stdout
    subscribe = "82 06 0001 0001 61 00"
    assert "Topic Filter" in pubsub("dissect", subscribe).stdout
    assert "opcode" in pubsub("dissect", "--frames", subscribe).stdout


def test_each_byte_is_explained() -> None:
    done = pubsub("dissect", "-v", "4002 0001")
    assert "The number, never 0" in done.stdout
    assert "[§2.3.1, MQTT-2.3.1-1]" in done.stdout
    assert "read by mqttws.codec.publishing:PubAck.decode" in done.stdout
    assert "tests/codec/test_packets.py::test_literals_both_ways" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (("zz",), 2, "'z' is not a hexadecimal digit"),
        (("123",), 2, "the number of digits, 3, is odd"),
        (("4002 0000",), 1, "MQTT-2.3.1-1"),
        (("3005 00",), 1, "it ends too early"),
        (("f000",), 1, "§2.2.1"),
    ],
)
def test_invalid_packets_are_refused(words: tuple[str, ...], code: int, complaint: str) -> None:
    done = pubsub("dissect", *words)
    assert done.returncode == code
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_the_rest_of_a_session_is_shown_after_a_malformed_packet() -> None:
    done = pubsub("dissect", "4002 0000 c000")
    assert done.returncode == 1
    assert "PINGREQ" in done.stdout


# Faults.


def test_faults_of_a_file_and_their_replay(broker: Broker, tmp_path: Path) -> None:
    rules, again = tmp_path / "rules.toml", tmp_path / "again.toml"
    rules.write_text("[[rule]]\non = 'PUBLISH'\nsender = 'client'\nchance = 0.5\ndo = 'drop'\n")
    shown = []
    for words in (("--faults", str(rules), "--seed", "3", "--record-faults", str(again)), ("--faults", str(again))):
        with looking(broker.url_of("mqtt"), *words) as (url, process):
            with mqttws.connect(url) as client:
                for number in range(20):
                    client.publish("a", str(number))
            out = end(process)
        lines = out.splitlines()
        shown.append([lines[at - 1].partition("PUBLISH")[2] for at, line in enumerate(lines) if "* drop" in line])
    assert shown[0] == shown[1]
    assert 2 < len(shown[0]) < 18


@pytest.mark.parametrize(
    ("content", "words", "code", "complaint"),
    [
        ("[[rule]]\ndo = 'explode'", (), 2, "rule 1: there is no fault 'explode'"),
        (None, (), 1, "cannot be read"),
        (None, ("--seed", "1"), 2, "--seed and --record-faults need --faults"),
    ],
)
def test_an_invalid_file_of_rules_is_refused(
    broker: Broker, tmp_path: Path, content: str | None, words: tuple[str, ...], code: int, complaint: str
) -> None:
    rules = tmp_path / "rules.toml"
    if content is not None:
        rules.write_text(content)
    done = pubsub("look", broker.url, *(words or ("--faults", str(rules))))
    assert done.returncode == code
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
