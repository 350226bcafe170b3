"""Fixtures: brokers and raw clients that are closed after the test."""

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
    """Return a function that starts a broker; it is stopped after the test."""
    return lambda **options: stack.enter_context(Broker(**options))


@pytest.fixture
def served(stack: ExitStack, tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Return a function that runs `pubsub serve` in the directory of the test, with stderr in a file."""
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
    """Return a function that creates a raw client, which has sent nothing yet."""
    return lambda broker, scheme="mqtt", **options: stack.enter_context(Wire(broker.url_of(scheme), **options))


@pytest.fixture
def client(wire: Callable[..., Wire]) -> Callable[..., Wire]:
    """Return a function that creates a raw client and connects it."""

    def client(broker: Broker, client_id: str = "", scheme: str = "mqtt", **fields: Any) -> Wire:
        return wire(broker, scheme).connect(client_id, **fields)

    return client
