"""The summary of a session: packets by type, bytes by layer, coalescing, and violations of rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mqttws import Publish
from mqttws.tap import Record, fields_of
from pubsub.look.ladder import plain

_MAX_RULES = 1000
_LAYERS = (
    ("TLS", "TLS records"),
    ("HTTP", "HTTP heads and bodies"),
    ("frames", "WebSocket frame headers and control frames"),
    ("packets", "MQTT without payloads"),
    ("payloads", "payloads"),
    ("not MQTT", "bytes that are not MQTT"),
)


class Totals:
    """The counts of a session."""

    def __init__(self) -> None:
        self.packets: Counter[tuple[str, str]] = Counter()
        self.sizes: Counter[str] = Counter()
        self.connections: set[int] = set()
        self.broken: Counter[tuple[str, str]] = Counter()
        self._round_trips: dict[str, list[float]] = {}
        self._pieces = self._frames = 0

    def add(self, record: Record) -> None:
        """Count a record."""
        self.connections.add(record.connection)
        for statement, message in record.broken:
            if len(self.broken) < _MAX_RULES:
                self.broken[statement, message] += 1
        if record.answers:
            times = self._round_trips.setdefault(record.name, [])
            if len(times) < 100_000:
                times.append(record.round_trip)
        if record.layer == "mqtt":
            self.packets[record.name, record.sender] += 1
            packet = record.packet
            payload = len(packet.payload) + record.cut if isinstance(packet, Publish) else 0
            self.sizes["payloads"] += payload
            self.sizes["packets"] += record.size - payload
        elif record.layer == "frame":
            self._add_frame(record)
        elif record.layer == "http":
            self.sizes["HTTP"] += record.size
        elif record.layer == "other":
            self.sizes["not MQTT"] += record.size
        elif record.name == "data":
            self._pieces += 1
            self.sizes["all"] += record.size
            self.sizes["TLS"] += max(0, record.notes.get("tls_record", record.size) - record.size)

    def _add_frame(self, record: Record) -> None:
        if "frame" in record.notes:
            return
        self._frames += 1
        payload = next((field.start for field in fields_of(record) if field.key == "frame/payload"), record.size)
        self.sizes["frames"] += payload

    def lines(self) -> Iterator[str]:
        """Yield the lines of the summary."""
        count = sum(self.packets.values())
        yield f"{len(self.connections):,} connections, {count:,} packets, {self.sizes['all']:,} bytes"
        for name in sorted({name for name, _ in self.packets}):
            sent = ", ".join(
                f"{self.packets[name, end]:,} of the {end}" for end in ("client", "server") if self.packets[name, end]
            )
            times = sorted(self._round_trips.get(name, ()))
            answered = ""
            if times:
                middle, longest = times[len(times) // 2] * 1000, times[-1] * 1000
                answered = f"; after {middle:.3g} ms (median), {longest:.3g} ms (longest)"
            yield f"  {plain(name):12} {sent}{answered}"
        total = self.sizes["all"] + self.sizes["TLS"]
        for layer, what in _LAYERS:
            if self.sizes[layer]:
                yield f"  {self.sizes[layer]:>14,} bytes  {100 * self.sizes[layer] / max(1, total):5.1f} %  {what}"
        if self._pieces:
            yield f"  {count / self._pieces:.2f} packets per read" + (
                f", {count / self._frames:.2f} per frame" if self._frames else ""
            )
        for (statement, message), times_broken in self.broken.most_common(20):
            yield f"  broken {times_broken:,} times: {plain(message)} [{statement}]"
        if len(self.broken) > 20:
            yield f"  and {len(self.broken) - 20:,} more rules"
