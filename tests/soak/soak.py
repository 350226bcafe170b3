"""A soak test: mixed traffic and faults for a given time, then checks. `make soak T=3600`.

    python tests/soak/soak.py --seconds 3600 [--clients 200] [--plot docs/soak.png]

The broker runs in a separate process; the clients run in this one, on asyncio, over WebSocket or TCP, through a proxy
that resets a random connection every two seconds. Each client has a persistent session and publishes to the next one in
a ring, alternating QoS 0, 1 and 2. Both processes are measured every second. It begins when all clients are connected,
since an attempt to open that is reset fails. The memory of the measurements is allocated at the start, so that it is
not measured with the clients.

The checks; the exit code is 0 only if all succeed:

    nothing lost           every message of QoS 1 arrived, every one of QoS 2 exactly once, and every future was settled
    memory                 the regression line of the resident memory after the first fifth, below 1 MiB an hour
    descriptors, tasks     of the broker and of this process are as many as before the clients connected

The slope is checked only from half an hour on, because a shorter run shows steps of the allocator rather than a leak.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import socket
import struct
import subprocess
import sys
import time
from array import array
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mqttws.aio
from mqttws import Publish, Reconnect

HERE = Path(__file__).parent
MIB = 1024 * 1024
#: Seconds between resets; and between two messages of a client.
CUT, PACE = 2.0, 0.5
#: Permitted growth of resident memory in MiB an hour, and the minimum duration in seconds for this check.
SLOPE, JUDGED_FROM = 1.0, 1_800


class Proxy:
    """A proxy that forwards bytes, and resets connections on request."""

    def __init__(self, host: str, port: int) -> None:
        self._to = host, port
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.cuts = 0

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        self._server.close()
        while self._pairs:
            self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        pair = None
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._to)
            pair = writer, far_writer
            self._pairs.append(pair)
            await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        except OSError:
            pass
        finally:
            if pair is not None and pair in self._pairs:
                self._pairs.remove(pair)
            for end in pair or (writer,):
                end.close()
            self._tasks.discard(task)

    @staticmethod
    async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    def cut(self) -> None:
        """Reset a random connection, in both directions."""
        if not self._pairs:
            return
        pair = self._pairs.pop(random.randrange(len(self._pairs)))
        self.cuts += 1
        for writer in pair:
            connection = writer.get_extra_info("socket")
            if connection is not None and connection.fileno() >= 0:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Account:
    """The received messages of one publisher with one QoS, by number.

    Args:
        lossy: whether skipped messages may be lost for good, as with QoS 0: then they are not awaited, because all
            later numbers would have to be stored.
    """

    def __init__(self, lossy: bool = False) -> None:
        self.sent = 0
        self.duplicates = 0
        self._lossy = lossy
        self._lost = 0
        self._next = 0
        self._ahead: set[int] = set()

    def arrived(self, number: int) -> None:
        """Record a message."""
        if number < self._next or number in self._ahead:
            self.duplicates += 1
            return
        if self._lossy:
            self._lost += number - self._next
            self._next = number
        self._ahead.add(number)
        while self._next in self._ahead:
            self._ahead.discard(self._next)
            self._next += 1

    @property
    def missing(self) -> int:
        """Return the number of missing messages."""
        return self.sent - self._next - len(self._ahead) + self._lost


class Samples:
    """The measurements of each second, in memory that is allocated at the start.

    Args:
        count: the number of seconds.
    """

    WHO = "broker", "clients"
    WHAT = "rss", "fds", "threads"

    def __init__(self, count: int) -> None:
        self.times = array("d", bytes(8 * count))
        self._columns = {(who, what): array("q", bytes(8 * count)) for who in self.WHO for what in self.WHAT}
        self.count = 0

    def add(self, elapsed: float, processes: Mapping[str, int]) -> None:
        """Measure processes, given by their pids."""
        if self.count == len(self.times):
            return
        self.times[self.count] = elapsed
        for who, process in processes.items():
            for what, value in measure(process).items():
                self._columns[who, what][self.count] = value
        self.count += 1

    def column(self, who: str, what: str) -> list[tuple[float, int]]:
        """Return (seconds, value) for each second."""
        return list(zip(self.times[: self.count], self._columns[who, what], strict=False))


class Ring:
    """The clients; each publishes to the next."""

    def __init__(self, count: int, urls: list[str]) -> None:
        self.accounts = {(number, qos): Account(qos == 0) for number in range(count) for qos in (0, 1, 2)}
        self.reconnects = 0
        self.unsettled = [0] * count  # the number of unsettled futures of each client
        self.failed = 0
        self.ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._subscribed = asyncio.Barrier(count)  # publishing starts when all are subscribed
        self._urls = urls
        self._count = count

    def _on_message(self, message: Publish) -> None:
        publisher, qos, number, _ = message.payload.split(b" ", 3)
        self.accounts[int(publisher), int(qos)].arrived(int(number))

    def _on_state(self, state: Any) -> None:
        self.reconnects += state.name == "reconnecting"

    def _on_finished(self, number: int, future: asyncio.Future[None]) -> None:
        self.unsettled[number] -= 1
        self.failed += future.exception() is not None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._count):
                group.create_task(self._client(number))

    def stop(self) -> None:
        self._stop.set()

    async def _client(self, number: int) -> None:
        chance = random.Random(number)
        await asyncio.sleep(chance.random() * 2)
        options: dict[str, Any] = {
            "client_id": f"soak-{number}",
            "clean_session": False,
            "keep_alive": 10,
            "reconnect": Reconnect(initial=0.05, maximum=1.0),
            "on_message": self._on_message,
            "on_state": self._on_state,
            "proxy": None,
        }
        async with mqttws.aio.connect(self._urls[number % len(self._urls)], **options) as client:
            await client.subscribe(f"ring/{number}", 2)
            await self._subscribed.wait()
            self.ready.set()
            target = f"ring/{(number + 1) % self._count}"
            finished = partial(self._on_finished, number)
            turn = 0
            while not self._stop.is_set():
                qos = turn % 3
                account = self.accounts[number, qos]
                payload = b"%d %d %d " % (number, qos, account.sent) + bytes(chance.choice((10, 100, 1000, 5000)))
                account.sent += 1
                if qos:
                    self.unsettled[number] += 1
                    client.publish_nowait(target, payload, qos).add_done_callback(finished)
                else:
                    await client.publish(target, payload, 0)
                turn += 1
                await asyncio.sleep(PACE * chance.uniform(0.5, 1.5))
            await self._settled(number)

    async def _settled(self, number: int) -> None:
        """Wait until all messages to this client have arrived, and all its messages are acknowledged."""
        ours = [self.accounts[(number + step) % self._count, qos] for step in (-1, 0) for qos in (1, 2)]
        end = time.monotonic() + 60
        while (self.unsettled[number] or any(account.missing for account in ours)) and time.monotonic() < end:
            await asyncio.sleep(0.1)


def measure(process: int) -> dict[str, int]:
    """Return the resident memory in bytes, the descriptors and the threads of a process."""
    root = Path(f"/proc/{process}")
    resident = int(root.joinpath("statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    status = root.joinpath("status").read_text()
    threads = int(next(line for line in status.splitlines() if line.startswith("Threads:")).split()[1])
    return {"rss": resident, "fds": len(os.listdir(root / "fd")), "threads": threads}


def slope(samples: Samples, who: str) -> float:
    """Fit a line to the resident memory after the first fifth, and return its slope in MiB an hour."""
    points = samples.column(who, "rss")[samples.count // 5 :]
    mean_t = sum(t for t, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((t - mean_t) ** 2 for t, _ in points)
    return sum((t - mean_t) * (y - mean_y) for t, y in points) / spread * 3600 / MIB if spread else 0.0


def ends(samples: Samples, who: str) -> list[tuple[float, int]]:
    """Return the first and the last point that `slope` uses."""
    points = samples.column(who, "rss")[samples.count // 5 :]
    return [points[0], points[-1]]


def plot(path: str, samples: Samples, title: str) -> None:
    """Plot the samples. Requires the extra `soak`."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    minutes = [elapsed / 60 for elapsed in samples.times[: samples.count]]
    figure, (upper, lower) = pyplot.subplots(2, 1, figsize=(8, 6), sharex=True)
    for who, colour in (("broker", "tab:blue"), ("clients", "tab:orange")):
        upper.plot(minutes, [rss / MIB for _, rss in samples.column(who, "rss")], label=who, color=colour)
        lower.plot(minutes, [fds for _, fds in samples.column(who, "fds")], label=who, color=colour)
    upper.set(ylabel="resident memory, MiB", title=title)
    lower.set(ylabel="descriptors", xlabel="minutes")
    for axes in (upper, lower):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


