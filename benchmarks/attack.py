"""Attack `pubsub serve` in a separate process, and measure the effect on other clients: `make attack`.

    python benchmarks/attack.py [--seconds 20] [--attackers 60] [--json FILE] [ATTACK ...]
    python benchmarks/attack.py --report FILE docs/reliability.md

For each attack a broker is started with its default limits and a users file, then a client that publishes to itself
with QoS 1 every 10 ms and a new client every half second, each with valid credentials, and then the attackers: threads
of another process, each with its own connections. Measured are the broker's peak resident memory, the round trips of
the client's messages, and how many new clients were accepted. Only the loopback interface is used.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mqttws import Connect, Decoder, PubAck, Publish, Subscribe, Unsubscribe
from mqttws.broker import hash_password

GOOD = {"username": "good", "password": b"right"}
BAD = {"username": "attacker", "password": b"known"}
_HEAD = (
    "GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n"
)
#: The limits of a message's round trip and a new client's wait, in seconds, and of the broker's growth, in MiB.
MOST_P99, MOST_WAIT, MOST_GROWTH = 0.1, 2.0, 64


def dial(port: int) -> socket.socket:
    """Open a TCP connection, with a timeout."""
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def join(port: int, client_id: str, **fields: Any) -> socket.socket:
    """Connect as a client over plain TCP. Raise an error if it is not accepted."""
    connection = dial(port)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(Connect(client_id, **{**BAD, **fields}).encode())
    if connection.recv(4)[3:] != b"\0":
        connection.close()
        raise ConnectionError("refused")
    return connection


def drain(connection: socket.socket) -> None:
    """Read and discard everything, in a thread."""

    def run() -> None:
        with contextlib.suppress(OSError):
            connection.settimeout(None)
            while connection.recv(1 << 16):
                pass

    threading.Thread(target=run, daemon=True).start()


def flood(port: int, name: str, data: bytes) -> None:
    """Send the same data repeatedly, and read the answers."""
    connection = join(port, name)
    drain(connection)
    while True:
        connection.sendall(data)


# The attacks: every attacker repeats its attack after any OSError. Their docstrings are in the table.


def pings(tcp: int, ws: int, name: str) -> None:
    """PINGREQ without end."""
    flood(tcp, name, b"\xc0\x00" * 30_000)


def subscribes(tcp: int, ws: int, name: str) -> None:
    """SUBSCRIBE to the same filter without end."""
    flood(tcp, name, Subscribe(1, [("a", 0)]).encode() * 7_000)


def changes(tcp: int, ws: int, name: str) -> None:
    """SUBSCRIBE and UNSUBSCRIBE of many filters."""
    filters = [f"{name}/{number}/+/#" for number in range(200)]
    data = Subscribe(1, [(f, 0) for f in filters]).encode() + Unsubscribe(2, filters).encode()
    flood(tcp, name, data * 20)


def full_subscribes(tcp: int, ws: int, name: str) -> None:
    """SUBSCRIBE packets as full as they may be."""
    flood(tcp, name, Subscribe(1, [(f"{number:x}", 0) for number in range(1_000)]).encode())


def sys_topics(tcp: int, ws: int, name: str) -> None:
    """SUBSCRIBE to $SYS/# without end."""
    flood(tcp, name, Subscribe(1, [("$SYS/#", 0)]).encode() * 5_000)


def publishes(tcp: int, ws: int, name: str) -> None:
    """PUBLISH packets of five bytes, to topics that change."""
    flood(tcp, name, b"".join(b"\x30\x03\x00\x01" + bytes((97 + n % 26,)) for n in range(12_000)))


def releases(tcp: int, ws: int, name: str) -> None:
    """PUBREL of identifiers that were never used."""
    flood(tcp, name, b"".join(b"\x62\x02" + n.to_bytes(2, "big") for n in range(1, 15_000)))


def frames(payload: bytes, tcp: int, ws: int, name: str) -> None:
    """WebSocket frames of one byte, or of none, with masks that change."""
    connection = dial(ws)
    connection.sendall(f"{_HEAD}\r\n".encode())
    connection.recv(4_096)
    connect = Connect(name, **BAD).encode()
    connection.sendall(b"\x82" + bytes((0x80 | len(connect),)) + bytes(4) + connect)
    connection.recv(4_096)
    drain(connection)
    ping = b"\xc0\x00"
    parts = [ping[n % 2 : n % 2 + len(payload)] for n in range(8_000)]
    masks = [random.randbytes(4) for _ in parts]
    data = b"".join(
        b"\x82" + bytes((0x80 | len(part),)) + mask + bytes(p ^ m for p, m in zip(part, mask, strict=False))
        for part, mask in zip(parts, masks, strict=True)
    )
    while True:
        connection.sendall(data)


