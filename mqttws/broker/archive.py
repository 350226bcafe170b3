"""What a durable broker keeps beside the sessions: who they belong to, and the retained messages.

::

    key             value
    "m" client_id   JSON: the session's owner, the client's last user name, seconds to keep the session
    "r" topic       the QoS (1 byte), then the payload

What is not kept: connections and their wills, "$SYS", the messages of QoS 0 under way, the figures, and those retained
messages that a new subscription had still to bring. The time for which a client that is away is remembered begins
anew with the broker's start.
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


class Known(NamedTuple):
    """A session as the archive has it.

    Attributes:
        client_id: whose it is.
        owner: see `Subscriber`.
        username: of the client's last connection.
        expiry: see `Subscriber`.
    """

    client_id: str
    owner: str | None
    username: str | None
    expiry: float | None


class Archive:
    """The records of one broker.

    Args:
        store: where they are, beside those of the sessions.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def keep(self, subscriber: Subscriber) -> None:
        """Note a session that is to outlive its connection."""
        fields = {"owner": subscriber.owner, "username": subscriber.peer.username, "expiry": subscriber.expiry}
        self.store.put(key_of(b"m", subscriber.client_id), json.dumps(fields).encode())

    def forget(self, client_id: str) -> None:
        """Note that a session is over."""
        self.store.delete(key_of(b"m", client_id))

    def sessions(self) -> Iterator[Known]:
        """Read the sessions.

        Raises:
            StoreError: a record is not one of ours.
        """
        for key, value in self.store.load(b"m"):
            try:
                fields = json.loads(value)
                yield Known(key[3:].decode(), fields["owner"], fields["username"], fields["expiry"])
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(f"a session in the store cannot be read ({error!r}); was it written by us?") from None

    def retain(self, topic: str, message: Message | None) -> None:
        """Note the retained message of a topic; None for none."""
        key = b"r" + topic.encode()
        if message is None:
            self.store.delete(key)
        else:
            self.store.put(key, bytes((message.qos,)) + message.payload)

    def retained(self) -> Iterator[Message]:
        """Read the retained messages.

        Raises:
            StoreError: a record is not one of ours.
        """
        for key, value in self.store.load(b"r"):
            try:
                yield Message(key[1:].decode(), value[1:], value[0], True)
            except (ValueError, IndexError, MQTTError) as error:
                raise StoreError(f"a retained message in the store cannot be read ({error})") from None
