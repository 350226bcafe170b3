"""Fixtures of the exploration tests: restore the log level and the number of identifiers after each test."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from mqttws.protocol import outgoing


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Silence the broker, which logs each lost connection, and restore what a scenario changes."""
    logger = logging.getLogger("mqttws.broker")
    level, last = logger.level, outgoing.LAST_PACKET_ID
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)
    outgoing.LAST_PACKET_ID = last
