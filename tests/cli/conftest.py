"""Fixtures of the tests of the command line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mqttws.broker import Broker


@pytest.fixture(scope="module")
def embedded() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker
