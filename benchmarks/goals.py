"""The targets: by how much each of our builds should be faster than which library, in which case.

A target is a ratio within one run, which is meaningful on any machine, or a bound for memory or for accepting
connections. Of several runs the median of the ratios counts. `report.py` evaluates the targets.
"""

from __future__ import annotations

from dataclasses import dataclass

from cases import CASES, PACKETS, SIZES, TOPICS
from results import MORE_IS_BETTER, Run, find


@dataclass(frozen=True)
class Target:
    """A target of one of our builds.

    Attributes:
        case: the name of the case.
        ours: "mqttws" or "mqttws-compiled".
        peer: the library to compare with; "" for a bound.
        factor: the minimum ratio; without a peer, the bound.
        figure: the compared figure.
        peer_case: the case of the peer, if it differs.
    """

    case: str
    ours: str
    peer: str
    factor: float
    figure: str
    peer_case: str = ""


def _loop_targets() -> list[Target]:
    """Return the targets of closed loops: twice the clients in Python, 1.3 times the one in C; the shortest PUBACK."""
    targets = []
    for case in CASES:
        if case.kind != "closed":
            continue
        measured = case.run.partition("_")[0]
        figures = {"paced": ("p50_us", "p99_us"), "connect": ("p50_us",)}.get(measured, ("rate",))
        for peer in case.libraries:
            if peer.startswith("mqttws") or (measured == "connect" and peer != "paho"):
                continue
            factor = 1 if measured in ("paced", "connect") else 1.3 if peer == "awscrt" else 2
            targets += [Target(case.name, "mqttws", peer, factor, figure) for figure in figures]
        if case.run == "tasks":  # awaiting must cost little
            targets.append(
                Target(case.name, "mqttws", "mqttws", 1 / 1.3, "cpu_us", case.name.replace("tasks", "nowait"))
            )
    return targets


