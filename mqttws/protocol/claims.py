"""Who uses a store with which client identifier, so that two owners in one process do not overwrite their records.

A session claims its client identifier in its store for a `Holder`: a client, or a broker for all its sessions. While
the holder is in use, nobody else gets the claim. One that is not in use, such as a client that was closed or whose
event loop was, loses it to the next claim of the same kind. From then on its session changes nothing in the store, and
each of its commits fails.

The claims are a weak dictionary, which keeps no store and no session alive. There is no lock. A claim, and a holder
that becomes active, first record what they do and then look at the other side: of two at the same time one is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from weakref import WeakValueDictionary

from mqttws.errors import StoreError
from mqttws.hints import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from mqttws.protocol.journal import Journal
    from mqttws.protocol.store import Store


class Holder:
    """The owner of claims.

    Args:
        kind: "client" or "broker", which have different records for the same client identifier.

    Attributes:
        active: Whether it is open.
        lost: Why it cannot be used again: another holder has got one of its claims. Empty if none has.
    """

    def __init__(self, kind: str = "client") -> None:
        self.kind = kind
        self.active = False
        self.lost = ""
        self._is_over: Callable[[], bool] = bool

    def activate(self, is_over: Callable[[], bool] = bool) -> None:
        """Begin to use the claims.

        Args:
            is_over: Returns whether the holder can do nothing any more although it was not closed: its event loop was.
                `bool()` is False.

        Raises:
            StoreError: Another holder has got one of them.
        """
        self._is_over = is_over
        self.active = True
        if self.lost:
            self.active = False
            raise StoreError(self.lost)

    @property
    def in_use(self) -> bool:
        """Whether it can still change the store, so that it cannot lose a claim."""
        return self.active and not self._is_over()


class Claim:
    """A claim on a client identifier in a store. A session refers to it, and commits with it.

    Args:
        store: The store.
        client_id: The client identifier; None for the records of a broker that belong to no session.
        holder: The owner.
        journal: Writes the records of the session; None if there is no session.

    Attributes:
        store: The store; once the claim is lost, one that fails.

    Raises:
        StoreError: A holder that is in use, or one of another kind, has the claim.
    """

    def __init__(self, store: Store, client_id: str | None, holder: Holder, journal: Journal | None = None) -> None:
        self.store: Store = store
        self._holder = holder
        self._journal = journal
        key = id(store), client_id  # the claim refers to the store until another one has its place
        other = _claims.get(key)
        if other is not None and other._holder is not holder:
            other._pass_to(holder, "" if client_id is None else f" with the client identifier {client_id!r}")
        _claims[key] = self

    def _pass_to(self, holder: Holder, name: str) -> None:
        """Give the claim to another holder."""
        mine = self._holder
        if mine.kind != holder.kind:  # also if it is not in use: its records mean something else
            raise StoreError(f"a {mine.kind} uses this store{name}; use another store")
        before = mine.lost
        mine.lost = f"a newer {mine.kind} has taken over this store{name}"  # first, as in `Holder.activate`
        if mine.in_use:
            mine.lost = before
            raise StoreError(f"another {mine.kind} uses this store{name}; close that first, or use another store")
        self.store = _Lost(mine.lost)
        if self._journal is not None:
            self._journal.store = self.store

    def commit(self) -> None:
        """Commit the changes of the session; see `Store.commit`."""
        self.store.commit()


class _Lost:
    """The store of a session that has lost its claim: nothing is changed, and each commit fails."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def put(self, key: bytes, value: bytes) -> None:
        """Do nothing: the next commit fails."""

    def delete(self, key: bytes) -> None:
        """Do nothing: the next commit fails."""

    def load(self, prefix: bytes) -> NoReturn:
        """Raise StoreError."""
        raise StoreError(self._reason)

    def commit(self) -> NoReturn:
        """Raise StoreError."""
        raise StoreError(self._reason)


_claims: WeakValueDictionary[tuple[int, str | None], Claim] = WeakValueDictionary()

# In a forked child process the clients and the brokers of the parent use no store. Windows has no such function.
getattr(os, "register_at_fork", dict)(after_in_child=_claims.clear)
