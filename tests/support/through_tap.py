"""A pytest plugin that runs suites through a tap: `pytest -p through_tap tests/drivers/test_contract.py`.

It puts a tap before every scripted server of the drivers' contract and every broker of the matrix, without a change
of the tests. At the end of each scripted server it compares the bytes of every connection with the tap's records:
the same bytes, in the same order. The report of a test that fails shows the ends of each connection and their records.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import foreign_brokers
import pytest
import scripted

from mqttws.tap import Record, Tap

#: Seconds within which the tap must have recorded what it has forwarded.
PATIENCE = 30.0
#: The number of taps, of connections through them, and of bytes compared.
COUNTS = {"taps": 0, "connections": 0, "bytes": 0}
#: The number of records, and of bytes of each, in the report of a test that fails.
SHOWN = 100


class _Listening:
    """A socket that records the bytes received and sent."""

    def __init__(self, socket: Any, received: bytearray, sent: bytearray) -> None:
        self._socket = socket
        self._received = received
        self._sent = sent

    def recv(self, size: int) -> bytes:
        data: bytes = self._socket.recv(size)
        self._received += data
        return data

    def sendall(self, data: bytes) -> None:
        self._socket.sendall(data)
        self._sent += data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class TappedScripted(scripted.Scripted):
    """A scripted server with a tap before it."""

    running: ClassVar[list[TappedScripted]] = []

    def __init__(self, scheme: str = "mqtt") -> None:
        super().__init__(scheme)
        # During the connection: the ring drops the first records of a client that publishes without end.
        self._streams: dict[tuple[int, str], bytearray] = {}
        self._tap = Tap(self.url, on_records=self._add, host=scripted.HOST).__enter__()
        self._direct, self.url = self.url, self._tap.url
        self._kept: list[tuple[bytearray, bytearray]] = []
        self._peers: list[Any] = []
        self.running.append(self)
        COUNTS["taps"] += 1

    def accept(self) -> scripted.End:
        accept, peer = self._listener.accept()
        self._stack.enter_context(accept)
        received, sent = bytearray(), bytearray()
        self._kept.append((received, sent))
        self._peers.append(peer)
        return scripted.End(_Listening(accept, received, sent), self._websocket)  # type: ignore[arg-type]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._compare()
        finally:
            self.running.remove(self)
            super().__exit__(kind, error, traceback)
            self._tap.__exit__(None, None, None)

    def _compare(self) -> None:
        """Check that the bytes of this end equal the tap's records, in both directions."""
        for received, sent in self._kept:
            COUNTS["connections"] += 1
            COUNTS["bytes"] += len(received) + len(sent)
        deadline = time.monotonic() + PATIENCE
        while found := self._departures():  # the tap forwards first, and records later
            assert time.monotonic() < deadline, f"{found}\n{self.describe()}"
            time.sleep(0.01)

    def _add(self, records: list[Record], settled: bool) -> None:
        for record in records:
            if record.layer == "tcp" and "failed" not in record.notes:
                self._streams.setdefault((record.connection, record.sender), bytearray()).extend(record.data)

    async def _copy(self) -> dict[tuple[int, str], bytes]:
        """Return the recorded bytes; runs in the tap's thread, which appends to them."""
        self._tap.backlog.finish()
        return {key: bytes(data) for key, data in self._streams.items()}

    def _departures(self) -> str:
        """Return a description of the differences; "" if there are none."""
        streams = self._tap.run(self._copy)
        said = [data for (_, sender), data in streams.items() if sender == "client"]
        heard = [data for (_, sender), data in streams.items() if sender == "server"]
        for received, sent in self._kept:
            if received and not any(data.startswith(received) for data in said):
                return "a client's bytes are others"
            if sent and not any(data and sent.startswith(data) for data in heard):
                return "a server's bytes are others"
        return ""

    def describe(self) -> str:
        """Return what this server accepted, the ends of the tap's open connections, and the records of the tap."""

        async def lines() -> list[str]:
            self._tap.backlog.finish()
            return [
                *(
                    f"accepted from {peer}: received {bytes(received[:SHOWN])!r}, sent {bytes(sent[:SHOWN])!r}"
                    for peer, (received, sent) in zip(self._peers, self._kept, strict=True)
                ),
                *(
                    f"connection {pair.number}, {end.side}: {_addresses(end.transport)}, paused {end._paused}, "
                    f"ended {end.ended}, gone {end.gone}, {end.transport!r}; {pair._dialing!r}"
                    for pair in self._tap._pairs
                    for end in (pair.near, pair.far)
                ),
                *(
                    f"connection {each.connection}, {each.sender}, at {each.time:.3f}: {each.name} "
                    f"{bytes(each.data[:SHOWN])!r} {each.notes}"
                    for each in [each for each in self._tap.records if each.layer == "tcp"][-SHOWN:]
                ),
            ]

        return "\n".join(self._tap.run(lines))


def _addresses(transport: Any) -> str:
    if transport is None:
        return "not connected"
    return f"{transport.get_extra_info('sockname')} to {transport.get_extra_info('peername')}"


def _tapped(start: Callable[..., Any]) -> Callable[..., Any]:
    @contextmanager
    def run(folder: Path, pem: Path, ca: Path) -> Iterator[foreign_brokers.Running]:
        near = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        near.load_cert_chain(pem)
        with start(folder, pem, ca) as running, ExitStack() as stack:
            urls = {}
            for scheme, url in running.urls.items():
                secure = {"near_tls": near, "far_tls": ssl.create_default_context(cafile=str(running.ca))}
                tap = Tap(url, **(secure if scheme in ("wss", "mqtts") else {}))  # type: ignore[arg-type]
                urls[scheme] = stack.enter_context(tap).url
                COUNTS["taps"] += 1
            yield foreign_brokers.Running(running.version, urls, running.ca)

    return run


# At import, because the suites import these names from the modules.
scripted.Scripted = TappedScripted  # type: ignore[misc]
for _name, _start in list(foreign_brokers.BROKERS.items()):
    foreign_brokers.BROKERS[_name] = _tapped(_start)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections += [("through a tap", each.describe()) for each in TappedScripted.running]
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts = ", ".join(f"{count:,} {what}" for what, count in COUNTS.items())
    terminalreporter.write_line(f"through a tap: {counts}")
