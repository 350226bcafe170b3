"""The asyncio client: `mqttws.aio.connect` and `mqttws.aio.Client`."""

from __future__ import annotations

from mqttws.aio.client import Client, connect
from mqttws.aio.shares import delivers_shared

__all__ = ["Client", "connect", "delivers_shared"]
