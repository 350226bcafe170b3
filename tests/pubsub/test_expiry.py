"""Expiry of unsent messages in the PubSub API: their publish fails, and pending messages are counted."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pubsub_faces import PATIENCE

import mqttws
from pubsub import MqttOverWSProvider, PublishFailed

NOWHERE = "mqtt://127.0.0.1:1"


def offline(**options: Any) -> MqttOverWSProvider:
    """Return a provider without a network, which makes no second attempt during a test."""
    return MqttOverWSProvider(
        NOWHERE, retry_first=True, reconnect=mqttws.Reconnect(initial=60.0, interval=0.0), **options
    )


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_expire_by_the_option_of_the_call_or_the_provider(make: Any, qos: int) -> None:
    mine = make(offline(expire_after=0.2))
    ps = mine.ps
    with pytest.raises(PublishFailed) as failure:
        mine.call(ps.publish, "a", 1, qos=qos)
    assert isinstance(failure.value.errors["a"], mqttws.MessageExpired)
    with pytest.raises(PublishFailed):
        mine.call(ps.publish, ["a", "b"], 1, qos=qos, expire_after=0.1)
    assert mine.call(lambda: (ps.expired, ps.waiting.messages)) == (3, 0)

    def leave_one() -> None:
        future = ps.publish_nowait("a", 1, qos=1, expire_after=math.inf)
        future.add_done_callback(lambda done: done.cancelled() or done.exception())

    mine.call(leave_one)
    waiting = mine.call(lambda: ps.waiting)
    assert (waiting.messages, waiting.size) == (1, 2)
    mine.call(ps.close, timeout=0.1)
    assert mine.call(lambda: (ps.expired, ps.dropped, ps.waiting)) == (3, 0, (0, 0, 0.0))


def test_messages_sent_in_time_do_not_expire(make: Any, world: Any) -> None:
    mine = make(world.provider(expire_after=PATIENCE))
    mine.call(mine.ps.publish, "a", 1, qos=1)
    mine.call(mine.ps.publish, "a", 1, qos=1, expire_after=PATIENCE)
    assert mine.ps.expired == 0
    with pytest.raises(ValueError, match="expire_after"):
        mine.call(mine.ps.publish, "a", 1, qos=1, expire_after=0)
