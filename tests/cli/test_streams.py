"""Standard streams that are closed, full, or lose their reader: at most one line, and an exit code."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pytest

import mqttws
from mqttws.broker import Broker, Users
from pubsub.cli.streams import Output, ReaderLeft, input_file, lines_of_input, show
from pubsub.look.reading import Source

PUBSUB = [sys.executable, "-m", "pubsub"]
PATIENCE = 30
#: A CONNECT and many PINGREQ, in hexadecimal.
SESSION = "100c00044d5154540402003c0000" + "c000" * 3_000


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as broker, mqttws.connect(broker.url) as client:
        client.publish("kept", b"x" * 100, qos=1, retain=True)
        yield broker


def run(command: str, *words: str, **options: object) -> tuple[int, list[str]]:
    """Run a command in a shell with redirected streams. Return the exit code and the lines of standard error."""
    done = subprocess.run(
        ["sh", "-c", command, "sh", *PUBSUB, *words], stderr=subprocess.PIPE, timeout=PATIENCE, **options
    )
    return done.returncode, done.stderr.decode().splitlines()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("form", [[], ["--json"], ["-F", "%p"], ["-v"]])
def test_a_full_disk(broker: Broker, form: list[str]) -> None:
    code, lines = run('exec "$@" >/dev/full', "sub", broker.url, "kept", "-C", "1", "-W", "9", *form)
    assert (code, len(lines)) == (1, 1), lines
    assert "No space left" in lines[0]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], ["pub", "--help"], ["completion", "bash"], ["dissect", "c000"]]
)
def test_a_full_disk_for_commands_that_print_once(words: list[str]) -> None:
    code, lines = run('exec "$@" >/dev/full', *words)
    assert (code, len(lines)) == (1, 1), lines
    assert "No space left" in lines[0]


@pytest.mark.parametrize(
    "words", [["bench", "ws://127.0.0.1:1"], ["look", "-"], ["dissect", "c000"], ["completion", "bash"], ["demo"]]
)
def test_commands_that_only_print_fail_without_an_output(words: list[str]) -> None:
    code, lines = run('exec "$@" >&- </dev/null', *words)
    assert (code, lines) == (1, [f"pubsub {words[0]}: there is no standard output to write to"])


def test_whoami_fails_without_an_output(closed_port: int) -> None:
    """It is checked before anything is asked for."""
    pool = "eu-west-1:12345678-1234-1234-1234-123456789012"
    words = ["aws", "whoami", "--identity-pool-id", pool, "--cognito-endpoint-url", f"http://127.0.0.1:{closed_port}/"]
    code, lines = run('exec "$@" >&-', *words)
    assert (code, lines) == (1, ["pubsub aws: there is no standard output to write to"])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_serve_fails_if_it_cannot_print_its_urls() -> None:
    code, lines = run('exec "$@" >/dev/full', "serve", "--ws-port", "0")
    assert (code, lines) == (1, ["pubsub serve: cannot write to standard output: No space left on device"])


def test_ask_password_without_a_terminal(broker: Broker) -> None:
    command = 'exec setsid "$@" </dev/null'
    code, lines = run(command, "pub", broker.url, "a", "x", "-u", "me", "--ask-password")
    assert (code, lines) == (2, ["pubsub pub: there is no terminal to prompt for the password of me"])


@pytest.mark.parametrize("reader", ["head -n 1 >/dev/null", "true"])
def test_look_ends_when_its_reader_closes(broker: Broker, reader: str, tmp_path: Path) -> None:
    stream = tmp_path / "stream.hex"
    stream.write_text("101000064d51545404040000" + "c000" * 20_000)
    done = subprocess.run(
        ["bash", "-c", f'"$@" | {reader}; exit ${{PIPESTATUS[0]}}', "bash", *PUBSUB, "look", str(stream)],
        stderr=subprocess.PIPE, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_live_look_ends_after_its_reader_has_closed(broker: Broker) -> None:
    """It ends at the next record, without tracebacks."""
    with subprocess.Popen(
        [*PUBSUB, "look", broker.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        url = next(word.rstrip(";") for line in process.stderr for word in line.split() if word.startswith("ws://"))
        process.stdout.close()
        with mqttws.connect(url, retry_first=True) as client:
            deadline = time.monotonic() + PATIENCE
            while process.poll() is None and time.monotonic() < deadline:
                client.publish_nowait("a", bytes(5_000))
                time.sleep(0.05)
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""


@contextmanager
def looking_without_a_reader(broker: Broker, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `look -vv`, and pass so much traffic through it that its output, which is not read, has no space left."""
    with subprocess.Popen(
        [*PUBSUB, "look", broker.url, "-vv", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stderr is not None
            url = next(word for word in process.stderr.readline().decode().split() if "://" in word).rstrip(";")
            with mqttws.connect(url, reconnect=False, timeout=PATIENCE) as client:
                for number in range(1_000):
                    client.publish_nowait(f"t/{number}", bytes(2_000), qos=1)
                client.flush(PATIENCE)
            yield process
        finally:
            process.kill()


def wait_for_end_of(page: Path) -> None:
    """Wait until a saved page is complete: the first signal closes the files before it waits for the reader."""
    deadline = time.monotonic() + PATIENCE
    while b"</html>" not in page.read_bytes()[-200:]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Piecemeal(io.RawIOBase):
    """An output that writes at most 1,000 bytes at once, as one does that a signal has interrupted."""

    def __init__(self) -> None:
        self.written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        self.written += data[:1_000]
        return min(1_000, len(data))


def test_an_output_without_a_buffer_may_write_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of Python with PYTHONUNBUFFERED."""
    stream = Piecemeal()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding="utf-8", write_through=True))
    Output().write(b"x" * 2_500)
    show("é" * 1_500)
    assert stream.written == b"x" * 2_500 + "é".encode() * 1_500 + b"\n"


@contextmanager
def half_read_command(*words: str, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], BinaryIO]]:
    """Run a command whose standard output is non-blocking and not read, until the pipe is full."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with (
        open(reader, "rb") as output,
        subprocess.Popen(
            [*PUBSUB, *words], stdout=writer, stderr=subprocess.PIPE, env={**os.environ, **environment}
        ) as process,
    ):
        watch = select.poll()
        watch.register(writer, select.POLLOUT)
        deadline = time.monotonic() + PATIENCE
        while watch.poll(0):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.close(writer)
        try:
            yield process, output
        finally:
            process.kill()


@pytest.mark.skipif(not hasattr(select, "poll"), reason="no poll here")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("command", ["sub", "look", "dissect"])
def test_a_command_waits_for_the_reader_of_a_non_blocking_output(
    broker: Broker, command: str, unbuffered: str, tmp_path: Path
) -> None:
    (tmp_path / "stream.hex").write_text(SESSION)
    with mqttws.connect(broker.url) as client:
        client.publish("large", b"x" * 300_000, qos=1, retain=True)
    words = {
        "sub": ["sub", broker.url, "large", "-C", "1"],
        "look": ["look", str(tmp_path / "stream.hex")],
        "dissect": ["dissect", "-v", SESSION],
    }[command]
    with half_read_command(*words, PYTHONUNBUFFERED=unbuffered) as (process, output):
        printed = output.read()
        assert (process.wait(PATIENCE), process.stderr.read()) == (0, b"")
    if command == "sub":
        assert printed == b"x" * 300_000 + b"\n"
    else:
        assert printed == subprocess.run([*PUBSUB, *words], stdout=subprocess.PIPE, timeout=PATIENCE).stdout


@pytest.mark.skipif(not hasattr(select, "poll"), reason="no poll here")
def test_ctrl_c_ends_the_wait_for_the_reader_of_a_non_blocking_output(tmp_path: Path) -> None:
    (tmp_path / "stream.hex").write_text(SESSION)
    with half_read_command("look", str(tmp_path / "stream.hex")) as (process, _):
        process.send_signal(signal.SIGINT)
        assert (process.wait(PATIENCE), process.stderr.read()) == (130, b"")


def test_a_pager_stops_no_client(broker: Broker, tmp_path: Path) -> None:
    page, saved = tmp_path / "session.html", tmp_path / "session.jsonl"
    with looking_without_a_reader(broker, "--save", str(saved), "--save", str(page)) as process:
        process.send_signal(signal.SIGINT)
        wait_for_end_of(page)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, b"")
    lines = out.decode().splitlines()
    left_out = [int(line.split()[1].replace(",", "")) for line in lines if "entries are not shown" in line]
    shown = sum("C ---> S  PUBLISH" in line for line in lines)
    assert 0 < shown < 1_000
    assert sum(left_out) >= 1_000 - shown
    assert any(line.split()[:2] == ["PUBLISH", "1,000"] for line in lines[-20:])  # the summary is whole
    assert saved.read_text().count('"name":"PUBLISH"') == 1_000


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_second_signal_ends_the_wait_for_a_pager(broker: Broker, number: int, code: int, tmp_path: Path) -> None:
    page = tmp_path / "session.html"
    with looking_without_a_reader(broker, "--save", str(page)) as process:
        process.send_signal(number)
        wait_for_end_of(page)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(PATIENCE) == code
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_sigterm_ends_lines_as_ctrl_c_does(broker: Broker) -> None:
    with subprocess.Popen(
        [*PUBSUB, "pub", broker.url, "a", "-l", "-q", "1"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        with mqttws.connect(broker.url) as client:
            client.subscribe("a", 1)
            process.stdin.write(b"a line\n")
            process.stdin.flush()
            assert next(client.messages(timeout=PATIENCE)).payload == b"a line"
        # A signal between Python's last check and a blocking read is handled only at the next signal.
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                continue
        assert process.returncode == 130
        assert process.stderr.read() == b""


@pytest.mark.parametrize("words", [["sub"], ["rr", "kept", "x", "-e", "kept"]], ids=lambda words: words[0])
def test_no_standard_output(broker: Broker, words: list[str]) -> None:
    code, lines = run('exec "$@" >&-', words[0], broker.url, *(words[1:] or ["kept"]), "-W", "9")
    assert (code, lines) == (1, [f"pubsub {words[0]}: there is no standard output to write to"])


@pytest.mark.parametrize("source", ["-l", "-s"])
def test_no_standard_input(broker: Broker, source: str) -> None:
    code, lines = run('exec "$@" <&-', "pub", broker.url, "a", source)
    assert (code, lines) == (2, ["pubsub pub: there is no standard input to read from"])


def test_no_standard_error(broker: Broker) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *PUBSUB, "pub", "mqtt://127.0.0.1:1", "a", "x"],
        stdout=subprocess.PIPE,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (3, b"")


def test_publishing_needs_no_standard_output(broker: Broker) -> None:
    assert run('exec "$@" >&- <&-', "pub", broker.url, "a", "x", "-q", "1") == (0, [])


def test_sub_ends_when_its_reader_closes(broker: Broker) -> None:
    code, lines = run(
        '("$@"; echo "exit code $?" >&2) | head -1 >/dev/null', "sub", broker.url, "kept", "kept", "-W", "9"
    )
    assert (code, lines) == (0, ["exit code 0"])


def test_a_closed_reader_is_detected_without_a_message(broker: Broker) -> None:
    reader, writer = os.pipe()
    with subprocess.Popen([*PUBSUB, "sub", broker.url, "kept"], stdout=writer, stderr=subprocess.PIPE) as command:
        os.close(writer)
        assert os.read(reader, 200)  # it is subscribed; nothing else will arrive
        os.close(reader)
        assert command.wait(PATIENCE) == 0
        assert command.stderr is not None
        assert command.stderr.read() == b""


@pytest.mark.skipif(not hasattr(select, "poll"), reason="no poll here")
def test_the_reader_of_a_pipe_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with open(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        out = Output()
        out.check_reader()
        os.close(reader)
        with pytest.raises(ReaderLeft):
            out.check_reader()


@pytest.mark.parametrize("words", [["dissect", "-"], ["look", "-"]], ids=lambda words: words[0])
def test_commands_that_read_fail_without_an_input(words: list[str]) -> None:
    code, lines = run('exec "$@" <&- >/dev/null', *words)
    assert (code, len(lines)) == (2, 1), lines
    assert "there is no standard input to read from" in lines[0]


@pytest.mark.parametrize("words", [["dissect", "300000"], ["look", "-"]], ids=lambda words: words[0])
def test_nothing_for_a_closed_standard_error_goes_to_standard_output(words: list[str]) -> None:
    def printed(redirection: str) -> bytes:
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {redirection}', "sh", *PUBSUB, *words],
            input=b"300000", stdout=subprocess.PIPE, timeout=PATIENCE,
        )  # fmt: skip
        return done.stdout

    assert printed("2>&-") == printed("2>/dev/null")


def test_serve_prints_only_its_urls_without_a_standard_error() -> None:
    with subprocess.Popen(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *PUBSUB, "serve", "--aws-iot", "--ws-port", "0"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        assert (first[:5], process.stdout.read()) == (b"ws://", b"")


def test_bench_runs_without_a_standard_error(broker: Broker) -> None:
    words = ["--duration", "0.2", "--warmup", "0.1", "--rate", "20", "--drain", "0.1"]
    code, _ = run('exec "$@" 2>&- >/dev/null', "bench", broker.url_of("mqtt"), *words)
    assert code == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("words", [["dissect", "-v"], ["look", "-"], ["bench"]], ids=lambda words: words[0])
def test_characters_that_the_encoding_of_the_output_lacks(broker: Broker, words: list[str], encoding: str) -> None:
    if words == ["bench"]:
        words = ["bench", broker.url_of("mqtt"), "--duration", "0.2", "--warmup", "0.1", "--rate", "20"]
    done = subprocess.run(
        [*PUBSUB, *words],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        input=b"30 07 00 03 e2 82 ac 68 69",  # the topic is a euro sign
        capture_output=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert words[0] == "bench" or rb"\u20ac" in done.stdout


def test_input_that_is_no_text_is_no_hexadecimal() -> None:
    done = subprocess.run([*PUBSUB, "dissect"], input=b"30\xff", capture_output=True, timeout=PATIENCE)
    assert (done.returncode, b"Traceback" in done.stderr, b"not hexadecimal" in done.stderr) == (2, False, True)


def test_endless_input_of_dissect_is_refused() -> None:
    code, lines = run('tr "\\0" 0 </dev/zero | "$@"', "dissect")
    assert (code, len(lines)) == (2, 1), lines
    assert "over 16,777,216 characters" in lines[0]


def test_a_loop_of_symbolic_links_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    code, lines = run('exec "$@"', "look", str(tmp_path / "loop"), "--save", str(tmp_path / "out.jsonl"))
    assert (code, len(lines)) == (1, 1), lines
    assert "cannot be read" in lines[0]


def test_a_password_of_the_environment_that_is_no_utf8(broker: Broker, tmp_path: Path) -> None:
    password = {os.fsencode("PUBSUB_PASSWORD"): b"\xff\xfe"}
    code, lines = run('exec "$@"', "passwd", str(tmp_path / "users"), "one", env={**os.environb, **password})
    assert (code, lines) == (0, [])
    with Broker(authenticator=Users.load(tmp_path / "users")) as guarded:
        words = ["pub", guarded.url, "a", "x", "-u", "one"]
        assert run('exec "$@"', *words, env={**os.environb, **password}) == (0, [])
        assert run('exec "$@"', *words, "-P", "other")[0] == 4


def test_bytes_that_are_no_utf8_are_published_unchanged(broker: Broker) -> None:
    got: list[bytes] = []
    with mqttws.connect(broker.url, on_message=lambda message: got.append(message.payload)) as reader:
        reader.subscribe("raw", 1)
        for words in (["raw", b"\xff\xfe"], ["-t", "raw", "-m", b"\xff\x00"[:1]], ["raw", "-m", b"-\xfe"]):
            done = subprocess.run([*PUBSUB, "pub", "-L", broker.url, "-q", "1", *words], timeout=PATIENCE)
            assert done.returncode == 0
        reader.publish("raw", b"end", 1)
    assert got == [b"\xff\xfe", b"\xff", b"-\xfe", b"end"]


def test_a_topic_that_is_no_utf8_is_refused(broker: Broker) -> None:
    done = subprocess.run([*PUBSUB, "pub", broker.url, b"\xff", "x"], stderr=subprocess.PIPE, timeout=PATIENCE)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_lines_wait_for_space_in_the_queue(broker: Broker) -> None:
    """More lines than the client's queue holds, faster than the server accepts them: each arrives."""
    lines = b"".join(b"%06d" % number + b"x" * 99_994 + b"\n" for number in range(900))
    got: list[bytes] = []
    with mqttws.connect(broker.url, on_message=lambda message: got.append(message.payload[:6])) as reader:
        reader.subscribe("lines", 1)
        done = subprocess.run(
            [*PUBSUB, "pub", broker.url, "lines", "-l", "-q", "1"], input=lines, stderr=subprocess.PIPE, timeout=60
        )
        reader.publish("lines", b"end", 1)
    assert (done.returncode, done.stderr) == (0, b"")
    assert got[:-1] == [b"%06d" % number for number in range(900)]


def test_a_store_survives_a_kill(tmp_path: Path, closed_port: int) -> None:
    """The next process sends the lines that `pub --store` had read, without a server, when it was killed."""
    store = ["--store", str(tmp_path / "store.db"), "-i", "sensor", "-q", "1"]
    port = str(closed_port)
    with Broker(tcp_port=closed_port, ws_port=None) as broker, mqttws.connect(broker.url) as watcher:
        watcher.subscribe("readings", 1)
        broker.stop()
        first = subprocess.run(
            [*PUBSUB, "pub", "-h", "127.0.0.1", "-p", port, "-t", "readings", "-m", "21.5", *store],
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
        )
    assert first.returncode == 3
    with Broker(tcp_port=closed_port, ws_port=None) as again, mqttws.connect(again.url) as watcher:
        watcher.subscribe("readings", 1)
        second = subprocess.run(
            [*PUBSUB, "pub", "-h", "127.0.0.1", "-p", port, "-t", "readings", "-m", "22.0", *store], timeout=PATIENCE
        )
        assert second.returncode == 0
        payloads = {message.payload for message in islice(watcher.messages(timeout=PATIENCE), 2)}
    assert payloads == {b"21.5", b"22.0"}


def test_each_read_of_lines_follows_a_bounded_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal just before a read is handled only after it; for an interrupted wait it is the next slice."""
    reading, writing = os.pipe()
    waits, outcomes = [], iter([[], [(reading, select.POLLIN)], [], KeyboardInterrupt()])

    class Poll:
        def register(self, descriptor: int, events: int) -> None:
            assert (descriptor, events) == (reading, select.POLLIN)

        def poll(self, milliseconds: float) -> list[tuple[int, int]]:
            waits.append(milliseconds)
            outcome = next(outcomes)
            if isinstance(outcome, KeyboardInterrupt):
                raise outcome
            return outcome

    monkeypatch.setattr(select, "poll", Poll)
    with open(reading) as stream, open(writing, "wb", buffering=0) as other:
        monkeypatch.setattr(sys, "stdin", stream)
        other.write(b"one\n\ntw")
        lines = lines_of_input()
        assert [next(lines), next(lines)] == [b"one", b""]
        with pytest.raises(KeyboardInterrupt):
            next(lines)
    assert len(waits) == 4
    assert 0 < max(waits) <= 1_000


@pytest.mark.skipif(not hasattr(select, "poll"), reason="no poll here")
def test_look_waits_for_a_non_blocking_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each packet arrives only while the command waits, after a wake-up for data that another program has taken."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with open(reading) as stream, open(writing, "wb", buffering=0) as other:
        given = iter([None, "100c00044d5154540402003c0000", None, "c000", None])

        class Poll:
            def register(self, descriptor: int, events: int) -> None:
                assert (descriptor, events) == (reading, select.POLLIN)

            def poll(self, milliseconds: float) -> list[tuple[int, int]]:
                packet = next(given, "")
                if packet:
                    other.write(bytes.fromhex(packet))
                elif packet == "":
                    other.close()
                return [(reading, select.POLLIN)]

        monkeypatch.setattr(select, "poll", Poll)
        monkeypatch.setattr(sys, "stdin", stream)
        records = list(Source("-", input_file()).records())
    assert [record.name for record in records if record.layer == "mqtt"] == ["CONNECT", "PINGREQ"]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_lines_are_read_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: bytes) -> None:
    expected = [b"a" * 200_000, b"", b"\xff\r", b"b"]
    (tmp_path / "lines").write_bytes(b"\n".join(expected) + end)
    with open(tmp_path / "lines") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert list(lines_of_input()) == expected


def test_ctrl_c_while_reading_lines_prints_no_traceback(broker: Broker) -> None:
    with subprocess.Popen(
        [*PUBSUB, "pub", broker.url, "a", "-l", "-q", "1"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        assert command.stdin is not None
        command.stdin.write(b"one\n" * 100)
        command.stdin.flush()
        deadline = time.monotonic() + PATIENCE
        with mqttws.connect(broker.url) as watcher:
            watcher.subscribe("a", 0)
            command.stdin.write(b"two\n")
            command.stdin.flush()
            assert next(iter(watcher.messages(timeout=PATIENCE))).payload
        command.send_signal(signal.SIGINT)
        assert command.wait(max(0.1, deadline - time.monotonic())) == 130
        assert command.stderr is not None
        assert command.stderr.read() == b""
