"""Rate limits: a token bucket, and the pace of a client for a server that drops messages beyond its rate.

Such a server (AWS IoT is one) acknowledges nothing of what it drops. Without a pace, a client would soon wait for
acknowledgements that never come, and with a full window send nothing any more. So messages of QoS 1 and 2 wait for
their turn, and one of QoS 1 that is not acknowledged in time is sent again. The time is an argument, as everywhere.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from mqttws.codec.publishing import encode_publish

if TYPE_CHECKING:
    from mqttws.protocol.outgoing import Outgoing
    from mqttws.protocol.sending import Sender

__all__ = ["Pace", "TokenBucket"]

#: How much of a server's rate is used: its clock and the network's delays are not ours.
_MARGIN = 0.98


class TokenBucket:
    """A token bucket: tokens are added at a fixed rate, up to a maximum; each limited step takes one.

    Args:
        rate: tokens a second, above 0.
        burst: how many tokens there are at most, above 0; there are as many in the beginning.
    """

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        if not (rate > 0 and burst > 0):
            raise ValueError(f"rate is {rate} and burst {burst}; both must be above 0")
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at: float | None = None  # when they were counted; None: never

    def available(self, now: float) -> float:
        """Return how many tokens there are; below 0 where more were spent than there were.

        Args:
            now: seconds, of any clock that does not go back.
        """
        if self._at is not None and now > self._at:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now if self._at is None else max(self._at, now)
        return self._tokens

    def take(self, now: float, count: float = 1.0) -> bool:
        """Take tokens if there are that many. Return whether there were."""
        if self.available(now) < count:
            return False
        self._tokens -= count
        return True

    def spend(self, now: float, count: float = 1.0) -> None:
        """Take tokens whether they are there or not; what is missing, at most `burst`, has to come first."""
        self._tokens = max(-self.burst, self.available(now) - count)

    def ready_at(self, now: float, count: float = 1.0) -> float:
        """Return when there will be so many tokens, at most `burst`, if none are taken until then."""
        missing = min(count, self.burst) - self.available(now)
        return now if missing <= 0 else now + missing / self.rate


class Pace:
    """The pace of one connection.

    Args:
        sender: the messages on their way out.
        rate: PUBLISH packets per second in both directions together, above 0; None: no limit.
        resend_after: seconds after which a message of QoS 1 that is not acknowledged is sent again; None for never.
    """

    __slots__ = ("_at", "_bucket", "_holds", "_resend_after", "_sender", "_sent")

    def __init__(self, sender: Sender, rate: float | None, resend_after: float | None) -> None:
        self._sender = sender
        # Half a second's worth at once: the server counts what the network has brought closer together.
        self._bucket = None if rate is None else TokenBucket(rate * _MARGIN, max(1.0, rate / 2))
        self._resend_after = resend_after
        self._sent: dict[int, tuple[float, Outgoing]] = {}  # by packet identifier: when; the oldest first
        self._at = 0.0
        self._holds = False  # whether a message has been held back since, and its time has not come

    def open(self, now: float) -> int:
        """Let as many messages leave as the rate allows; `close` must follow. Return how many are in flight."""
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
        """Note that all that is in flight has left again, at the beginning of a connection."""
        self._at = now
        self.count(now, self._note(self._sender.in_flight, now))

    def alone(self, packet_id: int, outgoing: Outgoing) -> None:
        """Note that a message of an earlier connection leaves by itself, between `open` and `close`."""
        self._sender.allowance -= 1
        if self._resend_after is not None:
            self._sent[packet_id] = (self._at, outgoing)

    def count(self, now: float, messages: int = 1) -> None:
        """Count messages that came in, or left without waiting for their turn."""
        if self._bucket is not None and messages:
            self._bucket.spend(now, messages)

    def next_deadline(self) -> float | None:
        """Return when a message may leave that cannot now; None for never."""
        deadline = None
        if self._bucket is not None and self._holds:
            deadline = self._bucket.ready_at(self._at) + 0.001  # or rounding makes it too early, again and again
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
        """Note when the messages left that were published last. Return how many there are, at most `count`."""
        published = self._sender.last_published(count) if count > 0 else []
        if self._resend_after is not None:
            for packet_id, outgoing in published:
                self._sent.pop(packet_id, None)
                self._sent[packet_id] = (now, outgoing)
        return len(published)

    def _forget_done(self) -> None:
        while self._sent:
            packet_id, (_, outgoing) = next(iter(self._sent.items()))
            if self._sender.awaits_puback(packet_id, outgoing):
                break
            del self._sent[packet_id]
