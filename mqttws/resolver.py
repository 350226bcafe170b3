"""Name resolution for both drivers.

A name is looked up in a daemon thread, because the system's resolver has no timeout and cannot be interrupted. A
lookup that hangs blocks neither an event loop's executor nor the exit of the process. Simultaneous attempts with the
same name share one lookup.
"""

from __future__ import annotations

import _socket
import os
import threading
from collections import deque
from collections.abc import Callable
from itertools import zip_longest

from mqttws.hints import Final
from mqttws.sockets import socket_module

#: Family, protocol and address, in the form that `socket` takes.
Address = tuple[int, int, object]


def resolve(host: str | bytes, port: int) -> list[Address]:
    """Resolve a name.

    Returns:
        The addresses, IPv6 and IPv4 alternating, each family in the order of the system.

    Raises:
        OSError: The name does not exist, or the resolver does not answer.

    Spec: RFC 8305 §4
    """
    try:
        answers = socket_module().getaddrinfo(host, port, type=_socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError(_socket.EAI_NONAME, "it is not a valid name: one of its labels is empty or too long") from None
    found = [(family, protocol, address) for family, _, protocol, _, address in answers]
    first = [entry for entry in found if entry[0] == found[0][0]]
    others = [entry for entry in found if entry[0] != found[0][0]]
    return [entry for pair in zip_longest(first, others) for entry in pair if entry is not None]


class Lookup:
    """A lookup of one name.

    Args:
        host: The name.
        port: 1 to 65,535.

    Attributes:
        outcome: The addresses, or the error; None until the lookup is complete.
    """

    def __init__(self, host: str, port: int) -> None:
        self.outcome: list[Address] | OSError | None = None
        self._key = host, port
        self._watchers: deque[Callable[[], object]] = deque()

    def watch(self, callback: Callable[[], object]) -> None:
        """Call `callback` when there is an outcome, in any thread."""
        self._watchers.append(callback)
        if self.outcome is not None:
            self._notify()

    def start(self) -> None:
        """Start the lookup in a thread."""
        threading.Thread(target=self._run, name=f"mqttws resolving {self._key[0]}", daemon=True).start()

    def _run(self) -> None:
        outcome: list[Address] | OSError
        try:
            outcome = resolve(*self._key)
        except OSError as error:
            outcome = error
        except Exception as error:
            outcome = OSError(_socket.EAI_FAIL, f"the lookup failed: {type(error).__name__}")
        _under_way.pop(self._key, None)  # an attempt that starts from now on makes a new lookup
        self.outcome = outcome
        self._notify()

    def _notify(self) -> None:
        while self._watchers:
            try:
                watcher = self._watchers.popleft()
            except IndexError:  # another thread has removed the last one
                return
            watcher()


#: The incomplete lookups. Each change is one operation on the dict, so no lock is needed.
_under_way: Final[dict[tuple[str, int], Lookup]] = {}


def look_up(host: str, port: int) -> Lookup:
    """Return the incomplete lookup of a name; start one if there is none."""
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
    os.register_at_fork(after_in_child=_under_way.clear)  # the threads of the lookups do not exist in the child
