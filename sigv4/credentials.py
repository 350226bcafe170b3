"""Credentials, and functions that get them from a source.

`Credentials` is one immutable set of keys. It hides its secrets from `repr`, `str` and log records, and refuses to be
pickled.

A *source* of credentials is an object with `get_frozen_credentials()`, which is botocore's protocol, or a callable that
returns credentials or an awaitable of them. `Credentials` is a static source itself. `fetch` and `fetch_async` turn
any source into `Credentials`. They copy what they get, because botocore's own frozen tuple prints its secret.

Nothing is cached: each fetch calls the source again. A source that is expensive to call should cache its result.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Protocol, TypeAlias, runtime_checkable

from .errors import CredentialsUnavailable

__all__ = [
    "Credentials",
    "CredentialsLike",
    "CredentialsProvider",
    "CredentialsSource",
    "fetch",
    "fetch_async",
]


class CredentialsLike(Protocol):
    """The attributes of a set of credentials; botocore's `ReadOnlyCredentials` has them."""

    @property
    def access_key(self) -> str:
        """The access key id."""

    @property
    def secret_key(self) -> str:
        """The secret access key."""

    @property
    def token(self) -> str | None:
        """The session token of temporary credentials."""


@runtime_checkable
class CredentialsProvider(Protocol):
    """A provider of credentials. This is botocore's protocol, so botocore's objects are providers as well."""

    def get_frozen_credentials(self) -> CredentialsLike:
        """Return the current credentials. May block."""


CredentialsSource: TypeAlias = (
    CredentialsProvider
    | CredentialsLike
    | Callable[[], "CredentialsLike | CredentialsProvider | Awaitable[CredentialsLike | CredentialsProvider]"]
)


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """One immutable set of AWS credentials.

    Args:
        access_key: The access key id, for example `AKIDEXAMPLE`, without whitespace and `/`.
        secret_key: The secret access key. Never shown.
        token: The session token of temporary credentials. Never shown. Whitespace at its ends, which a file or a
            shell can leave there, is stripped; an empty token means None.
        expires_at: The aware time after which AWS refuses these credentials; None if it is unknown or never.

    Raises:
        TypeError: A field has the wrong type.
        ValueError: A key is empty, or a field contains whitespace or a control character.
    """

    access_key: str
    secret_key: str
    token: str | None = None
    expires_at: datetime | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check_text("access_key", self.access_key, forbid="/")
        _check_text("secret_key", self.secret_key)
        if isinstance(self.token, str):
            object.__setattr__(self, "token", self.token.strip() or None)
        if self.token is not None:
            _check_text("token", self.token)
        if self.expires_at is not None:
            if not isinstance(self.expires_at, datetime):
                raise TypeError(f"expires_at: expected a datetime or None, got {type(self.expires_at).__name__}")
            if self.expires_at.utcoffset() is None:
                raise ValueError("expires_at: expected an aware datetime, got one without a time zone; add tzinfo=UTC")

    def __repr__(self) -> str:
        token = "None" if self.token is None else "<hidden>"
        expires = "" if self.expires_at is None else f", expires_at={self.expires_at.isoformat()}"
        return f"Credentials(access_key={self.access_key!r}, secret_key=<hidden>, token={token}{expires})"

    def get_frozen_credentials(self) -> Credentials:
        """Return these credentials: they are their own static provider."""
        return self

    def expires_within(self, seconds: float, now: datetime) -> bool:
        """Return whether these credentials expire soon.

        Args:
            seconds: How soon, in seconds from `now`; 0 or more.
            now: The aware time.

        Returns:
            False also for credentials that do not expire.
        """
        return self.expires_at is not None and self.expires_at - now <= timedelta(seconds=seconds)

    def __copy__(self) -> Credentials:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Credentials:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        # multiprocessing pickles exceptions with everything that they refer to.
        raise TypeError("Credentials hold secrets and cannot be pickled: fetch them again in the other process")


def _refuse_state(self: Credentials) -> Any:
    raise TypeError("Credentials hold secrets and have no state to copy")


# Not in the class: before Python 3.11.4, a frozen dataclass with slots replaces a __getstate__ that its class defines.
Credentials.__getstate__ = _refuse_state  # type: ignore[assignment]


