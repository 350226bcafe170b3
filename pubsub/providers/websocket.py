"""The provider for any MQTT broker, or a cluster of them, over WebSocket or plain TCP."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, ClassVar, Literal, Unpack

from pubsub.providers.base import ClientOptions, Provider
from pubsub.providers.endpoints import EndpointOption, Urls, ask, ask_async, freeze, given, one_or_all

__all__ = ["MqttOverWSProvider"]


class MqttOverWSProvider(Provider):
    """A provider for an MQTT broker.

    Args:
        aws_pubsub_endpoint: The URL, with the scheme `ws`, `wss`, `mqtt` or `mqtts`; several URLs, such as those of
            the nodes of a cluster, all of which an attempt tries; or a callable that returns either and is called once
            for each attempt. The callable may block; with asyncio it may also be a coroutine function. None: the URL
            is a setting of `PubSub.configure`.
        name: The name for the argument `provider` of other methods; None: "MqttOverWSProvider".
        offline: "queue" or "raise"; see `Provider`.
        **options: See `ClientOptions`: `client_id`, `username`, `password`, `tls`, `will`, `keep_alive` and so on.

    Raises:
        TypeError: There is no such option, or it has the wrong type.
        ValueError, LocalProtocolError: An option is out of its range, or breaks a rule of the standard.
    """

    kind: ClassVar[str] = "MqttOverWSProvider"

    def __init__(
        self,
        aws_pubsub_endpoint: EndpointOption | None = None,
        *,
        name: str | None = None,
        offline: Literal["queue", "raise"] = "queue",
        **options: Unpack[ClientOptions],
    ) -> None:
        super().__init__(
            name=name, offline=offline, settings={"aws_pubsub_endpoint": freeze(aws_pubsub_endpoint)}, **options
        )

    def client_options(self) -> dict[str, Any]:
        """Return the options of the client.

        Raises:
            ProviderError: There is no endpoint.
        """
        if not callable(self._endpoint):
            self.url()
        return super().client_options()

    def url(self) -> Urls:
        """Return the URL, or several."""
        if callable(self._endpoint):
            return ask(self.name, self._endpoint)
        return one_or_all(given(self.name, self._endpoint, "wss://broker.example/mqtt"))

    def url_async(self) -> Urls | Awaitable[Urls]:
        """Return the same as `url` without blocking. A callable endpoint is called in a thread, or awaited."""
        return ask_async(self.name, self._endpoint) if callable(self._endpoint) else self.url()

    @property
    def _endpoint(self) -> Any:
        return self._settings.get("aws_pubsub_endpoint")
