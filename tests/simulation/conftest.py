"""Fixtures of the simulation tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _without_the_log() -> Iterator[None]:
    """Silence the simulated broker, which logs each lost connection."""
    logger = logging.getLogger("mqttws.broker")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)