async def soak(arguments: argparse.Namespace, broker: int, urls: list[str]) -> tuple[Samples, Ring, list[Proxy]]:
    """Run the soak test. Return the samples, the ring and the proxies."""
    samples = Samples(round(arguments.seconds) + 1)
    proxies, through = [], []
    for url in urls:
        parts = urlsplit(url)
        proxies.append(Proxy(str(parts.hostname), int(parts.port or 0)))
        through.append(parts._replace(netloc=f"127.0.0.1:{await proxies[-1].start()}").geturl())
    ring = Ring(arguments.clients, through)
    running = asyncio.create_task(ring.run())
    there = asyncio.create_task(ring.ready.wait())
    await asyncio.wait({running, there}, return_when=asyncio.FIRST_COMPLETED)
    there.cancel()
    began, next_cut = time.monotonic(), CUT
    while (elapsed := time.monotonic() - began) < arguments.seconds and not running.done():
        samples.add(elapsed, {"broker": broker, "clients": os.getpid()})
        if elapsed >= next_cut:
            next_cut += CUT
            random.choice(proxies).cut()
        if samples.count % 60 == 0:
            gc.collect()  # the streams of the proxies are in cycles; the clients' connections are freed immediately
        await asyncio.sleep(max(0.0, samples.count - (time.monotonic() - began)))
    ring.stop()
    await running
    for proxy in proxies:
        await proxy.stop()
    await asyncio.sleep(3)  # the broker keeps closing connections for two seconds
    return samples, ring, proxies


