"""The sender's side of the QoS 1 and 2 flows, and the queue of outgoing messages. It is the same for both roles.

A sent message goes through these phases (all of §4.3 as a table)::

    phase       QoS   PUBACK      PUBREC              PUBCOMP
    PUBLISHED   1     done        violation           violation
    PUBLISHED   2     violation   PUBREL, RELEASED    violation
    RELEASED    2     violation   PUBREL again        done
    (unknown identifier)   ignored     PUBREL              ignored

An acknowledgement with an unknown identifier can result from a retransmission, so it is not a violation. An identifier
is allocated when the message is sent, and is free again after its last acknowledgement.

The phase of a message is given by the dict that contains it: `_published` or `_released`. With a `Journal`, state that
must outlive the process is recorded when it changes.

The caller's thread can be interrupted by an exception of a signal handler. CPython raises it only when a function is
called or returns, or a loop repeats. So the counters are changed by consecutive assignments without a call between
them, next to the one call that adds or removes the message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from itertools import islice

from mqttws.codec.publishing import Message, Publish, PubRel, encode_publish
from mqttws.errors import QueueFull, RemoteProtocolError
from mqttws.hints import TYPE_CHECKING, Any, Final, inf
from mqttws.protocol.ages import Ages  # here: a signal handler that publishes may interrupt an import
from mqttws.protocol.outgoing import (
    LAST_PACKET_ID,
    PUBLISHED,
    QOS,
    RELEASED,
    RUN,
    TOKEN,
    WAITING,
    Identifiers,
    Outgoing,
    Run,
    size_of,
)

if TYPE_CHECKING:
    from mqttws.protocol.journal import Journal, Record

#: Used instead of an empty queue until it is needed: a deque takes 760 bytes, and most sessions never need one.
_EMPTY: Final[deque[Any]] = deque(maxlen=0)


class Sender:
    """The outgoing messages of a session: the queue, and the messages in flight.

    Args:
        identifiers: The packet identifiers, shared with SUBSCRIBE and UNSUBSCRIBE in the same direction.
        max_in_flight: The maximum number of unacknowledged QoS 1 and 2 messages, 1 to 65,535.
        max_queued: The maximum number of queued messages, at least 1.
        max_queued_bytes: The maximum bytes of queued topics and payloads; for QoS 0, of whole packets.
        max_in_flight_qos2: How many messages may be unacknowledged after one of QoS 2 is sent, at least 1. None: as
            `max_in_flight`. Some servers lose messages of QoS 2 beyond a number of their own.

    Attributes:
        allowance: How many messages may be sent now. QoS 0 messages are sent in any case, and reduce it.
        journal: Records the QoS 1 and 2 messages; None without a store.
        accepts_puback: Whether a PUBACK completes a QoS 2 message. This deviates from the standard: some servers
            support only QoS 1 and answer so, and the message would otherwise be sent again on each connection.
        lowered: How many QoS 2 messages were completed by a PUBACK.
        ages: The ages of the queued messages; None while none is recorded.
        queue: The queued messages; for other classes only to see whether it is empty, which is faster than `waiting`.
    """

    __slots__ = (
        "_count",
        "_growing",
        "_identifiers",
        "_last_token",
        "_max_in_flight",
        "_max_queued",
        "_max_queued_bytes",
        "_published",
        "_released",
        "_reserve",
        "_size",
        "_unsent",
        "accepts_puback",
        "ages",
        "allowance",
        "journal",
        "lowered",
        "queue",
    )

    def __init__(
        self,
        identifiers: Identifiers,
        max_in_flight: int = 100,
        max_queued: int = 10_000,
        max_queued_bytes: int = 64 * 1024 * 1024,
        max_in_flight_qos2: int | None = None,
    ) -> None:
        self.journal: Journal | None = None
        self.allowance: float = inf
        self.accepts_puback = False
        self.lowered = 0
        self.ages: Ages | None = None
        self._identifiers = identifiers
        self._max_in_flight = max_in_flight
        # How much of the window a message of QoS 2 leaves free.
        self._reserve = 0 if max_in_flight_qos2 is None else max(0, max_in_flight - max_in_flight_qos2)
        self._max_queued = max_queued
        self._max_queued_bytes = max_queued_bytes
        self.queue: deque[Outgoing | Run] = _EMPTY
        self._growing: Run | None = None  # the last queue entry, if it is a run that takes further messages
        # These do not include the growing run:
        self._last_token = 0
        self._count = 0
        self._size = 0
        self._published: dict[int, Outgoing] = {}  # in the order of their first sending
        self._released: dict[int, Outgoing] = {}  # in the order of their PUBRECs
        self._unsent: tuple[int, ...] = ()  # the identifiers of those in `_published` that `take_ready` did not return

    @property
    def waiting(self) -> int:
        """The number of queued messages."""
        return self._count + (len(self._growing.packets) if self._growing is not None else 0)

    @property
    def waiting_size(self) -> int:
        """The bytes of queued topics and payloads; for QoS 0, of whole packets."""
        return self._size + (sum(map(len, self._growing.packets)) if self._growing is not None else 0)

    @property
    def in_flight(self) -> int:
        """The number of messages that were sent and are not completely acknowledged."""
        return len(self._published) + len(self._released)

    @property
    def is_ready(self) -> bool:
        """Whether only the `allowance` prevents a queued message from being sent."""
        if self.waiting == 0:
            return False
        first = self.queue[0]
        reserve = self._reserve if not isinstance(first, Run) and first[QOS] == 2 else 0
        return self.in_flight + reserve < self._max_in_flight

    def last_published(self, count: int) -> list[tuple[int, Outgoing]]:
        """Return up to `count` of the messages sent last and not acknowledged, with their packet identifiers."""
        last = list(islice(reversed(self._published.items()), count))
        last.reverse()
        return last

    def awaits_puback(self, packet_id: int, outgoing: Outgoing) -> bool:
        """Return whether this QoS 1 message is in flight."""
        return outgoing[QOS] == 1 and self._published.get(packet_id) == outgoing

    @property
    def size(self) -> int:
        """The bytes of topics and payloads that are queued or in flight."""
        self._stop_growing()
        in_flight = (*self._published.values(), *self._released.values())
        return self._size + sum(size_of(outgoing[1], outgoing[2]) for outgoing in in_flight)

    @property
    def tokens(self) -> set[int]:
        """The tokens of the QoS 1 and 2 messages that are queued or in flight."""
        waiting = (entry for entry in self.queue if not isinstance(entry, Run))
        return {outgoing[TOKEN] for outgoing in (*waiting, *self._published.values(), *self._released.values())}

    @property
    def phases(self) -> tuple[int, int]:
        """How many messages need a PUBACK or PUBREC, and how many a PUBCOMP."""
        return len(self._published), len(self._released)

    def published(self, packet_id: int) -> Outgoing | None:
        """Return the message that was sent with an identifier and needs a PUBACK or PUBREC; None if there is none."""
        return self._published.get(packet_id)

    @property
    def published_tokens(self) -> list[int]:
        """The tokens of the messages that need a PUBACK or PUBREC."""
        return [outgoing[TOKEN] for outgoing in self._published.values()]

    def reject(self, packet_id: int) -> None:
        """Drop a message that was sent and needs a PUBACK or PUBREC."""
        self._done(self._published.pop(packet_id), packet_id)

    @property
    def oldest(self) -> int | None:
        """The lowest token of the messages that are queued or in flight; None if there are none."""
        tokens = [next(iter(self._published.values()))[TOKEN]] if self._published else []
        tokens += [outgoing[TOKEN] for outgoing in self._released.values()]
        first = self.first_waiting
        if first is not None and self.waiting:
            tokens.append(first)
        return min(tokens, default=None)

    def __len__(self) -> int:
        """Return the number of messages that are queued or in flight."""
        return self.waiting + self.in_flight

    def next_token(self) -> int:
        """Return the next token, for a message or a request: 1, 2, 3 and so on."""
        self._stop_growing()
        self._last_token += 1
        return self._last_token

    def _check_space(self, size: int) -> None:
        """Check the limits for a message of `size` bytes. In an empty queue, a message of any size is allowed."""
        if self._count >= self._max_queued:
            raise QueueFull(f"{self._max_queued:,} messages are already queued; wait, or raise the limit")
        if self._count and self._size + size > self._max_queued_bytes:
            raise QueueFull(f"{self._size:,} bytes are already queued; wait, or raise the limit")

    def enqueue(self, message: Message) -> int:
        """Queue a QoS 1 or 2 message.

        Returns:
            Its token.

        Raises:
            QueueFull: A limit would be exceeded; nothing has changed.
        """
        if self._growing is not None:
            self._stop_growing()
        topic, payload = message.topic, message.payload
        size = len(payload) + (len(topic) if topic.isascii() else len(topic.encode()))
        if self._count >= self._max_queued or self._size + size > self._max_queued_bytes:
            self._check_space(size)
        token = self._last_token + 1
        outgoing = (token, topic, payload, message.qos, message.retain)
        if self.queue is _EMPTY:
            self.queue = deque()
        self._last_token = token
        self._count += 1
        self._size += size
        self.queue.append(outgoing)
        if self.journal is not None:
            self.journal.keep(outgoing, WAITING)
        return token

    def enqueue_packet(self, packet: bytes) -> int:
        """Queue a QoS 0 message.

        Args:
            packet: The whole PUBLISH.

        Returns:
            Its token.

        Raises:
            QueueFull: A limit would be exceeded; nothing has changed.
        """
        run = self._growing
        size = len(packet)
        if run is None or size > run.largest or (count := len(run.packets)) == run.most:
            run, count = self._begin_run(size), 0
        run.packets.append(packet)
        return run.first + count

    def _begin_run(self, size: int) -> Run:
        """Begin a run with a message of `size` bytes. The limits of the queue also limit the run."""
        self._stop_growing()
        self._check_space(size)
        most = self._max_queued - self._count
        if self.queue is _EMPTY:
            self.queue = deque()
        run = Run(self._last_token + 1, most, size, min(RUN, self._max_queued_bytes - self._size))
        self.queue.append(run)
        self._growing = run
        return run

    def _stop_growing(self) -> None:
        """Close the growing run, and add its messages to the counters."""
        run = self._growing
        if run is not None:
            count, size, last = len(run.packets), sum(map(len, run.packets)), run.last
            self._last_token = last
            self._count += count
            self._size += size
            run.size = size
            self._growing = None

    def recover(self, messages: Iterable[Record]) -> None:
        """Restore the messages of an earlier process. The limits do not apply to them.

        Args:
            messages: The records that `Journal.outgoing` returns.
        """
        for outgoing, phase, packet_id, age in messages:
            self._last_token = max(self._last_token, outgoing[TOKEN])
            if not packet_id:
                if self.queue is _EMPTY:
                    self.queue = deque()
                self.queue.append(outgoing)
                self._count += 1
                self._size += size_of(outgoing[1], outgoing[2])
                if age is not None:
                    self._known_ages().add(outgoing[TOKEN], *age)
            else:
                self._identifiers.take(packet_id)
                (self._released if phase == RELEASED else self._published)[packet_id] = outgoing

    def queued(self) -> list[Outgoing]:
        """Return the queued QoS 1 and 2 messages."""
        return [entry for entry in self.queue if not isinstance(entry, Run)]

    def take_out(self, tokens: Collection[int]) -> None:
        """Withdraw queued messages.

        Args:
            tokens: Their tokens.
        """
        if not tokens:
            return
        self._stop_growing()
        tokens = frozenset(tokens)
        taken: list[Outgoing] = []
        left: deque[Outgoing | Run] = deque()
        count = size = 0
        for entry in self.queue:
            if isinstance(entry, Run):
                run = entry.without(tokens)
                if run.packets:
                    left.append(run)
                    count += len(run.packets) - run.packets.count(b"")
                    size += run.size
            elif entry[TOKEN] in tokens:
                taken.append(entry)
            else:
                left.append(entry)
                count += 1
                size += size_of(entry[1], entry[2])
        self._count, self._size, self.queue = count, size, left
        if self.ages is not None:
            self.ages.drop(tokens)
        for outgoing in taken:
            self._discard(outgoing)

    def _discard(self, outgoing: Outgoing) -> None:
        """Delete a withdrawn message from the store."""
        if self.journal is not None:
            self.journal.drop(outgoing[TOKEN])

    # Ages.

    def _known_ages(self) -> Ages:
        """Return the ages of the queued messages only."""
        if self.ages is None:
            self.ages = Ages()
        self.ages.forget(self.first_waiting)
        return self.ages

    def limit_age(self, token: int, since: float, seconds: float = inf) -> None:
        """Record when the message that was queued last was published, and how long it may wait.

        Args:
            token: The token of that message.
            since: When it was published, in seconds of the clock of `now`.
            seconds: How many seconds it may wait, above 0; infinity for no limit.
        """
        self._known_ages().add(token, since, seconds)
        last = self.queue[-1]
        if self.journal is not None and not isinstance(last, Run):
            self.journal.keep(last, WAITING, 0, (since, seconds))

    def pass_time(self, now: float) -> None:
        """Record the time as that of all messages queued since the last call. Call this in each turn."""
        if self.waiting:
            last = self._growing.last if self._growing is not None else self._last_token
            self._known_ages().mark(last, now)
        elif self.ages is not None:
            self.ages.forget(None)

    def since(self) -> float | None:
        """Return since when the oldest queued message has waited; None if there is none or it is of this turn."""
        return self._known_ages().oldest if self.waiting else None

    @property
    def next_expiry(self) -> float | None:
        """The time at which the next queued message expires; None if none does."""
        if self.ages is None:
            return None
        return self._known_ages().next_end

    def expire(self, now: float) -> list[int]:
        """Withdraw the queued messages that have expired. Return their tokens."""
        tokens = self.expired(now)
        self.take_out(tokens)
        return tokens

    def expired(self, now: float) -> list[int]:
        """Return the tokens of the queued messages that have expired, for `take_out`.

        A message that has been sent does not expire any more: it is delivered according to its QoS.
        """
        ages = self.ages
        due = self._known_ages().expired(now) if ages is not None else None
        if ages is None or not due:
            return []
        queued: list[int] = []
        for entry in self.queue:
            if isinstance(entry, Run):
                queued += [token for token in range(entry.first, entry.last + 1) if entry.packet_of(token)]
            else:
                queued.append(entry[TOKEN])
        expired = [token for token in queued if token in due]
        ages.drop(due.difference(expired))  # these were withdrawn
        return expired

    def note_ages(self) -> None:
        """Write the ages of all queued messages into the journal again, after the system clock was changed."""
        waiting = [entry for entry in self.queue if not isinstance(entry, Run)]
        if self.journal is not None and self.ages is not None:
            for entry, age in zip(waiting, self.ages.each(entry[TOKEN] for entry in waiting), strict=True):
                self.journal.keep(entry, WAITING, 0, age)

    def withdraw(self, token: int) -> bool:
        """Remove a message from the queue. Return whether it was queued."""
        self._stop_growing()
        for entry in self.queue:
            if isinstance(entry, Run):
                packet = entry.packet_of(token)
                if packet:
                    self._take_from(entry, token - entry.first)
                    if not entry.strip():  # otherwise empty runs would accumulate
                        self.queue.remove(entry)
                    return True
            elif entry[TOKEN] == token:
                size = size_of(entry[1], entry[2])
                self._count -= 1
                self._size -= size
                self.queue.remove(entry)
                self._discard(entry)
                return True
        return False

    def _take_from(self, run: Run, position: int) -> None:
        """Remove a packet from a run that is not growing."""
        size = len(run.packets[position])
        self._count -= 1
        self._size -= size
        run.size -= size
        run.packets[position] = b""

    def drop_oldest(self) -> int | None:
        """Withdraw the oldest queued message. Return its token, or None if there is none."""
        self._stop_growing()
        while self.queue:
            entry = self.queue[0]
            if not isinstance(entry, Run):
                self.withdraw(entry[TOKEN])
                return entry[TOKEN]
            packets = entry.packets
            while packets:
                token, size = entry.first, len(packets[0])
                if size:
                    self._count -= 1
                    self._size -= size
                    entry.size -= size
                entry.first = token + 1
                packets.pop(0)
                if size:
                    return token
            self.queue.popleft()
        return None

    def clear(self, keep_sent: bool = False) -> None:
        """Drop all messages, queued or in flight. With a journal, drop only those of QoS 0.

        Args:
            keep_sent: Whether to keep the QoS 1 and 2 messages that are in flight.
        """
        self._stop_growing()
        if self.journal is not None:
            kept = [entry for entry in self.queue if not isinstance(entry, Run)]
            self.queue = deque(kept)
            self._count = len(kept)
            self._size = sum(size_of(outgoing[1], outgoing[2]) for outgoing in kept)
            return
        self.queue.clear()
        self._count = self._size = 0
        if keep_sent:
            return
        for packet_id in (*self._published, *self._released):
            self._identifiers.release(packet_id)
        self._published.clear()
        self._released.clear()

    def take_ready(self, space: float = inf, before: float = inf) -> tuple[list[bytes], int | None]:
        """Remove from the queue and encode the messages that may be sent now. Those of QoS 1 and 2 are then in flight.

        Args:
            space: Bytes. Once they are reached, the rest stays queued for the next call.
            before: A token; only messages with lower ones are returned.

        Returns:
            The packets, in order; and the highest token of the QoS 0 messages among them, None if there are none.

        Spec: [MQTT-4.3.1-1], [MQTT-4.3.2-1], [MQTT-4.3.3-1]
        """
        waiting, published = self.queue, self._published
        packets: list[bytes] = []
        runs: list[Run] = []
        before_these = len(published)
        sent: int | None = None
        window = self._max_in_flight - len(published) - len(self._released)
        allowance = self.allowance
        try:
            while waiting and space > 0:
                entry = waiting[0]
                if type(entry) is Run:
                    # QoS 0 is not limited by the window, so the whole run is sent. All of its tokens are below
                    # `before`, or none is, because the creation of a request's token closes the growing run.
                    if entry.first >= before:
                        break
                    packet = entry.encode()
                    sent = entry.last
                    runs.append(entry)
                    if entry is self._growing:  # the counters do not include it yet
                        self._growing = None
                        self._last_token = sent
                    else:
                        self._count -= len(entry.packets) - entry.packets.count(b"")
                        self._size -= entry.size
                    waiting.popleft()
                    allowance -= len(entry.packets)
                else:
                    # A message that may not be sent yet stops the loop, so that none overtakes it [MQTT-4.6.0-6].
                    reserve = self._reserve if entry[QOS] == 2 else 0
                    may_leave = window > reserve and allowance >= 1.0 and (before is inf or entry[TOKEN] < before)
                    packet_id = self._identifiers.allocate() if may_leave else None
                    if packet_id is None:
                        break
                    window -= 1
                    allowance -= 1.0
                    _, topic, payload, qos, retain = published[packet_id] = entry
                    if self.journal is not None:
                        self.journal.keep(entry, PUBLISHED, packet_id)
                    self._count -= 1
                    self._size -= len(payload) + (len(topic) if topic.isascii() else len(topic.encode()))
                    # First: if there is no memory for the packet, the next connection sends the message, and so finds
                    # out whether it is the cause; see `Suspects`.
                    waiting.popleft()
                    packet = encode_publish(topic, payload, qos, retain, False, packet_id)
                space -= len(packet)
                packets.append(packet)
        except BaseException:  # without memory for a packet, for example: none of them is sent on this connection
            self._unsent = tuple(islice(published, before_these, None))
            self._put_back(runs)
            raise
        self.allowance = allowance
        return packets, sent

    def next_alone(self, message: Message) -> tuple[int, Outgoing] | None:
        """Return the packet identifier and the entry of a QoS 1 or 2 message if it can be sent without being queued.

        Nothing is changed before `begin`. A caller that an exception of a signal handler interrupts between the two has
        published nothing.

        Args:
            message: The message.

        Returns:
            Both; None if the message must be queued.
        """
        reserve = self._reserve if message.qos == 2 else 0
        in_flight = len(self._published) + len(self._released)
        if self.queue or self.journal is not None or in_flight + reserve >= self._max_in_flight:
            return None
        packet_id = self._identifiers.last % LAST_PACKET_ID + 1
        if packet_id in self._identifiers.in_use:  # rare, and `take_ready` looks for a free one
            return None
        return packet_id, (self._last_token + 1, message.topic, message.payload, message.qos, message.retain)

    def begin(self, packet_id: int, outgoing: Outgoing) -> None:
        """Record that a message is in flight, with what `next_alone` has just returned. The caller sends it."""
        identifiers = self._identifiers
        # No signal handler runs between these assignments.
        identifiers.last = packet_id
        identifiers.in_use[packet_id] = None
        self._published[packet_id] = outgoing
        self._last_token = outgoing[TOKEN]

    def _put_back(self, runs: list[Run]) -> None:
        """Queue runs again at the front, in order."""
        for run in reversed(runs):
            run.size = sum(map(len, run.packets))
            self._count += len(run.packets) - run.packets.count(b"")
            self._size += run.size
            self.queue.appendleft(run)

    @property
    def first_waiting(self) -> int | None:
        """The token of the next queued message, or None."""
        if not self.queue:
            return None
        entry = self.queue[0]
        return entry.first if isinstance(entry, Run) else entry[TOKEN]

    def puback(self, packet_id: int) -> int | None:
        """Handle a PUBACK. Return the token of the message that it completes, or None.

        Raises:
            RemoteProtocolError: The message is of QoS 2.
        """
        outgoing = self._published.get(packet_id)
        if outgoing is not None and outgoing[QOS] == 1:
            del self._published[packet_id]
            return self._done(outgoing, packet_id)
        if outgoing is not None and self.accepts_puback:
            del self._published[packet_id]
            self.lowered += 1
            return self._done(outgoing, packet_id)
        if outgoing is not None or packet_id in self._released:
            raise RemoteProtocolError(f"a PubAck for {packet_id}, a message of QoS 2", "MQTT-4.3.3-1")
        return None

    def pubrec(self, packet_id: int) -> PubRel:
        """Handle a PUBREC. Return the answer.

        Raises:
            RemoteProtocolError: The message is of QoS 1.
        """
        outgoing = self._published.get(packet_id)
        if outgoing is not None:
            if outgoing[QOS] != 2:
                raise RemoteProtocolError(f"a PubRec for {packet_id}, a message of QoS 1", "MQTT-4.3.2-1")
            del self._published[packet_id]
            self._released[packet_id] = outgoing
            if self.journal is not None:
                self.journal.keep(outgoing, RELEASED, packet_id)
        return PubRel(packet_id)

    def pubcomp(self, packet_id: int) -> int | None:
        """Handle a PUBCOMP. Return the token of the message that it completes, or None.

        Raises:
            RemoteProtocolError: No PUBREC has arrived for the message.
        """
        outgoing = self._released.pop(packet_id, None)
        if outgoing is not None:
            return self._done(outgoing, packet_id)
        if packet_id in self._published:
            raise RemoteProtocolError(f"a PubComp for {packet_id} without a PubRec before it", "MQTT-4.3.3-1")
        return None

    def _done(self, outgoing: Outgoing, packet_id: int) -> int:
        self._identifiers.release(packet_id)
        if self.journal is not None:
            self.journal.drop(outgoing[TOKEN])
        return outgoing[TOKEN]

    def resume(self, session_present: bool) -> tuple[list[tuple[int, PubRel | Publish]], list[int]]:
        """Begin a new Network Connection.

        If the peer has lost the session, messages with a PUBREC count as delivered: the peer had accepted them, and
        sending them again could deliver them twice. All others are sent again in either case.

        Returns:
            The packets to send again, each with the token of its message (0 for a PUBREL, so that they are sent
            first); and the tokens of the messages that now count as delivered.

        Spec: §4.4, [MQTT-4.4.0-1], [MQTT-4.6.0-1], [MQTT-4.6.0-4], [MQTT-3.3.1-1]
        """
        done: list[int] = []
        if not session_present:
            done = [self._done(outgoing, packet_id) for packet_id, outgoing in self._released.items()]
            self._released.clear()
        packets: list[tuple[int, PubRel | Publish]] = [(0, PubRel(packet_id)) for packet_id in self._released]
        for packet_id, (token, topic, payload, qos, retain) in self._published.items():
            packets.append((token, Publish(topic, payload, qos, retain, packet_id not in self._unsent, packet_id)))
        self._unsent = ()
        return packets, done
