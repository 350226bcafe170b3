"""Draw the plots of `docs/benchmarks.md`, as PNG files, from the same runs as its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from results import MORE_IS_BETTER, Run, median

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, NullFormatter

#: Library -> its colour, in all plots.
COLOURS = {"floor": "tab:gray", "mqttws": "tab:blue", "mqttws-compiled": "tab:cyan", "mqttws-uvloop": "tab:green"}
COLOURS |= {"mosquitto": "tab:orange", "aedes": "tab:red", "amqtt": "tab:purple"}
LIBRARIES = ("floor", "mqttws", "mqttws-compiled")

#: (case, figure, title)
BARS = [
    ("encode_qos0", "ns", "encode, QoS 0"),
    ("decode_stream", "ns", "decode a stream"),
    ("publish_qos0", "rate", "publish, QoS 0"),
    ("publish_qos1", "rate", "publish, QoS 1"),
    ("receive", "rate", "receive"),
    ("echo_qos0", "p50_us", "echo, QoS 0, median"),
    ("deliver_1_to_1", "rate", "broker, 1 → 1"),
    ("deliver_1_to_50", "rate", "broker, 1 → 50"),
]


def draw(runs: list[Run], directory: Path, order: list[str]) -> list[tuple[str, str]]:
    """Draw all plots. Return (file name, caption) pairs."""
    drawn = []
    for name, plot, caption in (
        ("ratios.png", _ratios, "Speed relative to mqttws in pure Python, case by case; logarithmic scale."),
        ("payload.png", _payload, "Time per packet, by the size of its payload."),
        ("batch.png", _batch, "Messages per second that a connection turns into frames, by the number sent together."),
        ("memory.png", _memory, "Memory per connection of a broker, by the number of connections."),
        ("matching.png", _matching, "Time to find the one matching subscription, by the number of subscriptions."),
    ):
        plot(runs, order)
        pyplot.tight_layout()
        pyplot.savefig(directory / name, dpi=110)
        pyplot.close()
        drawn.append((name, caption))
    return drawn


def _series(runs: list[Run], prefix: str, figure: str, library: str) -> tuple[list[int], list[float]]:
    """Return the numbers and figures of the cases whose names are a prefix and a number."""
    names = {name.removeprefix(prefix) for run in runs for name in run["cases"] if name.startswith(prefix)}
    numbers = sorted(int(name) for name in names if name.isdigit())
    found = ((number, median(runs, f"{prefix}{number}", library, figure)) for number in numbers)
    points = [(number, value) for number, value in found if value is not None]
    return [number for number, _ in points], [value for _, value in points]


def _axes(x_label: str, y_label: str, ticks: list[int]) -> Any:
    """Create a plot with a logarithmic x axis, labelled at the points."""
    _, axes = pyplot.subplots(figsize=(7, 4.2))
    axes.set_xscale("log")
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.minorticks_off()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    return axes


def _ratios(runs: list[Run], order: list[str]) -> None:
    figure, grid = pyplot.subplots(2, 4, figsize=(16, 7.5))
    for axes, (case, unit, title) in zip(grid.flat, BARS, strict=True):
        own = median(runs, case, "mqttws", unit)
        rows = []
        for library in reversed(order):
            value = median(runs, case, library, unit)
            if own and value:
                rows.append((library, value / own if unit in MORE_IS_BETTER else own / value))
        names, ratios = [name for name, _ in rows], [ratio for _, ratio in rows]
        bars = axes.barh(names, ratios, color=[COLOURS[name] if _ours(name) else "silver" for name in names])
        axes.axvline(1, color="tab:blue", linewidth=0.8, zorder=0)
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        axes.bar_label(bars, [f"{ratio:.3g}" for ratio in ratios], fontsize=8, padding=3, bbox=paper)
        axes.set_xscale("log")
        if ratios:
            axes.set_xlim(min(ratios) / 2, max(ratios) * 4)
        axes.set_title(title, fontsize=11)
        axes.tick_params(labelsize=9)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())  # in a narrow range labels would overlap
    figure.suptitle("Speed as a multiple of mqttws in pure Python (logarithmic; longer is faster)")


def _ours(library: str) -> bool:
    return library.startswith("mqttws") or library == "floor"


def _payload(runs: list[Run], order: list[str]) -> None:
    sizes, _ = _series(runs, "encode_payload_", "ns", "mqttws")
    axes = _axes("payload, bytes", "nanoseconds a packet", sizes)
    for library in LIBRARIES:
        for way, style, marker in (("encode", "-", "o"), ("decode", "--", "s")):
            points = _series(runs, f"{way}_payload_", "ns", library)
            axes.plot(*points, linestyle=style, marker=marker, color=COLOURS[library], label=f"{library}, {way}")
    axes.set_yscale("log")
    axes.legend(fontsize=8)


def _batch(runs: list[Run], order: list[str]) -> None:
    sizes, _ = _series(runs, "publish_batch_", "ns", "mqttws")
    axes = _axes("messages that leave together", "million messages a second", sizes)
    for library in LIBRARIES:
        numbers, costs = _series(runs, "publish_batch_", "ns", library)
        axes.plot(numbers, [1e3 / cost for cost in costs], marker="o", color=COLOURS[library], label=library)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)


def _memory(runs: list[Run], order: list[str]) -> None:
    numbers = sorted(
        {
            int(figure.removeprefix("kib_"))
            for run in runs
            for figures in run["cases"].get("hold", {}).values()
            for figure in figures
            if figure.startswith("kib_")
        }
    )
    axes = _axes("connections held", "KiB each", numbers)
    for library in ("mqttws", "mqttws-compiled", "mosquitto", "aedes", "amqtt"):
        values = [median(runs, "hold", library, f"kib_{number}") for number in numbers]
        if None not in values:
            axes.plot(numbers, values, marker="o", color=COLOURS[library], label=library)
    axes.axhline(12, color="black", linewidth=0.8, linestyle=":", label="the bound for mqttws")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)


def _matching(runs: list[Run], order: list[str]) -> None:
    numbers, _ = _series(runs, "match_", "ns", "mqttws")
    axes = _axes("subscriptions held", "nanoseconds a match", numbers)
    for library in ("mqttws", "mqttws-compiled"):
        axes.plot(*_series(runs, "match_", "ns", library), marker="o", color=COLOURS[library], label=library)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
