"""The interface of a store, in which sessions outlive the process: a dictionary of bytes with a commit.

A store does not depend on MQTT. Changes are visible to every reader immediately, but durable only after `commit` has
returned. A machine makes all the changes of a turn, commits them together, and only then returns bytes to send. So
after a crash the store is never behind what was sent to the peer.

`MemoryStore` does not outlive the process, but distinguishes committed changes from others, so that tests and the
simulator can simulate a crash. `mqttws.SQLiteStore` uses a file.
"""

from __future__ import annotations

from mqttws.hints import Protocol


class Store(Protocol):
    """A dictionary of bytes that outlives the process.

    Sessions share it and use different keys. Each client identifier is for one client, or for one broker, at a time; of
    two that use the same store object with the same one, one gets a `StoreError`.
    """

    def put(self, key: bytes, value: bytes) -> None:
        """Set a value. The change is durable after the next `commit`.

        Args:
            key: At most about 65,600 bytes, which never contain the byte FF.
            value: At most about 256 MiB.
        """

    def delete(self, key: bytes) -> None:
        """Delete a value, if there is one. The change is durable after the next `commit`.

        Args:
            key: The key of the value.
        """

    def load(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Return the (key, value) pairs whose keys start with a prefix, sorted by key, committed or not.

        Args:
            prefix: The beginning of the keys; empty for all.

        Raises:
            StoreError: The values cannot be read.
        """

    def commit(self) -> None:
        """Make all changes durable. This must be cheap if there are none.

        Raises:
            StoreError: That is not possible. No change has become durable; the next call tries again with all.
        """


class MemoryStore:
    """A store in memory, for tests.

    Attributes:
        commits: How many times changes were committed.
    """

    def __init__(self) -> None:
        self.commits = 0
        self._safe: dict[bytes, bytes] = {}
        self._pending: dict[bytes, bytes | None] = {}

    def __len__(self) -> int:
        """Return the number of values, committed or not."""
        return len(self.load(b""))

    def put(self, key: bytes, value: bytes) -> None:
        """Set a value; see `Store.put`."""
        self._pending[key] = value

    def delete(self, key: bytes) -> None:
        """Delete a value; see `Store.delete`."""
        self._pending[key] = None

    def load(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Return the (key, value) pairs whose keys start with a prefix; see `Store.load`."""
        both = self._safe | self._pending
        return sorted((key, value) for key, value in both.items() if value is not None and key.startswith(prefix))

    def commit(self) -> None:
        """Commit all changes; see `Store.commit`."""
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
