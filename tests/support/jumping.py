"""An event loop whose clock only the test moves: its timers are due as if the time had passed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop on real sockets. Its clock shows the seconds in `now`, however long the test takes."""

    now = 1_000_000.0

    def time(self) -> float:
        return self.now


async def pass_time(seconds: float) -> None:
    """Put the clock of the running loop forward, and let what is due then be done."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    loop.now += seconds
    await asyncio.sleep(0)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test in a loop of this kind. pytest ends it if it hangs, because no timer of it is due by itself."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(test)
