"""The message by which a client finds out whether a server delivers to shared subscriptions."""

from __future__ import annotations

from collections.abc import Callable

from mqttws.client.options import ClientOptions


def probe_of(topic: str | None, options: ClientOptions, random_bytes: Callable[[int], bytes]) -> tuple[str, str]:
    """Return the group and the topic of a probe, and bring the options of a client into what it needs."""
    word = random_bytes(8).hex()
    options["server"] = "plain"  # a profile would refuse what is to be found out
    options["reconnect"] = False
    options.setdefault("timeout", 5.0)
    return f"probe-{word}", topic if topic is not None else f"mqttws/probe/{word}"
