"""What our own benchmarks share: `make bench`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def timed(benchmark) -> Callable[..., None]:
    """Time a call, once it has shown that it gives what is wanted."""

    def timed(function: Callable[[], Any], wanted: Any) -> None:
        assert function() == wanted
        benchmark(function)

    return timed
