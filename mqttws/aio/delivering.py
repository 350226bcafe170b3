"""The delivery of messages to the callbacks of an asyncio client."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Iterator

from mqttws.aio.owner import Owner
from mqttws.client.core import CALLBACK_SLICE
from mqttws.client.inbox import popleft
from mqttws.client.routes import Callback
from mqttws.codec.publishing import Publish
from mqttws.log import report

#: A message, the callbacks that are not called yet, and a callback with the awaitable that it returned.
Unfinished = tuple[Publish, Iterator[Callback], tuple[Callback, Awaitable[object]]]


def deliver(owner: Owner) -> Unfinished | None:
    """Call the user's callbacks with waiting messages, for at most `CALLBACK_SLICE` seconds.

    Returns:
        The message whose callback returned an awaitable, which ends this; None if none did.
    """
    core = owner.core
    messages, manual_ack, routes = core.calls.messages, core.options.manual_ack, core.routes.entries
    on_message = () if core.options.on_message is None else (core.options.on_message,)
    monotonic = time.monotonic
    end = monotonic() + CALLBACK_SLICE
    while messages and not core.stopping:
        message = popleft(messages)
        takers = core.takers(message) if routes or not on_message else on_message
        for callback in takers:
            try:
                result = callback(message)
            except (Exception, asyncio.CancelledError):  # the latter from the result of a cancelled future
                report(callback)
                continue
            except BaseException:  # `SystemExit`, which ends the event loop: the server sends the message again
                if message.qos:  # has no effect if it was acknowledged, with `manual_ack`
                    owner.call(core.session.receiver.discard, message)
                raise
            if result is not None and inspect.isawaitable(result):
                return message, iter(takers[takers.index(callback) + 1 :]), (callback, result)
        if message.qos and not manual_ack and takers:  # without takers it is in the inbox of the iterations
            owner.busy = True  # what `call` does in a callback of the loop, inlined for speed
            try:
                core.acknowledge(message)
            finally:
                owner.busy = False
        if monotonic() >= end:
            break
    return None
