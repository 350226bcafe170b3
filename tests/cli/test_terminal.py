"""An interactive session: commands typed at a shell in tmux, the contents of the screen, and Ctrl-C."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pubsub.testing import RecordingBroker

PATIENCE = 30.0

if shutil.which("tmux") is None and os.environ.get("CI") != "true":
    pytest.skip("tmux is missing: tests/peers/install.sh installs it on Debian", allow_module_level=True)


class Terminal:
    """A shell in a terminal of 100 columns and 30 lines, in a separate tmux server."""

    def __init__(self, folder: Path) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        environment = {
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
            "PS1": "$ ",
            "SHELL": "/bin/sh",
            "TERM": "xterm-256color",
        }
        subprocess.run(
            [*self._tmux, "new-session", "-d", "-x", "100", "-y", "30", "-c", str(folder), "/bin/sh"],
            env=environment, check=True, timeout=PATIENCE,
        )  # fmt: skip
        self.wait(lambda screen: "$" in screen)

    def _call(self, *words: str) -> str:
        done = subprocess.run([*self._tmux, *words], capture_output=True, text=True, timeout=PATIENCE, check=True)
        return done.stdout

    def type(self, text: str) -> None:
        """Type a line and Enter."""
        self.begin(text)
        self.press("Enter")

    def begin(self, text: str) -> None:
        """Type the beginning of a line."""
        self._call("send-keys", "-l", text)

    def press(self, key: str) -> None:
        """Press a key, given by tmux's name."""
        self._call("send-keys", key)

    def screen(self, escapes: bool = False) -> str:
        """Return the non-empty lines of the screen, with escape sequences of colours if requested."""
        shown = self._call("capture-pane", "-p", "-J", *(["-e"] if escapes else []))
        return "\n".join(line.rstrip() for line in shown.splitlines() if line.strip())

    def wait(self, condition: Callable[[str], object], escapes: bool = False) -> str:
        """Wait until the screen satisfies a condition, and return it."""
        end = time.monotonic() + PATIENCE
        while not condition(screen := self.screen(escapes)):
            assert time.monotonic() < end, screen
            time.sleep(0.05)
        return screen

    def end(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, timeout=PATIENCE, check=False)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def broker() -> Iterator[RecordingBroker]:
    with RecordingBroker() as broker:
        yield broker


def last_exit(screen: str) -> str | None:
    found = re.findall(r"^(?:\^C)?exit (\d+)$", screen, re.MULTILINE)  # the terminal echoes Ctrl-C
    return found[-1] if found else None


def test_subscribing_colours_topics_shows_no_controls_and_ends_with_ctrl_c(
    terminal: Terminal, broker: RecordingBroker
) -> None:
    terminal.type(f"pubsub sub {broker.url} '#' -v; echo exit $?")
    broker.wait_for_clients(1)
    end = time.monotonic() + PATIENCE
    while not any(broker.subscriptions.values()):
        assert time.monotonic() < end
        time.sleep(0.02)
    broker.publish("sensors/1", b"21.5")
    broker.publish("evil", b"\x1b[2Jcleared\x07 \xe2\x80\xaeabc")  # clear the screen, ring the bell, reverse the text
    shown = terminal.wait(lambda screen: "cleared" in screen, escapes=True)
    assert re.search(r"\x1b\[[0-9;]+msensors/1\x1b\[[0-9;]*m", shown), shown
    plain = terminal.screen()
    assert "sensors/1 21.5" in plain  # still there, so nothing was cleared
    assert "\\x1b[2Jcleared\\x07" in plain
    terminal.press("C-c")
    screen = terminal.wait(last_exit)
    assert last_exit(screen) == "0"
    assert "Traceback" not in screen
    broker.wait_for_clients(0)


