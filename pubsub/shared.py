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
    """Add a provider. Do nothing if it, or one with the same name and settings, was added before.

    Args:
        provider: The provider, for example a `MqttOverWSProvider`.

    Raises:
        ProviderError: There is a provider with the same name and other settings.
        TypeError: The argument is not a provider.
    """
    default().add_pluggable(provider)


def remove_pluggable(provider: str | Provider, timeout: float | None = None) -> None:
    """Remove a provider, and close its connection.

    Args:
        provider: The provider, or its name.
        timeout: Seconds to wait before the connection is closed in any case; None: 5.

    Raises:
        ProviderError: There is no such provider.
        TypeError: The argument is neither.
    """
    default().remove_pluggable(provider, timeout)


def configure(settings: Mapping[str, Any] | str | os.PathLike[str]) -> None:
    """Configure all providers, including those that are added later; see `PubSub.configure`.

    Args:
        settings: A dict such as `{"aws_pubsub_endpoint": "wss://…"}`; or a file that Amplify generates, as a path or as
            a dict: `aws-exports.js`, `amplifyconfiguration.json` or `amplify_outputs.json`.

    Raises:
        TypeError: The settings are neither.
        ValueError: The file is not such a configuration.
        OSError: The file cannot be read.
    """
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
    """Return an observable of the messages that match Topic Filters.

    Args:
        topics: A Topic Filter or several, each 1 to 65,535 bytes of UTF-8.
        qos: The maximum QoS of the delivery: 0, 1 or 2.
        provider: The name of a provider; None: all providers.
        codec: The codec that decodes the messages; None: that of the shared `PubSub`, which is JSON.
        timeout: Seconds without a message after which an iteration ends; None: never.
        dedupe: A function that returns a hashable key for each `Message`; a message whose key is among the last 10,000
            is skipped. See `PubSub.subscribe`.

    Returns:
        The observable. Subscribing starts when it is subscribed to, iterated over or entered.

    Raises:
        LocalProtocolError: A Topic Filter or the QoS is not valid.
        TypeError: The topics are neither a str nor several str.
        ValueError: There is no topic.

    Spec: §3.8, §4.7
    """
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
    """Publish a message to one topic or several, and wait until it is delivered to the server with its QoS.

    Args:
        topics: A Topic Name or several, each 1 to 65,535 bytes of UTF-8 without wildcards.
        message: A value that the codec can encode; by default anything that JSON can represent, or bytes.
        qos: 0: wait until the message is passed to the operating system; 1 or 2: until it is completely acknowledged.
        retain: Whether the server keeps the message for later subscribers.
        provider: The name of a provider; None: all providers.
        codec: The codec that encodes the message; None: that of the shared `PubSub`, which is JSON.
        timeout: Seconds; None: 30.
        expire_after: Seconds, above 0, that the message may wait to be sent; infinity for no limit; None: the
            `expire_after` of the provider.

    Raises:
        PublishFailed: It failed or took too long for at least one topic.
        LocalProtocolError: A topic or the QoS is not valid; nothing was sent.
        TypeError, ValueError: The message cannot be encoded; nothing was sent.
        ProviderError: There is no provider, or a setting is missing.

    Spec: §3.3, §4.3
    """
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
    """Queue a message for publishing, to one topic or several.

    Args:
        topics: A Topic Name or several, each 1 to 65,535 bytes of UTF-8 without wildcards.
        message: A value that the codec can encode; by default anything that JSON can represent, or bytes.
        qos: 0, 1 or 2.
        retain: Whether the server keeps the message for later subscribers.
        provider: The name of a provider; None: all providers.
        codec: The codec that encodes the message; None: that of the shared `PubSub`, which is JSON.
        expire_after: Seconds, above 0, that the message may wait to be sent; infinity for no limit; None: the
            `expire_after` of the provider.

    Returns:
        A future with the result or the exception of `publish`. Its callbacks may block.

    Raises:
        PublishFailed: No topic was accepted: the queue is full, or there is no connection and the provider does not
            queue.
        LocalProtocolError, TypeError, ValueError: As in `publish`.

    Spec: §3.3, §4.3
    """
    return default().publish_nowait(
        topics, message, qos=qos, retain=retain, provider=provider, codec=codec, expire_after=expire_after
    )


def connect(provider: str | None = None, *, timeout: float | None = None) -> None:
    """Connect, and wait for the connections. Without this call they are made when they are needed.

    Args:
        provider: The name of a provider; None: all providers.
        timeout: Seconds; None: 30.

    Raises:
        MQTTError: The attempt failed.
        ProviderError: There is no provider, or a setting is missing.
        TimedOut: It took too long; connecting continues in the background.
    """
    default().connect(provider, timeout=timeout)


def reauthenticate(provider: str | None = None) -> None:
    """Reconnect with new credentials. Cached credentials are discarded; subscriptions stay.

    Args:
        provider: The name of a provider; None: all providers.

    Raises:
        ProviderError: There is no such provider.
    """
    default().reauthenticate(provider)


def flush(timeout: float | None = None) -> None:
    """Wait until all messages published so far are sent (QoS 0) or completely acknowledged (QoS 1 and 2).

    Args:
        timeout: Seconds; None: 30.

    Raises:
        TimedOut: It took too long; the messages are still being delivered.
        MQTTError: A connection has ended.
    """
    default().flush(timeout)


def close(timeout: float | None = None) -> None:
    """End every subscription, send queued messages, and close every connection.

    Args:
        timeout: Seconds to wait before the connections are closed in any case; None: 5.
    """
    default().close(timeout)