def empty_frames(tcp: int, ws: int, name: str) -> None:
    """WebSocket frames without a payload."""
    frames(b"", tcp, ws, name)


def tiny_frames(tcp: int, ws: int, name: str) -> None:
    """WebSocket frames of one byte."""
    frames(b"x", tcp, ws, name)


def retained_walks(tcp: int, ws: int, name: str) -> None:
    """SUBSCRIBE to filters that match none of 10,000 retained messages of ten levels."""
    if name == "0":
        with join(tcp, name) as connection:
            for number in range(10_000):
                connection.sendall(Publish(f"{number}/a/b/c/d/e/f/g/h/i", b"r", retain=True).encode())
    filters = [f"+/+/+/+/+/+/+/+/+/{number}-{name}" for number in range(100)]
    flood(tcp, name, Subscribe(1, [(f, 0) for f in filters]).encode())


def look_ups(tcp: int, ws: int, name: str) -> None:
    """PUBLISH to a topic of 200 levels that the filters of all attackers almost match, each time another."""
    dice = random.Random(name)
    connection = join(tcp, name)
    drain(connection)
    for _ in range(50):
        levels = [dice.choice("+a") for _ in range(199)]
        connection.sendall(Subscribe(1, [("/".join([*levels, "b"]), 0)]).encode())
    for number in itertools.count():
        connection.sendall(Publish("/".join(["a"] * 199 + [f"{number}"]), b"x").encode())


def silence(tcp: int, ws: int, name: str) -> None:
    """Connections that say nothing, one after the other, each kept for as long as the broker lets it."""
    kept = []
    for _ in range(200):
        kept.append(dial(tcp))
        time.sleep(0.002)
    for each in kept:
        each.close()


def sessions(tcp: int, ws: int, name: str) -> None:
    """Sessions that are kept, each under a new identifier."""
    for number in itertools.count():
        join(tcp, f"{name}-{number}-{random.random()}", clean_session=False).close()


def half_connects(tcp: int, ws: int, name: str) -> None:
    """CONNECT packets of 64 KiB that lack their last byte."""
    connect = Connect("c" * 60_000, **BAD).encode()[:-1]
    kept = []
    for _ in range(100):
        kept.append(dial(tcp))
        kept[-1].sendall(connect)
    for each in kept:
        each.close()


def passwords(tcp: int, ws: int, name: str) -> None:
    """Wrong passwords, each another."""
    for number in itertools.count():
        with contextlib.suppress(ConnectionError):
            join(tcp, name, username="good", password=f"{name} {number} {random.random()}".encode()).close()


def headers(tcp: int, ws: int, name: str) -> None:
    """Upgrade requests of 3,955 header lines."""
    request = (_HEAD + "a:b\r\n" * 3_955 + "\r\n").encode()
    while True:
        with dial(ws) as connection:
            connection.sendall(request)
            connection.recv(4_096)


def hellos(tcp: int, ws: int, name: str) -> None:
    """The hello of TLS on a port without it."""
    while True:
        with dial(tcp) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(bytes.fromhex("16 03 01 02 00 01 00 01 fc 03 03"))
            connection.recv(100)


def identifiers(tcp: int, ws: int, name: str) -> None:
    """QoS 2 messages that are never released."""
    connection = join(tcp, name)
    drain(connection)
    for packet_id in range(1, 65_536):
        connection.sendall(Publish("a", b"", 2, packet_id=packet_id).encode())


def refusals(tcp: int, ws: int, name: str) -> None:
    """PUBLISH packets that are refused, in turn of two kinds."""
    flood(tcp, name, (Publish("$SYS/x", b"").encode() + Publish("$a", b"", retain=True).encode()) * 3_000)


def deaf(tcp: int, ws: int, name: str) -> None:
    """Subscribers that never read, at QoS 0 and 1, and one that publishes for them."""
    if name == "0":
        connection = join(tcp, name)
        drain(connection)
        for packet_id in itertools.cycle(range(1, 65_536)):
            connection.sendall(
                Publish("flood", bytes(20_000), packet_id % 2, packet_id=packet_id or None).encode()
            ) if packet_id % 2 else connection.sendall(Publish("flood", bytes(20_000)).encode())
    connection = join(tcp, name)
    connection.sendall(Subscribe(1, [("flood", int(name) % 2)]).encode())
    time.sleep(3_600)


