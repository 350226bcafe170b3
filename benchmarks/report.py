"""Create `docs/benchmarks.md` and its plots from the JSON of `run_peers.py`.

python benchmarks/report.py benchmarks/results.json [more.json ...] docs/
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from cases import PACKETS, SIZES, TOPICS
from goals import TARGETS, Target, reached, share
from results import Run, load, median, middle

#: A column: (case, its name in the table, the figure, its format).
Column = tuple[str, str, str, str]

#: The columns of a closed loop; see `peers/closedloop.py`.
FORMS = ("callback", "threads", "tasks", "nowait")

#: Heading -> columns.
TABLES: dict[str, list[Column]] = {
    "Codec, nanoseconds a packet": [
        ("encode_qos0", "encode QoS 0", "ns", "{:,.0f}"),
        ("encode_qos1", "encode QoS 1", "ns", "{:,.0f}"),
        ("decode_qos0", "decode QoS 0", "ns", "{:,.0f}"),
        ("decode_stream", "decode stream", "ns", "{:,.0f}"),
        ("encode_object_qos0", "make a Publish and encode it, QoS 0", "ns", "{:,.0f}"),
        ("encode_object_qos1", "the same, QoS 1", "ns", "{:,.0f}"),
    ],
    "Other packets, nanoseconds: made and encoded, decoded": [
        (f"{way}_{name}", f"{way} {name.upper()}", "ns", "{:,.0f}") for name in PACKETS for way in ("encode", "decode")
    ],
    "Topics by turns: nanoseconds a message; CPU a delivery of the broker, µs": [
        (f"topics_{way}_{number}", f"{way}, {number:,}", figure, form)
        for way, figure, form in (
            ("encode", "ns", "{:,.0f}"),
            ("decode", "ns", "{:,.0f}"),
            ("route", "cpu_us", "{:,.2f}"),
        )
        for number in TOPICS
    ],
    "WebSocket masking, nanoseconds": [
        ("mask_64", "64 bytes", "ns", "{:,.0f}"),
        ("mask_1024", "1 KiB", "ns", "{:,.0f}"),
        ("mask_65536", "64 KiB", "ns", "{:,.0f}"),
    ],
    "Finding the one subscription that matches, nanoseconds": [
        ("match_1", "of 1", "ns", "{:,.0f}"),
        ("match_10000", "of 10,000", "ns", "{:,.0f}"),
        ("match_100000", "of 100,000", "ns", "{:,.0f}"),
        ("match_depth_2", "2 levels deep", "ns", "{:,.0f}"),
        ("match_depth_4", "4 levels", "ns", "{:,.0f}"),
        ("match_depth_8", "8 levels", "ns", "{:,.0f}"),
    ],
    "Client, thousands of messages a second": [
        ("publish_qos0", "publish QoS 0", "rate", "k"),
        ("publish_qos0_waiting", "one at a time", "rate", "k"),
        ("publish_qos1", "publish QoS 1", "rate", "k"),
        ("publish_qos2", "publish QoS 2", "rate", "k"),
        ("receive", "receive", "rate", "k"),
    ],
    "Client, CPU time a message in microseconds": [
        ("publish_qos0", "publish QoS 0", "cpu_us", "{:,.2f}"),
        ("publish_qos0_waiting", "one at a time", "cpu_us", "{:,.2f}"),
        ("publish_qos1", "publish QoS 1", "cpu_us", "{:,.2f}"),
        ("publish_qos2", "publish QoS 2", "cpu_us", "{:,.2f}"),
        ("receive", "receive", "cpu_us", "{:,.2f}"),
    ],
    **{
        f"Client over WebSocket and TLS{shown}": [
            (f"{case}{form}", f"{name}, {heading}", figure, form_of)
            for case, name in (
                ("publish_tls_qos0", "publish QoS 0"),
                ("publish_tls_qos1", "publish QoS 1"),
                ("receive_tls", "receive, many in a record"),
                ("receive_tls_single", "receive, one in a record"),
            )
            for heading, figure, form_of in (("thousands a second", "rate", "k"), ("CPU, µs", "cpu_us", "{:,.2f}"))
        ]
        + ([] if form else [("reconnect_tls", "reconnect p50, µs", "p50_us", "{:,.0f}")])
        for form, shown in (("", ""), ("_asyncio", ", asyncio"))
    },
    **{
        f"Large messages over {transport}, {doing}": [
            (f"{way}_{size}_{transport}", f"{size.replace('_', ' ').replace('ib', 'iB')}, {heading}", figure, form_of)
            for _, size, _ in SIZES
            for heading, figure, form_of in (
                ("MiB/s", "mib_s", "{:,.0f}"),
                ("CPU, µs/MiB", "cpu_us_mib", "{:,.0f}"),
                ("peak, MiB", "peak_mib", "{:,.1f}"),
            )
        ]
        for transport in ("ws", "wss")
        for way, doing in (("send", "sent one by one with QoS 1"), ("receive", "received"))
    },
    "Client with asyncio": [
        ("publish_qos0_asyncio", "publish QoS 0, thousands a second", "rate", "k"),
        ("publish_qos0_asyncio", "CPU, µs", "cpu_us", "{:,.2f}"),
        ("publish_qos1_asyncio", "publish QoS 1", "rate", "k"),
        ("publish_qos1_asyncio", "CPU, µs", "cpu_us", "{:,.2f}"),
        ("publish_qos2_asyncio", "publish QoS 2", "rate", "k"),
        ("publish_qos2_asyncio", "CPU, µs", "cpu_us", "{:,.2f}"),
        ("receive_asyncio", "receive", "rate", "k"),
        ("receive_asyncio", "CPU, µs", "cpu_us", "{:,.2f}"),
        ("echo_qos0_asyncio", "echo QoS 0 p50, µs", "p50_us", "{:,.0f}"),
        ("echo_qos1_asyncio", "echo QoS 1 p50, µs", "p50_us", "{:,.0f}"),
    ],
    "Client, round trip in microseconds, import and memory": [
        ("echo_qos0", "QoS 0 p50", "p50_us", "{:,.0f}"),
        ("echo_qos0", "QoS 0 p99", "p99_us", "{:,.0f}"),
        ("echo_qos1", "QoS 1 p50", "p50_us", "{:,.0f}"),
        ("echo_qos1", "QoS 1 p99", "p99_us", "{:,.0f}"),
        ("import", "import, ms", "ms", "{:,.0f}"),
        ("memory", "memory of one connection, MiB", "kib", "mib"),
        ("client_hold_10000", "KiB each of 10,000", "kib", "{:,.1f}"),
    ],
    "Round trip of QoS 0 beside 10,000 messages a second between other connections, microseconds": [
        (f"echo_busy{form}", f"{name}{shown}", figure, "{:,.0f}")
        for form, shown in (("", ""), ("_asyncio", ", asyncio"))
        for name, figure in (("p50", "p50_us"), ("p99", "p99_us"), ("p99.9", "p999_us"))
    ],
    "From the start of a process to its first PUBACK": [
        ("first", "TCP, ms", "tcp_ms", "{:,.0f}"),
        ("first", "WebSocket, ms", "ws_ms", "{:,.0f}"),
        ("first", "`pubsub pub`, or an empty program, ms", "pub_ms", "{:,.0f}"),
        ("first", "memory beyond an empty program, TCP, MiB", "tcp_mib", "{:,.1f}"),
        ("first", "WebSocket, MiB", "ws_mib", "{:,.1f}"),
    ],
    "Signing an AWS IoT URL, nanoseconds": [
        ("sign_url", "IotUrlSigner", "ns", "{:,.0f}"),
        ("sign_iot_url", "presign_iot_url", "ns", "{:,.0f}"),
        ("sign_presign", "presign", "ns", "{:,.0f}"),
        ("sign", "awscrt's", "ns", "{:,.0f}"),
    ],
    **{
        f"Closed loop over {name}, {heading}": [
            *(
                (f"loop_{transport}_{form}_qos{qos}", f"{form} QoS {qos}", figure, form_of)
                for form in FORMS
                for qos in (0, 1, 2)
            ),
            (f"loop_{transport}_request", "request", figure, form_of),
            (f"loop_{transport}_request_asyncio", "request, asyncio", figure, form_of),
        ]
        for transport, name in (("tcp", "plain TCP"), ("ws", "WebSocket"))
        for heading, figure, form_of in (
            ("thousands of messages a second", "rate", "k"),
            ("CPU time a message in microseconds", "cpu_us", "{:,.1f}"),
            ("percent of one core that the broker used", "broker_percent", "{:,.0f}"),
        )
    },
    "PUBACK at 2,000 a second, and connecting, microseconds": [
        (f"loop_{transport}_{case}", f"{transport} {shown}", figure, "{:,.0f}")
        for transport in ("tcp", "ws")
        for case, shown, figure in (
            ("paced", "p50", "p50_us"),
            ("paced", "p99", "p99_us"),
            ("paced_asyncio", "p50, asyncio", "p50_us"),
            ("paced_asyncio", "p99, asyncio", "p99_us"),
            ("connect", "connect p50", "p50_us"),
            ("connect_asyncio", "connect p50, asyncio", "p50_us"),
        )
    ],
    "Broker": [
        ("deliver_1_to_1", "1 → 1, thousands a second", "rate", "k"),
        ("deliver_1_to_1", "CPU a delivery, µs", "cpu_us", "{:,.2f}"),
        ("deliver_1_to_50", "1 → 50, thousands a second", "rate", "k"),
        ("deliver_1_to_50", "CPU a delivery, µs", "cpu_us", "{:,.2f}"),
        *(
            (case, f"{name}, {heading}", figure, form_of)
            for case, name in (
                ("deliver_qos1", "1 → 1, QoS 1"),
                ("fan_in", "1,000 → 1"),
                ("pairs", "1,000 → 1,000 in pairs"),
            )
            for heading, figure, form_of in (
                ("thousands a second", "rate", "k"),
                ("CPU a delivery, µs", "cpu_us", "{:,.2f}"),
            )
        ),
        ("fan_in", "1,000 → 1, CPU of the load a delivery, µs", "load_us", "{:,.2f}"),
        ("pairs", "1,000 → 1,000, CPU of the load a delivery, µs", "load_us", "{:,.2f}"),
    ],
    "Broker: connections, and a quiet client while another keeps the broker busy": [
        ("accept", "connections taken a second", "rate", "{:,.0f}"),
        ("accept", "CPU each, µs", "cpu_us", "{:,.0f}"),
        ("accept_tls", "over TLS", "rate", "{:,.0f}"),
        ("accept_tls", "CPU each, µs", "cpu_us", "{:,.0f}"),
        ("hold", "KiB each of 2,000 held", "kib_2000", "{:,.1f}"),
        ("quiet", "quiet client's p50, µs", "p50_us", "{:,.0f}"),
        ("quiet", "p99, µs", "p99_us", "{:,.0f}"),
        ("quiet", "beside thousands a second", "rate", "k"),
    ],
}
#: Libraries with asyncio only: in its table they have the figures of the base cases.
ASYNCIO_PEERS = ("aiomqtt", "gmqtt", "mqttium")
ORDER = [
    *("floor", "mqttws", "mqttws-compiled", "mqttws-uvloop", "paho", "aiomqtt", "gmqtt", "amqtt", "mqtt5", "awscrt"),
    *("mqttium", "zmqtt"),
    *("websockets", "picows", "mqttpacket", "mqttjs", "mosquitto", "nats", "aedes"),
]
NAMES = {
    "floor": "floor: hand-written, unchecked Python",
    "mqttws": "**mqttws**",
    "mqttws-compiled": "**mqttws, compiled**",
    "mqttws-uvloop": "**mqttws on uvloop**",
    "paho": "paho-mqtt",
    "mqtt5": "mqtt5 (Rust)",
    "mqttium": "MQTTium",
    "zmqtt": "zmqtt (plain TCP)",
    "awscrt": "awscrt (C)",
    "gmqtt": "gmqtt (plain TCP)",
    "websockets": "websockets (C)",
    "picows": "picows (C, without MQTT)",
    "mqttjs": "MQTT.js",
    "mqttpacket": "mqtt-packet (Node)",
    "mosquitto": "Mosquitto",
    "nats": "nats-server",
}
UNITS = {"rate": " a second", "kib": " KiB", "kib_2000": " KiB"}


def shown(value: float | None, form: str) -> str:
    """Return the text of a figure."""
    if value is None:
        return "–"
    if form == "k":
        return f"{value / 1e3:,.1f}"
    if form == "mib":
        return f"{value / 1024:,.1f}"
    return form.format(value)


def lacking(runs: list[Run], case: str, library: str) -> str:
    """Return the text of a cell without a figure: whether the measurement failed, or the library has no such case."""
    return "failed" if any(library in run["failures"].get(case, ()) for run in runs) else "–"


def table(runs: list[Run], columns: list[Column]) -> str:
    """Return a table with a row for each library that has any of the figures."""
    lines = ["| | " + " | ".join(name for _, name, _, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for library in ORDER:
        known = [
            any(library in run["cases"].get(case, ()) for run in runs)
            or (case.endswith("_asyncio") and library in ASYNCIO_PEERS)
            for case, _, _, _ in columns
        ]
        cells = [
            shown(median(runs, case, library, figure), form) if has else lacking(runs, case, library)
            for (case, _, figure, form), has in zip(columns, known, strict=True)
        ]
        if any(known):
            lines.append(f"| {NAMES.get(library, library)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else "Not measured."


def spread(runs: list[Run]) -> str:
    """Describe the spread of the rounds of a run, and of the runs."""
    rounds: list[float] = []
    medians: dict[tuple[str, str, str], list[float]] = {}
    for run in runs:
        for case, by_library in run["cases"].items():
            for library, figures in by_library.items():
                for figure, values in figures.items():
                    rounds.append((values["greatest"] - values["least"]) / values["median"])
                    medians.setdefault((case, library, figure), []).append(values["median"])
    between = [(max(each) - min(each)) / statistics.median(each) for each in medians.values()]

    def shares(spreads: list[float]) -> str:
        ordered = sorted(spreads)
        half, most = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)]
        return f"{half:.0%} of the median with half of the figures, at most {most:.0%} with 95 in 100"

    text = f"Between the least and the greatest of a run's rounds lie {shares(rounds)}"
    if len(runs) == 1:
        return f"{text}."
    if all(run["rounds"] == 1 for run in runs):
        return f"Between the least and the greatest of the runs lie {shares(between)}."
    return f"{text}; between those of the runs {shares(between)}."


def verdict(target: Target, ratio: float | None) -> str:
    """Return whether a target is met, or the share that is reached."""
    if ratio is None:
        return "not measured"
    reached_share = share(target, ratio)
    return "met" if reached_share >= 1 else f"missed: {int(reached_share * 100)}% of the target"


def limits(runs: list[Run], target: Target) -> str:
    """Return what limits the rate of a closed loop, as the text of a cell.

    It shows how many times less CPU time a message takes than with the peer, and how much of a core the broker uses
    with this library. At nearly 100 % the broker is the limit, and no client could be faster.
    """
    if target.figure != "rate":
        return ""
    own, other = (median(runs, target.case, library, "cpu_us") for library in (target.ours, target.peer))
    broker = median(runs, target.case, target.ours, "broker_percent")
    if own is None or other is None or broker is None:
        return ""
    return f"CPU {other / own:.2f} ×, broker {broker:.0f} %"


def verdicts(runs: list[Run]) -> str:
    """Return the table of targets: the ratio in each run, and the median, which counts."""
    lines = ["| case | build | against | target | each run | median | compiled | | limits |", "|---" * 9 + "|"]
    for target in TARGETS:
        ratios = [reached(run, target) for run in runs]
        ratio = middle(ratios)
        peer = NAMES.get(target.peer, target.peer) or "a bound"
        if target.peer_case:
            peer = f"its {target.peer_case}"
        unit = " ×" if target.peer else UNITS[target.figure]
        form = "{:,.0f}" if target.figure == "rate" and not target.peer else "{:,.2f}"
        factor = f"{target.factor:,.2f}".rstrip("0").rstrip(".")
        each = ", ".join("–" if value is None else form.format(value) for value in ratios)
        other = None
        if target.ours == "mqttws" and not target.peer_case:
            other = middle(reached(run, target, "mqttws-compiled") for run in runs)
        median_shown, compiled = ("" if value is None else form.format(value) + unit for value in (ratio, other))
        lines.append(
            f"| {target.case} ({target.figure}) | {target.ours} | {peer} | {factor}{unit} "
            f"| {each} | {median_shown} | {compiled} | {verdict(target, ratio)} | {limits(runs, target)} |"
        )
    return "\n".join(lines)


def facts(runs: list[Run]) -> list[str]:
    """Describe the runs, the machine, and what was not measured."""
    machine, versions = runs[0]["machine"], runs[0]["versions"]
    loads = ", ".join(f"{run['machine']['load_average']:.2f}" for run in runs)
    counted = f"{len(runs)} complete runs" if len(runs) > 1 else "One run"
    rounds = sorted({run["rounds"] for run in runs})
    seconds = runs[0]["seconds"]
    longer = "".join(f", {name} {times} times that" for name, times in runs[0].get("times", {}).items())
    lines = [
        f"{counted} of {' or '.join(map(str, rounds))} interleaved rounds, {seconds:g} s a measurement{longer}; "
        f"load average at the start {loads}. "
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}.",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) + ".",
        "",
        spread(runs),
    ]
    repeated = sorted({prefix for run in runs for prefix in run.get("repeated", ())})
    if repeated:
        lines += ["", f"Measured again later, once for each run: cases that begin with {', '.join(repeated)}."]
    if any(run["trial"] for run in runs):
        lines += ["", "A trial: its measurements are too short to be relied on."]
    missing = {name: reason for run in runs for name, reason in run["missing"].items()}
    lines += [f"\nNot measured: {name}, because {reason}." for name, reason in sorted(missing.items())]
    failures: dict[tuple[str, str], dict[str, None]] = {}
    for run in runs:
        for case, by_library in sorted(run["failures"].items()):
            for name, reason in sorted(by_library.items()):
                failures.setdefault((name, reason), {})[case] = None
    lines += [f"\nIncomplete: {name} in {', '.join(cases)}: {reason}." for (name, reason), cases in failures.items()]
    return lines


def document(runs: list[Run], drawn: list[tuple[str, str]]) -> str:
    """Return the document."""
    lines = [
        "# Benchmarks",
        "",
        "<!-- Made by benchmarks/report.py from the JSON of benchmarks/run_peers.py; not to be edited. -->",
        "",
        "This page compares the speed and memory of this library with other MQTT clients, brokers and codecs. Compare",
        "ratios: absolute values are those of one machine. `make bench-peers bench-report` measures yours.",
        "",
        *(line for name, caption in drawn[:1] for line in (f"![{caption}](benchmarks/{name})", "", caption, "")),
        "## Targets",
        "",
        "A ratio compares two values of the same run. The median of the runs decides. The last column is for closed",
        "loops: how many times less CPU time a message takes than with the other library, and the share of one core",
        "that the broker uses. Where that is nearly 100 %, the broker limits the rate, and so the ratio.",
        "",
        verdicts(runs),
        "",
    ]
    for heading, columns in TABLES.items():
        lines += [f"## {heading}", "", table(runs, columns), ""]
    lines += ["## Plots", ""]
    for name, caption in drawn[1:]:
        lines += [f"![{caption}](benchmarks/{name})", "", caption, ""]
    lines += [
        "## How it was measured",
        "",
        "All libraries get the same messages, QoS, window and broker, each in its own process, and as many messages",
        "as fill the same time. A value is the median of the runs, and that of a run the median of its rounds. Every",
        "measurement checks its outcome; an incomplete one has no value. `benchmarks/run_peers.py` has the details.",
        "A dash stands for a case that a library does not have, or that is not run with it. MQTTium, aiomqtt, gmqtt,",
        "zmqtt and amqtt have only asyncio; paho and awscrt have only threads; gmqtt and zmqtt have no WebSocket;",
        "awscrt has no QoS 2 (it sends no PUBREL); mqtt5 and mqtt-packet are codecs; picows has no MQTT: a script",
        "writes and reads the packets by hand, to show what faster framing could reach.",
        "",
        *facts(runs),
        "",
        "**Next:** [performance](performance.md) explains the results; [load a broker](bench.md) to measure yours.",
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Write the document and its plots."""
    parser = argparse.ArgumentParser(description="Write benchmarks.md and its plots.")
    parser.add_argument("results", type=Path, nargs="+", help="the JSON of run_peers.py")
    parser.add_argument("docs", type=Path, help="the directory to write to")
    chosen = parser.parse_args()
    runs = load(*chosen.results)
    if not runs:
        parser.error("there is no complete run in these results")
    from plots import draw  # matplotlib, which the tests of this module do not need

    (chosen.docs / "benchmarks").mkdir(parents=True, exist_ok=True)
    drawn = draw(runs, chosen.docs / "benchmarks", ORDER)
    (chosen.docs / "benchmarks.md").write_text(document(runs, drawn))


if __name__ == "__main__":
    main()
