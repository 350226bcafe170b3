"""What both drivers write to the log named `mqttws`. A handler that raises is at fault itself, and stops nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("mqttws")


def write(level: int, message: str, arguments: tuple[object, ...], *, exc_info: bool = False) -> None:
    """Write a record."""
    try:
        logger.log(level, message, *arguments, exc_info=exc_info)
    except Exception:
        pass


def report(callback: Callable[..., Any]) -> None:
    """Write the exception that a callback has raised, from where it is caught."""
    write(logging.ERROR, "a callback raised an exception: %r", (callback,), exc_info=True)
