"""A store in one SQLite file, for one process at a time.

All changes between two commits are collected in a dictionary and written in one transaction: a thousand messages of one
turn cost one. Changes made during a commit belong to the next one, so that only a commit has to wait for a commit.

The file is in WAL mode and locked while it is open, so that a second process gets an error immediately. If the process
is killed, nothing that was committed is lost. If the machine loses power, the last commits may be lost, unless
`synchronous` is "full".
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import weakref
from types import TracebackType
from typing import Self

from mqttws.errors import StoreError
from mqttws.locks import AtomicLock

#: "MQws", the application ID in the files of this package.
_APPLICATION = 0x4D517773
#: The version of the file format.
_VERSION = 1
#: SQLite's default limit for the WAL, in pages: 4 MiB.
_LOG_PAGES = 1000


class SQLiteStore:
    """A store in a file; see `mqttws.protocol.store`. It is thread-safe.

    Args:
        path: The path of the file, which is created if necessary. SQLite's log has the same name with "-wal" appended.
        synchronous: "normal": committed changes survive the end of the process, however it ends. "full": they also
            survive a loss of power, but each commit waits for the disk (milliseconds).

    Raises:
        StoreError: The file is in use by another process or another store, has another format, or cannot be opened.
        ValueError: `synchronous` is neither "normal" nor "full".
    """

    def __init__(self, path: str | os.PathLike[str], *, synchronous: str = "normal") -> None:
        if synchronous not in ("normal", "full"):
            raise ValueError(f"synchronous is {synchronous!r}; it must be 'normal' or 'full'")
        self._path = os.fspath(path)
        if not self._path:  # for SQLite that is a temporary file
            raise StoreError("the store '' cannot be opened: the path is empty")
        self._pending: dict[bytes, bytes | None] = {}
        self._batch: dict[bytes, bytes | None] = {}  # the changes that are being committed
        self._make_locks()
        _stores.add(self)
        self._connection: sqlite3.Connection | None = None
        self._abandoned: list[sqlite3.Connection] = []  # see `_abandon`
        try:
            connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        except (sqlite3.Error, ValueError) as error:  # ValueError: a NUL in the path
            raise StoreError(f"the store {self._path!r} cannot be opened: {error}") from None
        try:
            self._prepare(connection, synchronous)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _prepare(self, connection: sqlite3.Connection, synchronous: str) -> None:
        """Lock the file, and create the table of a new one."""
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            is_new = self._is_new(connection)
            connection.execute("COMMIT")  # the lock is kept
            connection.execute("PRAGMA journal_mode = WAL")  # only now: it changes the file
            if is_new:
                connection.execute("BEGIN")
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
                connection.execute("CREATE TABLE records (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
                connection.execute("COMMIT")
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {self._log_pages()}")
            connection.create_function("abandoned", 0, self._abandoned.__len__)  # so that SQLite refers to the list
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                if any(map(self._is_abandoned_by, list(_stores))):
                    raise StoreError(
                        f"the store {self._path!r} was open when this process was forked; close it before the fork, "
                        "or choose another file"
                    ) from None
                raise StoreError(
                    f"the store {self._path!r} is in use; one process at a time can open it, so end the other "
                    "one or choose another file"
                ) from None
            raise StoreError(f"the store {self._path!r} cannot be used: {error}") from None
        except sqlite3.Error as error:
            raise StoreError(f"the store {self._path!r} cannot be used: {error}") from None

    def _is_new(self, connection: sqlite3.Connection) -> bool:
        """Return whether the file is empty, and not a store yet. Nothing is written.

        Raises:
            StoreError: It is the file of another program, or of another version.
        """
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if (application, version) == (_APPLICATION, _VERSION):
            return False
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if tables or application:
            raise StoreError(f"{self._path!r} is not a store of this version; use another file")
        return True

    def _make_locks(self) -> None:
        self._lock = AtomicLock()  # protects `_pending` and `_batch`; never held while waiting for the disk
        self._writing = AtomicLock()  # held by the thread that uses the file; acquired before `_lock`
        self._again: set[int] = set()  # the threads that must commit again, for a signal handler

    def _abandon(self) -> None:
        """Give up the connection in a forked child process, and never close it.

        SQLite would take the locks of the parent for its own: closing the connection, also when it is deleted at the
        end of the interpreter, would move the log into the file and delete it, while the parent writes to it. So the
        connection must not even be deleted. It refers to the list, as the function of an SQL function, by a reference
        that the garbage collector does not see; with the connection in it, neither is ever deleted.
        """
        if self._connection is not None:
            self._abandoned.append(self._connection)
            self._connection = None
        self._make_locks()

    def _is_abandoned_by(self, other: SQLiteStore) -> bool:
        """Return whether another store has abandoned the file, which SQLite then takes for open in this process."""
        try:
            return bool(other._abandoned) and os.path.samefile(self._path, other._path)
        except OSError:
            return False

    def _log_pages(self) -> int:
        """Return the number of pages of 4 KiB after which the log is moved into the file (a checkpoint).

        On a small disk the log takes at most a quarter of the free space. Otherwise it could fill the disk with records
        that have been deleted long ago.
        """
        try:
            free = shutil.disk_usage(os.path.dirname(os.path.abspath(self._path))).free
        except OSError:
            return _LOG_PAGES
        return max(4, min(_LOG_PAGES, free // (4 * 4096)))

    def put(self, key: bytes, value: bytes) -> None:
        """Set a value; see `Store.put`."""
        with self._lock:
            self._pending[key] = value

    def delete(self, key: bytes) -> None:
        """Delete a value; see `Store.delete`."""
        with self._lock:
            self._pending[key] = None

    def load(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Return the (key, value) pairs whose keys start with a prefix; see `Store.load`.

        Raises:
            StoreError: The file cannot be read.
        """
        end = prefix + b"\xff" * 256 if prefix else b"\xff" * 256  # after all keys with the prefix: UTF-8 has no FF
        with self._writing:
            connection = self._open()
            try:
                rows = connection.execute(
                    "SELECT key, value FROM records WHERE key >= ? AND key < ?", (prefix, end)
                ).fetchall()
            except sqlite3.Error as error:
                raise StoreError(f"the store {self._path!r} cannot be read: {error}") from None
            found: dict[bytes, bytes | None] = dict(rows)
            with self._lock:
                found.update((key, value) for key, value in self._pending.items() if key.startswith(prefix))
        return sorted((key, value) for key, value in found.items() if value is not None)

    def commit(self) -> None:
        """Make all changes durable, in one transaction; see `Store.commit`."""
        if not self._pending and not self._batch:
            return
        me = threading.get_ident()
        if self._writing._is_owned():  # type: ignore[attr-defined]  # a signal handler in the commit of this thread, which goes on after it
            self._again.add(me)
            return
        while True:
            with self._writing:  # the commit of another thread may include the changes of this one
                self._again.discard(me)
                self._commit()
            if me not in self._again:
                return

    def _commit(self) -> None:
        if not self._pending:
            return
        connection = self._open()
        with self._lock:
            self._batch, self._pending = self._pending, {}
        try:
            self._write(connection, self._batch)
        except BaseException:
            with self._lock:
                self._pending = self._batch | self._pending
            raise
        finally:
            self._batch = {}

    def _write(self, connection: sqlite3.Connection, batch: dict[bytes, bytes | None]) -> None:
        """Write a batch in one transaction. If the disk is full, checkpoint the log and try once more."""
        try:
            self._try_to_write(connection, batch)
        except sqlite3.Error as error:
            try:
                if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_FULL:
                    raise
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._try_to_write(connection, batch)
            except sqlite3.Error as final:
                raise StoreError(f"the store {self._path!r} cannot be written: {final}") from None

    def _try_to_write(self, connection: sqlite3.Connection, batch: dict[bytes, bytes | None]) -> None:
        gone = [(key,) for key, value in batch.items() if value is None]
        kept = [(key, value) for key, value in batch.items() if value is not None]
        try:
            connection.execute("BEGIN")
            if gone:
                connection.executemany("DELETE FROM records WHERE key = ?", gone)
            if kept:
                connection.executemany("INSERT OR REPLACE INTO records VALUES (?, ?)", kept)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:  # also after the exception of a signal handler
                connection.execute("ROLLBACK")

    def _open(self) -> sqlite3.Connection:
        if self._abandoned:
            raise StoreError(f"the store {self._path!r} was opened before a fork and belongs to the parent process")
        if self._connection is None:
            raise StoreError(f"the store {self._path!r} is closed")
        return self._connection

    def close(self) -> None:
        """Commit, and close the file. Further calls have no effect, and calls in a forked child process have none.

        Raises:
            StoreError: The commit failed, see `Store.commit`; the file is closed nevertheless.
        """
        if self._connection is None:
            return
        try:
            self.commit()
        finally:
            with self._writing:
                if self._connection is not None:  # another thread may have closed it meanwhile
                    self._connection.close()
                    self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<mqttws.SQLiteStore {self._path!r}{'' if self._connection else ' closed'}>"


_stores: weakref.WeakSet[SQLiteStore] = weakref.WeakSet()


def _abandon_all() -> None:
    """Abandon the connections in a forked child process, and replace the locks, which other threads may have held.

    The stores still belong to the parent process: their methods raise `StoreError` in the child.
    """
    for store in list(_stores):
        store._abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
