"""A device that keeps every reading until the broker has acknowledged it: without a network, and through a kill.

    python examples/thermometer.py ws://broker.example/mqtt readings.db [SECONDS]

It starts without a network, and connects when there is one. Each reading is in the file when `publish_nowait` returns,
and leaves it when its PUBACK is there. The next process with the same file and name sends what an earlier one has left.
"""

from __future__ import annotations

import itertools
import signal
import sys
import time

import mqttws
from pubsub import MqttOverWSProvider, PublishFailed, PubSub

NAME = "thermometer-1"


def main(url: str, path: str, seconds: float) -> None:
    """Measure until SIGTERM or Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with mqttws.SQLiteStore(path, synchronous="full") as store:  # "full": through a loss of power, too
        provider = MqttOverWSProvider(
            aws_pubsub_endpoint=url,
            client_id=NAME,
            clean_session=False,
            store=store,
            retry_first=True,  # no network yet is no error
            reconnect=mqttws.Reconnect(maximum=10.0),  # seconds from one attempt to the next, at the most
            overflow="drop_oldest",  # when as much waits as may: the newest readings matter most
            max_queued_bytes=16 * 1024 * 1024,
            expire_after=7 * 24 * 3600.0,  # and those of last week not at all
        )
        with PubSub(provider) as ps:
            for number in itertools.count():
                reading = {"celsius": celsius(), "time": time.time(), "number": number}
                try:
                    ps.publish_nowait(f"devices/{NAME}/celsius", reading, qos=1)
                except PublishFailed as error:  # a full disk: the reading is lost, and the device goes on
                    print(f"not kept: {error}", file=sys.stderr, flush=True)
                waiting = ps.waiting
                print(f"reading {number}, {waiting.messages} wait, the oldest {waiting.oldest:.0f} s", flush=True)
                time.sleep(seconds)


def celsius() -> float:
    """Read the thermometer."""
    return 21.5


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 60.0)
    except KeyboardInterrupt:
        pass
