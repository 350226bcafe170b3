"""The provider for any MQTT broker, or a cluster of them, over WebSocket or plain TCP."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, ClassVar, Literal, Unpack

from pubsub.providers.base import ClientOptions, Provider
from pubsub.providers.endpoints import EndpointOption, Urls, ask, ask_async, freeze, given, one_or_all

__all__ = ["MqttOverWSProvider"]


class MqttOverWSProvider(Provider):
    """Connects to an MQTT broker.

    Args:
        aws_pubsub_endpoint: The URL: ws://, wss://, mqtt:// or mqtts://; several, such as those of a cluster's nodes,
            all of which one attempt tries; or a callable that returns either and is called once for each attempt (it
            may block; with asyncio it may also be a coroutine function); None: as configured.
        name: By which `provider=` selects it.
        offline: "queue" or "raise"; see `Provider`.
        **options: See `ClientOptions`: `client_id`, `username`, `password`, `tls`, `will`, `keep_alive` and so on.
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
        """Return the same without blocking: a callable is called in a thread, or awaited."""
        return ask_async(self.name, self._endpoint) if callable(self._endpoint) else self.url()

    @property
    def _endpoint(self) -> Any:
        return self._settings.get("aws_pubsub_endpoint")
