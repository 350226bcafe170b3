"""How many schedules the suite runs; `make simulate` asks for a million."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _without_the_log() -> Iterator[None]:
    """The broker of the simulator logs each connection that is lost, which is what the simulator is for."""
    logger = logging.getLogger("mqttws.broker")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)
