"""Rate limits: a token bucket, and a client's pacing for a server that drops messages above a rate.

Such a server (AWS IoT is one) does not acknowledge the messages that it drops. Without pacing, a client would soon have
all its messages in flight waiting for acknowledgements that never come, and send nothing more. So QoS 1 and 2 messages
are delayed to stay below the rate, and a QoS 1 message that was dropped is sent again.

*Delays.* The server counts messages when it reads them. If it was busy, or the network slow, many arrive at once. Let a
client send at most B + r t messages in t seconds, and have at most W in flight. Then the server reads at most
B + W + r t messages in t seconds, whatever the delays are. B and W are half a second's worth each, so this is within
the rate and a burst of one second's worth, and no message is dropped because of a delay.

*Silence.* A missing acknowledgement does not show that a message was dropped: the server may only be late. A copy would
add to its work, and would be delivered after later messages of the same topic. So a message that is overdue is sent
again only if the server has dropped it: it has acknowledged a later one, which it must do in order [MQTT-4.6.0-2]; or
it has answered a PINGREQ that was sent after the message, and the same time has passed again without an
acknowledgement (a server may answer a PINGREQ before the messages that it has read with it).
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from mqttws.codec.publishing import encode_publish
from mqttws.hints import TYPE_CHECKING, inf
from mqttws.protocol.outgoing import QOS

if TYPE_CHECKING:
    from mqttws.protocol.outgoing import Outgoing
    from mqttws.protocol.sending import Sender

__all__ = ["Pace", "TokenBucket"]

#: The fraction of the server's rate that is used, because its clock differs and network delays vary.
_MARGIN = 0.98
#: How many messages after the oldest are searched for one that is acknowledged.
_FOLLOWING = 200


class TokenBucket:
    """A token bucket: tokens are added at a fixed rate, up to a maximum; each limited action takes one.

    Args:
        rate: Tokens per second, above 0.
        burst: The maximum number of tokens, above 0, and the number at the beginning.

    Raises:
        ValueError: `rate` or `burst` is not above 0.

    Examples:
        >>> from mqttws import TokenBucket
        >>> bucket = TokenBucket(rate=10.0, burst=2.0)
        >>> [bucket.take(now=0.0) for _ in range(3)]
        [True, True, False]
        >>> bucket.ready_at(now=0.0)
        0.1
    """

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        if not (rate > 0 and burst > 0):
            raise ValueError(f"rate is {rate} and burst {burst}; both must be above 0")
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at: float | None = None  # the time for which `_tokens` is correct; None before the first use

    def available(self, now: float) -> float:
        """Return the number of tokens; negative after spending more than there were.

        Args:
            now: The current time in seconds, of any monotonic clock.
        """
        if self._at is not None and now > self._at:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now if self._at is None else max(self._at, now)
        return self._tokens

    def take(self, now: float, count: float = 1.0) -> bool:
        """Take tokens if there are enough. Return whether there were.

        Args:
            now: The current time in seconds, of any monotonic clock.
            count: How many tokens to take, above 0.
        """
        if self.available(now) < count:
            return False
        self._tokens -= count
        return True

    def spend(self, now: float, count: float = 1.0) -> None:
        """Take tokens even if there are too few. The number becomes negative, down to `-burst`.

        Args:
            now: The current time in seconds, of any monotonic clock.
            count: How many tokens to take, above 0.
        """
        self._tokens = max(-self.burst, self.available(now) - count)

    def ready_at(self, now: float, count: float = 1.0) -> float:
        """Return the time at which there will be enough tokens, if none are taken until then.

        Args:
            now: The current time in seconds, of any monotonic clock.
            count: How many tokens are needed, above 0; more than `burst` counts as `burst`.
        """
        missing = min(count, self.burst) - self.available(now)
        return now if missing <= 0 else now + missing / self.rate


class _Sent:
    """A message that was sent.

    Attributes:
        at: When it was sent, in seconds.
        number: Its number, from 1, in the order of sending.
        outgoing: The message.
    """

    __slots__ = ("at", "number", "outgoing")

    def __init__(self, at: float, number: int, outgoing: Outgoing) -> None:
        self.at = at
        self.number = number
        self.outgoing = outgoing


class Pace:
    """The rate limit and the retransmissions of one connection.

    Args:
        sender: The outgoing messages.
        rate: PUBLISH packets per second in both directions together, above 0; at most half of it is in flight. None or
            infinity: no limit.
        resend_after: Seconds after which a QoS 1 message that is not acknowledged is overdue; None: never.
    """

    __slots__ = (
        "_allowed",
        "_at",
        "_bucket",
        "_holds",
        "_number",
        "_pings",
        "_read",
        "_read_at",
        "_resend_after",
        "_sender",
        "_sent",
        "_window",
    )

    def __init__(self, sender: Sender, rate: float | None, resend_after: float | None) -> None:
        self._sender = sender
        half = inf if rate is None else max(1.0, rate / 2)
        self._bucket = None if rate is None or half == inf else TokenBucket(rate * _MARGIN, half)
        self._window = inf if half == inf else int(half)
        self._resend_after = resend_after
        self._sent: dict[int, _Sent] = {}  # by packet identifier, the oldest first
        self._number = 0  # the number of the last message that was sent
        self._read = 0  # the number of the last message that the server has read, according to a PINGRESP
        self._read_at = 0.0  # when that PINGRESP was received
        self._pings: deque[int] = deque()  # for each unanswered PINGREQ, `_number` when it was sent
        self._allowed = inf  # the number of messages that `open` allowed
        self._at = 0.0
        self._holds = False  # whether a message is held back because of the rate

    def open(self, now: float) -> int:
        """Allow the sender as many messages as the rate permits. Return how many are in flight, for `close`."""
        self._at = now
        in_flight = self._sender.in_flight
        if self._bucket is not None:
            self._allowed = min(self._bucket.available(now), self._window - in_flight)
        self._sender.allowance = self._allowed
        return in_flight

    def close(self, in_flight: int, now: float) -> None:
        """Record what was sent since `open`, which returned `in_flight`."""
        sender = self._sender
        if self._bucket is not None:
            self._bucket.spend(now, self._allowed - sender.allowance)
            has_space = sender.in_flight < self._window  # otherwise an acknowledgement must arrive first
            self._holds = self._bucket.available(now) < 1 and has_space and sender.is_ready
            sender.allowance = inf
        self._note(sender.in_flight - in_flight, now)

    def resumed(self, now: float) -> None:
        """Record that all messages in flight were sent again, at the beginning of a connection."""
        self._at = now
        self.count(now, self._note(self._sender.in_flight, now))

    def alone(self, packet_id: int, outgoing: Outgoing) -> None:
        """Record that a message in flight was sent again by itself, between `open` and `close`."""
        self._sender.allowance -= 1
        self._add(packet_id, self._at, outgoing)

    def count(self, now: float, messages: int = 1) -> None:
        """Count messages that were received, or were sent without `open`."""
        if self._bucket is not None and messages:
            self._bucket.spend(now, messages)

    def pinged(self) -> None:
        """Record that a PINGREQ is sent."""
        self._pings.append(self._number)

    def answered(self, now: float) -> None:
        """Record a PINGRESP: the server has read everything before its PINGREQ. Spec: [MQTT-3.12.4-1]."""
        if self._pings:
            number, oldest = self._pings.popleft(), self._oldest()
            if oldest is None or oldest[1].number > self._read:  # otherwise the time since the earlier answer counts
                self._read, self._read_at = number, now

    def next_deadline(self) -> float | None:
        """Return when a message that is held back may be sent, or one must be sent again; None for never."""
        deadline = None
        if self._bucket is not None and self._holds:
            deadline = self._bucket.ready_at(self._at) + 0.001  # rounding could make it slightly too early, repeatedly
        oldest = self._oldest()
        due = None if oldest is None else self._due(oldest[1])
        if due is not None:
            deadline = due if deadline is None else min(deadline, due)
        return deadline

    def _due(self, oldest: _Sent) -> float | None:
        """Return when to send the oldest message again, or a PINGREQ; None while a PINGRESP is expected."""
        assert self._resend_after is not None
        due = oldest.at + self._resend_after
        if due > self._at:
            return due
        due = self._at
        if not self._is_overtaken():
            if oldest.number > self._read:
                return None if self._is_asked(oldest) else due
            due = max(due, self._read_at + self._resend_after)
        return due if self._bucket is None else max(due, self._bucket.ready_at(self._at) + 0.001)

    def overdue(self, now: float) -> tuple[list[bytes], bool]:
        """Return the messages to send again, encoded, the oldest first; and whether a PINGREQ is needed after them.

        Spec: [MQTT-3.3.1-1].
        """
        self._at, self._holds = now, False
        packets: list[bytes] = []
        while (found := self._oldest()) is not None and self._resend_after is not None:
            packet_id, oldest = found
            if oldest.at + self._resend_after > now:
                break
            if not self._is_overtaken():
                if oldest.number > self._read:
                    return packets, not self._is_asked(oldest)
                if self._read_at + self._resend_after > now:
                    break
            if self._bucket is not None and not self._bucket.take(now):
                break
            self._add(packet_id, now, oldest.outgoing)
            _, topic, payload, qos, retain = oldest.outgoing
            packets.append(encode_publish(topic, payload, qos, retain, True, packet_id))
        return packets, False

    def _is_overtaken(self) -> bool:
        """Return whether a message after the oldest is acknowledged."""
        following = islice(self._sent.items(), 1, _FOLLOWING)
        return any(not self._sender.awaits_puback(packet_id, sent.outgoing) for packet_id, sent in following)

    def _is_asked(self, sent: _Sent) -> bool:
        """Return whether a PINGRESP is expected to a PINGREQ that was sent after a message."""
        return bool(self._pings) and self._pings[-1] >= sent.number

    def _note(self, count: int, now: float) -> int:
        """Record the time of sending of the last `count` messages in flight. Return how many there are."""
        published = self._sender.last_published(count) if count > 0 else []
        for packet_id, outgoing in published:
            self._add(packet_id, now, outgoing)
        return len(published)

    def _add(self, packet_id: int, now: float, outgoing: Outgoing) -> None:
        """Record that a message was sent, after all others."""
        if self._resend_after is not None and outgoing[QOS] == 1:
            self._number += 1
            self._sent.pop(packet_id, None)
            self._sent[packet_id] = _Sent(now, self._number, outgoing)

    def _oldest(self) -> tuple[int, _Sent] | None:
        """Return the unacknowledged message that was sent first, with its packet identifier; None if there is none."""
        while self._sent:
            packet_id, sent = next(iter(self._sent.items()))
            if self._sender.awaits_puback(packet_id, sent.outgoing):
                return packet_id, sent
            del self._sent[packet_id]
        return None
