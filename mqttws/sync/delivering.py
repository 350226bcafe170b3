"""The delivery of messages to the callbacks of a blocking client, in its network thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mqttws.client.core import CALLBACK_SLICE
from mqttws.codec.publishing import Publish
from mqttws.log import report
from mqttws.sync.owner import Owner


def deliver(owner: Owner) -> None:
    """Call the user's callbacks with waiting messages, for at most `CALLBACK_SLICE` seconds."""
    core = owner.core
    messages, manual_ack, routes = core.calls.messages, core.options.manual_ack, core.routes.entries
    on_message = () if core.options.on_message is None else (core.options.on_message,)
    end = time.monotonic() + CALLBACK_SLICE
    while messages and not core.stopping:
        message = messages.popleft()
        takers = _callbacks_for(owner, message) if routes or not on_message else on_message
        for callback in takers:
            try:
                callback(message)
            except BaseException:
                report(callback)
        if message.qos and not manual_ack and takers:
            with owner.lock:  # no call of this thread is interrupted here: nothing is to be posted, or woken
                core.acknowledge(message)
        if time.monotonic() >= end:
            break


def _callbacks_for(owner: Owner, message: Publish) -> Sequence[Callable[[Publish], object]]:
    """Return the callbacks for a message. Without any, put it into the inbox of the iterations."""
    core = owner.core
    with owner.lock:
        takers = core.takers(message)
        owner.notify(bool(core.inbox.messages))
    return takers
