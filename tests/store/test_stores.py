"""The stores: durability, exclusive use of the file, and errors of broken files."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttws import SQLiteStore, Store, StoreError
from mqttws.protocol.store import MemoryStore

MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.binary(min_size=1, max_size=3), st.binary(max_size=3)),
        st.tuples(st.just("delete"), st.binary(min_size=1, max_size=3)),
        st.tuples(st.just("commit")),
    ),
    max_size=30,
)


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    return MemoryStore if request.param == "memory" else lambda: SQLiteStore(tmp_path / "s.db")


def test_records_are_visible_immediately_and_sorted(make: Callable[[], Store]) -> None:
    store = make()
    store.put(b"b2", b"2")
    store.put(b"a1", b"")
    store.commit()
    store.put(b"b1", b"1")
    store.put(b"b2", b"new")
    assert store.load(b"b") == [(b"b1", b"1"), (b"b2", b"new")]
    assert store.load(b"") == [(b"a1", b""), (b"b1", b"1"), (b"b2", b"new")]
    store.delete(b"b1")
    store.delete(b"a1")
    store.delete(b"never there")
    assert store.load(b"") == [(b"b2", b"new")]
    store.commit()
    store.commit()
    assert store.load(b"") == [(b"b2", b"new")]
    if isinstance(store, SQLiteStore):
        store.close()


@given(MOVES)
def test_a_crash_keeps_only_committed_records(moves: list[tuple[str, ...]]) -> None:
    store = MemoryStore()
    seen: dict[object, object] = {}
    safe: dict[object, object] = {}
    for verb, *rest in moves:
        getattr(store, verb)(*rest)
        if verb == "put":
            seen[rest[0]] = rest[1]
        elif verb == "delete":
            seen.pop(rest[0], None)
        else:
            safe = dict(seen)
        assert dict(store.load(b"")) == seen
        assert len(store) == len(seen)
    store.crash()
    assert dict(store.load(b"")) == safe


def test_an_end_without_a_close_keeps_committed_records(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    program = (
        "import os, sys, mqttws\n"
        "store = mqttws.SQLiteStore(sys.argv[1])\n"
        "store.put(b'kept', b'1'); store.commit(); store.put(b'lost', b'2')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, path], check=False, timeout=60).returncode == -9
    with SQLiteStore(path) as store:
        assert store.load(b"") == [(b"kept", b"1")]


def test_close_commits_and_is_idempotent(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "s.db", synchronous="full")
    store.put(b"k", b"v")
    store.close()
    store.close()
    assert repr(store).endswith("closed>")
    store.put(b"k", b"w")
    with pytest.raises(StoreError, match="is closed"):
        store.commit()
    with SQLiteStore(tmp_path / "s.db") as store:
        assert store.load(b"") == [(b"k", b"v")]


def test_a_close_while_another_thread_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SQLiteStore(tmp_path / "s.db")
    store.put(b"k", b"v")

    def commit_late() -> None:
        monkeypatch.undo()
        thread = threading.Thread(target=store.close)
        thread.start()
        thread.join(10)
        store.commit()

    monkeypatch.setattr(store, "commit", commit_late)
    store.close()
    with SQLiteStore(tmp_path / "s.db") as store:
        assert store.load(b"") == [(b"k", b"v")]


def test_a_second_store_on_the_file_is_refused_in_any_process(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    program = "import sys, mqttws\ntry: mqttws.SQLiteStore(sys.argv[1])\nexcept mqttws.StoreError as e: print(e)\n"
    with SQLiteStore(path):
        with pytest.raises(StoreError, match="is in use; one process at a time"):
            SQLiteStore(path)
        second = subprocess.run([sys.executable, "-c", program, path], check=True, timeout=60, capture_output=True)
        assert b"is in use; one process at a time" in second.stdout
    SQLiteStore(path).close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_cannot_use_the_stores_of_its_parent(tmp_path: Path) -> None:
    with SQLiteStore(tmp_path / "s.db") as store:
        store.put(b"k", b"v")
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()

        def child() -> None:
            try:
                store.commit()
            except StoreError as error:
                answers.put(str(error))
            try:
                SQLiteStore(tmp_path / "s.db")
            except StoreError as error:
                answers.put(str(error))
            os._exit(0)

        process = context.Process(target=child)
        process.start()
        assert "before a fork" in answers.get()
        assert "close it before the fork" in answers.get()
        process.join(60)
        store.commit()
        assert store.load(b"") == [(b"k", b"v")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize(
    "end", ["store.close()", "store.__exit__(None, None, None)", "del store; gc.collect()", "store.load(b'')", "pass"]
)
def test_the_end_of_a_forked_child_leaves_the_file_to_its_parent(tmp_path: Path, end: str) -> None:
    path = tmp_path / "s.db"
    program = (
        "import gc, os, sys, mqttws\n"
        "store = mqttws.SQLiteStore(sys.argv[1])\n"
        "store.put(b'before', b'1'); store.commit()\n"
        "if not os.fork():\n"
        f"    {end}\n"
        "    sys.exit()\n"  # at which the interpreter deletes what is left
        "os.wait()\n"
        "assert os.path.exists(sys.argv[1] + '-wal')\n"
        "store.put(b'after', b'2'); store.commit()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, path], check=False, timeout=60).returncode == -9
    with SQLiteStore(path) as store:
        assert store.load(b"") == [(b"after", b"2"), (b"before", b"1")]


def test_an_empty_path_is_not_a_temporary_file() -> None:
    with pytest.raises(StoreError, match="the path is empty"):
        SQLiteStore("")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        SQLiteStore(tmp_path / "no" / "such" / "directory")
    with pytest.raises(StoreError, match="cannot be opened"):
        SQLiteStore("a\0b")
    with pytest.raises(StoreError, match="cannot be opened"):
        SQLiteStore(tmp_path)
    with pytest.raises(ValueError, match="'normal' or 'full'"):
        SQLiteStore(tmp_path / "s.db", synchronous="off")


@pytest.mark.parametrize("kind", ["delete", "persist", "wal", "text", "newer"])
def test_a_refused_file_is_not_changed(tmp_path: Path, kind: str) -> None:
    """A data base of another program with each kind of log, a file of another format, and one of a newer version."""
    path = tmp_path / "other.db"
    if kind == "text":
        path.write_text("not a data base at all" * 100)
    elif kind == "newer":
        newer(path)
    else:
        with sqlite3.connect(path) as other:
            other.execute(f"PRAGMA journal_mode = {kind}")
            other.execute("CREATE TABLE mine (x)")
        other.close()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    refusal = "cannot be used: file is not a database" if kind == "text" else "is not a store of this version"
    with pytest.raises(StoreError, match=refusal):
        SQLiteStore(path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "s.db").touch()
    for count in range(2):
        with SQLiteStore(tmp_path / "s.db") as store:
            assert len(store.load(b"")) == count
            store.put(b"k", b"v")
    assert [file.name for file in tmp_path.iterdir()] == ["s.db"]


def newer(path: Path) -> None:
    """Make a file with a newer layout."""
    SQLiteStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()


def test_a_failed_write_is_an_error_and_is_retried(tmp_path: Path) -> None:
    """A full disk, simulated by a bound on the size of the file."""
    store = SQLiteStore(tmp_path / "s.db")
    connection = store._connection
    assert connection is not None
    connection.execute("PRAGMA max_page_count = 4")
    store.put(b"k", bytes(100_000))
    with pytest.raises(StoreError, match="cannot be written: database or disk is full"):
        store.commit()
    store.put(b"small", b"")
    with pytest.raises(StoreError, match="disk is full"):
        store.commit()
    connection.execute("PRAGMA max_page_count = 1000")
    store.commit()
    assert [key for key, _ in store.load(b"")] == [b"k", b"small"]
    connection.execute("DROP TABLE records")
    with pytest.raises(StoreError, match="cannot be read: no such table"):
        store.load(b"")
    store.put(b"k", b"v")
    with pytest.raises(StoreError, match="cannot be written: no such table"):
        store.close()
    assert repr(store).endswith("closed>")


def test_threads_share_a_store(tmp_path: Path) -> None:
    with SQLiteStore(tmp_path / "s.db") as store:

        def work(name: bytes) -> None:
            for number in range(200):
                store.put(name + number.to_bytes(2, "big"), name)
                store.commit()
                if number % 2:
                    store.delete(name + number.to_bytes(2, "big"))

        threads = [threading.Thread(target=work, args=(b"%d" % n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(store.load(b"")) == 400


def test_a_put_does_not_wait_for_a_commit_and_is_not_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that share a store: one puts a record while the commit of another waits for the disk."""
    with SQLiteStore(tmp_path / "s") as store:
        writing, go_on = threading.Event(), threading.Event()
        write = SQLiteStore._write

        def slow(self: SQLiteStore, connection: Any, batch: dict[bytes, bytes | None]) -> None:
            writing.set()
            assert go_on.wait(30)
            write(self, connection, batch)

        monkeypatch.setattr(SQLiteStore, "_write", slow)
        store.put(b"a", b"1")
        committing = threading.Thread(target=store.commit)
        committing.start()
        assert writing.wait(30)
        store.put(b"a", b"2")  # returns
        store.delete(b"b")
        assert list(store._pending) == [b"a", b"b"]
        late = threading.Thread(target=store.commit)  # waits, because its records may be in the other batch
        late.start()
        late.join(0.05)
        assert late.is_alive()
        go_on.set()
        committing.join(30)
        late.join(30)
        assert store.load(b"") == [(b"a", b"2")]


