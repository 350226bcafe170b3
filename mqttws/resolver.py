"""Names and their addresses, for both drivers.

A name is looked up in a daemon thread, because the system's resolver can neither be hurried nor interrupted: a look-up
that hangs holds up neither an event loop's executor nor the end of the process. However
many attempts wait for a name, there is one look-up of it at a time, which they share.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from itertools import zip_longest
from typing import Final

#: Family, protocol and the address itself, as `socket` wants them.
Address = tuple[socket.AddressFamily, int, object]


def resolve(host: str, port: int) -> list[Address]:
    """Resolve a name; IPv6 and IPv4 addresses in turn, each kind in the order of the system.

    Raises:
        OSError: there is no such name, or no answer.

    Spec: RFC 8305 §4
    """
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError(socket.EAI_NONAME, "it cannot be a name: one of its labels is empty or too long") from None
    found = [(family, protocol, address) for family, _, protocol, _, address in answers]
    first = [entry for entry in found if entry[0] == found[0][0]]
    others = [entry for entry in found if entry[0] != found[0][0]]
    return [entry for pair in zip_longest(first, others) for entry in pair if entry is not None]


class Lookup:
    """A look-up of one name.

    Args:
        host: a name.
        port: 1 to 65,535.

    Attributes:
        outcome: the addresses, or why there are none; None while it is under way.
    """

    def __init__(self, host: str, port: int) -> None:
        self.outcome: list[Address] | OSError | None = None
        self._key = host, port
        self._watchers: deque[Callable[[], object]] = deque()

    def watch(self, callback: Callable[[], object]) -> None:
        """Call back once there is an outcome, in any thread."""
        self._watchers.append(callback)
        if self.outcome is not None:
            self._notify()

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name=f"mqttws resolving {self._key[0]}", daemon=True).start()

    def _run(self) -> None:
        outcome: list[Address] | OSError
        try:
            outcome = resolve(*self._key)
        except OSError as error:
            outcome = error
        except Exception as error:
            outcome = OSError(socket.EAI_FAIL, f"the look-up failed: {type(error).__name__}")
        _under_way.pop(self._key, None)  # an attempt that begins from now on asks anew
        self.outcome = outcome
        self._notify()

    def _notify(self) -> None:
        while self._watchers:
            try:
                watcher = self._watchers.popleft()
            except IndexError:  # the other thread was faster
                return
            watcher()


#: The look-ups under way. Each change is one operation on the dictionary, so that it needs no lock.
_under_way: Final[dict[tuple[str, int], Lookup]] = {}


def look_up(host: str, port: int) -> Lookup:
    """Begin to look up a name, or join the look-up that is under way."""
    key, new = (host, port), Lookup(host, port)
    lookup = _under_way.setdefault(key, new)
    if lookup is new:
        try:
            new.start()
        except BaseException:
            _under_way.pop(key, None)
            raise
    return lookup


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_under_way.clear)  # their threads are the parent's
