"""Passwords that wait to be checked: threads, a queue and a memory kept for that.

To check a password takes a thread tens of milliseconds, and who sends wrong ones wants them to be many. So:

- The threads are the checks' own, and leave a processor to the event loop: nothing else waits for a password. -
Addresses take turns, and of each address the last one to come is checked first. Few may wait for one address: those
that
  have waited longest make way, after a pause, which slows down who only means to fill the queue.
- An answer is remembered, right or wrong, under a keyed hash that is worthless outside this process. A client that was
let
  in before is let in at once, and a wrong password that is sent again and again is checked once.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from hashlib import blake2b

#: Passwords of one address that may wait.
_MOST_WAITING = 16
#: Seconds after which one that has made way is answered.
_PAUSE = 1.0
#: Answers that are remembered.
_MOST_KNOWN = 1_024
#: Seconds for which a thread waits for work before it ends.
_IDLE = 5.0


class _Job:
    """A password that waits: all who wait for this very answer share it."""

    __slots__ = ("answer", "digest", "password", "username")

    def __init__(self, digest: bytes, username: str, password: bytes) -> None:
        self.digest = digest
        self.username = username
        self.password = password
        self.answer: Future[bool | None] = Future()


class Hashing:
    """The queue of one file of users.

    Args:
        check: tells whether a password is a user's; called in the threads.
        threads: how many there are at the most; by default one less than there are processors.
    """

    def __init__(self, check: Callable[[str, bytes], bool], threads: int | None = None) -> None:
        self._check = check
        self._most = threads or max(1, min(4, (os.cpu_count() or 1) - 1))
        self._key = os.urandom(32)
        self._lock = threading.Condition(threading.Lock())
        self._known: OrderedDict[bytes, bool] = OrderedDict()
        self._jobs: dict[bytes, _Job] = {}  # those that wait or are under way
        self._waiting: OrderedDict[str, list[_Job]] = OrderedDict()  # by address; the next address comes first
        self._threads = 0
        self._idle = 0

    async def check(self, address: str, username: str, password: bytes) -> bool | None:
        """Check a password, when its turn has come.

        Args:
            address: who sends it.
            username: whose it is said to be.
            password: the password.

        Returns:
            Whether it is right; None where too many of that address wait.
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
        # Whoever stops waiting must not cancel what others may wait for.
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
        """Wait for a password to check; None where none has come for a while."""
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
