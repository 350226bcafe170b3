"""Credentials of a Cognito identity pool, for guests and for users that another provider has signed in.

    credentials = CognitoIdentity("eu-west-1:…", "eu-west-1")
    credentials.get_frozen_credentials()            # blocks only when new ones must be fetched

`CognitoIdentity` is a provider of credentials as `sigv4` defines it: call it before each signature. It decides when
credentials must be fetched again, and caches them until then; `cognito_api` makes the requests.

At any time there is at most one refresh, which is a `Future`. All threads and event loops that need its outcome wait
for it. While the old credentials are still valid, only the caller that started the refresh waits; the others get the
old ones.

AWS states the expiry of credentials by its clock, and the `Date` of its answer contains that clock's time. So the
remaining time of credentials is a difference, and a local clock that is wrong does no harm.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import random as random_module
import ssl
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, TypeAlias, cast

from pubsub.aws.cognito_api import CognitoAPI, CognitoError, Granted
from pubsub.owned_future import OwnedFuture
from pubsub.owned_lock import OwnedLock
from sigv4 import Credentials

__all__ = ["CognitoError", "CognitoIdentity", "Logins", "LoginsSource"]

Logins: TypeAlias = Mapping[str, str]
"""The name of a login provider -> its token, e.g. `{"cognito-idp.eu-west-1.amazonaws.com/eu-west-1_x": id_token}`."""

LoginsSource: TypeAlias = Logins | Callable[[], "Logins | Awaitable[Logins | None] | None"]

_identities: weakref.WeakSet[CognitoIdentity] = weakref.WeakSet()

_LONGEST_MARGIN = 300.0
_LEAST_RETRY = 1.0


@dataclass(frozen=True, slots=True)
class _Held:
    """Credentials; and, by the local clock, when they were fetched, when they expire, and when to refresh them."""

    credentials: Credentials
    began: float
    ends: float
    refresh: float

    def lives(self, now: float) -> bool:
        """Return whether they are valid. If the clock was set back, that is unknown, so return False."""
        return self.began <= now < self.ends


class CognitoIdentity:
    """An identity of a Cognito identity pool, and its credentials.

    Args:
        identity_pool_id: The pool: `region:guid`.
        region: Its region; None: that in the pool's id.
        logins: The tokens of the user's logins, or a callable that returns them at each refresh (a coroutine function
            only with the awaitable form); None, or no logins at all, for a guest.
        account_id: The AWS account of the pool, twelve digits; Cognito does not need it.
        endpoint: The URL of the service; None for AWS's.
        identity_id: The identity, if it is known; None to get one from Cognito.
        flow: "enhanced": Cognito chooses the role, and gets the credentials from STS. "basic": the role is `role_arn`,
            and this client gets the credentials from STS.
        role_arn: With the basic flow, the role; with the enhanced flow, the role to choose of several that the token of
            the login allows.
        sts_endpoint: The URL of STS for the basic flow; None for AWS's.
        timeout: Seconds for each request.
        context: The TLS context; None for one that trusts the system's authorities.
        clock: Returns the time in seconds since 1970.
        random: Returns a number from 0 to 1, 1 excluded, to spread refreshes in time.

    Raises:
        ValueError: An argument is not valid.
    """

    def __init__(
        self,
        identity_pool_id: str,
        region: str | None = None,
        logins: LoginsSource | None = None,
        account_id: str | None = None,
        endpoint: str | None = None,
        *,
        identity_id: str | None = None,
        flow: Literal["enhanced", "basic"] = "enhanced",
        role_arn: str | None = None,
        sts_endpoint: str | None = None,
        timeout: float = 10.0,
        context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        if flow not in ("enhanced", "basic"):
            raise ValueError(f"flow is {flow!r}; expected 'enhanced' or 'basic'")
        if flow == "basic" and not role_arn:
            raise ValueError("the basic flow needs role_arn, the ARN of the role to assume")
        self._api = CognitoAPI(
            identity_pool_id, region, account_id, endpoint, sts_endpoint, timeout=timeout, context=context
        )
        self._flow = flow
        self._role_arn = role_arn
        self._logins = logins
        self._clock = clock
        self._random = random
        self._fixed_id = identity_id
        self._identity_id = identity_id
        self._providers: frozenset[str] | None = None
        self._held: _Held | None = None
        self._begin_without_refresh()
        _identities.add(self)

    def _begin_without_refresh(self) -> None:
        """Create what a refresh needs; also in a forked child, where no thread completes a refresh of the parent."""
        self._lock: Any = OwnedLock()  # guards `_held` and `_in_flight`; never held while waiting
        self._in_flight: Future[Credentials] | None = None
        self._task: asyncio.Task[Logins] | None = None  # a reference, because a loop holds only weak ones

    def __repr__(self) -> str:
        return f"CognitoIdentity({self._api.identity_pool_id!r}, identity_id={self._identity_id!r})"

    @property
    def identity_id(self) -> str | None:
        """The identity, `region:guid`; None until credentials have been fetched once."""
        return self._identity_id

    def get_frozen_credentials(self) -> Credentials:
        """Return valid credentials. Block while they are fetched. Thread-safe.

        Raises:
            CognitoError: There are none, and they cannot be fetched.
        """
        found, leads = self._begin()
        if isinstance(found, Credentials):
            return found
        if leads:
            self._refresh(found, self._logins)
        return found.result()

    async def get_frozen_credentials_async(self) -> Credentials:
        """Return valid credentials. Requests are made in a worker thread.

        Raises:
            CognitoError: There are none, and they cannot be fetched.
        """
        found, leads = self._begin()
        if isinstance(found, Credentials):
            return found
        if leads:
            self._refresh_beside(asyncio.get_running_loop(), found)
        # Shielded, so that cancelling one caller does not cancel the refresh that others wait for.
        return await asyncio.shield(asyncio.wrap_future(found))

    def expire(self) -> None:
        """Discard the credentials, because AWS refused them. The next call fetches new ones."""
        with self._lock:
            self._held = None

    # --- one refresh at a time ---

    def _begin(self) -> tuple[Credentials | Future[Credentials], bool]:
        """Return usable credentials, or the refresh to wait for and whether the caller must carry it out."""
        with self._lock:
            now = self._clock()
            held = self._held if self._held is not None and self._held.lives(now) else None
            if held is not None and (now < held.refresh or self._in_flight is not None):
                return held.credentials, False
            leads = self._in_flight is None
            if self._in_flight is None:
                self._in_flight = OwnedFuture()
            return self._in_flight, leads

    def _refresh_beside(self, loop: asyncio.AbstractEventLoop, future: Future[Credentials]) -> None:
        """Fetch credentials in a worker thread. If the logins are a coroutine function, await it first."""
        if not inspect.iscoroutinefunction(self._logins):
            self._refresh_in_worker(loop, future, self._logins)
            return

        def go_on(task: asyncio.Task[Logins]) -> None:
            if task.cancelled():
                self._settle(future, CognitoError("the refresh was cancelled: its event loop ended"))
            elif (fault := task.exception()) is not None:
                interrupted = CognitoError("the refresh was interrupted")  # by what is no Exception, such as SystemExit
                self._settle(future, fault if isinstance(fault, Exception) else interrupted)
            else:
                self._refresh_in_worker(loop, future, task.result())

        # A separate task, so that cancelling one caller does not cancel the refresh that others wait for.
        self._task = loop.create_task(_awaited_logins(self._logins))
        self._task.add_done_callback(go_on)

    def _refresh_in_worker(
        self, loop: asyncio.AbstractEventLoop, future: Future[Credentials], source: LoginsSource | None
    ) -> None:
        try:
            loop.run_in_executor(None, self._refresh, future, source)
        except RuntimeError:
            self._settle(future, CognitoError("the refresh was cancelled: its event loop ended"))

    def _refresh(self, future: Future[Credentials], source: LoginsSource | None) -> None:
        """Fetch credentials and settle the future. Called in any thread."""
        try:
            outcome: Granted | Exception = self._fetch(_given_logins(source))
        except Exception as fault:
            outcome = fault
        except BaseException:
            self._settle(future, CognitoError("the refresh was interrupted"))
            raise
        self._settle(future, outcome)

    def _settle(self, future: Future[Credentials], outcome: Granted | Exception) -> None:
        with self._lock:
            self._in_flight = None
            now = self._clock()
            held = self._held
            if isinstance(outcome, Granted):
                held = self._held = self._hold(outcome, now)
            elif held is not None and held.lives(now):
                # Keep them, and make no further request for some time.
                pause = max(_LEAST_RETRY, (held.ends - now) / 4)
                self._held = replace(held, refresh=now + pause)
            else:
                held = None
        if held is not None:
            future.set_result(held.credentials)
        elif isinstance(outcome, Exception):
            future.set_exception(outcome)

    def _hold(self, granted: Granted, now: float) -> _Held:
        """Return credentials with the time to refresh them: at most half their life, and ten minutes, before expiry."""
        life = granted.life
        if life is None:
            life = cast("datetime", granted.credentials.expires_at).timestamp() - now
        margin = min(_LONGEST_MARGIN, life / 4) * (1 + self._random())
        ends = now + life
        return _Held(granted.credentials, now, ends, ends - margin)

    # --- the requests of a refresh ---

    def _fetch(self, logins: Logins) -> Granted:
        if self._fixed_id is not None:
            return self._grant(self._fixed_id, logins)
        providers = frozenset(logins)
        # If the user has signed in or out, the identity is another one.
        known = self._identity_id if providers == self._providers else None
        self._providers = providers
        if known is not None:
            try:
                return self._grant(known, logins)
            except CognitoError as fault:
                # The identity was deleted, or it is not that of the user who is signed in now.
                if fault.code not in ("ResourceNotFoundException", "NotAuthorizedException"):
                    raise
        return self._grant(self._api.get_id(logins), logins)

    def _grant(self, identity_id: str, logins: Logins) -> Granted:
        if self._flow == "basic":
            identity_id, token = self._api.get_open_id_token(identity_id, logins)
            granted = self._api.assume_role(cast("str", self._role_arn), token)
        else:
            identity_id, granted = self._api.get_credentials(identity_id, logins, self._role_arn)
        self._identity_id = identity_id
        return granted


def _given_logins(source: LoginsSource | None) -> Logins:
    try:
        given = source() if callable(source) else source
    except Exception as fault:
        # The message is not included: it may contain a token.
        raise CognitoError(f"the logins are not available: {type(fault).__name__}") from fault
    if inspect.isawaitable(given):
        if inspect.iscoroutine(given):
            given.close()  # prevents the warning about a coroutine that was never awaited
        raise CognitoError(
            "the logins are not available: the callable returned an awaitable; make it a coroutine function (async "
            "def), and await get_frozen_credentials_async()"
        )
    logins = dict(given or {})
    for provider, token in logins.items():
        if not isinstance(provider, str) or not isinstance(token, str) or not token:
            raise CognitoError("the logins are not valid: expected a str, the token, for the name of each provider")
    return logins


async def _awaited_logins(source: Callable[[], Awaitable[Logins | None]]) -> Logins:
    try:
        return await source() or {}
    except Exception as fault:
        raise CognitoError(f"the logins are not available: {type(fault).__name__}") from fault


def _forget_refreshes() -> None:
    """Forget the refreshes of the parent in a forked child."""
    for identity in list(_identities):
        identity._begin_without_refresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_refreshes)
