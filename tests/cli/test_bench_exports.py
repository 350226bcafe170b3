"""The exports of `pubsub bench`: HdrHistogram logs and OpenMetrics."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benching import bench, measured
from hypothesis import given
from hypothesis import strategies as st

from mqttws.broker import Broker
from pubsub.bench.exports import encode
from pubsub.bench.histogram import LARGEST, Histogram


def filled(*values: int) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def unzipped(encoded: str) -> bytes:
    data = base64.b64decode(encoded)
    cookie, size = struct.unpack(">ii", data[:8])
    assert (cookie, size) == (0x1C849314, len(data) - 8)
    return zlib.decompress(data[8:])


def varints(data: bytes) -> Iterator[int]:
    """Read ZigZag LEB128 numbers of at most nine bytes."""
    value = position = 0
    for byte in data:
        last = position == 56
        value |= (byte if last else byte & 0x7F) << position
        if byte & 0x80 and not last:
            position += 7
            continue
        yield (value >> 1) ^ -(value & 1)
        value = position = 0


def decoded(encoded: str) -> dict[int, int]:
    """Decode a histogram with two significant digits: the least value of each bucket -> its count."""
    plain = unzipped(encoded)
    cookie, size, offset, digits, least, most, ratio = struct.unpack(">iiiiqqd", plain[:40])
    assert (cookie, size, offset, digits, least, most, ratio) == (
        0x1C849313, len(plain) - 40, 0, 2, 1, LARGEST, 1.0,
    )  # fmt: skip
    counts, index = dict[int, int](), 0
    for number in varints(plain[40:]):
        if number < 0:
            index -= number
            continue
        # 256 buckets of one value each are followed by 128 buckets for each power of two.
        bucket, sub = (index >> 7) - 1, (index & 127) + 128
        if bucket < 0:
            bucket, sub = 0, sub - 128
        counts[sub << bucket] = number
        index += 1
    return counts


def test_the_bytes_of_an_encoded_histogram() -> None:
    assert unzipped(encode(filled(1, 1, 5))) == bytes.fromhex(
        "1c849313"  # cookie: encoding V2
        "00000004"  # bytes of the counts
        "00000000"  # normalizing offset
        "00000002"  # significant digits
        "0000000000000001"  # lowest value
        "00003fffffffffff"  # highest value
        "3ff0000000000000"  # ratio to other units: 1.0
        "01"  # one zero: no 0
        "04"  # two of 1
        "05"  # three zeros: no 2, 3, 4
        "02"  # one of 5
    )


@given(st.lists(st.integers(0, LARGEST), max_size=50))
def test_encoding_keeps_all_counts(values: list[int]) -> None:
    histogram = filled(*values)
    assert decoded(encode(histogram)) == {least: count for least, _, count in histogram.buckets()}


@given(st.integers(1, (1 << 62)))
def test_counts_of_any_size(count: int) -> None:
    histogram = filled(3)
    histogram._counts[3] = count
    assert decoded(encode(histogram)) == {3: count}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, embedded: Broker) -> tuple[str, str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("exports")
    paths = folder / "run.hdr", folder / "run.om"
    words = ("--rate", "100", "--duration", "1", "--qos", "1")
    document = measured(embedded.url, *words, "--hdr", str(paths[0]), "--openmetrics", str(paths[1]))
    return paths[0].read_text(), paths[1].read_text(), document


def test_a_log_of_hdrhistogram(written: tuple[str, str, dict[str, Any]]) -> None:
    lines, document = written[0].splitlines(), written[2]
    assert lines[0] == "#[Histogram log format version 1.3]"
    assert re.fullmatch(r"#\[StartTime: \d{10}\.\d{3} \(seconds since epoch\)\]", lines[1])
    rows = [line.split(",") for line in lines[3:]]
    assert [row[0] for row in rows] == [
        "Tag=latency", "Tag=acknowledgement", "Tag=delay", "Tag=connecting",
        "Tag=connecting_tcp", "Tag=connecting_upgrade", "Tag=connecting_connack",
    ]  # fmt: skip
    for row, count in zip(rows, (100, 100, document["process"]["delay"]["count"], 2, 2, 2, 2), strict=True):
        counts = decoded(row[4])
        assert sum(counts.values()) == count > 0
        assert max(counts) / 1e6 <= float(row[3]) + 0.001
        assert float(row[2]) == pytest.approx(document["measured_seconds"], abs=0.001)


def test_openmetrics(written: tuple[str, str, dict[str, Any]]) -> None:
    text = written[1]
    assert text.endswith("# EOF\n")
    assert 'pubsub_bench_messages_total{kind="published"} 100\n' in text
    assert 'pubsub_bench_messages_total{kind="lost"} 0\n' in text
    assert 'pubsub_bench_connections_total{kind="made"} 2\n' in text
    buckets = [int(count) for count in re.findall(r"^pubsub_bench_latency_seconds_bucket.* (\d+)$", text, re.MULTILINE)]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 100
    assert "pubsub_bench_latency_seconds_count 100\n" in text
    for line in text.splitlines():  # each sample is the name of a declared metric, labels and a number
        if not line.startswith("#"):
            assert re.fullmatch(r'pubsub_bench_\w+(\{(kind|le)="[\w.+-]+"\})? [\d.e+-]+', line), line


@pytest.mark.parametrize("option", ["--hdr", "--openmetrics"])
def test_an_unwritable_file_is_an_error_before_the_run(embedded: Broker, tmp_path: Path, option: str) -> None:
    done = bench(embedded.url, "--duration", "30", option, str(tmp_path / "missing" / "file"))
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
