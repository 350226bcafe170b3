"""What the explored brokers would log, and the identifiers that a scenario leaves few of."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from mqttws.protocol import outgoing


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """The broker logs each connection that is lost, which is what the exploration is for."""
    logger = logging.getLogger("mqttws.broker")
    level, last = logger.level, outgoing.LAST_PACKET_ID
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)
    outgoing.LAST_PACKET_ID = last
