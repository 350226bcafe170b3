"""The command line: real processes, their output and exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest
from scripted import Scripted

import mqttws

#: Timeout of a command, in seconds.
PATIENCE = 30


class Command:
    """A running command, whose output lines can be awaited."""

    def __init__(self, *words: str, stdin: bool = False, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pubsub", *words],
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        )
        self.lines: Queue[bytes] = Queue()
        self.complaints: Queue[bytes] = Queue()
        self._readers = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.lines), (self.process.stderr, self.complaints))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: object, lines: Queue[bytes]) -> None:
        for line in stream:  # type: ignore[attr-defined]
            lines.put(line.rstrip(b"\n"))

    def line(self) -> bytes:
        return self.lines.get(timeout=PATIENCE)

    def complaint(self) -> str:
        return self.complaints.get(timeout=PATIENCE).decode()

    def until_complaint(self, text: str) -> None:
        while text not in self.complaint():
            pass

    def end(self, number: int | None = None) -> int:
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def kill(self) -> None:
        self.process.kill()
        self.end()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def start() -> Iterator[type[Command]]:
    commands: list[Command] = []

    def starter(*words: str, **options: object) -> Command:
        commands.append(Command(*words, **options))  # type: ignore[arg-type]
        return commands[-1]

    yield starter  # type: ignore[misc]
    for command in commands:
        command.kill()


@pytest.fixture
def broker(start: type[Command]) -> list[str]:
    """Return the URLs of a running broker: WebSocket, TCP."""
    serving = start("serve", "--ws-port", "0", "--tcp-port", "0", "-v")
    return [serving.line().decode(), serving.line().decode()]


def subscribed(command: Command) -> Command:
    """Wait until the log of a `sub -d` shows that it is connected."""
    command.until_complaint("connected")
    return command


def test_serve_prints_one_url_a_listener_and_ends_cleanly(start: type[Command]) -> None:
    serving = start("serve", "--ws-port", "0", "--tcp-port", "0")
    assert serving.line().startswith(b"ws://127.0.0.1:")
    assert serving.line().startswith(b"mqtt://127.0.0.1:")
    assert serving.end(signal.SIGINT) == 0
    assert serving.lines.empty()


def test_serve_can_omit_a_listener(start: type[Command]) -> None:
    serving = start("serve", "--ws-port", "0", "--no-tcp")
    assert serving.line().startswith(b"ws://")
    assert serving.end(signal.SIGTERM) == 0
    assert serving.lines.empty()


def test_serve_reports_a_port_in_use(start: type[Command], broker: list[str]) -> None:
    port = broker[1].rpartition(":")[2]
    second = start("serve", "--tcp-port", port, "--no-ws")
    assert "in use" in second.complaint()
    assert second.end() == 1


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_a_retained_message_goes_from_pub_to_sub(start: type[Command], broker: list[str], way: int, qos: str) -> None:
    assert start("pub", broker[way], "a/b", "21.5", "-q", qos, "--retain").end() == 0
    sub = start("sub", broker[1 - way], "a/+", "-q", qos, "-C", "1", "-v")
    assert sub.line() == b"a/b 21.5"
    assert sub.end() == 0


def test_json_lines_show_the_type_of_the_payload(start: type[Command], broker: list[str]) -> None:
    for topic, payload in (("t/1", b'{"n": 1}'), ("t/2", "grüß".encode()), ("t/3", b"\xff\x00")):
        pub = start("pub", broker[0], topic, "-r", "-q", "1", "--stdin", stdin=True)
        pub.process.communicate(payload, PATIENCE)
        assert pub.process.returncode == 0
    sub = start("sub", broker[0], "t/#", "--json", "-C", "3")
    shown = sorted((json.loads(sub.line()) for _ in range(3)), key=lambda line: line["topic"])
    assert [line.get("payload") for line in shown] == [{"n": 1}, "grüß", None]
    assert shown[2] == {"topic": "t/3", "qos": 0, "retain": True, "payload_base64": "/wA="}
    assert sub.end() == 0


def test_lines_of_standard_input_are_messages_to_every_topic(start: type[Command], broker: list[str]) -> None:
    sub = subscribed(start("sub", broker[0], "#", "-q", "1", "-C", "6", "-v", "-d"))
    start("pub", broker[0], "ready", "-n", "-r", "-q", "1").end()
    pub = start("pub", broker[1], "x", "y", "-l", "-q", "1", stdin=True)
    pub.process.communicate(b"one\ntwo\n\xff\n", PATIENCE)
    assert pub.process.returncode == 0
    lines = [sub.line() for _ in range(6)]
    assert [line for line in lines if line.startswith(b"x ")] == [b"x one", b"x two", b"x \xff"][: len(lines)]


def test_a_null_message_removes_the_retained_one(start: type[Command], broker: list[str]) -> None:
    assert start("pub", broker[0], "a", "kept", "-r", "-q", "1").end() == 0
    assert start("pub", broker[0], "a", "-n", "-r", "-q", "1").end() == 0
    assert start("sub", broker[0], "a", "-W", "0.3").end() == 27


@pytest.mark.parametrize("answer", [b"", mqttws.ConnAck().encode()], ids=["connecting", "subscribing"])
@pytest.mark.parametrize("words", [["sub", "-t", "a"], ["sub", "-t", "a", "-U", "b"], ["rr", "-t", "a", "-m", "b"]])
def test_the_time_of_a_command_includes_connecting_and_subscribing(
    start: type[Command], words: list[str], answer: bytes
) -> None:
    """A server that answers nothing else does not keep it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        command = start(*words, "-h", "127.0.0.1", "-p", port, "-W", "0.5", "--timeout", str(PATIENCE / 2))
        server.settimeout(PATIENCE)
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1_000)
            connection.sendall(answer)
            sent = time.monotonic()
            assert command.end() == 27
            assert not answer or time.monotonic() - sent < 5.0  # it does not wait for an answer when it closes
    assert command.lines.empty()


