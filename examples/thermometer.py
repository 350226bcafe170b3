"""A device that stores every reading until the broker has acknowledged it, even if the process is killed.

    python examples/thermometer.py ws://broker.example/mqtt readings.db [SECONDS]

It starts without a network, and connects when there is one. Each reading is in the file when `publish_nowait` returns,
and is removed when the PUBACK arrives. The next process with the same file and client identifier sends those that are
left.
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
    """Publish readings until SIGTERM or Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with mqttws.SQLiteStore(path, synchronous="full") as store:  # "full": survives a loss of power, too
        provider = MqttOverWSProvider(
            aws_pubsub_endpoint=url,
            client_id=NAME,
            clean_session=False,
            store=store,
            retry_first=True,  # a missing network at the start is not an error
            reconnect=mqttws.Reconnect(maximum=10.0),  # at most 10 seconds between attempts
            overflow="drop_oldest",  # if the queue is full: the newest readings are the most important
            max_queued_bytes=16 * 1024 * 1024,
            expire_after=7 * 24 * 3600.0,  # readings older than a week are not sent
        )
        with PubSub(provider) as ps:
            for number in itertools.count():
                reading = {"celsius": celsius(), "time": time.time(), "number": number}
                try:
                    ps.publish_nowait(f"devices/{NAME}/celsius", reading, qos=1)
                except PublishFailed as error:  # a full disk, for example: the reading is lost
                    print(f"not kept: {error}", file=sys.stderr, flush=True)
                waiting = ps.waiting
                print(f"reading {number}, {waiting.messages} wait, the oldest {waiting.oldest:.0f} s", flush=True)
                time.sleep(seconds)


def celsius() -> float:
    """Return the temperature."""
    return 21.5


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 60.0)
    except KeyboardInterrupt:
        pass