def test_a_format_shows_no_controls_of_a_peer(terminal: Terminal, broker: RecordingBroker) -> None:
    broker.publish("evil", b"\x1b[2Jcleared", retain=True)
    terminal.type(f"echo before; pubsub sub {broker.url} evil -C 1 -F '\\e[1m%t\\e[0m %p'; echo exit $?")
    shown = terminal.wait(last_exit, escapes=True)
    assert "\x1b[1mevil\x1b[0m" in shown  # those of the format
    plain = terminal.screen()
    assert "\nbefore\n" in plain
    assert "evil \\x1b[2Jcleared" in plain


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(("begun", "completed"), [("ce", "certificates/mine/"), ("my", r"my\ file.pem")])
def test_bash_completes_files_as_for_any_command(
    terminal: Terminal, tmp_path: Path, begun: str, completed: str
) -> None:
    """After the name of a directory it goes on with its content; a space in a name is quoted."""
    (tmp_path / "certificates" / "mine").mkdir(parents=True)
    (tmp_path / "my file.pem").touch()
    terminal.type("exec bash --norc")
    terminal.type('eval "$(pubsub completion bash)"; echo rea"dy"')
    terminal.wait(lambda screen: "\nready\n" in screen + "\n")
    terminal.begin(f"pubsub pub --cafile {begun}")
    terminal.press("Tab")
    terminal.wait(lambda screen: "certificates/" in screen or "file.pem" in screen)
    terminal.press("Tab")
    terminal.wait(lambda screen: f"pubsub pub --cafile {completed}" in screen)


@pytest.mark.parametrize(
    ("environment", "coloured"), [("NO_COLOR=", True), ("NO_COLOR=1", False), ("TERM=dumb", False)]
)
@pytest.mark.parametrize("command", ["sub", "look"])
def test_what_disables_colours(
    terminal: Terminal, broker: RecordingBroker, tmp_path: Path, command: str, environment: str, coloured: bool
) -> None:
    """An empty NO_COLOR has no effect."""
    broker.publish("kept", b"x", retain=True)
    (tmp_path / "stream.hex").write_text("c000")
    words = {"sub": f"sub {broker.url} kept -v -C 1", "look": "look stream.hex"}[command]
    terminal.type(f"{environment} pubsub {words}; echo exit $?")
    shown = terminal.wait(last_exit, escapes=True)
    assert ("\x1b[3" in shown) is coloured, shown


def test_publishing_lines_shows_its_progress_on_one_line(terminal: Terminal, broker: RecordingBroker) -> None:
    lines = "i=0; while [ $i -lt 60 ]; do echo $i; i=$((i+1)); sleep 0.05; done"
    terminal.type(f"({lines}) | pubsub pub {broker.url} a -l -q 1; echo exit $?")
    terminal.wait(lambda screen: re.search(r"^\d+ messages$", screen, re.MULTILINE))
    screen = terminal.wait(last_exit)
    assert last_exit(screen) == "0"
    assert re.findall(r"^(.* messages)$", screen, re.MULTILINE) == ["60 messages"]
    assert len(broker.messages.matching("a")) == 60


def test_ctrl_c_at_the_keyboard_ends_what_is_typed(terminal: Terminal, broker: RecordingBroker) -> None:
    terminal.type(f"pubsub pub {broker.url} a -l -q 1; echo exit $?")
    broker.wait_for_clients(1)
    terminal.type("typed by hand")
    broker.messages.wait_for("a", 1, PATIENCE)
    terminal.press("C-c")
    screen = terminal.wait(last_exit)
    assert last_exit(screen) == "130"
    assert "Traceback" not in screen
    assert broker.messages.matching("a")[0].payload == b"typed by hand"


def test_bench_overwrites_a_progress_line_and_reports_after_ctrl_c(terminal: Terminal, broker: RecordingBroker) -> None:
    load = "--publishers 1 --subscribers 1 --rate 20 --duration 60 --warmup 0.1 --drain 0.2"
    terminal.type(f"pubsub bench {broker.url} {load}; echo exit $?")
    terminal.wait(lambda screen: "delivered" in screen)
    terminal.press("C-c")
    screen = terminal.wait(last_exit)
    assert "Traceback" not in screen
    assert "throughput" in screen or "latency" in screen, screen


def test_a_password_is_prompted_for_and_not_shown(terminal: Terminal) -> None:
    with RecordingBroker(authenticator=lambda peer, connect: connect.password == b"s3cret!") as broker:
        terminal.type(f"pubsub pub {broker.url} a x -u me --ask-password -q 1; echo exit $?")
        terminal.wait(lambda screen: "password of me:" in screen)
        terminal.type("s3cret!")
        screen = terminal.wait(last_exit)
        assert last_exit(screen) == "0"
        assert "s3cret!" not in screen