def test_no_retained_skips_retained_messages(start: type[Command], broker: list[str]) -> None:
    assert start("pub", broker[0], "a", "kept", "-r", "-q", "1").end() == 0
    sub = start("sub", broker[0], "a", "-R", "-W", "0.3")
    assert sub.end() == 27
    assert sub.lines.empty()


@pytest.mark.parametrize("words", [[], ["-T", "a/#"]], ids=["printed", "filtered out"])
def test_a_stream_of_messages_does_not_delay_the_end(start: type[Command], broker: list[str], words: list[str]) -> None:
    def publish() -> None:
        with mqttws.connect(broker[0]) as client:
            while not ended.wait(0.02):
                client.publish("a/b", b"x", qos=1)

    ended = threading.Event()
    stream = threading.Thread(target=publish)
    stream.start()
    try:
        assert start("sub", broker[0], "a/#", "-q", "1", "-W", "1", *words).end() == 27
    finally:
        ended.set()
        stream.join()


def test_a_file_is_a_message(start: type[Command], broker: list[str], tmp_path: Path) -> None:
    (tmp_path / "payload").write_bytes(b"\x00\x01")
    assert start("pub", broker[0], "a", "-f", str(tmp_path / "payload"), "-r", "-q", "2").end() == 0
    assert start("sub", broker[0], "a", "-C", "1").line() == b"\x00\x01"


def test_ctrl_c_ends_sub_cleanly(start: type[Command], broker: list[str]) -> None:
    sub = subscribed(start("sub", broker[0], "a", "-d"))
    assert sub.end(signal.SIGINT) == 0


def test_a_will_is_published_when_sub_is_killed(start: type[Command], broker: list[str]) -> None:
    watcher = subscribed(start("sub", broker[0], "gone", "-C", "1", "-d"))
    start("pub", broker[0], "gone", "watched", "-q", "1", "-r").end()
    assert watcher.line() == b"watched"
    victim = start("sub", broker[0], "a", "--will-topic", "gone", "--will-payload", "bye", "--will-retain", "-d")
    subscribed(victim).end(signal.SIGKILL)
    late = start("sub", broker[0], "gone", "-C", "2", "-v")
    while late.line() != b"gone bye":
        pass


def test_exit_codes(start: type[Command], broker: list[str]) -> None:
    assert start("pub", "mqtt://127.0.0.1:1", "a", "x").end() == 3
    assert start("pub", broker[0], "a/#", "x").end() == 2
    assert start("sub", broker[0], "a#").end() == 2
    assert start("sub", "http://127.0.0.1/", "a").end() == 2
    assert start("pub", broker[0], "a").end() == 2
    assert start("sub", broker[0], "a", "-c").end() == 2
    assert start("sub", broker[0].replace("/mqtt", "/elsewhere"), "a").end() == 4
    assert start("sub").end() == 2


