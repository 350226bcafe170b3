"""Callbacks whose body a call does not run, because they return a generator."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Iterator


def generator_function(argument: object = None) -> Iterator[object]:
    yield argument


async def _asynchronous(argument: object = None) -> AsyncIterator[object]:
    yield argument


class Generating:
    def __call__(self, argument: object = None) -> Iterator[object]:
        yield argument


GENERATORS = [
    *(generator_function, _asynchronous, Generating()),
    *(functools.partial(generator_function, 1), functools.partial(Generating())),
    contextlib.contextmanager(generator_function),
    functools.partial(contextlib.asynccontextmanager(_asynchronous), 1),
]
