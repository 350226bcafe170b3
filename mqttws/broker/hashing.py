"""Checking of passwords in threads, with a fair queue and a cache.

Checking a password takes tens of milliseconds, and an attacker sends many wrong ones. Therefore:

- The checks have separate threads and leave one processor to the event loop, so that nothing else waits for them.
- Addresses take turns. For each address the newest password is checked first, and only a few may wait; beyond that the
  oldest is refused after a pause, which slows down an attacker who fills the queue.
- Answers are cached, right or wrong, under a keyed hash that is useless outside this process. A client that has been
  accepted before is accepted immediately, and a wrong password that is repeated is checked once.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from hashlib import blake2b

from mqttws.locks import Condition

#: The maximum number of passwords from one address that wait.
_MOST_WAITING = 16
#: Seconds before a password that is dropped from the queue is refused.
_PAUSE = 1.0
#: The maximum number of cached answers.
_MOST_KNOWN = 1_024
#: Seconds that a thread waits for work before it ends.
_IDLE = 5.0


class _Answer(Future[bool | None]):
    """The answer to a password; no exception of a signal handler leaves its condition acquired."""

    def __init__(self) -> None:
        super().__init__()
        self._condition = Condition()


class _Job:
    """A password that waits to be checked; callers with the same user name and password share it."""

    __slots__ = ("answer", "digest", "password", "username")

    def __init__(self, digest: bytes, username: str, password: bytes) -> None:
        self.digest = digest
        self.username = username
        self.password = password
        self.answer = _Answer()


class Hashing:
    """The queue of one file of users.

    Args:
        check: Returns whether a password is a user's; called in the threads.
        threads: The maximum number of threads; by default one less than the number of processors, at most 4.
    """

    def __init__(self, check: Callable[[str, bytes], bool], threads: int | None = None) -> None:
        self._check = check
        self._most = threads or max(1, min(4, (os.cpu_count() or 1) - 1))
        self._key = os.urandom(32)
        self._known: OrderedDict[bytes, bool] = OrderedDict()
        self._begin_without_threads()
        _queues.add(self)

    def _begin_without_threads(self) -> None:
        """Create what the threads use; also in a forked child, where the parent's threads do not exist."""
        self._lock = Condition()
        self._jobs: dict[bytes, _Job] = {}  # waiting or being checked, by digest
        self._waiting: OrderedDict[str, list[_Job]] = OrderedDict()  # by address, the next one first
        self._threads = 0
        self._idle = 0

    async def check(self, address: str, username: str, password: bytes) -> bool | None:
        """Check a password in a thread.

        Args:
            address: The IP address that sent it.
            username: The user name that was sent with it.
            password: The password.

        Returns:
            Whether it is right; None if too many passwords from that address wait.
        """
        name = username.encode()
        digest = blake2b(len(name).to_bytes(4, "big") + name + password, key=self._key).digest()
        with self._lock:
            known = self._known.get(digest)
            if known is not None:
                self._known.move_to_end(digest)
                return known
            job = self._jobs.get(digest)
            if job is None:
                job = self._jobs[digest] = _Job(digest, username, password)
                self._enqueue(address, job)
        # The shield: cancelling one caller must not cancel the check that others may wait for.
        answer = await asyncio.shield(asyncio.wrap_future(job.answer))
        if answer is None:
            await asyncio.sleep(_PAUSE)
        return answer

    def _enqueue(self, address: str, job: _Job) -> None:
        waiting = self._waiting.setdefault(address, [])
        waiting.append(job)
        if len(waiting) > _MOST_WAITING:
            dropped = waiting.pop(0)
            del self._jobs[dropped.digest]
            dropped.answer.set_result(None)
        if self._idle:
            self._lock.notify()
        elif self._threads < self._most:
            self._threads += 1
            threading.Thread(target=self._run, name="mqttws-passwords", daemon=True).start()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                answer = self._check(job.username, job.password)
            except BaseException as error:
                with self._lock:
                    del self._jobs[job.digest]
                job.answer.set_exception(error)
                continue
            with self._lock:
                del self._jobs[job.digest]
                self._known[job.digest] = answer
                if len(self._known) > _MOST_KNOWN:
                    self._known.popitem(last=False)
            job.answer.set_result(answer)

    def _next(self) -> _Job | None:
        """Return the next password to check, waiting for one if necessary; None after `_IDLE` seconds without one."""
        with self._lock:
            if not self._waiting:
                self._idle += 1
                self._lock.wait_for(lambda: bool(self._waiting), _IDLE)
                self._idle -= 1
            if not self._waiting:
                self._threads -= 1
                return None
            address, waiting = self._waiting.popitem(last=False)
            job = waiting.pop()
            if waiting:
                self._waiting[address] = waiting
            return job


_queues: weakref.WeakSet[Hashing] = weakref.WeakSet()


def _forget_threads() -> None:
    """Forget the threads of the parent, and their work, in a forked child."""
    for queue in list(_queues):
        queue._begin_without_threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
