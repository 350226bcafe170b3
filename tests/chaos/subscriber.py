"""The subscriber's process: prints each number that it takes, acknowledges it, and prints that it has.

python subscriber.py URL STORE
"""

from __future__ import annotations

import os
import sys
import time

import mqttws


def say(text: str) -> None:
    """Write a line directly to the pipe, so that a kill does not lose it."""
    os.write(1, text.encode() + b"\n")


def main() -> None:
    """Take messages until the process is ended."""
    policy = mqttws.Reconnect(initial=0.05, maximum=0.5, takeovers=1_000_000)
    with mqttws.SQLiteStore(sys.argv[2]) as store:
        client = mqttws.Client(
            sys.argv[1],
            client_id="subscriber",
            clean_session=False,
            store=store,
            reconnect=policy,
            keep_alive=2,
            manual_ack=True,
        )
        client.subscribe_nowait("chaos", 2).add_done_callback(lambda future: say("ready"))
        while True:
            try:
                client.open(timeout=10)
                break
            except (mqttws.MQTTError, TimeoutError):
                client.subscribe_nowait("chaos", 2).add_done_callback(lambda future: say("ready"))
                time.sleep(0.05)
        for message in client.messages():
            say(f"take {message.payload.decode()} {message.qos}")
            client.acknowledge(message)
            say(f"done {message.payload.decode()}")


main()
