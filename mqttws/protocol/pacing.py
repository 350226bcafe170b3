"""Rate limits: a token bucket, and a client's pacing for a server that drops messages above a rate.

Such a server (AWS IoT is one) does not acknowledge the messages that it drops. Without pacing, a client would soon have
all its messages in flight waiting for acknowledgements that never come, and send nothing more. So QoS 1 and 2 messages
are delayed to stay below the rate, and a QoS 1 message that is not acknowledged in time is sent again.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from mqttws.codec.publishing import encode_publish

if TYPE_CHECKING:
    from mqttws.protocol.outgoing import Outgoing
    from mqttws.protocol.sending import Sender

__all__ = ["Pace", "TokenBucket"]

#: The fraction of the server's rate that is used, because its clock differs and network delays vary.
_MARGIN = 0.98


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


class Pace:
    """The rate limit and the retransmissions of one connection.

    Args:
        sender: The outgoing messages.
        rate: PUBLISH packets per second in both directions together, above 0; None: no limit.
        resend_after: Seconds after which a QoS 1 message that is not acknowledged is sent again; None: never.
    """

    __slots__ = ("_at", "_bucket", "_holds", "_resend_after", "_sender", "_sent")

    def __init__(self, sender: Sender, rate: float | None, resend_after: float | None) -> None:
        self._sender = sender
        # Bursts are limited to half a second's worth: network delays can merge two of them before the server.
        self._bucket = None if rate is None else TokenBucket(rate * _MARGIN, max(1.0, rate / 2))
        self._resend_after = resend_after
        # Packet identifier -> when the message was sent, and the message; the oldest first.
        self._sent: dict[int, tuple[float, Outgoing]] = {}
        self._at = 0.0
        self._holds = False  # whether a message is held back because of the rate

    def open(self, now: float) -> int:
        """Allow the sender as many messages as the rate permits. Return how many are in flight, for `close`."""
        self._at = now
        self._sender.allowance = inf if self._bucket is None else self._bucket.available(now)
        return self._sender.in_flight

    def close(self, in_flight: int, now: float) -> None:
        """Record what was sent since `open`, which returned `in_flight`."""
        sender = self._sender
        if self._bucket is not None:
            self._bucket.spend(now, self._bucket.available(now) - sender.allowance)
            self._holds = sender.allowance < 1 and sender.is_ready
            sender.allowance = inf
        self._note(sender.in_flight - in_flight, now)

    def resumed(self, now: float) -> None:
        """Record that all messages in flight were sent again, at the beginning of a connection."""
        self._at = now
        self.count(now, self._note(self._sender.in_flight, now))

    def alone(self, packet_id: int, outgoing: Outgoing) -> None:
        """Record that a message in flight was sent again by itself, between `open` and `close`."""
        self._sender.allowance -= 1
        if self._resend_after is not None:
            self._sent[packet_id] = (self._at, outgoing)

    def count(self, now: float, messages: int = 1) -> None:
        """Count messages that were received, or were sent without `open`."""
        if self._bucket is not None and messages:
            self._bucket.spend(now, messages)

    def next_deadline(self) -> float | None:
        """Return when a message that is held back may be sent, or one must be sent again; None for never."""
        deadline = None
        if self._bucket is not None and self._holds:
            deadline = self._bucket.ready_at(self._at) + 0.001  # rounding could make it slightly too early, repeatedly
        self._forget_done()
        if self._resend_after is not None and self._sent:
            overdue_at = next(iter(self._sent.values()))[0] + self._resend_after
            if self._bucket is not None and overdue_at <= self._at:
                overdue_at = self._bucket.ready_at(self._at) + 0.001
            deadline = overdue_at if deadline is None else min(deadline, overdue_at)
        return deadline

    def overdue(self, now: float) -> list[bytes]:
        """Return the messages to send again, encoded, the oldest first. Spec: [MQTT-3.3.1-1]."""
        self._at, self._holds = now, False
        packets: list[bytes] = []
        while self._resend_after is not None:
            self._forget_done()
            packet_id = next(iter(self._sent), None)
            if packet_id is None or self._sent[packet_id][0] + self._resend_after > now:
                break
            if self._bucket is not None and not self._bucket.take(now):
                break
            _, outgoing = self._sent.pop(packet_id)
            self._sent[packet_id] = (now, outgoing)
            _, topic, payload, qos, retain = outgoing
            packets.append(encode_publish(topic, payload, qos, retain, True, packet_id))
        return packets

    def _note(self, count: int, now: float) -> int:
        """Record the time of sending of the last `count` messages in flight. Return how many there are."""
        published = self._sender.last_published(count) if count > 0 else []
        if self._resend_after is not None:
            for packet_id, outgoing in published:
                self._sent.pop(packet_id, None)
                self._sent[packet_id] = (now, outgoing)
        return len(published)

    def _forget_done(self) -> None:
        """Remove acknowledged messages from the left of `_sent`."""
        while self._sent:
            packet_id, (_, outgoing) = next(iter(self._sent.items()))
            if self._sender.awaits_puback(packet_id, outgoing):
                break
            del self._sent[packet_id]