def main() -> int:
    """Run the soak test and its checks."""
    parser = argparse.ArgumentParser(description="Run mixed traffic and faults, then check the results.")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--plot", metavar="PNG")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(HERE.parent / "support" / "victim.py"), '{"quiet": true}']
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdin is not None
        urls = list(json.loads(process.stdout.readline()))
        before = {"broker": measure(process.pid), "clients": measure(os.getpid())}
        with asyncio.Runner() as runner:
            samples, ring, proxies = runner.run(soak(arguments, process.pid, urls))
            tasks = len(asyncio.all_tasks(runner.get_loop()))
            open_here = measure(os.getpid())["fds"] - 3  # without those of the event loop: epoll and a socket pair
        after = {"broker": measure(process.pid), "clients": measure(os.getpid())}
        process.stdin.close()
        code = process.wait(30)
    sent, missing, duplicates = Counter[int](), Counter[int](), Counter[int]()
    for (_, qos), account in ring.accounts.items():
        sent[qos] += account.sent
        missing[qos] += account.missing
        duplicates[qos] += account.duplicates
    slopes = {who: round(slope(samples, who), 2) for who in ("broker", "clients")}
    report = {
        "seconds": round(samples.times[samples.count - 1]),
        "clients": arguments.clients,
        "cuts": sum(proxy.cuts for proxy in proxies),
        "reconnects": ring.reconnects,
        "sent": dict(sent),
        "missing": dict(missing),
        "failed": ring.failed,
        "duplicates": dict(duplicates),
        "slope_mib_per_hour": slopes,
        "rss_mib": {who: [round(rss / MIB, 1) for _, rss in ends(samples, who)] for who in slopes},
        "fds": {who: [before[who]["fds"], after[who]["fds"]] for who in slopes},
        "threads": {who: [before[who]["threads"], after[who]["threads"]] for who in slopes},
        "tasks_left": tasks,
    }
    print(json.dumps(report, indent=2))
    wrong = []
    if missing[1] or missing[2] or duplicates[2]:
        wrong.append("messages were lost, or arrived twice")
    if ring.failed:
        wrong.append("futures of messages failed")
    if after["broker"]["fds"] > before["broker"]["fds"] or open_here > before["clients"]["fds"] or tasks:
        wrong.append("descriptors or tasks are left over")
    if any(after[who]["threads"] > before[who]["threads"] for who in slopes):
        wrong.append("threads are left over")
    if code:
        wrong.append(f"the broker ended with {code}")
    if arguments.seconds < JUDGED_FROM:
        print(f"the slope of the memory is not judged below {JUDGED_FROM} s")
    elif max(slopes.values()) > SLOPE:
        wrong.append("the memory grows")
    if arguments.plot:
        title = f"{arguments.clients} clients, {report['cuts']} cuts, {sum(sent.values()):,} messages"
        plot(arguments.plot, samples, title)
    print("; ".join(wrong) or "all accounts are right")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
