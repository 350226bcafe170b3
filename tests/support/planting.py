"""Plant faults on purpose, to test the tests: small edits of functions, only in this process.

An edit is (where, old text, new text). The old text must occur exactly once, so that a fault that no longer fits
the code is noticed.
"""

from __future__ import annotations
import __future__

import inspect
import os
import textwrap
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from ledger import find

Edit = tuple[str, str, str]


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        statement: the one that it breaks.
        title: a description of the fault.
        edits: edits of functions.
        changes: changes of tables.
    """

    statement: str
    title: str
    edits: tuple[Edit, ...] = ()
    changes: tuple[Callable[[], object], ...] = ()


class StaleFaultError(Exception):
    """The source that a fault edits no longer exists."""


def plant(fault: Fault) -> None:
    """Plant a fault in this process.

    Raises:
        StaleFaultError: the fault does not fit the source.
    """
    for change in fault.changes:
        change()
    edits: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for where, old, new in fault.edits:
        edits[where].append((old, new))
    for where, replacements in edits.items():
        _edit(where, replacements)


def misfits(faults: Sequence[Fault]) -> None:
    """Print each fault that does not fit the source. Each is planted in a forked child, in untouched code."""
    for fault in faults:
        for where, _, _ in fault.edits:
            with suppress(Exception):  # the child reports it
                inspect.getsource(_function(find(where)))  # so that the children need neither import nor read it
        if os.fork() == 0:
            try:
                plant(fault)
            except Exception as error:
                print(f"{fault.statement} ({fault.title}): {error}", flush=True)
            finally:
                os._exit(0)
        os.wait()


def _edit(where: str, replacements: Sequence[tuple[str, str]]) -> None:
    function = _function(find(where))
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in replacements:
        if source.count(old) != 1:
            raise StaleFaultError(
                f"{where}: {old!r} is there {source.count(old)} times, not once; fit the fault in faults.py to the code"
            )
        source = source.replace(old, new)
    # In a class, so that `super()` and decorators of methods work as before.
    wrapped = "class _:\n" + textwrap.indent(source, "    ")
    code = compile(wrapped, f"<fault in {where}>", "exec", __future__.annotations.compiler_flag, dont_inherit=True)
    namespace: dict[str, Any] = {}
    exec(code, {**function.__globals__}, namespace)
    planted: CodeType = _function(inspect.getattr_static(namespace["_"], function.__name__)).__code__
    function.__code__ = planted


def _function(found: Any) -> FunctionType:
    if isinstance(found, property):
        found = found.fget
    found = getattr(found, "__func__", found)
    if not isinstance(found, FunctionType):
        raise StaleFaultError(f"{found!r} is no function")
    return found
