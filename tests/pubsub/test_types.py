"""The type hints of the API: a type checker finds misspelt options and wrong types, and knows the returned types."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

#: Each line that ends in "# error: ..." must be an error of that kind, and no other line.
PROGRAM = """
import asyncio
from concurrent.futures import Future
from typing import assert_type

import pubsub.aio
from pubsub import AWSIoTProvider, Message, Messages, MqttOverWSProvider, Observable, PubSub, Subscription

MqttOverWSProvider("wss://a", clientid="x")  # error: call-arg
MqttOverWSProvider("wss://a", keep_alive="60")  # error: arg-type
MqttOverWSProvider("wss://a", overflow="drop")  # error: arg-type
MqttOverWSProvider("wss://a", offline="keep")  # error: arg-type
MqttOverWSProvider("wss://a", on_message=print)  # error: call-arg
MqttOverWSProvider("wss://a", keep_alive=60, retry_first=True, overflow="raise", hold_seconds=5.0)
AWSIoTProvider(client_identifier="x")  # error: call-arg

ps = PubSub(MqttOverWSProvider())
assert_type(ps.subscribe("a"), Observable)
assert_type(ps.subscribe(["a"]).subscribe(next=print), Subscription)
ps.subscribe("a").subscribe(next=print, closed=print)  # error: call-overload
ps.subscribe("a", qos="1")  # error: arg-type
ps.subscribe(5)  # error: arg-type
assert_type(ps.publish_nowait("a", 1), Future[None])
with ps.subscribe("a") as messages:
    assert_type(messages, Messages)
    assert_type(messages.ready(5), dict[str, int])
    assert_type(next(messages), Message)
for message in ps.subscribe("a"):
    assert_type(message, Message)


async def main() -> None:
    ps = pubsub.aio.PubSub()
    assert_type(ps.publish_nowait("a", 1), asyncio.Future[None])
    async with ps.subscribe("a") as messages:
        assert_type(await messages.ready(5), dict[str, int])
        assert_type(await anext(messages), Message)
    async for message in ps.subscribe("a"):
        assert_type(message, Message)
    ps.subscribe("a", timout=5)  # error: call-arg
"""


def test_a_type_checker_reports_exactly_the_wrong_lines(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-color-output", "--no-error-summary", str(program)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    wanted = {
        (number, line.rpartition("# error: ")[2])
        for number, line in enumerate(PROGRAM.splitlines(), 1)
        if "# error: " in line
    }
    found = {(int(line), kind) for line, kind in re.findall(r":(\d+): error: .*\[([a-z-]+)\]", done.stdout)}
    assert found == wanted, done.stdout + done.stderr
