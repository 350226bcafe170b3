"""The targets: in which case which of our builds should be ahead of whom, and by how much.

A target is a ratio within one run, because a ratio still means something on another machine; or, for a broker's
connections, a bound. `report.py` judges by it, `compare.py` looks for what became slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Figures of which more is better; of all others less is.
MORE_IS_BETTER = {"rate"}

#: Case -> the figure that is compared.
FIGURE = {
    "encode": "ns",
    "decode": "ns",
    "match": "ns",
    "publish_batch": "ns",
    "publish": "rate",
    "receive": "rate",
    "echo": "p50_us",
    "memory": "kib",
    "clients": "kib",
    "import": "ms",
    "deliver": "rate",
    "hold": "kib",
}


@dataclass(frozen=True)
class Target:
    """How far ahead one of our builds should be.

    Attributes:
        case: its name.
        ours: "mqttws" or "mqttws-compiled".
        peer: whom to be ahead of; "" for a bound.
        factor: how many times better, at least; the bound itself where there is no peer.
        figure: what is compared.
    """

    case: str
    ours: str
    peer: str
    factor: float
    figure: str


def _targets() -> list[Target]:
    wanted: list[tuple[str, str, dict[str, float], str]] = [
        ("encode_qos0", "mqttws", {"paho": 6, "gmqtt": 10, "mqtt5": 1.5}, "ns"),
        ("encode_qos1", "mqttws", {"paho": 6, "gmqtt": 10, "mqtt5": 1.5}, "ns"),
        ("decode_stream", "mqttws", {"paho": 20, "gmqtt": 6, "mqtt5": 1}, "ns"),
        ("encode_qos0", "mqttws-compiled", {"mqtt5": 3.5}, "ns"),
        ("encode_qos1", "mqttws-compiled", {"mqtt5": 3.5}, "ns"),
        ("decode_stream", "mqttws-compiled", {"mqtt5": 2.5}, "ns"),
        ("publish_qos0", "mqttws", {"paho": 25, "awscrt": 15}, "rate"),
        ("publish_qos0_asyncio", "mqttws", {"paho": 25, "awscrt": 15}, "rate"),
        ("publish_qos0_waiting", "mqttws", {"paho": 1.5}, "rate"),
        ("publish_qos1", "mqttws", {"paho": 10, "awscrt": 3.5}, "rate"),
        ("publish_qos1_asyncio", "mqttws", {"paho": 10, "awscrt": 3.5}, "rate"),
        ("receive", "mqttws", {"paho": 15, "awscrt": 6, "mqttjs": 3, "gmqtt": 2}, "rate"),
        ("receive_asyncio", "mqttws", {"paho": 15, "awscrt": 6, "mqttjs": 3, "gmqtt": 2}, "rate"),
        ("echo_qos0", "mqttws", {"paho": 2, "awscrt": 1}, "p50_us"),
        ("echo_qos0", "mqttws", {"awscrt": 1}, "p99_us"),
        ("echo_qos1", "mqttws", {"paho": 100}, "p50_us"),
        ("import", "mqttws", {"paho": 2.5}, "ms"),
        ("memory", "mqttws", {"paho": 1}, "kib"),
        ("clients_10000", "mqttws", {"": 12}, "kib"),
        ("deliver_1_to_1", "mqttws", {"mosquitto": 1, "aedes": 5, "amqtt": 15}, "rate"),
        ("deliver_1_to_50", "mqttws", {"mosquitto": 3, "aedes": 10, "amqtt": 10}, "rate"),
        ("hold_1000", "mqttws", {"": 1_000}, "rate"),
        ("hold_2000", "mqttws", {"": 12}, "kib"),
    ]
    return [
        Target(case, ours, peer, factor, figure)
        for case, ours, peers, figure in wanted
        for peer, factor in peers.items()
    ]


TARGETS = _targets()

#: Who takes a peer's place in a case that the peer has no variant of.
BASE_CASE = {
    "publish_qos0_asyncio": "publish_qos0",
    "publish_qos1_asyncio": "publish_qos1",
    "receive_asyncio": "receive",
    "echo_qos0_asyncio": "echo_qos0",
    "echo_qos1_asyncio": "echo_qos1",
}


def median(results: dict[str, Any], case: str, library: str, figure: str) -> float | None:
    """Look a figure up; a peer without the case is looked up in the case that it stands in for."""
    for name in (case, BASE_CASE.get(case, case)):
        found = results["cases"].get(name, {}).get(library, {}).get(figure)
        if found is not None:
            return float(found["median"])
    return None


def reached(results: dict[str, Any], target: Target, ours: str | None = None) -> float | None:
    """Tell how many times better we are than the target's peer (or the figure itself, for a bound); None: unknown."""
    own = median(results, target.case, ours or target.ours, target.figure)
    if own is None or not target.peer:
        return own
    other = median(results, target.case, target.peer, target.figure)
    if other is None:
        return None
    return own / other if target.figure in MORE_IS_BETTER else other / own


def met(target: Target, ratio: float) -> bool:
    """Judge."""
    if not target.peer and target.figure not in MORE_IS_BETTER:
        return ratio <= target.factor
    return ratio >= target.factor
