"""A meter and its display with a cluster: if the node to which they are connected fails, they connect to another one.

    python examples/cluster.py ws://node1:8080/mqtt ws://node2:8080/mqtt ws://node3:8080/mqtt

Each reading is published with QoS 1, so it arrives at least once. Copies are recognized by the number of the reading.
Ctrl-C ends the program.
"""

from __future__ import annotations

import sys
import time

import mqttws

TOPIC = "meters/7/reading"


def show_line(line: str) -> None:
    """Print a line in one call, because the callbacks of the two clients run in two threads."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def connect(name: str, urls: list[str], **options: object) -> mqttws.Client:
    """Return a client for all nodes of the cluster, which reports its connections."""

    def on_state(state: mqttws.State) -> None:
        if state.name == "connected":
            show_line(f"{name}: connected to {state.endpoint}")
        elif state.name == "disrupted":
            show_line(f"{name}: lost {state.endpoint}: {state.error}")

    def on_error(error: mqttws.MQTTError) -> None:
        if isinstance(error, mqttws.SessionLost):  # the node does not share sessions with the previous one
            show_line(f"{name}: the session is lost, with the messages that waited in it")

    return mqttws.Client(
        urls,
        client_id=f"example-{name}",
        clean_session=False,
        connect_timeout=1.0,  # for a node that cannot be reached
        answer_timeout=1.0,  # for a node that accepts the connection, but does not answer
        ack_timeout=0.75,  # for a node that does not acknowledge: a PINGREQ is sent,
        ping_timeout=1.0,  # and the connection is closed if there is no PINGRESP,
        stalled="leave",  # or if there is one, but still no acknowledgement
        keep_alive=5,  # detects a silent node if the client only receives
        reconnect=mqttws.Reconnect(initial=0.1, maximum=0.3),
        on_state=on_state,
        on_error=on_error,
        **options,  # type: ignore[arg-type]
    )


def main(urls: list[str]) -> None:
    """Publish readings, and show them, until the program is interrupted."""
    shown = 0

    def show(message: mqttws.Publish) -> None:
        nonlocal shown
        number = int(message.payload)
        if number > shown:  # a lower number is a copy, sent again after a change of nodes
            shown = number
            show_line(f"reading {number}")

    with connect("display", urls, on_message=show) as display, connect("meter", urls) as meter:
        display.subscribe(TOPIC, 1)
        number = 0
        while True:
            number += 1
            meter.publish(TOPIC, str(number), 1)
            time.sleep(0.05)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        pass
