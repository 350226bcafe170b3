"""The publisher's process: publishes numbers, and prints each before publishing it and after it is accepted.

python publisher.py URL STORE FIRST COUNT
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from concurrent.futures import Future

import mqttws

#: The maximum number of messages in flight.
WINDOW = 200


def say(text: str) -> None:
    """Write a line directly to the pipe, so that a kill does not lose it."""
    os.write(1, text.encode() + b"\n")


def main() -> None:
    """Publish the numbers from the first one, then wait until each is delivered."""
    url, path, first, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    policy = mqttws.Reconnect(initial=0.05, maximum=0.5, takeovers=1_000_000)
    with mqttws.SQLiteStore(path) as store:
        client = mqttws.Client(
            url, client_id="publisher", clean_session=False, store=store, reconnect=policy, keep_alive=2
        )
        open_for_good(client)
        under_way: deque[Future[None]] = deque()
        for number in range(first, count):
            say(f"try {number}")
            under_way.append(client.publish_nowait("chaos", str(number), 1 + number % 2))
            say(f"accepted {number}")
            if len(under_way) > WINDOW:
                under_way.popleft().result(60)
        while len(client.session.sender):
            for qos in (1, 2):  # after everything that an earlier process has left
                client.publish("over", b"", qos, timeout=60)
        say("end")
        client.close()


def open_for_good(client: mqttws.Client) -> None:
    """Open the client, repeatedly until a broker answers."""
    while True:
        try:
            client.open(timeout=10)
            return
        except (mqttws.MQTTError, TimeoutError):
            time.sleep(0.05)


main()