def _targets() -> list[Target]:
    publish_qos0, publish_qos1 = {"paho": 25, "awscrt": 15}, {"paho": 12, "awscrt": 4}
    publish_qos2, large = {"paho": 8, "mqttium": 1.5}, {"paho": 1.0, "awscrt": 1.0}
    received = {"paho": 20, "awscrt": 6}
    receive = {"paho": 15, "awscrt": 6, "mqttjs": 3, "gmqtt": 2}
    encode = {"paho": 6, "gmqtt": 10, "mqtt5": 1.5}
    wanted: list[tuple[str, str, dict[str, float], str]] = [
        ("encode_qos0", "mqttws", encode, "ns"),
        ("encode_qos1", "mqttws", encode, "ns"),
        ("decode_stream", "mqttws", {"paho": 20, "gmqtt": 6, "mqtt5": 1}, "ns"),
        ("encode_qos0", "mqttws-compiled", {"mqtt5": 3.5}, "ns"),
        ("encode_qos1", "mqttws-compiled", {"mqtt5": 3.5}, "ns"),
        ("decode_stream", "mqttws-compiled", {"mqtt5": 4}, "ns"),
        *((f"{way}_{name}", "mqttws", {"mqtt5": 0.25}, "ns") for name in PACKETS for way in ("encode", "decode")),
        *((f"{way}_{name}", "mqttws-compiled", {"mqtt5": 1}, "ns") for name in PACKETS for way in ("encode", "decode")),
        ("mask_65536", "mqttws-compiled", {"websockets": 0.5}, "ns"),  # within twice the time of its C
        ("publish_qos0", "mqttws", publish_qos0, "rate"),
        ("publish_qos0_asyncio", "mqttws", publish_qos0, "rate"),
        ("publish_qos0_waiting", "mqttws", {"paho": 1.5}, "rate"),
        ("publish_qos1", "mqttws", publish_qos1, "rate"),
        ("publish_qos1_asyncio", "mqttws", publish_qos1, "rate"),
        ("publish_qos2", "mqttws", publish_qos2, "rate"),
        ("publish_qos2_asyncio", "mqttws", publish_qos2, "rate"),
        ("publish_tls_qos0", "mqttws", {"awscrt": 15}, "rate"),
        ("publish_tls_qos0_asyncio", "mqttws", {"awscrt": 15}, "rate"),
        ("publish_tls_qos1", "mqttws", {"awscrt": 3.5}, "rate"),
        ("publish_tls_qos1_asyncio", "mqttws", {"awscrt": 3.5}, "rate"),
        ("receive_tls", "mqttws", received, "cpu_us"),
        ("receive_tls_asyncio", "mqttws", received, "cpu_us"),
        ("receive_tls_single", "mqttws", {"awscrt": 2}, "cpu_us"),
        ("receive_tls_single_asyncio", "mqttws", {"awscrt": 2}, "cpu_us"),
        *(
            (f"{way}_{size}_{transport}", "mqttws", large, figure)
            for _, size, _ in SIZES
            for way in ("send", "receive")
            for transport in ("ws", "wss")
            for figure in ("mib_s", "peak_mib")
        ),
        ("publish_qos0", "mqttws-compiled", {"floor": 0.75}, "rate"),
        ("receive", "mqttws-compiled", {"floor": 0.9}, "rate"),
        ("deliver_1_to_1", "mqttws-compiled", {"floor": 0.7}, "rate"),
        *((f"echo_qos{qos}_asyncio", "mqttws", {"floor": 1 / 1.25}, "p50_us") for qos in (0, 1)),
        *((f"echo_qos{qos}", "mqttws", {"floor": 1 / 1.5}, "p50_us") for qos in (0, 1)),
        ("first", "mqttws", {"paho": 1 / 0.5}, "tcp_ms"),
        ("first", "mqttws", {"paho": 1 / 0.6}, "ws_ms"),
        ("first", "mqttws", {"floor": 1 / 2.5}, "pub_ms"),
        ("first", "mqttws", {"paho": 1 / 0.75}, "tcp_mib"),
        ("first", "mqttws", {"paho": 1 / 0.75}, "ws_mib"),
        ("receive", "mqttws", receive, "rate"),
        ("receive_asyncio", "mqttws", receive, "rate"),
        ("echo_qos0", "mqttws", {"paho": 2, "awscrt": 1}, "p50_us"),
        ("echo_qos0", "mqttws", {"awscrt": 1}, "p99_us"),
        ("echo_qos1", "mqttws", {"paho": 100}, "p50_us"),
        ("echo_qos1", "mqttws", {"awscrt": 1}, "p99_us"),
        ("import", "mqttws", {"paho": 2.5}, "ms"),
        ("memory", "mqttws", {"paho": 1}, "kib"),
        ("client_hold_10000", "mqttws", {"": 12}, "kib"),
        ("deliver_1_to_1", "mqttws", {"mosquitto": 5, "aedes": 5, "amqtt": 15}, "rate"),
        ("deliver_1_to_50", "mqttws", {"mosquitto": 40, "aedes": 10, "amqtt": 10}, "rate"),
        ("deliver_qos1", "mqttws", {"mosquitto": 1}, "rate"),
        ("fan_in", "mqttws", {"mosquitto": 2}, "rate"),
        ("pairs", "mqttws", {"mosquitto": 2}, "rate"),
        ("accept", "mqttws", {"": 3_000}, "rate"),
        ("hold", "mqttws", {"": 12}, "kib_2000"),
    ]
    targets = [
        Target(case, ours, peer, factor, figure)
        for case, ours, peers, figure in wanted
        for peer, factor in peers.items()
    ]
    # The object and its bytes, as a user of the codec writes it.
    targets += [Target(f"encode_object_qos{qos}", "mqttws", "mqtt5", 1.3, "ns", f"encode_qos{qos}") for qos in (0, 1)]
    # Many topics may cost at most 1.5 times as much as a hundred.
    targets += [
        Target(f"topics_{way}_{number}", "mqttws", "mqttws", 1 / 1.5, figure, f"topics_{way}_{TOPICS[0]}")
        for way, figure in (("encode", "ns"), ("decode", "ns"), ("route", "cpu_us"))
        for number in TOPICS[1:]
    ]
    signing = {"sign_url": 6, "sign_iot_url": 1, "sign_presign": 3.5}
    targets += [Target(case, "mqttws", "awscrt", factor, "ns", "sign") for case, factor in signing.items()]
    # A match among a hundred thousand subscriptions may cost at most 1.5 times as much as with one.
    return [*targets, *_loop_targets(), Target("match_100000", "mqttws", "mqttws", 1 / 1.5, "ns", "match_1")]


TARGETS = _targets()


def reached(run: Run, target: Target, ours: str | None = None) -> float | None:
    """Return the ratio to the target's peer (or the figure itself, for a bound); None if unknown."""
    own = find(run, target.case, ours or target.ours, target.figure)
    if own is None or not target.peer:
        return None if own is None else own["median"]
    other = find(run, target.peer_case or target.case, target.peer, target.figure)
    if other is None:
        return None
    ratio = own["median"] / other["median"]
    return ratio if target.figure in MORE_IS_BETTER else 1 / ratio


def share(target: Target, ratio: float) -> float:
    """Return the ratio relative to the target; it is met from 1 on."""
    less_is_better = not target.peer and target.figure not in MORE_IS_BETTER
    return target.factor / ratio if less_is_better else ratio / target.factor
