"""Make `docs/benchmarks.md` and its plots from the JSON of `run_peers.py`: every figure there comes from here.

python benchmarks/report.py benchmarks/results.json docs/
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from targets import MORE_IS_BETTER, TARGETS, median, met, reached

Results = dict[str, Any]

#: Heading -> (case, its name in the table, the figures shown with their format).
TABLES: dict[str, list[tuple[str, str, str, str]]] = {
    "Codec, nanoseconds a packet": [
        ("encode_qos0", "encode QoS 0", "ns", "{:,.0f}"),
        ("encode_qos1", "encode QoS 1", "ns", "{:,.0f}"),
        ("decode_qos0", "decode QoS 0", "ns", "{:,.0f}"),
        ("decode_stream", "decode stream", "ns", "{:,.0f}"),
    ],
    "Client, thousands of messages a second": [
        ("publish_qos0", "publish QoS 0", "rate", "k"),
        ("publish_qos0_waiting", "one at a time", "rate", "k"),
        ("publish_qos1", "publish QoS 1", "rate", "k"),
        ("receive", "receive", "rate", "k"),
        ("publish_qos0_asyncio", "publish QoS 0, asyncio", "rate", "k"),
        ("publish_qos1_asyncio", "publish QoS 1, asyncio", "rate", "k"),
        ("receive_asyncio", "receive, asyncio", "rate", "k"),
    ],
    "Client, CPU time a message in microseconds": [
        ("publish_qos0", "publish QoS 0", "cpu_us", "{:,.2f}"),
        ("publish_qos1", "publish QoS 1", "cpu_us", "{:,.2f}"),
        ("receive", "receive", "cpu_us", "{:,.2f}"),
        ("publish_qos0_asyncio", "publish QoS 0, asyncio", "cpu_us", "{:,.2f}"),
        ("receive_asyncio", "receive, asyncio", "cpu_us", "{:,.2f}"),
    ],
    "Client, round trip in microseconds, import and memory": [
        ("echo_qos0", "QoS 0 p50", "p50_us", "{:,.0f}"),
        ("echo_qos0", "QoS 0 p99", "p99_us", "{:,.0f}"),
        ("echo_qos1", "QoS 1 p50", "p50_us", "{:,.0f}"),
        ("echo_qos1", "QoS 1 p99", "p99_us", "{:,.0f}"),
        ("import", "import, ms", "ms", "{:,.0f}"),
        ("memory", "memory, MiB", "kib", "mib"),
    ],
    "Broker": [
        ("deliver_1_to_1", "1 → 1, thousands a second", "rate", "k"),
        ("deliver_1_to_50", "1 → 50, thousands a second", "rate", "k"),
        ("deliver_1_to_50", "CPU a delivery, µs", "cpu_us", "{:,.2f}"),
        ("hold_1000", "connections taken a second", "rate", "{:,.0f}"),
        ("hold_2000", "KiB a held connection", "kib", "{:,.1f}"),
    ],
}
ORDER = [
    *("floor", "mqttws", "mqttws-compiled", "paho", "aiomqtt", "gmqtt", "amqtt", "mqtt5", "awscrt"),
    *("mqttpacket", "mqttjs", "mosquitto", "aedes"),
]
NAMES = {
    "floor": "floor: hand-written, unchecked Python",
    "mqttws": "**mqttws**",
    "mqttws-compiled": "**mqttws, compiled**",
    "paho": "paho-mqtt",
    "mqtt5": "mqtt5 (Rust)",
    "awscrt": "awscrt (C)",
    "gmqtt": "gmqtt (plain TCP)",
    "mqttjs": "MQTT.js",
    "mqttpacket": "mqtt-packet (Node)",
    "mosquitto": "Mosquitto",
}


#: (the beginning of the cases' names, figure, file, what is on the x axis, caption)
CURVES = [
    ("encode_payload_", "ns", "payload.png", "payload, bytes", "What a packet costs, by the size of its payload."),
    ("publish_batch_", "ns", "batch.png", "messages together", "What a message costs, by how many leave together."),
    ("match_", "ns", "matching.png", "subscriptions held", "What it costs to find the one that matches."),
]


def shown(value: float | None, form: str) -> str:
    """Show a figure."""
    if value is None:
        return ""
    if form == "k":
        return f"{value / 1e3:,.1f}"
    if form == "mib":
        return f"{value / 1024:,.1f}"
    return form.format(value)


def table(results: Results, columns: list[tuple[str, str, str, str]]) -> str:
    """Make one table: a row for each library that has any of the figures."""
    lines = ["| | " + " | ".join(name for _, name, _, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for library in ORDER:
        cells = []
        for case, _, figure, form in columns:
            found = results["cases"].get(case, {}).get(library, {}).get(figure)
            cells.append(shown(found["median"] if found else None, form))
        if any(cells):
            lines.append(f"| {NAMES.get(library, library)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(results: Results) -> str:
    """Tell how far the rounds lie apart: the middle and the largest spread of all figures."""
    spreads = sorted(
        (figure["greatest"] - figure["least"]) / figure["median"]
        for by_library in results["cases"].values()
        for figures in by_library.values()
        for figure in figures.values()
        if figure["median"]
    )
    if not spreads:
        return "There is one round only."
    middle, largest = spreads[len(spreads) // 2], spreads[-1]
    return f"Between the least and the greatest of the rounds lie {middle:.0%} of the median, at most {largest:.0%}."


def verdicts(results: Results) -> str:
    """Make the table of targets."""
    lines = ["| case | build | against | target | reached | compiled | |", "|---|---|---|---|---|---|---|"]
    for target in TARGETS:
        ratio = reached(results, target)
        peer = NAMES.get(target.peer, target.peer) or "a bound"
        unit = " ×" if target.peer else {"rate": " a second", "kib": " KiB"}[target.figure]
        if ratio is None:
            lines.append(f"| {target.case} | {target.ours} | {peer} | {target.factor:g}{unit} | – | | not measured |")
            continue
        other = reached(results, target, "mqttws-compiled") if target.ours == "mqttws" else None
        compiled = f"{other:,.2f}{unit}" if other is not None else ""
        less_is_better = not target.peer and target.figure not in MORE_IS_BETTER
        share = target.factor / ratio if less_is_better else ratio / target.factor
        verdict = "met" if met(target, ratio) else f"missed: {share:.0%} of the target"
        lines.append(
            f"| {target.case} ({target.figure}) | {target.ours} | {peer} | {target.factor:g}{unit} "
            f"| {ratio:,.2f}{unit} | {compiled} | {verdict} |"
        )
    return "\n".join(lines)


def plots(results: Results, directory: Path) -> list[tuple[str, str]]:
    """Draw the plots. Returns (file name, caption) pairs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = []

    def save(name: str, caption: str) -> None:
        pyplot.tight_layout()
        pyplot.savefig(directory / name, dpi=110)
        pyplot.close()
        drawn.append((name, caption))

    def series(prefix: str, figure: str, library: str) -> tuple[list[float], list[float]]:
        points = sorted(
            (float(name.rpartition("_")[2]), value)
            for name in results["cases"]
            if name.startswith(prefix) and (value := median(results, name, library, figure)) is not None
        )
        return [x for x, _ in points], [y for _, y in points]

    bars = [
        ("encode_qos0", "ns", "encode QoS 0"),
        ("encode_qos1", "ns", "encode QoS 1"),
        ("decode_stream", "ns", "decode stream"),
        ("publish_qos0", "rate", "publish QoS 0"),
        ("publish_qos1", "rate", "publish QoS 1"),
        ("receive", "rate", "receive"),
        ("deliver_1_to_1", "rate", "deliver 1 → 1"),
        ("deliver_1_to_50", "rate", "deliver 1 → 50"),
    ]
    figure, axes = pyplot.subplots(2, 4, figsize=(15, 7))
    for axis, (case, unit, title) in zip(axes.flat, bars, strict=True):
        own = median(results, case, "mqttws", unit)
        rows = []
        for library in ORDER:
            value = median(results, case, library, unit)
            if own and value:
                rows.append((library, value / own if unit in MORE_IS_BETTER else own / value))
        colours = ["tab:blue" if name.startswith("mqttws") else "silver" for name, _ in rows]
        axis.barh([name for name, _ in rows][::-1], [ratio for _, ratio in rows][::-1], color=colours[::-1])
        axis.set_xscale("log")
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.axvline(1, color="tab:blue", linewidth=0.8)
    figure.suptitle("Speed as a multiple of mqttws in pure Python (logarithmic; to the right is faster)")
    save("ratios.png", "Speed as a multiple of ours in pure Python, case by case.")

    for prefix, unit, name, label, caption in CURVES:
        pyplot.figure(figsize=(7, 4))
        for library in ("mqttws", "mqttws-compiled"):
            pyplot.plot(*series(prefix, unit, library), marker="o", label=f"{library}, {prefix.split('_')[0]}")
            if prefix.startswith("encode"):
                pyplot.plot(*series("decode_payload_", unit, library), marker="s", label=f"{library}, decode")
        pyplot.xscale("log")
        pyplot.yscale("log")
        pyplot.xlabel(label)
        pyplot.ylabel("nanoseconds")
        pyplot.grid(alpha=0.3)
        pyplot.legend(fontsize=8)
        save(name, caption)

    pyplot.figure(figsize=(7, 4))
    for library in ("mqttws", "mosquitto", "aedes", "amqtt"):
        pyplot.plot(*series("hold_", "kib", library), marker="o", label=library)
    pyplot.xlabel("connections held")
    pyplot.ylabel("KiB each")
    pyplot.ylim(bottom=0)
    pyplot.grid(alpha=0.3)
    pyplot.legend(fontsize=8)
    save("memory.png", "What a broker's held connection costs in memory.")
    return drawn


