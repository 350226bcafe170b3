"""The receiver's side of the QoS 1 and 2 flows. It is the same for both roles.

A message is acknowledged after its consumer has processed it. Acknowledgements are sent in the order in which the
messages arrived [MQTT-4.6.0-2] [MQTT-4.6.0-3], in whatever order the consumer finishes.

With a `Journal`, state that must outlive the process is recorded when it changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from mqttws.codec.publishing import PubAck, PubComp, Publish, PubRec
from mqttws.hints import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mqttws.protocol.journal import Journal

#: Used instead of an empty queue or dict until it is needed; never changed. A deque takes 760 bytes, and many sessions
#: never need one.
_EMPTY: Final[deque[Any]] = deque(maxlen=0)
_NONE: Final[dict[int, Any]] = {}
_NO_QUEUES: Final[tuple[deque[Any], deque[Any]]] = (_EMPTY, _EMPTY)


class _Incoming:
    """An incoming QoS 1 or 2 message: whether its consumer has processed it, and how many copies to answer."""

    __slots__ = ("copies", "packet_id", "publish", "taken")

    def __init__(self, publish: Publish | None, packet_id: int) -> None:
        self.publish = publish  # referenced until it is taken, so that no other object gets the same `id()`
        self.packet_id = packet_id
        self.taken = publish is None  # None: an earlier process took it
        self.copies = 0 if publish is None else 1


class Receiver:
    """The incoming QoS 1 and 2 messages of a session. Acknowledgements are kept until `answers` is called.

    Attributes:
        journal: Records the QoS 2 messages that were taken; None without a store.
    """

    __slots__ = ("_received", "_unanswered", "_untaken", "journal")

    def __init__(self) -> None:
        self.journal: Journal | None = None
        # QoS 2: by packet identifier, until the PUBREL. Once a message is processed and answered, None is enough: a
        # client may leave 65,535 of them unreleased.
        self._received: dict[int, _Incoming | None] = _NONE
        self._untaken: dict[int, _Incoming] = _NONE  # QoS 1: by `id()` of the Publish, until it is taken
        # The messages to acknowledge on this Network Connection, in order, of QoS 1 and of QoS 2.
        self._unanswered: tuple[deque[_Incoming], deque[_Incoming]] = _NO_QUEUES

    @property
    def received(self) -> frozenset[int]:
        """The identifiers of QoS 2 messages received and not yet released."""
        return frozenset(self._received)

    def __len__(self) -> int:
        """Return the number of QoS 2 messages received and not yet released."""
        return len(self._received)

    @property
    def unanswered(self) -> bool:
        """Whether messages of this Network Connection are not acknowledged yet."""
        return bool(self._unanswered[0] or self._unanswered[1])

    @property
    def owed(self) -> int:
        """The number of messages of this Network Connection that are not acknowledged yet."""
        return len(self._unanswered[0]) + len(self._unanswered[1])

    def recover(self, packet_ids: Iterable[int]) -> None:
        """Restore the identifiers of QoS 2 messages that an earlier process took."""
        self._received = dict.fromkeys(packet_ids)

    def begin(self, session_present: bool) -> None:
        """Begin a new Network Connection: messages not acknowledged on the old one will be sent again."""
        for unanswered in self._unanswered:
            for incoming in unanswered:
                incoming.copies = 0
            unanswered.clear()
        self._untaken.clear()
        if not session_present:
            if self.journal is not None:
                for packet_id in self._received:
                    self.journal.released(packet_id)
            self._received.clear()

    def receive(self, publish: Publish, packet_id: int) -> bool:
        """Handle a PUBLISH of QoS 1 or 2.

        Returns:
            Whether to deliver it; False if it repeats a QoS 2 message that was delivered.

        Spec: §4.3.2, §4.3.3, [MQTT-4.3.2-2], [MQTT-4.3.3-2]
        """
        if publish.qos == 1:
            if self._unanswered[0] is _EMPTY:
                self._untaken, self._unanswered = {}, (deque(), self._unanswered[1])
            incoming = self._untaken[id(publish)] = _Incoming(publish, packet_id)
            self._unanswered[0].append(incoming)
            return True
        if self._unanswered[1] is _EMPTY:
            self._received, self._unanswered = self._received or {}, (self._unanswered[0], deque())
        if packet_id not in self._received:
            known = _Incoming(publish, packet_id)
            self._unanswered[1].append(known)  # first: if it fails, the message sent again is not a repetition
            self._received[packet_id] = known
            return True
        repeated = self._received[packet_id]
        if repeated is None:
            repeated = self._received[packet_id] = _Incoming(None, packet_id)
        repeated.copies += 1
        if repeated.copies == 1:
            self._unanswered[1].append(repeated)
        return False

    def acknowledge(self, publish: Publish) -> None:
        """Record that the consumer has processed a message. Repeated or late calls have no effect.

        Args:
            publish: The same object that was delivered.
        """
        at_least_once = publish.qos == 1
        incoming = self._untaken.get(id(publish)) if at_least_once else self._received.get(publish.packet_id or 0)
        if incoming is not None and incoming.publish is publish:
            # This comes first and is one step, so that an exception of a signal handler later cannot lose the answer.
            incoming.taken = True
            incoming.publish = None  # free the payload
            if at_least_once:
                self._untaken.pop(id(publish), None)
            if self.journal is not None and publish.qos == 2:
                self.journal.taken(incoming.packet_id)

    def discard(self, publish: Publish) -> None:
        """Drop a message: it is not acknowledged, and does not delay later acknowledgements.

        If it is sent again on the next Network Connection, it is delivered again.

        Args:
            publish: The same object that was delivered.
        """
        incoming = self._untaken.pop(id(publish), None)
        if incoming is None:
            incoming = self._received.get(publish.packet_id or 0) if publish.qos == 2 else None
            if incoming is None or incoming.publish is not publish:
                return
            del self._received[incoming.packet_id]
        incoming.taken = True
        incoming.publish = None
        incoming.copies = 0

    def pubrel(self, packet_id: int) -> PubComp:
        """Handle a PUBREL, even for an unknown identifier. Return the answer. Spec: [MQTT-4.3.3-2]."""
        known = packet_id in self._received
        incoming = self._received.pop(packet_id, None)
        if incoming is not None and not incoming.taken:  # released before the PUBREC, which is not needed any more
            incoming.taken = True
            incoming.copies = 0
        elif known and self.journal is not None:
            self.journal.released(packet_id)
        return PubComp(packet_id)

    def answers(self) -> list[bytes]:
        """Return the acknowledgements that are due: those of processed messages with no unprocessed one before them.

        Returns:
            PUBACKs and PUBRECs, encoded.

        Spec: [MQTT-4.6.0-2], [MQTT-4.6.0-3]
        """
        qos_1, qos_2 = self._unanswered
        answers: list[bytes] = []
        while qos_1 and qos_1[0].taken:
            _answer(PubAck.header, qos_1.popleft(), answers)
        while qos_2 and qos_2[0].taken:
            incoming = qos_2.popleft()
            _answer(PubRec.header, incoming, answers)
            self._settle(incoming.packet_id)
        return answers

    def _settle(self, packet_id: int) -> None:
        incoming = self._received.get(packet_id)
        if incoming is not None and incoming.taken and not incoming.copies:
            self._received[packet_id] = None


def _answer(header: bytes, incoming: _Incoming, answers: list[bytes]) -> None:
    """Answer each copy of a message. The answers are encoded here, because a packet object takes twice as long."""
    answers += (header + incoming.packet_id.to_bytes(2, "big"),) * incoming.copies
    incoming.copies = 0
