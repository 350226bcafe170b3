"""The publisher's process: publishes numbers, and says before each that it tries, and after each that it is accepted.

python publisher.py URL STORE FIRST COUNT
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from concurrent.futures import Future

import mqttws

#: How many messages may be under way.
WINDOW = 200


def say(text: str) -> None:
    """Say it so that nothing of it is lost, however this process ends."""
    os.write(1, text.encode() + b"\n")


def main() -> None:
    """Publish all numbers from the first on, then wait until each is delivered."""
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
            for qos in (1, 2):  # behind all that an earlier process has left
                client.publish("over", b"", qos, timeout=60)
        say("end")
        client.close()


def open_for_good(client: mqttws.Client) -> None:
    """Open the client, as often as it takes until there is a broker."""
    while True:
        try:
            client.open(timeout=10)
            return
        except (mqttws.MQTTError, TimeoutError):
            time.sleep(0.05)


main()
