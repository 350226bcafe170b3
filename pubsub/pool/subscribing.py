"""Subscribing and unsubscribing of a pool: each Topic Filter on its part.

A request for a Topic Filter that is being moved is deferred until its handover is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mqttws import MQTTError, SubscribeRejected
from pubsub.pool.gather import Gather, settle_with
from pubsub.pool.handover import Handover
from pubsub.pool.part import Part
from pubsub.pool.places import Place
from pubsub.pool.receiving import Receiving
from pubsub.pool.sizing import least
from pubsub.router import REFUSED

__all__ = ["Subscribing"]

#: A request: Topic Filter, QoS, and the place of its return code in the combined answer.
_Request = tuple[str, int, Gather | None, int]


class Subscribing(Receiving):
    """The methods that subscribe and unsubscribe."""

    def subscribe_nowait(self, topic_filters: Sequence[tuple[str, int]]) -> Any:
        """Subscribe, each Topic Filter on its part. Return a future of the return codes."""
        answer = self.new_answer()
        gather = Gather(len(topic_filters), settle_with(answer))
        self._subscribe([(topic_filter, qos, gather, at) for at, (topic_filter, qos) in enumerate(topic_filters)])
        return answer

    def _subscribe(self, requests: Sequence[_Request]) -> None:
        by_part: dict[Part, list[_Request]] = {}
        with self.lock:
            for request in requests:
                self._place(request, by_part)
            delays = {part: self._delay(part, len(each)) for part, each in by_part.items()}
            now = filter(lambda item: not delays[item[0]], by_part.items())
            sent = [(part, each, _request(part, each)) for part, each in now]
            has_new = self._is_open and bool(self._unopened())
        for part, each, answer in sent:
            answer.add_done_callback(partial(self._subscribed, part, each))
        if has_new:
            self._soon(self.look_over)
        for part, delay in delays.items():
            if delay:
                self.runtime.later(delay, partial(self._subscribe_late, part, by_part[part]))

    def _delay(self, part: Part, count: int) -> float:
        """Return the seconds until a part may subscribe to some Topic Filters, under the lock.

        A part that is not connected subscribes when it connects, for which there is a budget.
        """
        if self._filters is None or not part.stood:
            return 0.0
        now = time.monotonic()
        return max(self._filters.reserve(now) for _ in range(count)) - now

    def _subscribe_late(self, part: Part, requests: Sequence[_Request]) -> None:
        """Subscribe to those of the Topic Filters that the part still has. The others were moved or removed."""
        with self.lock:
            still = list(filter(lambda request: self._has(part, request[0]), requests))
            answer = _request(part, still) if still else None
        for _, qos, gather, at in (request for request in requests if request not in still):
            if gather is not None:
                gather.give(at, qos)
        if answer is not None:
            answer.add_done_callback(partial(self._subscribed, part, still))

    def _has(self, part: Part, topic_filter: str) -> bool:
        place = self.places.get(topic_filter)
        if place is None or place.handover is not None:
            return False
        return topic_filter in part.shared if place.is_shared else place.part is part

    def _place(self, request: _Request, by_part: dict[Part, list[_Request]]) -> None:
        """Choose the parts of a Topic Filter, and add the request to theirs. Requires the lock."""
        topic_filter, qos, gather, at = request
        self._replace(topic_filter)
        place = self.places.get(topic_filter)
        if place is not None and place.handover is not None:
            give = None if gather is None else partial(gather.give, at, max(place.qos, qos))
            if place.handover.target is not None and give is not None:
                # It stays subscribed to, so the answer is known. The deferred SUBSCRIBE is for its retained messages.
                self._soon(give)
                gather = give = None
            self._defer(place.handover, topic_filter, partial(self._subscribe, [(topic_filter, qos, gather, at)]), give)
            return
        if place is None:
            place = self._new_place(topic_filter, qos)
            for older in self.places.overlapping(topic_filter) if place.part is not None else ():
                if older.part is not place.part and older.qos < qos:
                    older.qos = qos  # its part delivers messages that also match the new filter, at the higher QoS
                    assert older.part is not None
                    by_part.setdefault(older.part, []).append((older.topic_filter, qos, None, 0))
        place.qos = max(place.qos, qos)
        on = [place.part] if place.part is not None else self._receiving()
        if gather is not None:
            gather.expect(len(on) - 1)
        for part in on:
            if place.is_shared:
                part.shared.setdefault(topic_filter, False)
            by_part.setdefault(part, []).append((topic_filter, place.qos, gather, at))

    def _new_place(self, topic_filter: str, qos: int) -> Place[Part]:
        place: Place[Part] = Place(topic_filter, qos, None, 0)
        if place.is_shared:
            return self.places.add(topic_filter, qos, None)
        moving = {each.handover.source for each in self.places.overlapping(topic_filter) if each.handover is not None}
        # A part from which topics are being moved must not get them through another filter.
        parts = [part for part in self._receiving() if part not in moving] or self._receiving()
        part = least(parts, self.places, self._most_filters, topic_filter)
        if part is None and self._is_auto and len(self._parts) < self._most_connections:
            part = self._add(False, True, is_first=not self._is_open)
        if part is None:  # all are full: the server decides whether it grants more
            part = min(self._receiving(), key=self.places.count)
        return self.places.add(topic_filter, qos, part)

    def _share(self, part: Part) -> None:
        """Subscribe a part to those of the shared subscriptions that it does not have. Requires the lock."""
        missing = [place for place in self.places.shared if place.topic_filter not in part.shared]
        if missing:
            requests: list[_Request] = [(place.topic_filter, place.qos, None, 0) for place in missing]
            self.runtime.later(self._delay(part, len(missing)), partial(self._subscribe_late, part, requests))
            part.shared.update(dict.fromkeys((place.topic_filter for place in missing), False))

    def _is_replaced(self, part: Part) -> bool:
        """Return whether another part has each shared subscription of a part that is to leave. Requires the lock."""
        others = list(filter(lambda each: each is not part, self._receiving()))
        return not part.stood or all(any(each.shared.get(name) for each in others) for name in part.shared)

    def _subscribed(self, part: Part, requests: Sequence[_Request], answer: Any) -> None:
        error = ConnectionError("the answer was cancelled") if answer.cancelled() else answer.exception()
        codes = [0] * len(requests) if error is not None else answer.result()
        with self.lock:
            shared = list(filter(lambda name: part.shared.get(name) is False, [request[0] for request in requests]))
            part.shared.update(dict.fromkeys(shared, True))
        for (topic_filter, _, gather, at), code in zip(requests, codes, strict=True):
            if code == REFUSED:
                self._refused(part, topic_filter)
            if gather is not None and error is not None:
                gather.fail(error)
            elif gather is not None:
                gather.give(at, code)
        if shared:
            self.look_over()  # another part may have waited for this one

    def _refused(self, part: Part, topic_filter: str) -> None:
        with self.lock:
            place = self.places.get(topic_filter)
            if place is not None and place.part is part and place.handover is None:
                self.places.remove(place)

    def unsubscribe_nowait(self, topic_filters: Sequence[str]) -> Any:
        """Unsubscribe. Return a future."""
        answer = self.new_answer()
        self._unsubscribe(topic_filters, Gather(len(topic_filters), settle_with(answer)))
        return answer

    def _unsubscribe(self, topic_filters: Sequence[str], gather: Gather) -> None:
        by_part: dict[Part, list[str]] = {}
        given = 0
        with self.lock:
            for topic_filter in topic_filters:
                given += self._displace(topic_filter, gather, by_part)
            sent = [(len(each), part.client.unsubscribe_nowait(each)) for part, each in by_part.items()]
        for count, answer in sent:
            answer.add_done_callback(partial(self._unsubscribed, gather, count))
        for _ in range(given):
            gather.give(0, 0)
        self.moves.begin()

    def _displace(self, topic_filter: str, gather: Gather, by_part: dict[Part, list[str]]) -> int:
        """Start to remove a Topic Filter. Return 1 if there is no answer to wait for, else 0. Requires the lock."""
        self._replace(topic_filter)
        place = self.places.get(topic_filter)
        if place is None:
            return 1
        moving = [
            each.handover for each in (place, *self.places.overlapping(topic_filter)) if each.handover is not None
        ]
        if moving:  # the old part must still deliver messages; the caller does not wait for the deferred UNSUBSCRIBE
            silent = Gather(1, lambda codes, error: None)
            self._defer(moving[0], topic_filter, partial(self._unsubscribe, [topic_filter], silent))
            return 1
        if place.part is not None and any(
            other.part is not place.part and other.age > place.age for other in self.places.overlapping(topic_filter)
        ):
            handover = self.moves.add([place], place.part, None)
            self.moves.when_over(handover, partial(gather.give, 0, 0))
            return 0
        on = [place.part] if place.part is not None else self._receiving()
        self.places.remove(place)
        for part in filter(lambda part: part.shared.pop(topic_filter, None) is not None, self._parts):
            if part not in on and not part.is_closed:  # it is about to leave; the caller does not wait for it
                part.client.unsubscribe_nowait([topic_filter])
        gather.expect(len(on) - 1)
        for part in on:
            by_part.setdefault(part, []).append(topic_filter)
        return 0

    @staticmethod
    def _unsubscribed(gather: Gather, count: int, answer: Any) -> None:
        error = ConnectionError("the answer was cancelled") if answer.cancelled() else answer.exception()
        for _ in range(count):
            if error is not None:
                gather.fail(error)
            else:
                gather.give(0, 0)

    def _defer(
        self,
        handover: Handover[Part],
        topic_filter: str,
        request: Callable[[], object],
        give: Callable[[], object] | None = None,
    ) -> None:
        """Defer a request until a handover is over. Requires the lock.

        Args:
            handover: The handover.
            topic_filter: The Topic Filter of the request.
            request: Makes the request.
            give: Answers the request if another one replaces it; None if nobody waits for the answer.
        """
        self._deferred[topic_filter] = (request, give)
        self.moves.when_over(handover, self._again)

    def _replace(self, topic_filter: str) -> None:
        """Drop the deferred request for a Topic Filter, because another one replaces it. Requires the lock."""
        _, give = self._deferred.pop(topic_filter, (None, None))
        if give is not None:  # the caller may also wait for the answers to other Topic Filters
            self._soon(give)

    def _soon(self, call: Callable[[], object]) -> None:
        """Call a function outside the lock, after the present call of the channel has returned."""
        self.runtime.later(0.0, call)

    def _again(self) -> None:
        """Make the deferred requests."""
        with self.lock:
            deferred, self._deferred = self._deferred, {}
        for request, _ in deferred.values():
            request()

    def _on_error(self, part: Part, error: MQTTError) -> None:
        if isinstance(error, SubscribeRejected):
            self._refused(part, error.topic_filter)
        on_error = self._options.get("on_error")
        if on_error is not None:
            on_error(error)


def _request(part: Part, requests: Sequence[_Request]) -> Any:
    return part.client.subscribe_nowait([(topic_filter, qos) for topic_filter, qos, _, _ in requests])
