"""The provider for any MQTT broker, over WebSocket or plain TCP."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Unpack

from pubsub.errors import ProviderError
from pubsub.providers.base import ClientOptions, Provider

__all__ = ["MqttOverWSProvider"]


class MqttOverWSProvider(Provider):
    """Connects to an MQTT broker at a fixed URL.

    Args:
        aws_pubsub_endpoint: the URL: ws://, wss://, mqtt:// or mqtts://; None: as configured.
        name: by which `provider=` selects it.
        offline: "queue" or "raise"; see `Provider`.
        **options: see `ClientOptions`: `client_id`, `username`, `password`, `tls`, `will`, `keep_alive` and so on.
    """

    kind: ClassVar[str] = "MqttOverWSProvider"

    def __init__(
        self,
        aws_pubsub_endpoint: str | None = None,
        *,
        name: str | None = None,
        offline: Literal["queue", "raise"] = "queue",
        **options: Unpack[ClientOptions],
    ) -> None:
        super().__init__(name=name, offline=offline, settings={"aws_pubsub_endpoint": aws_pubsub_endpoint}, **options)

    def client_options(self) -> dict[str, Any]:
        """Return the options of the client.

        Raises:
            ProviderError: there is no endpoint.
        """
        self.url()
        return super().client_options()

    def url(self) -> str:
        """Return the URL."""
        endpoint = self._settings.get("aws_pubsub_endpoint")
        if not endpoint:
            raise ProviderError(
                f"{self.name} has no endpoint: give aws_pubsub_endpoint to it, or to configure, such as "
                "'wss://broker.example/mqtt'"
            )
        return str(endpoint)