def _check_text(name: str, value: object, forbid: str = "") -> None:
    """Check one field. Messages never show its value: a secret can be in the wrong field by mistake."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a str, got {type(value).__name__}")
    if not value:
        raise ValueError(f"{name}: expected text, got an empty string")
    if value.isprintable() and " " not in value and not any(char in value for char in forbid):
        return
    index = next(i for i, char in enumerate(value) if char == " " or not char.isprintable() or char in forbid)
    char = value[index]
    kind = "whitespace" if char.isspace() else repr(char) if char in forbid else "a control character"
    cause = "; was it wrapped over several lines when it was copied?" if name == "token" and char.isspace() else ""
    raise ValueError(f"{name}: expected printable text without {kind}, found it at index {index}{cause}")


# --- from any source to Credentials ---


def fetch(source: CredentialsSource) -> Credentials:
    """Return the current credentials of a source.

    Args:
        source: `Credentials`, any object with `get_frozen_credentials()`, or a callable that returns either.

    Returns:
        The credentials.

    Raises:
        TypeError: The source is none of these, or it returns an awaitable, which only `fetch_async` can await.
        CredentialsUnavailable: The source has no credentials, or they are not valid. What botocore raises (for a
            missing login, an unknown profile, a process with other output) is converted to this exception.
    """
    with _botocore_errors():
        given = _call(source)
        if isinstance(given, Awaitable):
            if isinstance(given, Coroutine):
                given.close()  # Python warns about a coroutine that is never awaited
            raise TypeError("the source of credentials returns an awaitable; await fetch_async(source) instead")
        return _settle(given, source)


async def fetch_async(
    source: CredentialsSource,
    run: Callable[[Callable[[], Any]], Awaitable[Any]] | None = None,
) -> Credentials:
    """Return the current credentials of a source, which may be asynchronous.

    Args:
        source: As for `fetch`, or a callable that returns an awaitable of credentials.
        run: Runs a call that may block, for example `asyncio.to_thread`; None calls it directly. A coroutine function
            is always called directly.

    Returns:
        The credentials.

    Raises:
        TypeError: `source` is not a source of credentials.
        CredentialsUnavailable: The source has no credentials; see `fetch`.
    """
    with _botocore_errors():
        if run is None or isinstance(source, Credentials) or _is_async(source):
            given = _call(source)
        else:
            given = await run(lambda: _call(source))
        if isinstance(given, Awaitable):
            given = await given
        if isinstance(given, Credentials) or run is None:
            return _settle(given, source)
        settled: Credentials = await run(lambda: _settle(given, source))
        return settled


def _is_async(source: object) -> bool:
    from inspect import iscoroutinefunction

    call = getattr(source, "get_frozen_credentials", source)
    return iscoroutinefunction(call) or iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004 - its kind


def _call(source: object) -> object:
    method = getattr(source, "get_frozen_credentials", None)
    if method is not None:
        given: object = method()
        return given
    return source() if callable(source) else source


def _settle(given: object, source: object) -> Credentials:
    """Copy the result of a source. A callable can return a provider, as `Session().get_credentials` does."""
    if not isinstance(given, Credentials) and hasattr(given, "get_frozen_credentials"):
        source, given = given, given.get_frozen_credentials()
    if isinstance(given, Credentials):
        return given
    if given is None:
        raise CredentialsUnavailable("the source of credentials returned None: it found no credentials")
    try:
        access_key, secret_key, token = given.access_key, given.secret_key, given.token  # type: ignore[attr-defined]
    except AttributeError:
        access_key = None
    if access_key is None:
        raise TypeError(
            "expected credentials (access_key, secret_key, token), an object with get_frozen_credentials(), "
            f"or a callable that returns one; got {type(given).__name__}"
        )
    try:
        return Credentials(access_key, secret_key, token, expires_at=_expiry(given) or _expiry(source))
    except ValueError as error:
        raise CredentialsUnavailable(f"the credentials of the source are not valid: {error}") from None


def _expiry(given: object) -> datetime | None:
    """Return when credentials expire. botocore keeps this in the refreshing object, not in the frozen tuple."""
    for name in ("expires_at", "_expiry_time"):
        found = getattr(given, name, None)
        if isinstance(found, datetime):
            return found
    return None


@contextmanager
def _botocore_errors() -> Iterator[None]:
    """Convert what botocore raises to `CredentialsUnavailable`, so that a chain tries its next provider.

    botocore does not catch every error of a file or a process that it reads. So an exception is its own by the module
    of its class, or of the frames that it passed; botocore need not be imported for that.
    """
    try:
        yield
    except (CredentialsUnavailable, MemoryError):
        raise
    except Exception as error:
        kind = type(error)
        known = any(each.__module__ == "botocore.exceptions" for each in kind.__mro__)
        if not known and not _is_raised_by_botocore(error.__traceback__):
            raise
        # Other messages can contain a secret. Errors of other libraries quote the output of a credential process, or a
        # header of a request; some exceptions of botocore quote such an error, or the answer of a process or a service.
        quotes = "{error}" in getattr(kind, "fmt", "") or kind.__name__ in _QUOTING
        said = f": {error}" if known and not quotes else ""
        raise CredentialsUnavailable(f"botocore has no credentials: {kind.__name__}{said}") from None


#: Exceptions of botocore whose message contains the answer of a process or a service.
_QUOTING = {"CredentialRetrievalError", "MetadataRetrievalError", "TokenRetrievalError"}
#: The packages that botocore calls, besides those of the standard library.
_CALLED_BY_BOTOCORE = {"awscrt", "certifi", "dateutil", "jmespath", "six", "urllib3"}


def _is_raised_by_botocore(traceback: TracebackType | None) -> bool:
    """Return whether botocore, or a library that it called, raised an exception. botocore also calls the program."""
    import sys

    raised = False
    while traceback is not None:
        package = traceback.tb_frame.f_globals.get("__name__", "").partition(".")[0]
        if package == "botocore":
            raised = True
        elif package not in _CALLED_BY_BOTOCORE and package not in sys.stdlib_module_names:
            raised = False
        traceback = traceback.tb_next
    return raised
