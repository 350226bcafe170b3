"""A meter and its display on a cluster: when the node that they are connected to dies, they go on at another one.

    python examples/cluster.py ws://node1:8080/mqtt ws://node2:8080/mqtt ws://node3:8080/mqtt

Each reading is published with QoS 1, so that it arrives at least once. A copy of one that has been shown is recognised
by its number. Ctrl-C ends the program.
"""

from __future__ import annotations

import sys
import time

import mqttws

TOPIC = "meters/7/reading"


def say(line: str) -> None:
    """Print a line in one piece: the callbacks of two clients run in two threads."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def connect(name: str, urls: list[str], **options: object) -> mqttws.Client:
    """Make a client that knows all nodes, and reports where it is."""

    def on_state(state: mqttws.State) -> None:
        if state.name == "connected":
            say(f"{name}: connected to {state.endpoint}")
        elif state.name == "disrupted":
            say(f"{name}: lost {state.endpoint}: {state.error}")

    def on_error(error: mqttws.MQTTError) -> None:
        if isinstance(error, mqttws.SessionLost):  # a node that shares no sessions with the one before
            say(f"{name}: the session is lost, and with it what waited there")

    return mqttws.Client(
        urls,
        client_id=f"example-{name}",
        clean_session=False,
        connect_timeout=1.0,  # a node that cannot be reached
        answer_timeout=1.0,  # one that accepts the connection, and is silent
        ack_timeout=0.75,  # one that acknowledges nothing: it is pinged,
        ping_timeout=1.0,  # and left where it does not answer
        stalled="leave",  # or where it answers, and still acknowledges nothing
        keep_alive=5,  # what a client notices a silent node by that only receives
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
        if number > shown:  # a lower number is a copy that came after a change of nodes
            shown = number
            say(f"reading {number}")

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
