"""What of one session goes into a store, and how it is read back.

One record for each thing that must outlive the process; a client and a server keep the same ones::

    key                                   value
    "o" client_id token (8 bytes)         a QoS 1 or 2 message on its way out, its phase and its packet identifier
    "i" client_id packet identifier (2)   nothing: that identifier of the peer's is taken, and not released yet
    "s" client_id Topic Filter            its QoS (1 byte)

A client identifier stands there with its length in front, so that none begins with another. A message is written when
it is accepted and when its phase changes, without its payload once the peer owns it, and deleted on its last
acknowledgement. An identifier that came in is noted when the consumer has taken the message, not before: until then
it is to come again.

Spec: §3.1.2.4, §4.1
"""

from __future__ import annotations

import struct

from mqttws.codec.publishing import Message
from mqttws.errors import MQTTError, StoreError
from mqttws.protocol.outgoing import PUBLISHED, RELEASED, WAITING, Outgoing
from mqttws.protocol.store import Store

#: phase, QoS and RETAIN, packet identifier or 0, number of the PUBREC or 0, length of the topic.
_HEAD = struct.Struct(">BBHQH")
_PHASES = (WAITING, PUBLISHED, RELEASED)


def key_of(kind: bytes, client_id: str) -> bytes:
    """Make the beginning of the keys of one kind and one client identifier."""
    name = client_id.encode()
    return kind + len(name).to_bytes(2, "big") + name


class Journal:
    """The records of one session.

    Args:
        store: where they are.
        client_id: whose they are.
    """

    def __init__(self, store: Store, client_id: str) -> None:
        self._store = store
        self._outgoing = key_of(b"o", client_id)
        self._incoming = key_of(b"i", client_id)
        self._subscription = key_of(b"s", client_id)
        self._releases = 0

    # Messages on their way out.

    def keep(self, outgoing: Outgoing, phase: str, packet_id: int = 0) -> None:
        """Note a message as it is now, with its packet identifier if it has one."""
        token, topic, payload, qos, retain = outgoing
        order = 0
        if phase == RELEASED:  # the peer owns it: only its place among the PUBRELs counts
            self._releases = order = self._releases + 1
            payload = b""
        name = topic.encode()
        head = _HEAD.pack(_PHASES.index(phase), qos | retain << 2, packet_id, order, len(name))
        self._store.put(self._outgoing + token.to_bytes(8, "big"), head + name + payload)

    def drop(self, token: int) -> None:
        """Note that a message is done, or taken back."""
        self._store.delete(self._outgoing + token.to_bytes(8, "big"))

    def outgoing(self) -> list[tuple[Outgoing, str, int]]:
        """Read the messages: those with a PUBREC in the order of these, then all others in that of their publishing.

        Returns:
            Each with its phase and its packet identifier, 0 for none.

        Raises:
            StoreError: a record is not one of ours.
        """
        found: list[tuple[int, tuple[Outgoing, str, int]]] = []
        for key, value in self._store.load(self._outgoing):
            try:
                phase, flags, packet_id, order, length = _HEAD.unpack_from(value)
                end = _HEAD.size + length
                message = Message(value[_HEAD.size : end].decode(), value[end:], flags & 3, bool(flags & 4))
                token = int.from_bytes(key[len(self._outgoing) :], "big")
                outgoing = (token, message.topic, message.payload, message.qos, message.retain)
                state = _PHASES[phase]
            except (struct.error, ValueError, IndexError, MQTTError) as error:
                raise StoreError(f"a message in the store cannot be read ({error}); was it written by us?") from None
            self._releases = max(self._releases, order)
            found.append((order, (outgoing, state, packet_id)))
        found.sort(key=lambda entry: entry[0] or self._releases + 1)
        return [entry for _, entry in found]

    # Identifiers of messages that came in.

    def taken(self, packet_id: int) -> None:
        """Note that a QoS 2 message was taken by its consumer."""
        self._store.put(self._incoming + packet_id.to_bytes(2, "big"), b"")

    def released(self, packet_id: int) -> None:
        """Note that its identifier is free again."""
        self._store.delete(self._incoming + packet_id.to_bytes(2, "big"))

    def incoming(self) -> list[int]:
        """Read the identifiers."""
        return [int.from_bytes(key[-2:], "big") for key, _ in self._store.load(self._incoming)]

    # Subscriptions.

    def subscribed(self, topic_filter: str, qos: int) -> None:
        """Note a subscription."""
        self._store.put(self._subscription + topic_filter.encode(), bytes((qos,)))

    def unsubscribed(self, topic_filter: str) -> None:
        """Note that a subscription is gone."""
        self._store.delete(self._subscription + topic_filter.encode())

    def subscriptions(self) -> dict[str, int]:
        """Read the subscriptions."""
        length = len(self._subscription)
        return {key[length:].decode(): value[0] for key, value in self._store.load(self._subscription)}

    def erase(self) -> None:
        """Note that the session is over."""
        for prefix in (self._outgoing, self._incoming, self._subscription):
            for key, _ in self._store.load(prefix):
                self._store.delete(key)
