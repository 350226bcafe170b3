"""The sending half of QoS 1 and 2, and its queue. It is the same for both roles.

A message goes through these phases (the whole of §4.3, as a table)::

    phase       QoS   PUBACK      PUBREC              PUBCOMP
    PUBLISHED   1     done        violation           violation
    PUBLISHED   2     violation   PUBREL, RELEASED    violation
    RELEASED    2     violation   PUBREL again        done
    (unknown identifier)   ignored     PUBREL              ignored

An answer with an unknown identifier results from a re-delivery; it is not a violation. The identifier is
given at the moment of sending and is free again after the last answer.

The phase is where the message is: among those published, or those released. With a `Journal` it notes what must
outlive the process, at the moment at which it changes.

A caller's thread may be interrupted by the exception of a signal handler, which Python raises only where a function is
called or has returned, or a loop goes on. So what counts messages is changed by assignments that follow each other
without a call between, next to the one call that adds or removes the message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Any, Final

from mqttws.codec.publishing import Message, Publish, PubRel, encode_publish
from mqttws.errors import QueueFull, RemoteProtocolError
from mqttws.protocol.ages import Ages
from mqttws.protocol.outgoing import PUBLISHED, QOS, RELEASED, RUN, TOKEN, WAITING, Identifiers, Outgoing, Run, size_of

if TYPE_CHECKING:
    from mqttws.protocol.journal import Journal, Record

#: Used instead of an empty queue until it is needed: a deque takes 760 bytes, and most sessions never need one.
_EMPTY: Final[deque[Any]] = deque(maxlen=0)


class Sender:
    """The sending half.

    Args:
        identifiers: shared with the SUBSCRIBE and UNSUBSCRIBE of the same direction.
        max_in_flight: the maximum number of unacknowledged QoS 1 and 2 messages, 1 to 65,535.
        max_queued: how many messages may wait, at least 1.
        max_queued_bytes: how many bytes may wait: of topics and payloads; with QoS 0, of whole packets.

    Attributes:
        allowance: how many messages may leave before more are allowed; those of QoS 0 leave all the same, and count.
        journal: notes the messages of QoS 1 and 2; None for none.
        accepts_puback: whether a PUBACK completes a message of QoS 2. It breaks the standard; some servers know no
            more than QoS 1 and answer so, and the message would be sent again for ever.
        lowered: how many messages were completed so.
        ages: how long the messages wait; None as long as nothing is known of that.
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
        "_size",
        "_waiting",
        "accepts_puback",
        "ages",
        "allowance",
        "journal",
        "lowered",
    )

    def __init__(
        self,
        identifiers: Identifiers,
        max_in_flight: int = 100,
        max_queued: int = 10_000,
        max_queued_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.journal: Journal | None = None
        self.allowance: float = inf
        self.accepts_puback = False
        self.lowered = 0
        self.ages: Ages | None = None
        self._identifiers = identifiers
        self._max_in_flight = max_in_flight
        self._max_queued = max_queued
        self._max_queued_bytes = max_queued_bytes
        self._waiting: deque[Outgoing | Run] = _EMPTY
        self._growing: Run | None = None  # the last of what waits, where another message may join it
        # Without what is in the growing run:
        self._last_token = 0
        self._count = 0
        self._size = 0
        self._published: dict[int, Outgoing] = {}  # in the order of their first sending
        self._released: dict[int, Outgoing] = {}  # in the order of their PUBRECs

    @property
    def waiting(self) -> int:
        """How many messages wait for their turn."""
        return self._count + (len(self._growing.packets) if self._growing is not None else 0)

    @property
    def waiting_size(self) -> int:
        """How many bytes of them: of topics and payloads; with QoS 0, of whole packets."""
        return self._size + (sum(map(len, self._growing.packets)) if self._growing is not None else 0)

    @property
    def in_flight(self) -> int:
        """How many messages are sent and not acknowledged in full."""
        return len(self._published) + len(self._released)

    @property
    def is_ready(self) -> bool:
        """Whether a message of QoS 1 or 2 waits for nothing but the `allowance`."""
        return self.waiting > 0 and self.in_flight < self._max_in_flight

    def last_published(self, count: int) -> list[tuple[int, Outgoing]]:
        """Return the messages that were published last and are not acknowledged, with their packet identifiers."""
        last = list(islice(reversed(self._published.items()), count))
        last.reverse()
        return last

    def awaits_puback(self, packet_id: int, outgoing: Outgoing) -> bool:
        """Return whether that very message is in flight, and of QoS 1."""
        return outgoing[QOS] == 1 and self._published.get(packet_id) == outgoing

    @property
    def size(self) -> int:
        """How many bytes of topics and payloads wait or are in flight."""
        self._stop_growing()
        in_flight = (*self._published.values(), *self._released.values())
        return self._size + sum(size_of(outgoing[1], outgoing[2]) for outgoing in in_flight)

    @property
    def tokens(self) -> set[int]:
        """The tokens of the messages of QoS 1 and 2 that wait or are in flight."""
        waiting = (entry for entry in self._waiting if not isinstance(entry, Run))
        return {outgoing[TOKEN] for outgoing in (*waiting, *self._published.values(), *self._released.values())}

    @property
    def phases(self) -> tuple[int, int]:
        """How many messages wait for a PUBACK or PUBREC, and how many for a PUBCOMP."""
        return len(self._published), len(self._released)

    def published(self, packet_id: int) -> Outgoing | None:
        """Return the message that was sent with an identifier and has no answer; None for none."""
        return self._published.get(packet_id)

    @property
    def published_tokens(self) -> list[int]:
        """The tokens of the messages that were sent and have no answer."""
        return [outgoing[TOKEN] for outgoing in self._published.values()]

    def reject(self, packet_id: int) -> None:
        """Give up a message that was sent and has no answer."""
        self._done(self._published.pop(packet_id), packet_id)

    @property
    def oldest(self) -> int | None:
        """The lowest token of a message that waits or is in flight; None for none."""
        self._stop_growing()
        tokens = [next(iter(self._published.values()))[TOKEN]] if self._published else []
        tokens += [outgoing[TOKEN] for outgoing in self._released.values()]
        if self._count and self.first_waiting is not None:
            tokens.append(self.first_waiting)
        return min(tokens, default=None)

    def __len__(self) -> int:
        """Count the messages that wait or are in flight."""
        return self.waiting + self.in_flight

    def next_token(self) -> int:
        """Return the next token, for a message or a request: 1, 2, 3 and so on."""
        self._stop_growing()
        self._last_token += 1
        return self._last_token

    def _check_space(self, size: int) -> None:
        """Check that a message of so many bytes may wait. By itself it may be of any size."""
        if self._count >= self._max_queued:
            raise QueueFull(f"{self._max_queued:,} messages wait to be sent already; wait, or raise the limit")
        if self._count and self._size + size > self._max_queued_bytes:
            raise QueueFull(f"{self._size:,} bytes wait to be sent already; wait, or raise the limit")

    def enqueue(self, message: Message) -> int:
        """Let a message of QoS 1 or 2 wait for its turn.

        Returns:
            Its token.

        Raises:
            QueueFull: a limit would be exceeded; nothing has changed.
        """
        if self._growing is not None:
            self._stop_growing()
        topic, payload = message.topic, message.payload
        size = len(payload) + (len(topic) if topic.isascii() else len(topic.encode()))
        if self._count >= self._max_queued or self._size + size > self._max_queued_bytes:
            self._check_space(size)
        token = self._last_token + 1
        outgoing = (token, topic, payload, message.qos, message.retain)
        if self._waiting is _EMPTY:
            self._waiting = deque()
        self._last_token = token
        self._count += 1
        self._size += size
        self._waiting.append(outgoing)
        if self.journal is not None:
            self.journal.keep(outgoing, WAITING)
        return token

    def enqueue_packet(self, packet: bytes) -> int:
        """Let a message of QoS 0 wait for its turn.

        Args:
            packet: the whole PUBLISH.

        Returns:
            Its token.

        Raises:
            QueueFull: a limit would be exceeded; nothing has changed.
        """
        run = self._growing
        size = len(packet)
        if run is None or size > run.space or (count := len(run.packets)) == run.most:
            run, count = self._begin_run(size), 0
        run.space -= size
        run.packets.append(packet)
        return run.first + count

    def _begin_run(self, size: int) -> Run:
        """Begin a run with a message of so many bytes. It may grow to what the bounds leave."""
        self._stop_growing()
        self._check_space(size)
        most = self._max_queued - self._count
        if self._waiting is _EMPTY:
            self._waiting = deque()
        run = Run(self._last_token + 1, most, min(RUN, self._max_queued_bytes - self._size))
        self._waiting.append(run)
        self._growing = run
        return run

    def _stop_growing(self) -> None:
        """Close the last run for further messages, and count its messages."""
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
            messages: as `Journal.outgoing` gives them.
        """
        for outgoing, phase, packet_id, age in messages:
            self._last_token = max(self._last_token, outgoing[TOKEN])
            if not packet_id:
                if self._waiting is _EMPTY:
                    self._waiting = deque()
                self._waiting.append(outgoing)
                self._count += 1
                self._size += size_of(outgoing[1], outgoing[2])
                if age is not None:
                    self._known_ages().add(outgoing[TOKEN], *age)
            else:
                self._identifiers.take(packet_id)
                (self._released if phase == RELEASED else self._published)[packet_id] = outgoing

    def withdraw_unless(self, wanted: Callable[[str, int, bool], bool]) -> int:
        """Take back the messages of QoS 1 and 2 that wait and are not wanted. Return how many.

        Args:
            wanted: takes the topic, the QoS and RETAIN.
        """
        unwanted = {
            entry[TOKEN]
            for entry in self._waiting
            if not isinstance(entry, Run) and not wanted(entry[1], entry[QOS], entry[4])
        }
        return len(self._take_out(unwanted)) if unwanted else 0

    def _take_out(self, tokens: set[int]) -> list[int]:
        """Take back messages, those of them that wait. Return their tokens."""
        self._stop_growing()
        taken: list[int] = []
        left: deque[Outgoing | Run] = deque()
        for entry in self._waiting:
            if isinstance(entry, Run):
                for token in range(entry.first, entry.last + 1):
                    if token in tokens and entry.packet_of(token):
                        self._take_from(entry, token - entry.first)
                        taken.append(token)
                if entry.strip():
                    left.append(entry)
            elif entry[TOKEN] in tokens:
                self._uncount(entry)
                taken.append(entry[TOKEN])
            else:
                left.append(entry)
        self._waiting = left
        return taken

    def _uncount(self, outgoing: Outgoing) -> None:
        """Count a message no more that waits no more, and take it out of the store."""
        size = size_of(outgoing[1], outgoing[2])
        self._count -= 1
        self._size -= size
        if self.journal is not None:
            self.journal.drop(outgoing[TOKEN])

    # Ages.

    def _known_ages(self) -> Ages:
        if self.ages is None:
            self.ages = Ages()
        self.ages.forget(self.first_waiting)
        return self.ages

    def limit_age(self, token: int, since: float, seconds: float = inf) -> None:
        """Note when the message that was enqueued last was published, and how long it may wait.

        Args:
            token: of that message.
            since: seconds, of the clock of `now`.
            seconds: above 0; infinity for no limit.
        """
        self._known_ages().add(token, since, seconds)
        last = self._waiting[-1]
        if self.journal is not None and not isinstance(last, Run):
            self.journal.keep(last, WAITING, 0, (since, seconds))

    def pass_time(self, now: float) -> None:
        """Record the time, for the age of queued messages. Call this in each turn."""
        if self.waiting:
            last = self._growing.last if self._growing is not None else self._last_token
            self._known_ages().mark(last, now)
        elif self.ages is not None:
            self.ages.forget(None)

    def since(self) -> float | None:
        """Return since when the oldest queued message has waited; None without one, or if it is from this turn."""
        return self._known_ages().oldest if self.waiting else None

    @property
    def next_expiry(self) -> float | None:
        """When `expire` has something to do; None for never."""
        if self.ages is None:
            return None
        return self._known_ages().next_end

    def expire(self, now: float) -> list[int]:
        """Take back the messages that have waited for as long as they may. Return their tokens.

        A message that has been sent once waits no more, whatever becomes of it: it is delivered as its QoS promises.
        """
        due = self._known_ages().take_over(now) if self.ages is not None else None
        return self._take_out(due) if due else []

    def note_ages(self) -> None:
        """Write the ages of all that waits into the journal anew, whose clock has been set."""
        waiting = [entry for entry in self._waiting if not isinstance(entry, Run)]
        if self.journal is not None and self.ages is not None:
            for entry, age in zip(waiting, self.ages.each(entry[TOKEN] for entry in waiting), strict=True):
                self.journal.keep(entry, WAITING, 0, age)

    def withdraw(self, token: int) -> bool:
        """Take back a message that still waits. Return whether there was one."""
        self._stop_growing()
        for entry in self._waiting:
            if isinstance(entry, Run):
                packet = entry.packet_of(token)
                if packet:
                    self._take_from(entry, token - entry.first)
                    if not entry.strip():  # or runs without a packet would become more and more
                        self._waiting.remove(entry)
                    return True
            elif entry[TOKEN] == token:
                self._uncount(entry)
                self._waiting.remove(entry)
                return True
        return False

    def _take_from(self, run: Run, position: int) -> None:
        """Take a packet out of a run that does not grow."""
        size = len(run.packets[position])
        self._count -= 1
        self._size -= size
        run.size -= size
        run.packets[position] = b""

    def drop_oldest(self) -> int | None:
        """Withdraw the oldest queued message. Return its token, or None if there is none."""
        self._stop_growing()
        while self._waiting:
            entry = self._waiting[0]
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
            self._waiting.popleft()
        return None

    def clear(self, keep_sent: bool = False) -> None:
        """Drop every message, waiting or in flight; where there is a journal, those of QoS 0.

        Args:
            keep_sent: whether to keep the messages of QoS 1 and 2 that are in flight.
        """
        self._stop_growing()
        if self.journal is not None:
            kept = [entry for entry in self._waiting if not isinstance(entry, Run)]
            self._waiting = deque(kept)
            self._count = len(kept)
            self._size = sum(size_of(outgoing[1], outgoing[2]) for outgoing in kept)
            return
        self._waiting.clear()
        self._count = self._size = 0
        if keep_sent:
            return
        for packet_id in (*self._published, *self._released):
            self._identifiers.release(packet_id)
        self._published.clear()
        self._released.clear()

    def take_ready(self, space: float = inf, before: float = inf) -> tuple[list[bytes], int | None]:
        """Take the messages that may be sent now, encoded, each with its identifier.

        Args:
            space: bytes; once they are reached, the rest waits for the next call.
            before: a token; only messages with lower ones are taken.

        Returns:
            The packets, in order; and up to which token all of QoS 0 are among them, None if none is.

        Spec: [MQTT-4.3.1-1], [MQTT-4.3.2-1], [MQTT-4.3.3-1]
        """
        waiting, published = self._waiting, self._published
        packets: list[bytes] = []
        sent: int | None = None
        window = self._max_in_flight - len(published) - len(self._released)
        allowance = self.allowance
        while waiting and space > 0:
            entry = waiting[0]
            if type(entry) is Run:
                if entry.first >= before:
                    break
                packet = entry.encode()
                sent = entry.last
                if entry is self._growing:
                    self._growing = None
                    self._last_token = sent
                else:
                    self._count -= len(entry.packets) - entry.packets.count(b"")
                    self._size -= entry.size
                allowance -= len(entry.packets)
            else:
                may_leave = window > 0 and allowance >= 1.0 and (before is inf or entry[TOKEN] < before)
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
                packet = encode_publish(topic, payload, qos, retain, False, packet_id)
            waiting.popleft()
            space -= len(packet)
            packets.append(packet)
        self.allowance = allowance
        return packets, sent

    @property
    def first_waiting(self) -> int | None:
        """The token of the next queued message, or None."""
        if not self._waiting:
            return None
        entry = self._waiting[0]
        return entry.first if isinstance(entry, Run) else entry[TOKEN]

    def puback(self, packet_id: int) -> int | None:
        """Take a PUBACK. Return the token of the message that is done, if one is."""
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
        """Take a PUBREC. Return the answer."""
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
        """Take a PUBCOMP. Return the token of the message that is done, if one is."""
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

        Where the peer has lost the session, messages with a PUBREC are taken for delivered: the peer had accepted
        them, and sending them again could deliver them twice. All others are sent again either way.

        Returns:
            The packets to send again, each after the token of its message (0 for a PUBREL, which goes first); and the
            tokens of the messages that are done by this.

        Spec: §4.4, [MQTT-4.4.0-1], [MQTT-4.6.0-1], [MQTT-4.6.0-4], [MQTT-3.3.1-1]
        """
        done: list[int] = []
        if not session_present:
            done = [self._done(outgoing, packet_id) for packet_id, outgoing in self._released.items()]
            self._released.clear()
        packets: list[tuple[int, PubRel | Publish]] = [(0, PubRel(packet_id)) for packet_id in self._released]
        for packet_id, (token, topic, payload, qos, retain) in self._published.items():
            packets.append((token, Publish(topic, payload, qos, retain, True, packet_id)))
        return packets, done
