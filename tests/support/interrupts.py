"""Exceptions of signal handlers at each place where CPython may raise them."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import mqttws
import pubsub

#: The folders whose code is interrupted.
FOLDERS = tuple(str(Path(package.__file__).parent) for package in (mqttws, pubsub))
#: CPython runs a signal handler at the end of one of these instructions.
POINTS = ("CALL", "RESUME", "JUMP_BACKWARD", "POP_JUMP_BACKWARD")


def is_point(code: CodeType, last: int, following: int) -> bool:
    """Return whether a signal handler may run between two instructions, and its exception can be raised at the second.

    It belongs to the first. So a `with` or `try` must not begin or end between the two.
    """

    def handlers(offset: int) -> list[int]:
        entries = dis.Bytecode(code).exception_entries  # type: ignore[attr-defined]
        return [entry.target for entry in entries if entry.start <= offset < entry.end]

    name = dis.opname[code.co_code[last]]
    if name.startswith("POP_JUMP") and following > last:  # not taken
        return False
    return name.startswith(POINTS) and handlers(last) == handlers(following)


def interrupt(step: int, call: Callable[[], object], handler: Callable[[], object] | None = None) -> bool:
    """Call a function. Run a signal handler in mqttws or pubsub, where one may run for the nth time.

    Args:
        step: How many such places to skip.
        call: The function.
        handler: The signal handler; None for one that raises KeyboardInterrupt.

    Returns:
        Whether there were so many places.
    """
    left = step
    interrupted = False
    before: dict[FrameType, int] = {}

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left, interrupted
        if not frame.f_code.co_filename.startswith(FOLDERS):
            return None
        frame.f_trace_opcodes = True
        if event == "call":
            before[frame] = frame.f_lasti
        if event != "opcode":
            return trace
        last, before[frame] = before.get(frame), frame.f_lasti
        if last is not None and is_point(frame.f_code, last, frame.f_lasti):
            left -= 1
            if left < 0:
                sys.settrace(None)
                interrupted = True
                if handler is None:
                    raise KeyboardInterrupt
                handler()
        return trace

    known = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 traces no opcodes unless a frame asks for them before
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        if not interrupted:
            raise
    finally:
        sys.settrace(known)
        before.clear()  # `trace` refers to itself, and so to the frames
    return interrupted
