"""What the tests share: brokers that end with the test, and raw clients of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from wire import Wire

from mqttws.broker import Broker


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start(stack: ExitStack) -> Callable[..., Broker]:
    """Start a broker; it stops with the test."""
    return lambda **options: stack.enter_context(Broker(**options))


@pytest.fixture
def served(stack: ExitStack, tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Run `pubsub serve` in the test's own directory, and what it complains of into a file; it ends with the test."""
    complaints = stack.enter_context((tmp_path / "complaints").open("wb"))

    def served(*words: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "pubsub", "serve", *words],
            stdout=subprocess.PIPE,
            stderr=complaints,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUNBUFFERED": "1"},
        )
        stack.enter_context(process)
        stack.callback(process.terminate)
        return process

    return served


@pytest.fixture
def wire(stack: ExitStack) -> Callable[..., Wire]:
    """Make a raw client, which says nothing yet."""
    return lambda broker, scheme="mqtt", **options: stack.enter_context(Wire(broker.url_of(scheme), **options))


@pytest.fixture
def client(wire: Callable[..., Wire]) -> Callable[..., Wire]:
    """Make a raw client, and connect it."""

    def client(broker: Broker, client_id: str = "", scheme: str = "mqtt", **fields: Any) -> Wire:
        return wire(broker, scheme).connect(client_id, **fields)

    return client
