"""Fixtures of the benchmarks of `make bench`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def timed(benchmark) -> Callable[..., None]:
    """Return a function that checks the result of a call, then times it."""

    def timed(function: Callable[[], Any], wanted: Any) -> None:
        assert function() == wanted
        benchmark(function)

    return timed
