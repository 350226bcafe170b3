"""The receiving half of QoS 1 and 2; blind to which role it serves.

A message is acknowledged when its consumer has taken it, and acknowledgements leave in the order in which the
messages came [MQTT-4.6.0-2] [MQTT-4.6.0-3], whatever the order they are taken in.

With a `Journal` it notes what must outlive the process, at the moment at which it changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from mqttws.codec.publishing import PubAck, PubComp, Publish, PubRec

if TYPE_CHECKING:
    from mqttws.protocol.journal import Journal

#: Used instead of an empty queue until it is needed: a deque takes 760 bytes, and most sessions never need one.
_EMPTY: Final[deque[Any]] = deque(maxlen=0)


class _Incoming:
    """A message that came in with QoS 1 or 2: whether its consumer has taken it, and how many copies to answer."""

    __slots__ = ("copies", "packet_id", "publish", "taken")

    def __init__(self, publish: Publish | None, packet_id: int) -> None:
        self.publish = publish  # kept until it is taken, so that its identity stays its own
        self.packet_id = packet_id
        self.taken = publish is None  # in the time of an earlier process
        self.copies = 0 if publish is None else 1


class Receiver:
    """The receiving half. What it owes the peer waits in it until `answers` is called.

    Attributes:
        journal: notes the QoS 2 messages that were taken; None for none.
    """

    __slots__ = ("_received", "_unanswered", "_untaken", "journal")

    def __init__(self) -> None:
        self.journal: Journal | None = None
        self._received: dict[int, _Incoming] = {}  # QoS 2: by packet identifier, until the PUBREL
        self._untaken: dict[int, _Incoming] = {}  # QoS 1: by identity of the Publish, until it is taken
        # What this Network Connection has still to answer, in order, for QoS 1 and for QoS 2.
        self._unanswered: tuple[deque[_Incoming], deque[_Incoming]] = (_EMPTY, _EMPTY)

    @property
    def received(self) -> frozenset[int]:
        """The identifiers of QoS 2 messages received and not yet released."""
        return frozenset(self._received)

    def __len__(self) -> int:
        """Count the same."""
        return len(self._received)

    @property
    def unanswered(self) -> bool:
        """Whether messages of this Network Connection are still to be acknowledged."""
        return bool(self._unanswered[0] or self._unanswered[1])

    def recover(self, packet_ids: Iterable[int]) -> None:
        """Take up the identifiers of QoS 2 messages that were taken in the time of an earlier process."""
        for packet_id in packet_ids:
            self._received[packet_id] = _Incoming(None, packet_id)

    def begin(self, session_present: bool) -> None:
        """Begin a new Network Connection: what the old one had not answered will come again."""
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
        """Take a PUBLISH of QoS 1 or 2.

        Returns:
            Whether it is to be delivered (False: a copy of a QoS 2 message that has been).

        Spec: §4.3.2, §4.3.3, [MQTT-4.3.2-2], [MQTT-4.3.3-2]
        """
        if self._unanswered[0] is _EMPTY:
            self._unanswered = (deque(), deque())
        if publish.qos == 1:
            incoming = self._untaken[id(publish)] = _Incoming(publish, packet_id)
            self._unanswered[0].append(incoming)
            return True
        known = self._received.get(packet_id)
        if known is None:
            known = self._received[packet_id] = _Incoming(publish, packet_id)
            self._unanswered[1].append(known)
            return True
        known.copies += 1
        if known.copies == 1:
            self._unanswered[1].append(known)
        return False

    def acknowledge(self, publish: Publish) -> None:
        """Note that the consumer has taken a message. A second time, or too late, it does nothing.

        Args:
            publish: the very object that was delivered.
        """
        at_least_once = publish.qos == 1
        incoming = self._untaken.get(id(publish)) if at_least_once else self._received.get(publish.packet_id or 0)
        if incoming is not None and incoming.publish is publish:
            # First of all, and in one step: the exception of a signal handler after this leaves nothing to be answered.
            incoming.taken = True
            incoming.publish = None  # the payload is the consumer's now
            if at_least_once:
                self._untaken.pop(id(publish), None)
            if self.journal is not None and publish.qos == 2:
                self.journal.taken(incoming.packet_id)

    def discard(self, publish: Publish) -> None:
        """Drop a QoS 1 message that no consumer is to take: it is not answered, and holds up no other's answer.

        Args:
            publish: the very object that was delivered.
        """
        incoming = self._untaken.pop(id(publish), None)
        if incoming is not None:
            incoming.taken = True
            incoming.publish = None
            incoming.copies = 0

    def pubrel(self, packet_id: int) -> PubComp:
        """Take a PUBREL, known or not. Return the answer. Spec: [MQTT-4.3.3-2]."""
        incoming = self._received.pop(packet_id, None)
        if incoming is not None and not incoming.taken:  # released before our PUBREC: there is none to send any more
            incoming.taken = True
            incoming.copies = 0
        elif incoming is not None and self.journal is not None:
            self.journal.released(packet_id)
        return PubComp(packet_id)

    def answers(self) -> list[PubAck | PubRec]:
        """Return the acknowledgements that are due: of consumed messages that do not wait for an earlier one.

        Spec: [MQTT-4.6.0-2], [MQTT-4.6.0-3]
        """
        qos_1, qos_2 = self._unanswered
        answers: list[PubAck | PubRec] = []
        if qos_1:
            answers += map(PubAck, _due(qos_1))
        if qos_2:
            answers += map(PubRec, _due(qos_2))
        return answers


def _due(unanswered: deque[_Incoming]) -> Iterator[int]:
    """Take the identifiers to answer from the front of a queue."""
    while unanswered and unanswered[0].taken:
        incoming = unanswered.popleft()
        for _ in range(incoming.copies):
            yield incoming.packet_id
        incoming.copies = 0
