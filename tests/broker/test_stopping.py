"""A broker that is stopped while clients connect leaks no socket."""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from mqttws.broker import Broker


def test_connections_being_accepted_are_closed(start: Callable[..., Broker], monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: forgotten.append(unraisable.exc_value))
    for _ in range(20):
        broker = start()
        port = urlsplit(broker.url).port
        for connection in [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]:
            connection.close()
        broker.stop()
    gc.collect()
    assert forgotten == []
