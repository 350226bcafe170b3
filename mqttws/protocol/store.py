"""Where sessions are kept so that they outlive the process: a dictionary of bytes, and the moment when it is safe.

A store does not depend on MQTT. Changes are visible immediately to every reader; they are durable only when
`commit` has returned. So a machine makes all the changes of a turn, commits them together, and lets no byte out
before, so that everything the peer has been sent is still true after a crash.

`MemoryStore` does not survive the process, but distinguishes committed changes from others, so that tests and the
simulator can simulate a crash. `mqttws.SQLiteStore` uses a file.
"""

from __future__ import annotations

from typing import Protocol


class Store(Protocol):
    """A dictionary of bytes that survives the process. Sessions share it, each with its own keys."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set a value, safe from the next `commit` on."""

    def delete(self, key: bytes) -> None:
        """Delete a value, if there is one, for good from the next `commit` on."""

    def load(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Return the (key, value) pairs whose keys start with a prefix, sorted by key, committed or not."""

    def commit(self) -> None:
        """Commit all changes. Cheap if there are none.

        Raises:
            StoreError: it cannot be; nothing has become safe, and the next call tries it all again.
        """


class MemoryStore:
    """A store in memory, for tests.

    Attributes:
        commits: how many times something was made safe.
    """

    def __init__(self) -> None:
        self.commits = 0
        self._safe: dict[bytes, bytes] = {}
        self._pending: dict[bytes, bytes | None] = {}

    def __len__(self) -> int:
        """Count the values, safe or not."""
        return len(self.load(b""))

    def put(self, key: bytes, value: bytes) -> None:
        """See `Store.put`."""
        self._pending[key] = value

    def delete(self, key: bytes) -> None:
        """See `Store.delete`."""
        self._pending[key] = None

    def load(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """See `Store.load`."""
        both = self._safe | self._pending
        return sorted((key, value) for key, value in both.items() if value is not None and key.startswith(prefix))

    def commit(self) -> None:
        """See `Store.commit`."""
        if self._pending:
            for key, value in self._pending.items():
                if value is None:
                    self._safe.pop(key, None)
                else:
                    self._safe[key] = value
            self._pending.clear()
            self.commits += 1

    def crash(self) -> None:
        """Discard uncommitted changes, as the end of the process would."""
        self._pending.clear()
