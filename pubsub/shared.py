"""The functions of the module `pubsub`, which use one shared `PubSub`, as in Amplify. It is made when first needed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from pubsub.codecs import Codec
from pubsub.core import REQUIRED
from pubsub.providers.base import Provider
from pubsub.subscription import Dedupe
from pubsub.sync import Observable, PubSub

_shared: dict[str, PubSub] = {}


def default() -> PubSub:
    """Return the shared `PubSub`, which the functions of this module use.

    Takes no lock: a signal handler may call this in the middle of another call, and a thread that held a lock would not
    exist in a forked child. `setdefault`, which is atomic, decides which one is used if two are made.
    """
    made = _shared.get("default")
    return made if made is not None else _shared.setdefault("default", PubSub())


def add_pluggable(provider: Provider) -> None:
    """Add a provider. See `PubSub.add_pluggable`."""
    default().add_pluggable(provider)


def remove_pluggable(provider: str | Provider, timeout: float | None = None) -> None:
    """Remove a provider, and close its connection. See `PubSub.remove_pluggable`."""
    default().remove_pluggable(provider, timeout)


def configure(settings: Mapping[str, Any] | str | os.PathLike[str]) -> None:
    """Configure all providers. See `PubSub.configure`."""
    default().configure(settings)


def subscribe(
    topics: str | Iterable[str],
    *,
    qos: int = 0,
    provider: str | None = None,
    codec: Codec | None = None,
    timeout: float | None = None,
    dedupe: Dedupe | None = None,
) -> Observable:
    """Return an observable of the messages that match Topic Filters. See `PubSub.subscribe`."""
    return default().subscribe(topics, qos=qos, provider=provider, codec=codec, timeout=timeout, dedupe=dedupe)


def publish(
    topics: str | Iterable[str],
    message: Any = REQUIRED,
    *,
    qos: int = 0,
    retain: bool = False,
    provider: str | None = None,
    codec: Codec | None = None,
    timeout: float | None = None,
    expire_after: float | None = None,
) -> None:
    """Publish a message, and wait until it is delivered. See `PubSub.publish`."""
    default().publish(
        topics,
        message,
        qos=qos,
        retain=retain,
        provider=provider,
        codec=codec,
        timeout=timeout,
        expire_after=expire_after,
    )


def publish_nowait(
    topics: str | Iterable[str],
    message: Any = REQUIRED,
    *,
    qos: int = 0,
    retain: bool = False,
    provider: str | None = None,
    codec: Codec | None = None,
    expire_after: float | None = None,
) -> Future[None]:
    """Queue a message for publishing. See `PubSub.publish_nowait`."""
    return default().publish_nowait(
        topics, message, qos=qos, retain=retain, provider=provider, codec=codec, expire_after=expire_after
    )


def connect(provider: str | None = None, *, timeout: float | None = None) -> None:
    """Connect, and wait for the connections. See `PubSub.connect`."""
    default().connect(provider, timeout=timeout)


def reauthenticate(provider: str | None = None) -> None:
    """Reconnect with new credentials. See `PubSub.reauthenticate`."""
    default().reauthenticate(provider)


def flush(timeout: float | None = None) -> None:
    """Wait until all published messages are sent or acknowledged. See `PubSub.flush`."""
    default().flush(timeout)


def close(timeout: float | None = None) -> None:
    """End every subscription and close every connection. See `PubSub.close`."""
    default().close(timeout)
