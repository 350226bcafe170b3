"""Credentials of a Cognito identity pool: for guests, and for users that another provider has signed in.

    credentials = CognitoIdentity("eu-west-1:…", "eu-west-1")
    credentials.get_frozen_credentials()            # blocks only when new ones must be fetched

`CognitoIdentity` is a source of credentials as `sigv4` has them: ask it before each signature.  This module speaks
Cognito's protocol and knows when credentials must be fetched anew; how bytes travel is `http.post`'s.

The one idea: at any time at most one refresh is in flight, and it is a `Future` that all who need its outcome wait
for, threads and event loops alike.  Who asks while the old credentials still live gets those and does not wait,
except the one who began the refresh; if that fails, so does he.

Time: AWS states the expiry of credentials by its own clock, and the `Date` of its answer contains that clock's time.
So the life of credentials is a difference, and a local clock that is wrong does no harm.
"""

from __future__ import annotations

import asyncio
import inspect
import random as random_module
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, TypeAlias, cast

from pubsub.aws.cognito_api import CognitoAPI, CognitoError, Granted
from sigv4 import Credentials

__all__ = ["CognitoError", "CognitoIdentity", "Logins", "LoginsSource"]

Logins: TypeAlias = Mapping[str, str]
"""Name of the login provider -> its token, e.g. `{"cognito-idp.eu-west-1.amazonaws.com/eu-west-1_x": id_token}`."""

LoginsSource: TypeAlias = Logins | Callable[[], "Logins | Awaitable[Logins | None] | None"]

_LONGEST_MARGIN = 300.0
_LEAST_RETRY = 1.0


@dataclass(frozen=True, slots=True)
class _Held:
    """Credentials, and by the local clock when they were got, when they end and when to begin to replace them."""

    credentials: Credentials
    began: float
    ends: float
    refresh: float

    def lives(self, now: float) -> bool:
        """Return whether they can be used.  After the clock was set back this is unknown, and so False."""
        return self.began <= now < self.ends


class CognitoIdentity:
    """An identity of a Cognito identity pool, and its credentials.

    Args:
        identity_pool_id: The pool: `region:guid`.
        region: Its region; None to take it from the pool's id.
        logins: The tokens of the user's logins, or a callable that returns them at each refresh (a coroutine function
            only with the awaitable form); None, or no logins at all, for a guest.
        account_id: The AWS account of the pool, twelve digits; Cognito does not need it.
        endpoint: URL of the service; None for AWS's.
        identity_id: The identity to use, when it is known from before; None to ask Cognito for one.
        flow: "enhanced": Cognito chooses the role and asks STS.  "basic": the role is `role_arn`, and STS is asked
            from here.
        role_arn: For the basic flow, the role; for the enhanced one, the role to choose among several that the
            token of the login allows.
        sts_endpoint: URL of STS for the basic flow; None for AWS's.
        timeout: Seconds for each request.
        context: The TLS context; None for one that verifies by the system's authorities.
        clock: Gives the time in seconds since 1970.
        random: Gives a number from 0 to 1, 1 excluded, to spread refreshes in time.

    Raises:
        ValueError: An argument is wrong; the message says which and what would do.
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
        # Guards the two below; held only to look and to set, never while waiting.
        self._lock = threading.Lock()
        self._held: _Held | None = None
        self._in_flight: Future[Credentials] | None = None
        self._task: asyncio.Task[Logins] | None = None  # kept, since a loop holds its tasks weakly

    def __repr__(self) -> str:
        return f"CognitoIdentity({self._api.identity_pool_id!r}, identity_id={self._identity_id!r})"

    @property
    def identity_id(self) -> str | None:
        """The identity, `region:guid`; None until credentials have been fetched once."""
        return self._identity_id

    def get_frozen_credentials(self) -> Credentials:
        """Return the credentials that are valid now.  Blocks while they are fetched.  Safe from any thread.

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
        """Return the credentials that are valid now.  Requests are made in a worker thread.

        Raises:
            CognitoError: There are none, and they cannot be fetched.
        """
        found, leads = self._begin()
        if isinstance(found, Credentials):
            return found
        if leads:
            self._refresh_beside(asyncio.get_running_loop(), found)
        # Shielded: that one who waits is cancelled is nothing to the others.
        return await asyncio.shield(asyncio.wrap_future(found))

    def expire(self) -> None:
        """Forget the credentials, because AWS refused them; the next who asks fetches new ones."""
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
                self._in_flight = Future()
            return self._in_flight, leads

    def _refresh_beside(self, loop: asyncio.AbstractEventLoop, future: Future[Credentials]) -> None:
        """Carry a refresh out in a worker thread; logins that are a coroutine function are awaited here first."""
        if not inspect.iscoroutinefunction(self._logins):
            self._refresh_in_worker(loop, future, self._logins)
            return

        def go_on(task: asyncio.Task[Logins]) -> None:
            if task.cancelled():
                self._settle(future, CognitoError("the refresh was cancelled: its event loop ended"))
            elif isinstance(fault := task.exception(), Exception):
                self._settle(future, fault)
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
        """Fetch credentials and settle the future, in whatever thread this is."""
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
                # Keep them, and leave the service alone for a while.
                pause = max(_LEAST_RETRY, (held.ends - now) / 4)
                self._held = replace(held, refresh=now + pause)
            else:
                held = None
        if held is not None:
            future.set_result(held.credentials)
        elif isinstance(outcome, Exception):
            future.set_exception(outcome)

    def _hold(self, granted: Granted, now: float) -> _Held:
        """Begin to replace credentials at most a half of their life, and ten minutes, before they end."""
        life = granted.life
        if life is None:
            life = cast("datetime", granted.credentials.expires_at).timestamp() - now
        margin = min(_LONGEST_MARGIN, life / 4) * (1 + self._random())
        ends = now + life
        return _Held(granted.credentials, now, ends, ends - margin)

    # --- what a refresh does ---

    def _fetch(self, logins: Logins) -> Granted:
        if self._fixed_id is not None:
            return self._grant(self._fixed_id, logins)
        providers = frozenset(logins)
        # Somebody signed in or out: that is another identity.
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
        # Its text is not repeated: it may hold a token.
        raise CognitoError(f"the logins cannot be got: {type(fault).__name__}") from fault
    if inspect.isawaitable(given):
        if inspect.iscoroutine(given):
            given.close()  # one never awaited would be warned of
        raise CognitoError(
            "the logins cannot be got: the callable gives an awaitable; make it a coroutine function (async def), "
            "and await get_frozen_credentials_async()"
        )
    logins = dict(given or {})
    for provider, token in logins.items():
        if not isinstance(provider, str) or not isinstance(token, str) or not token:
            raise CognitoError("the logins cannot be used: expected a text, the token, for each name of a provider")
    return logins


async def _awaited_logins(source: Callable[[], Awaitable[Logins | None]]) -> Logins:
    try:
        return await source() or {}
    except Exception as fault:
        raise CognitoError(f"the logins cannot be got: {type(fault).__name__}") from fault
