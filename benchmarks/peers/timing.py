"""The timing of cases, shared by the scripts of this directory, so that it is the same for every library.

Each script is for one library. `run_peers.py` runs it once for each case and round, in a separate process and
environment (with the parent directory in PYTHONPATH)::

    python codec_paho.py decode_stream
    python client_paho.py receive port=19001 count=100000 warm=50000

It checks the outcome of the case and prints one line of JSON.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

#: The number of repetitions of a case within a process; the best counts, since disturbances only make it slower.
REPEATS = 12
#: The duration of one repetition, in seconds.
TARGET = 0.05


def nanoseconds(run: Callable[[int], object], per_run: int = 1) -> float:
    """Time a loop.

    Args:
        run: repeats the work a given number of times.
        per_run: the number of packets in each repetition.

    Returns:
        Nanoseconds a packet.
    """
    count = 1
    while True:  # warm up, and find the number of repetitions that fills the time
        start = time.perf_counter()
        run(count)
        elapsed = time.perf_counter() - start
        if elapsed > TARGET / 2:
            break
        count *= 2
    best = elapsed
    gc.collect()
    gc.disable()
    try:
        for _ in range(REPEATS):
            start = time.perf_counter()
            run(count)
            best = min(best, time.perf_counter() - start)
    finally:
        gc.enable()
    return best / count / per_run * 1e9


class Stopwatch:
    """Wall clock and CPU time of this process, all threads, from `start` to `stop`."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the clocks."""
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def stop(self, messages: int) -> dict[str, float]:
        """Return the seconds, the messages a second, and the CPU time of each message in microseconds."""
        wall = time.perf_counter() - self._wall
        cpu = time.process_time() - self._cpu
        return {"seconds": wall, "rate": messages / wall, "cpu_us": cpu / messages * 1e6}


def timed(run: Callable[[int], object], count: int, warm: int) -> dict[str, float]:
    """Time a function that handles `count` messages, after a warm-up."""
    run(warm)
    watch = Stopwatch()
    run(count)
    return watch.stop(count)


async def atimed(run: Callable[[int], Awaitable[object]], count: int, warm: int) -> dict[str, float]:
    """Time a coroutine function in the same way."""
    await run(warm)
    watch = Stopwatch()
    await run(count)
    return watch.stop(count)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return the total time of round trips, and their 50th, 99th and 99.9th percentiles in microseconds."""
    ordered = sorted(seconds)
    p50, p99, p999 = (ordered[int(len(ordered) * part)] * 1e6 for part in (0.50, 0.99, 0.999))
    return {"seconds": sum(seconds), "p50_us": p50, "p99_us": p99, "p999_us": p999}


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that the threads of a process have used; finer than the hundredths of `stat`."""
    return sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def resident_kib() -> float:
    """Return the resident memory of this process in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise OSError("/proc/self/status has no VmRSS")


class Peak:
    """The greatest resident memory of this process from its construction on, beyond what it has then."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # resets the greatest to the present
        self._before = self._greatest()

    def mib(self) -> float:
        """Return the greatest growth in MiB, at least a page."""
        return max(self._greatest() - self._before, 1 / 256)

    @staticmethod
    def _greatest() -> float:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 1024
        raise OSError("/proc/self/status has no VmHWM")


def transferred(figures: dict[str, float], size: int, peak: Peak) -> dict[str, float]:
    """Turn the figures of messages into those of their bytes."""
    mib = size / 2**20
    return {
        "seconds": figures["seconds"],
        "mib_s": figures["rate"] * mib,
        "cpu_us_mib": figures["cpu_us"] / mib,
        "peak_mib": peak.mib(),
    }


def raise_open_files() -> int:
    """Raise the limit of open files to its maximum, and return it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def main(cases: dict[str, Callable[..., float | dict[str, float]]]) -> None:
    """Run the case named on the command line, with its options (name=number), and print its figures."""
    name, *options = sys.argv[1:]
    values = {key: int(value) for key, value in (option.split("=") for option in options)}
    figures = cases[name](**values)
    print(json.dumps(figures if isinstance(figures, dict) else {"ns": figures}))
