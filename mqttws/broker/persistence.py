"""Storage of a durable broker: the metadata of sessions, and the retained messages. The sessions store their own state.

::

    key             value
    "m" client_id   JSON: the session's owner, the client's last user name, seconds to keep the session
    "r" topic       the QoS (1 byte), then the payload

Not stored: connections and their wills, "$SYS", QoS 0 messages, metrics, and retained messages that are still to be
sent for a new subscription. The expiry time of disconnected sessions starts again when the broker starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from mqttws.broker.subscriber import Subscriber
from mqttws.codec.publishing import Message
from mqttws.errors import MQTTError, StoreError
from mqttws.protocol.journal import key_of
from mqttws.protocol.store import Store


class StoredSession(NamedTuple):
    """The stored metadata of a session.

    Attributes:
        client_id: The client identifier.
        owner: See `Subscriber`.
        username: The user name of the client's last connection.
        expiry: See `Subscriber`.
    """

    client_id: str
    owner: str | None
    username: str | None
    expiry: float | None


class Persistence:
    """The stored records of one broker.

    Args:
        store: The store, which the sessions share.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._has_failed = False  # whether the last commit has

    def commit(self) -> None:
        """Commit all changes; see `Store.commit`.

        Raises:
            StoreError: That is not possible.
        """
        self._has_failed = True
        self.store.commit()
        self._has_failed = False

    def keep(self, subscriber: Subscriber) -> None:
        """Store the metadata of a session that is kept after its connection."""
        fields = {"owner": subscriber.owner, "username": subscriber.peer.username, "expiry": subscriber.expiry}
        self.store.put(key_of(b"m", subscriber.client_id), json.dumps(fields).encode())

    def forget(self, client_id: str) -> None:
        """Delete the metadata of a session."""
        self.store.delete(key_of(b"m", client_id))

    def sessions(self) -> Iterator[StoredSession]:
        """Yield the metadata of the stored sessions.

        Raises:
            StoreError: A record cannot be read.
        """
        for key, value in self.store.load(b"m"):
            try:
                fields = json.loads(value)
                expiry = None if fields["expiry"] is None else float(fields["expiry"])
                session = StoredSession(key[3:].decode(), fields["owner"], fields["username"], expiry)
                are_names = all(isinstance(name, str | None) for name in (session.owner, session.username))
                if key != key_of(b"m", session.client_id) or not are_names or (expiry is not None and not expiry >= 0):
                    raise ValueError(f"the record of {session.client_id!r}")
                (session.username or "").encode()  # as a client has sent it
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                raise StoreError(
                    f"a session in the store cannot be read ({error!r}); it may be from another program"
                ) from None
            yield session

    def check_writable(self) -> None:
        """If the last commit failed, try again: changes that nothing acknowledges must not fill the memory.

        Raises:
            StoreError: It is still not possible.
        """
        if self._has_failed:
            self.commit()

    def retain(self, topic: str, message: Message | None) -> None:
        """Store the retained message of a topic; None deletes it."""
        key = b"r" + topic.encode()
        if message is None:
            self.store.delete(key)
        else:
            self.store.put(key, bytes((message.qos,)) + message.payload)

    def retained(self) -> Iterator[Message]:
        """Yield the stored retained messages.

        Raises:
            StoreError: A record cannot be read.
        """
        for key, value in self.store.load(b"r"):
            try:
                message = Message(key[1:].decode(), value[1:], value[0], True)
            except (ValueError, IndexError, MQTTError) as error:
                raise StoreError(f"a retained message in the store cannot be read ({error})") from None
            yield message
