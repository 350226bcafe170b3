"""`pubsub passwd` changes a file that others read and change at the same time."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest

from pubsub.cli import main, passwd
from pubsub.cli.options import PASSWORD


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, "x")


def names(file: Path) -> list[str]:
    return sorted(line.partition(":")[0] for line in file.read_text().splitlines())


def test_the_file_is_read_after_the_password_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "users"
    assert main(["passwd", str(file), "mallory"]) == 0

    def ask() -> str:
        monkeypatch.undo()
        monkeypatch.setenv(PASSWORD, "x")
        assert main(["passwd", str(file), "bob"]) == 0
        assert main(["passwd", "-D", str(file), "mallory"]) == 0
        return "secret"

    monkeypatch.setattr(passwd, "_ask", ask)
    assert main(["passwd", str(file), "alice"]) == 0
    assert names(file) == ["alice", "bob"]


@pytest.mark.skipif(os.name != "posix", reason="there is no flock")
def test_two_changes_at_the_same_moment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a lock both have read the file before either writes it."""
    file = tmp_path / "users"
    write, both = passwd._write, threading.Barrier(2)

    def write_together(path: Path, text: str) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.5)
        write(path, text)

    monkeypatch.setattr(passwd, "_write", write_together)
    threads = [threading.Thread(target=main, args=(["passwd", str(file), name],)) for name in ("alice", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert names(file) == ["alice", "bob"]


@pytest.mark.skipif(os.name != "posix", reason="there are no modes")
def test_the_mode_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.touch(0o640)
    file.chmod(0o640)
    assert main(["passwd", str(file), "alice"]) == 0
    assert file.stat().st_mode & 0o777 == 0o640
    assert names(file) == ["alice"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may give a file away")
def test_the_owner_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.touch(0o600)
    os.chown(file, 1234, 4321)
    assert main(["passwd", str(file), "alice"]) == 0
    found = file.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (1234, 4321, 0o600)


@pytest.mark.skipif(os.name != "posix", reason="there are no owners")
def test_a_file_whose_owner_cannot_be_kept_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    file = tmp_path / "users"
    file.touch(0o600)
    stat = os.stat_result((0o100600, 1, 1, 1, 1234, 4321, 0, 0, 0, 0))
    monkeypatch.setattr(os, "fchown", refuse)
    monkeypatch.setattr(Path, "stat", lambda self, **options: stat)
    assert main(["passwd", str(file), "alice"]) == 1
    shown = capsys.readouterr().err
    assert "cannot be changed" in shown
    assert "owner 1234 and group 4321" in shown
    assert os.listdir(tmp_path) == ["users"]
    assert file.read_text() == ""


@pytest.mark.skipif(os.name != "posix", reason="there is no flock")
def test_a_directory_that_must_not_be_listed_is_not_locked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    open_file = os.open

    def refuse(path: object, *arguments: int, **options: object) -> int:
        if path == tmp_path:
            raise PermissionError(13, "Permission denied")
        return open_file(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    assert main(["passwd", str(tmp_path / "users"), "alice"]) == 0
    assert names(tmp_path / "users") == ["alice"]


@pytest.mark.skipif(os.name != "posix", reason="there is no flock")
def test_the_wait_for_a_lock_is_bounded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import fcntl

    monkeypatch.setattr(passwd, "PATIENCE", 0.2)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        assert main(["passwd", str(tmp_path / "users"), "alice"]) == 1
    finally:
        os.close(descriptor)
    assert f"another process has locked {tmp_path}" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
