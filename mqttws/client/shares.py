"""The parameters of the probe that tests whether a server delivers messages to shared subscriptions."""

from __future__ import annotations

from collections.abc import Callable

from mqttws.client.option_types import ClientOptions


def probe_of(topic: str | None, options: ClientOptions, random_bytes: Callable[[int], bytes]) -> tuple[str, str]:
    """Return the group and the topic of a probe, and adapt the options of its client."""
    word = random_bytes(8).hex()
    options["server"] = "plain"  # a profile could reject the shared subscription
    options["reconnect"] = False
    options.setdefault("timeout", 5.0)
    return f"probe-{word}", topic if topic is not None else f"mqttws/probe/{word}"