def document(results: Results, drawn: list[tuple[str, str]]) -> str:
    """Make the document."""
    machine, versions = results["machine"], results["versions"]
    facts = (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}; "
        f"load average at the start {machine['load_average']:.2f}; {results['rounds']} interleaved rounds"
    )
    if results["scale"] != 1:
        facts += f"; a trial with {results['scale']:g} of the counts"
    lines = [
        "# Benchmarks",
        "",
        "<!-- Made by benchmarks/report.py from the JSON of benchmarks/run_peers.py; not to be edited. -->",
        "",
        "Ratios count; absolute figures are those of one machine. Each figure is the median of the rounds; every run",
        "checks its outcome, and an incomplete run has no figure. How it is measured: `benchmarks/run_peers.py`.",
        "",
        f"Machine: {facts}.",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) + ".",
        "",
        spread(results),
    ]
    lines += [f"\nNot measured: {name}, because {reason}." for name, reason in sorted(results["missing"].items())]
    for case, by_library in sorted(results["failures"].items()):
        lines += [f"\nIncomplete: {name} in {case}: {reason}." for name, reason in sorted(by_library.items())]
    lines += ["", "## Targets", "", verdicts(results), ""]
    for heading, columns in TABLES.items():
        lines += [f"## {heading}", "", table(results, columns), ""]
    lines += ["## Plots", ""]
    for name, caption in drawn:
        lines += [f"![{caption}](benchmarks/{name})", "", caption, ""]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Make the document and its plots."""
    source, docs = Path(sys.argv[1]), Path(sys.argv[2])
    results = json.loads(source.read_text())
    (docs / "benchmarks").mkdir(parents=True, exist_ok=True)
    drawn = plots(results, docs / "benchmarks")
    (docs / "benchmarks.md").write_text(document(results, drawn))


if __name__ == "__main__":
    main()
