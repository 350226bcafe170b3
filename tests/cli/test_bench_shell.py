"""`pubsub bench` around a run: progress, the plot, options, the limits of the system, lazy imports."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from benching import PATIENCE, bench, command

from mqttws.broker import Broker
from pubsub.bench import system
from pubsub.cli import main

# --- progress, terminals ---


def test_progress_is_one_line_a_second_if_requested(embedded: Broker) -> None:
    done = bench(embedded.url, "--rate", "20", "--duration", "1", "--progress")
    assert re.search(r"^ +1 s  published .* delivered .* p50 .* p99 ", done.stderr, re.MULTILINE)
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_gets_progress_unless_quiet(embedded: Broker, quiet: bool) -> None:
    import pty

    ours, theirs = pty.openpty()
    try:
        process = subprocess.run(
            command(embedded.url, "--rate", "20", "--duration", "1", *["--quiet"] * quiet),
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
        assert shown.endswith(b"\r\x1b[Kend")  # the line is erased


# --- the plot ---


def chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of a PNG file, and check their checksums."""
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
def test_the_plot_is_a_real_png(embedded: Broker, tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "out.png"
    done = bench(embedded.url, *words, "--duration", "1", "--plot", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    found = list(chunks(file.read_bytes()))
    assert [found[0][0], found[-1][0]] == [b"IHDR", b"IEND"]
    width, height = (int.from_bytes(found[0][1][at : at + 4], "big") for at in (0, 4))
    assert width > 500 < height
    assert len(zlib.decompress(b"".join(data for kind, data in found if kind == b"IDAT"))) > width * height


def test_without_matplotlib_the_plot_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # makes the import fail
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
        (["--size", "-1"], "not a whole number"),
        (["--rate", "0"], "not a number above 0"),
        (["--duration", "nan"], "not a number above 0"),
        (["--topic", "a/#"], "Topic Name"),
        (["--topic", "a{n}"], "whole level"),
        (["--topic", "a", "--share"], "share"),
        (["--publishers", "0", "--subscribers", "0"], "nothing to do"),
        (["--keepalive", "-1"], "keep"),
        (["--cafile", "/missing"], "need a URL with TLS"),
        (["--progress", "--quiet"], "not allowed with"),
        (["--qos", "3"], "not a QoS"),
    ],
)
def test_invalid_options_are_refused(capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    try:
        code: int | str | None = main(["bench", "mqtt://127.0.0.1:1", *words])
    except SystemExit as end:
        code = end.code
    assert code == 2
    output = capsys.readouterr()
    assert says in output.err
    assert output.out == ""


def test_an_invalid_url_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
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
    with pytest.raises(OSError, match=r"at most 1,024.* use at most 960"):
        system.ask_for_descriptors(1_000)
    limits.append((256, resource.RLIM_INFINITY))
    system.ask_for_descriptors(50_000)
    assert asked[-1] == (50_000 + system.SPARE, resource.RLIM_INFINITY)


def test_too_few_open_files_are_an_error_before_anything_runs() -> None:
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


def test_a_low_soft_limit_does_not_matter(embedded: Broker) -> None:
    def low() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (80, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    done = subprocess.run(
        command(embedded.url, "--publishers", "0", "--connections", "100", "--duration", "0.2", "--json"),
        preexec_fn=low,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["connections"]["made"] == 101


@pytest.mark.parametrize("seconds", [0.0002, 0.0015])
def test_the_event_loop_never_wakes_early(seconds: float) -> None:
    async def wait() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(seconds)
        return loop.time() - began

    with asyncio.Runner(loop_factory=system.make_loop) as runner:
        assert runner.run(wait()) >= seconds * 0.99


def test_the_event_loop_wakes_for_readable_sockets() -> None:
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


# --- lazy imports ---


def test_other_commands_do_not_import_it() -> None:
    program = (
        "import sys, pubsub, pubsub.cli; from pubsub.cli import main\n"
        "try: main(['sub', '--help'])\nexcept SystemExit: pass\n"
        "assert not [name for name in sys.modules if name.startswith(('pubsub.bench', 'pubsub.cli.bench'))]\n"
        "try: main(['bench', '--help'])\nexcept SystemExit: pass\n"
        "assert 'pubsub.bench.run' in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, timeout=PATIENCE, check=True)
