"""Count the calls for one message: of Python functions, and of functions written in C.

A time depends on the machine; the number of calls does not, and a small message spends most of its time in them. They
are counted with `sys.setprofile`, in the publishing thread and in those of the client and of pubsub, not in those of
the broker.

    python benchmarks/calls.py            # the table
    python benchmarks/calls.py -v pubsub  # and each call of the ways whose name contains a word

*By the caller* are the calls of the publishing thread until its call returns: at QoS 0 everything before the socket.
*In all* adds those of the network thread until the client waits again: at QoS 1 for the message and its PUBACK.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import mqttws
import mqttws.aio
import pubsub.aio
from mqttws.broker import Broker
from pubsub import MqttOverWSProvider, PubSub

#: The number of counted messages of each way, after as many uncounted ones.
MESSAGES = 20
#: Seconds without a call after which the client is waiting again.
QUIET = 0.02

PAYLOAD = b"21.5"
#: The number of messages of QoS 0 that are published together; the counts are those of all of them.
TOGETHER = 64


@dataclass
class Counts:
    """The calls for a message.

    Attributes:
        python: calls of functions written in Python.
        c: calls of functions written in C.
        by_caller: the same two numbers, for the publishing thread only.
        names: function -> number of calls.
    """

    python: int = 0
    c: int = 0
    by_caller: tuple[int, int] = 0, 0
    names: Counter[str] = field(default_factory=Counter)


class CallCounter:
    """Counts calls while active, in every thread started after its creation."""

    def __init__(self) -> None:
        self._counts = Counts()
        self._is_on = False
        self._last = 0.0
        threading.setprofile(self._note)

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        if not self._is_on or event not in ("call", "c_call"):
            return
        self._last = time.monotonic()
        counts, is_python = self._counts, event == "call"
        name = frame.f_code.co_qualname if is_python else f"{argument.__qualname__} (C)"
        counts.python += is_python
        counts.c += not is_python
        counts.names[name] += 1
        if threading.current_thread() is threading.main_thread():
            python, c = counts.by_caller
            counts.by_caller = python + is_python, c + (not is_python)

    def count(self, call: Callable[[], object]) -> Counts:
        """Return the calls that a function causes, in all threads."""
        counts = self._counts = Counts()
        self._last = time.monotonic()
        self._is_on = True
        sys.setprofile(self._note)
        call()
        sys.setprofile(None)
        while time.monotonic() - self._last < QUIET:
            time.sleep(QUIET / 4)
        self._is_on = False
        # Without `call` itself and the call that ends the counting.
        python, c = counts.by_caller
        counts.by_caller = python - 1, c - 1
        counts.python, counts.c = counts.python - 1, counts.c - 1
        return counts


def typical(counter: CallCounter, call: Callable[[], object]) -> Counts:
    """Return the counts of the median message."""
    for _ in range(MESSAGES):
        call()
        time.sleep(0.001)
    counted = sorted((counter.count(call) for _ in range(MESSAGES)), key=lambda counts: counts.python)
    return counted[len(counted) // 2]


def blocking(url: str) -> dict[str, Counts]:
    """Return the counts of the blocking clients."""
    counter, found = CallCounter(), {}
    with mqttws.connect(url) as client:
        for qos in (0, 1, 2):
            found[f"mqttws publish, QoS {qos}"] = typical(counter, lambda qos=qos: client.publish("a", PAYLOAD, qos))  # type: ignore[misc]
        found["mqttws publish_nowait, QoS 0"] = typical(counter, lambda: client.publish_nowait("a", PAYLOAD))
    with PubSub(MqttOverWSProvider(url)) as ps:
        ps.connect()
        for qos in (0, 1, 2):
            found[f"pubsub publish, QoS {qos}"] = typical(counter, lambda qos=qos: ps.publish("a", PAYLOAD, qos=qos))  # type: ignore[misc]
        found["pubsub publish_nowait, QoS 0"] = typical(counter, lambda: ps.publish_nowait("a", PAYLOAD))
        found["pubsub publish of JSON, QoS 0"] = typical(counter, lambda: ps.publish("a", {"n": 1}))
    threading.setprofile(None)  # type: ignore[arg-type]
    return found


def with_asyncio(url: str) -> dict[str, Counts]:
    """Return the counts of the asyncio clients, including the event loop."""
    found: dict[str, Counts] = {}
    loop = asyncio.new_event_loop()
    counter = CallCounter()

    def typical_of(publish: Callable[[], Any]) -> Counts:
        return typical(counter, lambda: loop.run_until_complete(publish()))

    client = loop.run_until_complete(mqttws.aio.connect(url).open())
    for qos in (0, 1):
        found[f"mqttws.aio publish, QoS {qos}"] = typical_of(lambda qos=qos: client.publish("a", PAYLOAD, qos))  # type: ignore[misc]

    async def publish_by_tasks() -> None:
        await asyncio.gather(*(client.publish("a", PAYLOAD) for _ in range(TOGETHER)))

    async def publish_with_callbacks() -> None:
        called: list[object] = []
        for _ in range(TOGETHER):
            client.publish_nowait("a", PAYLOAD).add_done_callback(called.append)
        while len(called) < TOGETHER:
            await asyncio.sleep(0)

    found[f"mqttws.aio publish in {TOGETHER} tasks"] = typical_of(publish_by_tasks)
    found[f"mqttws.aio {TOGETHER} with callbacks"] = typical_of(publish_with_callbacks)
    loop.run_until_complete(client.close())
    ps = pubsub.aio.PubSub(MqttOverWSProvider(url))
    loop.run_until_complete(ps.connect())
    for qos in (0, 1):
        found[f"pubsub.aio publish, QoS {qos}"] = typical_of(lambda qos=qos: ps.publish("a", PAYLOAD, qos=qos))  # type: ignore[misc]
    loop.run_until_complete(ps.close())
    loop.close()
    threading.setprofile(None)  # type: ignore[arg-type]
    return found


def count_all() -> dict[str, Counts]:
    """Return the counts of every way."""
    with Broker(sys_interval=None) as broker:
        return {**blocking(broker.url), **with_asyncio(broker.url)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Count the calls for one message.")
    parser.add_argument(
        "-v", "--verbose", metavar="WORD", help="also show each call of the ways whose name contains WORD"
    )
    arguments = parser.parse_args()
    found = count_all()
    print(f"{'':34}{'by the caller':>20}{'in all':>20}")
    print(f"{'':34}{'Python':>12}{'C':>8}{'Python':>12}{'C':>8}")
    for name, counts in found.items():
        python, c = counts.by_caller
        print(f"{name:34}{python:12}{c:8}{counts.python:12}{counts.c:8}")
        if arguments.verbose is not None and arguments.verbose in name:
            for called, times in counts.names.most_common():
                print(f"{times:12}  {called}")


if __name__ == "__main__":
    main()
