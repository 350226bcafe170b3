"""The delivery of messages to the callbacks of a blocking client, in its network thread."""

from __future__ import annotations

import time

from mqttws.client.callbacks import accepted
from mqttws.client.core import CALLBACK_SLICE
from mqttws.client.inbox import popleft
from mqttws.codec.publishing import Publish
from mqttws.log import report
from mqttws.sync.owner import Owner


def deliver(owner: Owner) -> None:
    """Call the user's callbacks with waiting messages, for at most `CALLBACK_SLICE` seconds."""
    core = owner.core
    messages, routes = core.calls.messages, core.routes.entries
    on_message, manual_ack = core.options.on_message, core.options.manual_ack
    monotonic = time.monotonic
    end = monotonic() + CALLBACK_SLICE
    while messages and not core.stopping and monotonic() < end:
        message = popleft(messages)
        if routes or on_message is None:
            if not _call_takers(owner, message):
                continue
        else:
            try:
                if (result := on_message(message)) is not None:
                    accepted(result)
            except BaseException:
                report(on_message)
        if message.qos and not manual_ack:
            with owner.lock:  # no call of this thread is interrupted here: nothing is to be posted, or woken
                core.acknowledge(message)


def _call_takers(owner: Owner, message: Publish) -> bool:
    """Call the callbacks for a message. Return False without any: then it is in the inbox of the iterations."""
    core = owner.core
    with owner.lock:
        takers = core.takers(message)
        owner.notify(bool(core.inbox.messages))
    for callback in takers:
        try:
            if (result := callback(message)) is not None:
                accepted(result)
        except BaseException:
            report(callback)
    return bool(takers)