def retained(tcp: int, ws: int, name: str) -> None:
    """Retained messages to topics of 200 levels, each another."""
    connection = join(tcp, name)
    drain(connection)
    for number in itertools.count():
        connection.sendall(Publish(f"{name}/{number}" + "/x" * 198, b"x", retain=True).encode())


ATTACKS: dict[str, Callable[[int, int, str], None]] = {
    attack.__name__: attack
    for attack in (
        pings, subscribes, changes, full_subscribes, sys_topics, publishes, releases, empty_frames, tiny_frames,
        retained_walks, look_ups, silence, sessions, half_connects, passwords, headers, hellos, identifiers, refusals,
        deaf, retained,
    )
}  # fmt: skip


def attack(name: str, tcp: int, ws: int, attackers: int) -> None:
    """Run the attackers until the process is ended."""

    def run(number: int) -> None:
        while True:
            try:
                ATTACKS[name](tcp, ws, str(number))
            except OSError:
                time.sleep(0.01)

    for number in range(attackers):
        threading.Thread(target=run, args=(number,), daemon=True).start()
    sys.stdin.read()


# The measurements.


@contextlib.contextmanager
def serving(folder: str) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """Run `pubsub serve`. Yield its process and its ports."""
    users = Path(folder) / "users"
    lines = [f"{each['username']}:{hash_password(each['password'])}" for each in (GOOD, BAD)]  # type: ignore[arg-type]
    users.write_text("\n".join(lines))
    command = [sys.executable, "-m", "pubsub", "serve", "--ws-port", "0", "--tcp-port", "0", "--users", str(users)]
    with (Path(folder) / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    ports: dict[str, int] = {}
    try:
        while len(ports) < 2:
            line = process.stdout.readline()
            assert line, "the broker did not start"
            for url in re.findall(r"(?:ws|mqtt)://\S+", line):
                ports[urlsplit(url).scheme] = urlsplit(url).port or 0
        yield process, ports["mqtt"], ports["ws"]
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def resident(process: subprocess.Popen[str], field: str) -> float:
    """Return the resident memory of a process in MiB: VmRSS now, VmHWM at its peak."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    match = re.search(rf"^{field}:\s+(\d+) kB", status, re.M)
    assert match is not None
    return int(match[1]) / 1024


def round_trips(port: int, until: Callable[[], bool], took: list[float], ready: Callable[[], object]) -> None:
    """Publish with QoS 1 to the same client, and time each message from the PUBLISH to its PUBACK and its copy."""
    decoder = Decoder()
    with join(port, "good", **GOOD) as connection:
        connection.settimeout(30)
        connection.sendall(Subscribe(1, [("good/topic", 1)]).encode())
        connection.recv(100)
        ready()
        for packet_id in itertools.cycle(range(1, 60_000)):
            if until():
                return
            began = time.monotonic()
            connection.sendall(Publish("good/topic", b"%d" % packet_id, 1, packet_id=packet_id).encode())
            missing = {PubAck, Publish}
            while missing:
                data = connection.recv(1 << 16)
                if not data:
                    raise ConnectionError("the broker closed the connection")
                for packet in decoder.feed(data):
                    missing.discard(type(packet))
                    if isinstance(packet, Publish) and packet.packet_id is not None:
                        connection.sendall(PubAck(packet.packet_id).encode())
            took.append(time.monotonic() - began)
            time.sleep(0.01)


def newcomers(port: int, until: Callable[[], bool]) -> list[float | None]:
    """Connect every half second. Return the time until each was accepted, None for not within ten seconds."""
    took: list[float | None] = []
    while not until():
        began = time.monotonic()
        entered: float | None = None
        while entered is None and time.monotonic() - began < 10:
            with contextlib.suppress(OSError):
                join(port, f"new-{len(took)}", **GOOD).close()
                entered = time.monotonic() - began
        took.append(entered)
        time.sleep(0.5)
    return took


def measure(name: str, seconds: float, attackers: int) -> dict[str, Any]:
    """Run one attack and return the measurements."""
    with tempfile.TemporaryDirectory() as folder, serving(folder) as (process, tcp, ws):
        found: dict[str, Any] = {"trips": []}
        over, ready = threading.Event(), threading.Event()
        began = resident(process, "VmRSS")

        def good() -> None:
            try:
                round_trips(tcp, over.is_set, found["trips"], ready.set)
            except (OSError, TimeoutError) as error:
                found["lost"] = str(error) or type(error).__name__

        threads = [
            threading.Thread(target=good),
            threading.Thread(target=lambda: found.update(entered=newcomers(tcp, over.is_set))),
        ]
        threads[0].start()
        assert ready.wait(10)
        attacker = None
        if name in ATTACKS:
            command = [sys.executable, __file__, "--be", name, f"{tcp}", f"{ws}", f"{attackers}"]
            attacker = subprocess.Popen(command, stdin=subprocess.PIPE)
        threads[1].start()
        time.sleep(seconds)
        over.set()
        for thread in threads:
            thread.join(40)
        peak = resident(process, "VmHWM")
        if attacker is not None:
            attacker.kill()
            attacker.wait()
        logged = (Path(folder) / "log").read_text().count("\n")
    trips = sorted(found["trips"]) or [float("inf")]
    entered = found.get("entered", [])
    waits = [each for each in entered if each is not None]
    return {
        "attack": name,
        "what": (ATTACKS[name].__doc__ or "").rstrip(".") if name in ATTACKS else "No attack",
        "messages": len(trips),
        "p50": trips[len(trips) // 2],
        "p99": trips[int(len(trips) * 0.99)],
        "max": trips[-1],
        "newcomers": len(entered),
        "let in": len(waits),
        "longest wait": max(waits, default=None),
        "memory at the start": round(began, 1),
        "memory at its peak": round(peak, 1),
        "lines in the log": logged,
        "lost": found.get("lost"),
    }


def table(document: dict[str, Any]) -> str:
    """Return the table of the documentation."""
    lines = [
        f"`make attack`, {document['date']}, {document['machine']}, load average {document['load']:g} (the "
        f"attackers' and that of other work): {document['attackers']} attackers, "
        f"{document['seconds']:g} s each. Times in milliseconds, memory in MiB above the quiet broker's at its peak.",
        "",
        "| attack | p50 | p99 | longest | new clients accepted | longest wait | memory | lines in the log |",
        "|---|---|---|---|---|---|---|---|",
    ]
    quiet = document["results"][0]["memory at its peak"]
    for each in document["results"]:
        wait = each["longest wait"]
        lines.append(
            f"| {each['what']} | {each['p50'] * 1e3:.1f} | {each['p99'] * 1e3:.1f} | {each['max'] * 1e3:.0f} "
            f"| {each['let in']} of {each['newcomers']} | {'–' if wait is None else f'{wait * 1e3:.0f}'} "
            f"| {each['memory at its peak'] - quiet:.0f} | {each['lines in the log']:,} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the attacks, or write the table."""
    parser = argparse.ArgumentParser(description="Attack a broker, and measure the effect on other clients.")
    parser.add_argument("attacks", nargs="*", help=f"of {', '.join(ATTACKS)}; all by default")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--attackers", type=int, default=60)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--report", nargs=2, type=Path, metavar=("JSON", "PAGE"))
    parser.add_argument("--be", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be:
        attack(arguments.be[0], *map(int, arguments.be[1:]))
        return
    if arguments.report:
        source, page = arguments.report
        text = page.read_text(encoding="utf-8")
        made = "<!-- attacks -->\n" + table(json.loads(source.read_text())) + "<!-- /attacks -->"
        page.write_text(
            re.sub(r"<!-- attacks -->.*<!-- /attacks -->", lambda _: made, text, flags=re.S), encoding="utf-8"
        )
        return
    results = []
    for name in ["quiet", *(arguments.attacks or ATTACKS)]:
        results.append(measure(name, arguments.seconds, arguments.attackers))
        print(json.dumps(results[-1]), flush=True)
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} processors, Python {platform.python_version()}, {platform.system()}",
        "load": round(os.getloadavg()[1], 1),
        "seconds": arguments.seconds,
        "attackers": arguments.attackers,
        "results": results,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    quiet = results[0]
    bad = [
        each["attack"]
        for each in results
        if each["p99"] > max(MOST_P99, 2 * quiet["p99"])
        or each["memory at its peak"] - quiet["memory at its peak"] > MOST_GROWTH
        or each["let in"] < each["newcomers"]
        or (each["longest wait"] or 0) > MOST_WAIT
        or each["lost"]
    ]
    print(f"beyond the targets: {', '.join(bad) or 'none'}")
    sys.exit(int(bool(bad)))


if __name__ == "__main__":
    main()
