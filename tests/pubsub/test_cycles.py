"""What a refused subscription leaves to the garbage collector: nothing.

Otherwise the collector runs in the calling thread, and can swallow the exception of a signal handler.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pubsub_faces import PATIENCE

import pubsub
import pubsub.aio
from mqttws import SubscribeRejected
from pubsub.subscription import Handle, SubscriptionCore


def refused(ps: Any) -> None:
    """The frame has the handle, as that of a program."""
    handle = ps.subscribe("secret").subscribe(print, lambda error: None)
    with pytest.raises(SubscribeRejected):
        handle.ready(PATIENCE)
    with pytest.raises(SubscribeRejected):  # each call raises it
        handle.ready(PATIENCE)
    assert isinstance(handle.error, SubscribeRejected)


def refused_iteration(ps: Any) -> None:
    with pytest.raises(SubscribeRejected):
        next(iter(ps.subscribe("secret", timeout=PATIENCE)))


async def refused_later(ps: Any) -> None:
    handle = ps.subscribe("secret").subscribe(print, lambda error: None)
    with pytest.raises(SubscribeRejected):
        await handle.ready(PATIENCE)
    with pytest.raises(SubscribeRejected):
        await handle.ready(PATIENCE)


async def refused_iteration_later(ps: Any) -> None:
    with pytest.raises(SubscribeRejected):
        await anext(aiter(ps.subscribe("secret", timeout=PATIENCE)))


def alive() -> int:
    return sum(isinstance(each, (SubscriptionCore, Handle)) for each in gc.get_objects())


@pytest.mark.parametrize("fail", [refused, refused_iteration])
def test_a_refused_subscription_leaves_no_cycle(world: Any, fail: Callable[[Any], None]) -> None:
    world.forbidden.add("secret")
    with pubsub.PubSub(world.provider()) as ps:
        fail(ps)  # connects
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                fail(ps)
            deadline = time.monotonic() + PATIENCE
            while alive():  # the notifier holds the last one until it has reported its end
                assert time.monotonic() < deadline, "a subscription waits for the garbage collector"
                time.sleep(0.01)
        finally:
            gc.enable()


@pytest.mark.parametrize("fail", [refused_later, refused_iteration_later])
def test_a_refused_subscription_leaves_no_cycle_in_asyncio(world: Any, fail: Callable[[Any], Awaitable[None]]) -> None:
    world.forbidden.add("secret")

    async def main() -> None:
        async with pubsub.aio.PubSub(world.provider()) as ps:
            await fail(ps)
            gc.collect()
            gc.disable()
            try:
                for _ in range(3):
                    await fail(ps)
                async with asyncio.timeout(PATIENCE):
                    while alive():
                        await asyncio.sleep(0.01)
            finally:
                gc.enable()

    asyncio.run(main())
