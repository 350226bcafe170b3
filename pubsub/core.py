"""The PubSub API without its waiting: providers, settings, and who is connected through which.

`PubSubCore` is what `pubsub.PubSub` (threads) and `pubsub.aio.PubSub` (asyncio) have in common, which is all but
waiting and the loop that takes the messages. A provider's connection, a `Channel`, is made when it is first needed and
forgotten when it has ended; the next who needs it makes another.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from pubsub.channel import Channel
from pubsub.codecs import JSON, Codec
from pubsub.errors import ProviderError
from pubsub.providers.base import Provider
from pubsub.publishing import Publication, Sent
from pubsub.states import ConnectionState
from pubsub.subscription import SubscriptionCore
from pubsub.topics import check_topics
from pubsub.watching import StateChanges

__all__ = ["PubSubCore"]


#: Settings that are enough for an `AWSIoTProvider`.
_IMPLY_AWS_IOT = frozenset({"aws_pubsub_region", "aws_pubsub_endpoint", "aws_cognito_identity_pool_id"})


class PubSubCore(ABC):
    """A `PubSub` without its waiting.

    Args:
        *providers: the connections it can make; see `add_pluggable`.
        codec: translates messages, where a call names no other.
        timeout: seconds; bounds each wait that is given no bound of its own.

    Attributes:
        connection_state_changes: an observable of `ConnectionStateChange`.
        lock: guards all state of this object, its channels and its subscriptions.
    """

    def __init__(self, *providers: Provider, codec: Codec = JSON, timeout: float = 30.0) -> None:
        self.connection_state_changes = StateChanges(self.notify, self.spawn)
        self.lock = threading.RLock()
        self._codec = codec
        self._timeout = timeout
        self._settings: dict[str, Any] = {}
        self._providers: dict[str, Provider] = {}
        self._implied: Provider | None = None  # by the settings
        self._channels: dict[str, Channel] = {}
        for provider in providers:
            self.add_pluggable(provider)

    # Providers and settings.

    @property
    def providers(self) -> tuple[Provider, ...]:
        """The providers, in the order in which they were added."""
        return tuple(self._providers.values())

    def add_pluggable(self, provider: Provider) -> None:
        """Add a provider. One that is there already, or was made alike, is not added again.

        Raises:
            ProviderError: another one of the same name is there.
        """
        if not isinstance(provider, Provider):
            raise TypeError(f"a provider is a pubsub.Provider, not a {type(provider).__name__}")
        with self.lock:
            if self._implied is not None and self._implied.name not in self._channels:
                self._providers.pop(self._implied.name, None)
            self._implied = None
            present = self._providers.get(provider.name)
            if present is not None:
                if not present.same_as(provider):
                    raise ProviderError(
                        f"there is another provider named {provider.name!r}; remove it first, or give this one a name "
                        "of its own: name=..."
                    )
                return
            provider.configure(self._settings)
            self._providers[provider.name] = provider

    def configure(self, settings: Mapping[str, Any] | str | os.PathLike[str]) -> None:
        """Give settings to every provider, those that are added later too.

        Later settings win over earlier ones, and a provider's own arguments over all. A connection whose settings
        have changed is made anew. Where there is no provider, settings that tell of AWS IoT and of a Cognito identity
        pool make one: an `AWSIoTProvider`, which is there until another is added before it has connected.

        Args:
            settings: such as `{"aws_pubsub_endpoint": "wss://…"}`; or what Amplify generates: `aws-exports.js`,
                `amplifyconfiguration.json`, `amplify_outputs.json`, as a path or as a dict.

        Raises:
            ValueError: the file is no such configuration.
            OSError: it cannot be read.
        """
        read = _read(settings)
        with self.lock:
            self._settings.update(read)
            if not self._providers and self._settings.keys() >= _IMPLY_AWS_IOT:
                from pubsub.providers.aws_iot import AWSIoTProvider

                self._implied = self._providers[AWSIoTProvider.kind] = AWSIoTProvider()
            changed = [provider for provider in self._providers.values() if provider.configure(self._settings)]
            channels = [self._channels[provider.name] for provider in changed if provider.name in self._channels]
        for channel in channels:
            channel.client.reconnect_now()

    def select(self, provider: str | None) -> list[Provider]:
        """Tell which providers a call is for: the one that it names, or all.

        Raises:
            ProviderError: there is none.
        """
        with self.lock:
            if provider is None and self._providers:
                return list(self._providers.values())
            if provider in self._providers:
                return [self._providers[provider]]
            there = ", ".join(map(repr, self._providers)) or "none"
        if provider is None:
            raise ProviderError("there is no provider; add one with add_pluggable")
        raise ProviderError(f"there is no provider named {provider!r}; there is {there}")

    # State.

    @property
    def connection_states(self) -> dict[str, ConnectionState]:
        """The state of each provider's connection, by the provider's name."""
        with self.lock:
            return {
                name: self._channels[name].state if name in self._channels else ConnectionState.DISCONNECTED
                for name in self._providers
            }

    @property
    def connection_state(self) -> ConnectionState:
        """The state of the connection; with several providers, of the first that is not connected, if there is one."""
        states = list(self.connection_states.values()) or [ConnectionState.DISCONNECTED]
        return next((state for state in states if state is not ConnectionState.CONNECTED), states[0])

    def reauthenticate(self, provider: str | None = None) -> None:
        """Connect anew with fresh credentials: what is held of them is forgotten. Subscriptions are kept.

        It returns at once; `connection_state_changes` tells how it goes. Without a connection the next one will be
        made with fresh credentials.

        Args:
            provider: the name of one; None for all.
        """
        for each in self.select(provider):
            each.reauthenticate()
            with self.lock:
                channel = self._channels.get(each.name)
            if channel is not None:
                channel.client.reconnect_now()

    # Publishing.

    def publish_all(
        self,
        topics: str | Iterable[str],
        message: Any,
        qos: int,
        retain: bool,
        provider: str | None,
        codec: Codec | None,
    ) -> Publication:
        """Check everything, then send everything.

        Raises:
            LocalProtocolError: a topic or the QoS is ill-formed; nothing was sent.
            TypeError, ValueError: the codec has no payload for the message, or there is no topic; nothing was sent.
            ProviderError: there is no such provider; nothing was sent.
            MQTTError: a provider's server would not take the message; nothing was sent.
            PublishFailed: nothing was accepted.
        """
        names = check_topics(topics, qos)
        payload = (codec or self._codec).encode(message)
        selected = self.select(provider)
        for each in selected:
            for topic in names:
                objection = each.objection_to_publish(topic, payload, qos)
                if objection is not None:
                    raise objection
        publication = Publication(self.new_future(), len(names))
        for each in selected:
            for topic in names:
                publication.add(topic, partial(self._send, each, topic, payload, qos, retain), each.explain)
        publication.begin()
        return publication

    def _send(self, provider: Provider, topic: str, payload: bytes, qos: int, retain: bool) -> Sent:
        while (sent := self.channel(provider).publish(topic, payload, qos, retain)) is None:
            pass
        return sent

    # Connections.

    def channel(self, provider: Provider) -> Channel:
        """Get a provider's connection; it is begun where there is none.

        Raises:
            ProviderError: the provider lacks a setting.
        """
        with self.lock:
            channel = self._channels.get(provider.name)
            if channel is None or channel.over:
                channel = self._channels[provider.name] = Channel(self, provider)
                self.start(channel)
            return channel

    def join(self, provider: Provider, subscription: SubscriptionCore, wanted: Mapping[str, int]) -> None:
        """Let a subscription listen through a provider."""
        while not self.channel(provider).join(subscription, wanted):
            pass

    def forget(self, channel: Channel) -> None:
        """Note that a connection has ended."""
        with self.lock:
            if self._channels.get(channel.provider.name) is channel:
                del self._channels[channel.provider.name]

    def closing(self, providers: Iterable[str] | None = None) -> list[Channel]:
        """Tell which connections are to be closed, those of some providers or all, and note that they are."""
        with self.lock:
            names = list(self._channels) if providers is None else providers
            channels = [self._channels[name] for name in names if name in self._channels]
        for channel in channels:
            channel.closing()
        return channels

    def seconds(self, timeout: float | None) -> float:
        """Tell how long a wait may last."""
        return self._timeout if timeout is None else timeout

    def __repr__(self) -> str:
        states = ", ".join(f"{name} {state}" for name, state in self.connection_states.items())
        return f"<{type(self).__module__.removesuffix('.blocking')}.PubSub: {states or 'no provider'}>"

    # What differs between threads and asyncio.

    @abstractmethod
    def new_client(self, provider: Provider, **options: Any) -> Any:
        """Make a driver that asks a provider where to connect."""

    @abstractmethod
    def new_future(self) -> Any:
        """Make a future of the driver's kind."""

    @abstractmethod
    def start(self, channel: Channel) -> None:
        """Begin to connect and to take messages, without waiting."""

    @abstractmethod
    def notify(self, function: Callable[..., object], *arguments: object) -> None:
        """Call soon, in order, where a callback may wait without stopping the network."""

    @abstractmethod
    def spawn(self, result: Any) -> None:
        """Take what a callback returned: an awaitable is to be awaited."""


def _read(settings: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, Any]:
    """Read settings, flat or as Amplify nests them."""
    nested = isinstance(settings, Mapping) and any(isinstance(value, Mapping) for value in settings.values())
    flat = dict(settings) if isinstance(settings, Mapping) else {}
    if nested or not isinstance(settings, Mapping):
        from pubsub.aws.settings import read_settings

        flat.update(read_settings(settings))
    return flat
