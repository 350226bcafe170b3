"""The results of a run in formats of other tools: HdrHistogram logs, for plotting and merging; OpenMetrics.

The buckets of `Histogram` are those of an HdrHistogram with two significant digits, so that its counts are written as
they are. Formats: https://github.com/HdrHistogram/HdrHistogram (log 1.3, encoding V2),
https://prometheus.io/docs/specs/om/open_metrics_spec/ (1.0).
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from pubsub.bench.histogram import LARGEST, Histogram
from pubsub.bench.plan import SECOND
from pubsub.bench.run import Run

#: The header of an encoded histogram: cookie, bytes of the counts, normalizing offset, significant digits, lowest and
#: highest value that can be distinguished, ratio to other units.
_HEAD = struct.Struct(">iiiiqqd")
_COOKIE, _COMPRESSED = 0x1C849313, 0x1C849314
_DIGITS = 2
#: Upper bounds of the buckets of OpenMetrics, in nanoseconds: 1, 2 and 5 times each power of ten, 10 µs to 100 s.
_BOUNDS = [step * 10**power for power in range(4, 11) for step in (1, 2, 5)] + [10**11]


def as_hdr_log(run: Run, started: float) -> str:
    """Write the durations of a run as a log of one interval, with a tag for each kind.

    Args:
        run: The run, which has ended and has measured something.
        started: The start of the run, in seconds since the epoch.
    """
    seconds = run.measured_seconds
    lines = [
        "#[Histogram log format version 1.3]",
        f"#[StartTime: {started:.3f} (seconds since epoch)]",
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"',
    ]
    for name, histogram in _histograms(run):
        greatest = histogram.greatest / 1_000_000
        lines.append(f"Tag={name},0.000,{seconds:.3f},{greatest:.3f},{encode(histogram)}")
    return "\n".join(lines) + "\n"


def encode(histogram: Histogram) -> str:
    """Encode a histogram as HdrHistogram does: V2, compressed, as Base64."""
    counts = bytearray()
    zeros = 0
    for count in histogram.counts():
        if not count:
            zeros += 1
            continue
        if zeros:
            counts += _varint(-zeros)
            zeros = 0
        counts += _varint(count)
    plain = zlib.compress(_HEAD.pack(_COOKIE, len(counts), 0, _DIGITS, 1, LARGEST, 1.0) + counts)
    return base64.b64encode(struct.pack(">ii", _COMPRESSED, len(plain)) + plain).decode()


def _varint(value: int) -> bytes:
    """Encode a number as ZigZag LEB128 of at most nine bytes, the last of which has eight bits."""
    left = value << 1 if value >= 0 else (-value << 1) - 1
    encoded = bytearray()
    while left > 0x7F and len(encoded) < 8:
        encoded.append(left & 0x7F | 0x80)
        left >>= 7
    encoded.append(left)
    return bytes(encoded)


def as_openmetrics(run: Run, document: dict[str, Any]) -> str:
    """Write a run as metrics.

    Args:
        run: The run, which has ended.
        document: The document of the run, as `report.as_json` makes it.
    """
    lines = [
        "# TYPE pubsub_bench_messages counter",
        "# HELP pubsub_bench_messages Messages by outcome.",
        *_samples("pubsub_bench_messages_total", document["messages"]),
        "# TYPE pubsub_bench_connections counter",
        "# HELP pubsub_bench_connections Connections by outcome.",
        *_samples("pubsub_bench_connections_total", document["connections"]),
        "# TYPE pubsub_bench_throughput gauge",
        "# HELP pubsub_bench_throughput Messages per second during the measurement.",
        *_samples("pubsub_bench_throughput", document["throughput"]),
        "# TYPE pubsub_bench_process_cpu_ratio gauge",
        "# HELP pubsub_bench_process_cpu_ratio The share of one core that the load generator used.",
        f"pubsub_bench_process_cpu_ratio {document['process']['cpu_share'] or 0.0:.6g}",
    ]
    for name, histogram in _histograms(run):
        metric = f"pubsub_bench_{name}_seconds"
        lines += [f"# TYPE {metric} histogram", f"# UNIT {metric} seconds", *_buckets(metric, histogram)]
    return "\n".join([*lines, "# EOF"]) + "\n"


def _histograms(run: Run) -> Iterator[tuple[str, Histogram]]:
    tally = run.tally
    yield "latency", tally.latency
    yield "acknowledgement", tally.acknowledgement
    yield "delay", run.delay
    yield "connecting", tally.connecting
    for name, phase in tally.phases.items():
        if phase.count:
            yield f"connecting_{name}", phase
    if tally.returns.times.count:
        yield "returning", tally.returns.times


def _samples(metric: str, figures: dict[str, Any]) -> Iterator[str]:
    for name, value in figures.items():
        if isinstance(value, (int, float)):
            yield f'{metric}{{kind="{name.removesuffix("_per_second")}"}} {value:.10g}'


def _buckets(metric: str, histogram: Histogram) -> Iterator[str]:
    """Yield the buckets, each with all values up to its bound, within the relative error of the histogram."""
    found, count = histogram.buckets(), 0
    following = next(found, None)
    for bound in _BOUNDS:
        while following is not None and following[1] <= bound:
            count += following[2]
            following = next(found, None)
        yield f'{metric}_bucket{{le="{bound / SECOND:.10g}"}} {count}'
    yield f'{metric}_bucket{{le="+Inf"}} {histogram.count}'
    yield f"{metric}_sum {histogram.total / SECOND:.10g}"
    yield f"{metric}_count {histogram.count}"
