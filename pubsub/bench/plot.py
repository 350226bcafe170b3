"""The plot of a run: latency by percentile, and throughput over time. Only this module needs matplotlib."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

#: The range of the percentiles in powers of ten: up to five nines.
DECADES = 5


def available() -> bool:
    """Return whether matplotlib is installed, without importing it."""
    return find_spec("matplotlib") is not None


def draw(document: dict[str, Any], path: str) -> None:
    """Draw a run.

    Args:
        document: The document of the run, as `report.as_json` makes it.
        path: The path of the PNG file.

    Raises:
        OSError: The file cannot be written.
    """
    figure = import_module("matplotlib.figure").Figure(figsize=(9, 8), layout="constrained")
    upper, lower = figure.subplots(2, 1)
    plan = document["plan"]
    rate = "as fast as possible" if plan["rate"] is None else f"{plan['rate']:,g} messages/s"
    figure.suptitle(
        f"{plan['publishers']:,} publishers, {plan['subscribers']:,} subscribers, QoS {plan['qos']}, "
        f"{plan['size']:,} bytes, {rate}"
    )
    _draw_latency(upper, document)
    _draw_throughput(lower, document["seconds"], ["published", *(["acknowledged"] * bool(plan["qos"])), "delivered"])
    figure.savefig(path, format="png", dpi=120)


def curve(buckets: list[list[float]]) -> tuple[list[float], list[float]]:
    """Return the latency at each percentile that the buckets can distinguish.

    Args:
        buckets: Least value, greatest value and count of each bucket, in ascending order.

    Returns:
        The x values: n, if one of n messages was slower, 1 to 10 to the power of `DECADES`. The y values: the latency
        in milliseconds.
    """
    total, below = sum(count for _, _, count in buckets), 0.0
    odds, latencies = [], []
    for _, greatest, count in buckets:
        below += count
        odds.append(min(total / max(total - below, 0.5), 10.0**DECADES))
        latencies.append(greatest)
    return odds, latencies


def _draw_latency(axes: Any, document: dict[str, Any]) -> None:
    basis = "the time it was due (open loop)" if document["open_loop"] else "the call of publish (closed loop)"
    axes.set(title=f"Latency from {basis}", xlabel="percentile", ylabel="ms", xscale="log", yscale="log")
    axes.set_xticks([10.0**decade for decade in range(DECADES + 1)])
    axes.set_xticklabels(["0", *(f"{100 - 100 / 10**decade:.10g}" for decade in range(1, DECADES + 1))])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    if document["latency"]["count"]:
        axes.plot(*curve(document["latency"]["buckets_ms"]), drawstyle="steps-post")


def _draw_throughput(axes: Any, seconds: list[dict[str, Any]], names: list[str]) -> None:
    axes.set(title="Throughput", xlabel="seconds", ylabel="messages/s")
    axes.grid(alpha=0.3)
    moments = [second["at"] for second in seconds]
    most = 1.0
    for name, style in zip(names, ("-", "--", ":"), strict=False):  # the lines often coincide
        rates = [second[f"{name}_per_second"] for second in seconds]
        axes.plot(moments, rates, style, marker=".", label=name)
        most = max(most, *rates, 0.0)
    axes.set_ylim(0, 1.1 * most)
    axes.legend(loc="lower left")
