"""The metrics of a broker, for the embedding program and under "$SYS".

A message is published for each metric that has changed, periodically and whenever a client subscribes to "$SYS".
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from mqttws.broker.registry import Registry
from mqttws.broker.router import Router
from mqttws.codec.publishing import Message

#: The maximum number of updates per second, however often clients subscribe.
_RATE = 20


class Status:
    """The metrics of one broker.

    Args:
        router: The source of the metrics of messages.
        registry: The source of the metrics of clients.
        now: The time of the start, in seconds.
    """

    def __init__(self, router: Router, registry: Registry, now: float) -> None:
        self._router = router
        self._registry = registry
        self._started = now
        self._left: float = _RATE
        self._checked_at = now
        try:
            self._version = f"mqttws {version('mqttws-pubsub')}"
        except PackageNotFoundError:  # running from the source tree
            self._version = "mqttws"

    def metrics(self) -> dict[str, int]:
        """Return all metrics by topic, without the prefix "$SYS/broker/"."""
        router, registry = self._router, self._registry
        return router.metrics.topics() | {
            "clients/connected": registry.connected,
            "clients/disconnected": len(registry) - registry.connected,
            "clients/total": len(registry),
            "retained messages/count": len(router.retained),
            "retained messages/bytes": router.retained.bytes,
            "subscriptions/count": router.subscriptions,
        }

    def refresh(self, now: float) -> None:
        """Publish the metrics that have changed, at most `_RATE` times per second."""
        self._left = min(_RATE, self._left + (now - self._checked_at) * _RATE)
        self._checked_at = now
        if self._left < 1:
            return
        self._left -= 1
        texts = {name: str(metric) for name, metric in self.metrics().items()}
        texts["uptime"] = f"{int(now - self._started)} seconds"
        texts["version"] = self._version
        for name, text in texts.items():
            message = Message(f"$SYS/broker/{name}", text, 0, True)
            if self._router.sys.get(message.topic) != message:
                self._router.sys.set(message)
                self._router.publish_at_once(Message(message.topic, text))