def test_a_commit_in_a_signal_handler_that_interrupts_another_one(tmp_path: Path) -> None:
    """Two clients may share a store, and a signal handler may publish with one while the other one commits."""

    class Interrupted:
        """A connection whose first transaction is interrupted before its COMMIT."""

        def __init__(self, connection: sqlite3.Connection) -> None:
            self._connection = connection
            self._interrupts = 1

        def execute(self, statement: str, *arguments: Any) -> Any:
            if statement == "COMMIT" and self._interrupts:
                self._interrupts = 0
                store.put(b"handler", b"2")
                store.commit()
            return self._connection.execute(statement, *arguments)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

    store = SQLiteStore(tmp_path / "s.db")
    store._connection = Interrupted(store._connection)  # type: ignore[assignment, arg-type]
    store.put(b"main", b"1")
    store.commit()
    assert not store._pending
    store.close()
    with SQLiteStore(tmp_path / "s.db") as again:
        assert again.load(b"") == [(b"handler", b"2"), (b"main", b"1")]


def test_a_failed_commit_keeps_later_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SQLiteStore(tmp_path / "s") as store:

        def fail(self: SQLiteStore, connection: Any, batch: dict[bytes, bytes | None]) -> None:
            store.put(b"a", b"2")
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(SQLiteStore, "_write", fail)
            store.put(b"a", b"1")
            store.put(b"b", b"1")
            with pytest.raises(KeyboardInterrupt):
                store.commit()
        store.commit()
        assert store.load(b"") == [(b"a", b"2"), (b"b", b"1")]


@pytest.mark.parametrize(("synchronous", "level"), [("normal", 1), ("full", 2)])
def test_each_commit_waits_for_the_disk_if_requested(tmp_path: Path, synchronous: str, level: int) -> None:
    """Checked by SQLite's setting, since its effect on the disk is not visible from within a process."""
    with SQLiteStore(tmp_path / "s.db", synchronous=synchronous) as store:
        assert store._connection is not None
        assert store._connection.execute("PRAGMA synchronous").fetchone() == (level,)
        assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