def test_the_exit_code_at_a_port_of_http(start: type[Command]) -> None:
    with Scripted("mqtt") as server:
        pub = start("pub", server.url, "a", "x")
        end = server.accept()
        end.socket.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert pub.end() == 3


@pytest.mark.parametrize(("options", "window"), [([], 20), (["-M", "30"], 30)], ids=["default", "-M"])
def test_messages_of_qos_2_in_flight(start: type[Command], options: list[str], window: int) -> None:
    with Scripted() as server:
        start("pub", server.url, "a", "-m", "x", "--repeat", "40", "-q", "2", *options)
        end = server.accept().welcome()
        for number in range(1, window + 1):
            packet = end.receive()
            assert (type(packet), packet.packet_id) == (mqttws.Publish, number)
        end.send("50 02 00 01").expect("62 02 00 01")  # PUBREC, PUBREL: nothing was sent before the PUBREL


def test_passwd_changes_the_file_behind_a_link(start: type[Command], tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(file)
    assert start("passwd", str(link), "ada", PUBSUB_PASSWORD="lovelace").end() == 0
    file.write_text(file.read_text(), encoding="utf-8-sig")  # as Windows editors write it
    assert start("passwd", str(link), "ada", PUBSUB_PASSWORD="another").end() == 0
    assert link.is_symlink()
    assert file.read_text().startswith("ada:scrypt$")
    assert len(file.read_text().splitlines()) == 1
    file.write_bytes(b"\xff")
    broken = start("passwd", str(link), "ada", PUBSUB_PASSWORD="lovelace")
    assert broken.end() == 1
    assert "it is not UTF-8" in broken.complaint()
    assert broken.complaints.empty()
    file.unlink()
    file.symlink_to(link)
    circle = start("passwd", str(link), "ada", PUBSUB_PASSWORD="lovelace")
    assert circle.end() == 1
    assert "the file cannot be changed" in circle.complaint()
    assert circle.complaints.empty()


def test_users_and_passwords_without_the_command_line(start: type[Command], tmp_path: Path) -> None:
    users = str(tmp_path / "users")
    assert start("passwd", users, "ada", PUBSUB_PASSWORD="lovelace").end() == 0
    assert oct(os.stat(users).st_mode & 0o777) == "0o600"
    assert "lovelace" not in Path(users).read_text()
    serving = start("serve", "--ws-port", "0", "--no-tcp", "--users", users)
    url = serving.line().decode()
    assert start("pub", url, "a", "x", "-u", "ada", PUBSUB_PASSWORD="lovelace").end() == 0
    wrong = start("pub", url, "a", "x", "-u", "ada", PUBSUB_PASSWORD="wrong-canary")
    complaint = wrong.complaint()
    assert wrong.end() == 4
    assert "bad user name or password" in complaint
    assert "canary" not in complaint
    assert start("pub", url, "a", "x").end() == 4
    assert start("passwd", users, "ada", "--delete").end() == 0
    assert Path(users).read_text() == ""


def test_text_of_a_peer_is_escaped_for_a_terminal(start: type[Command], broker: list[str]) -> None:
    import pty

    assert start("pub", broker[0], "a", "\x1b[31mred\x07", "-r", "-q", "1").end() == 0
    ours, theirs = pty.openpty()
    try:
        process = subprocess.run(
            [sys.executable, "-m", "pubsub", "sub", broker[0], "a", "-C", "1"],
            stdout=theirs,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            check=True,
        )
        assert os.read(ours, 1000).strip() == rb"\x1b[31mred\x07"
        assert process.stderr == b""
    finally:
        os.close(ours)
        os.close(theirs)


def test_demo_shows_the_main_job(start: type[Command]) -> None:
    demo = start("demo")
    assert demo.end() == 0
    lines = [demo.line().decode() for _ in range(demo.lines.qsize())]
    assert sum(line.startswith("  received") for line in lines) == 5
    for qos in (0, 1, 2):
        assert any(line.startswith("  received") and f"QoS {qos}" in line for line in lines)
    assert lines[0].startswith("broker")
    assert lines[-1].startswith("closed")
    assert demo.complaints.empty()
