"""The part of the PubSub API that threads and asyncio have in common: providers, settings and connections.

`PubSubCore` is the base of `pubsub.PubSub` (threads) and `pubsub.aio.PubSub` (asyncio). What differs between the two is
in their `Runtime`, and the methods that wait are in their `api`. A provider's connection, a `Channel`, is made when it
is first needed and removed when it has ended; the next call that needs one makes another.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, NoReturn, TypeVar, cast, overload

from mqttws import ConnectionClosed, Waiting, check_topic, is_coroutine_function
from pubsub.channel import Channel
from pubsub.codecs import JSON, Codec, check_codec
from pubsub.errors import ProviderError
from pubsub.message import Message
from pubsub.observers import Callback, Observer, make_observer
from pubsub.pool.sizing import Connections, split
from pubsub.providers.base import Provider
from pubsub.providers.sharded import Sharded
from pubsub.publishing import Delivery, Publication, Sent
from pubsub.requests import PREFIX, Responder
from pubsub.runtime import Runtime, check_seconds
from pubsub.states import ConnectionState
from pubsub.subscription import Dedupe, Handle, SubscriptionCore
from pubsub.topics import check_filters, check_qos, check_topics
from pubsub.watching import StateChanges

if TYPE_CHECKING:
    from pubsub.pool.core import PoolCore

__all__ = ["REQUIRED", "ObservableCore", "PubSubCore"]

#: The default of a message, so that the error for a missing one can show the correct call.
REQUIRED: Final[Any] = object()
#: Settings that are enough for an `AWSIoTProvider`.
_IMPLY_AWS_IOT = frozenset({"aws_pubsub_region", "aws_pubsub_endpoint", "aws_cognito_identity_pool_id"})

_all: weakref.WeakSet[PubSubCore[Any, Any]] = weakref.WeakSet()

Make = Callable[[Observer], SubscriptionCore]
H = TypeVar("H", bound=Handle)
O = TypeVar("O", bound="ObservableCore[Any]")  # noqa: E741 - of observable
F = TypeVar("F")


class ObservableCore(Generic[H]):
    """The result of `PubSub.subscribe`. Nothing happens until it is subscribed to, iterated over or entered.

    Args:
        make: Creates the subscription of an observer; the caller begins it.
        silence: Seconds without a message after which an iteration ends; None: never.
    """

    #: The class of the handles.
    _handle: ClassVar[type[Handle]]

    def __init__(self, make: Make, silence: float | None) -> None:
        self._make = make
        self._silence = silence

    @overload
    def subscribe(
        self, next: Callback | None = None, error: Callback | None = None, close: Callback | None = None
    ) -> H: ...
    @overload
    def subscribe(self, next: object) -> H: ...
    def subscribe(self, next: object = None, error: Callback | None = None, close: Callback | None = None) -> H:
        """Start a subscription. It connects in the background if there is no connection.

        Args:
            next: Called with each `Message`; or an observer object, as the only argument. With asyncio it may be a
                coroutine function, which is awaited before the next message.
            error: Called with each failure, an exception.
            close: Called once, when the subscription has ended, for any reason.

        Returns:
            The handle of the subscription.

        Raises:
            ProviderError: There is no provider, or a setting is missing.
            TypeError: The arguments are not an observer.
        """
        subscription = self._make(make_observer(next, error, close))
        subscription.begin()
        return self._handle(subscription)  # type: ignore[return-value]


class PubSubCore(Generic[O, F]):
    """The base class of `PubSub`.

    Args:
        runtime: The runtime, for threads or for asyncio.
        *providers: The providers; see `add_pluggable`.
        codec: The codec of calls without the argument `codec`.

    Attributes:
        connection_state_changes: An observable of `ConnectionStateChange`.
    """

    #: The name of the class in its `repr`.
    _name: ClassVar[str]
    #: The class of the observables.
    _observable: ClassVar[type[ObservableCore[Any]]]

    def __init__(self, runtime: Runtime, *providers: Provider, codec: Codec = JSON) -> None:
        self._runtime = runtime
        self.connection_state_changes = StateChanges(runtime)
        self._codec = check_codec(codec)
        self._settings: dict[str, Any] = {}
        self._providers: dict[str, Provider] = {}
        self._added: dict[str, Provider] = {}  # the objects of which those are copies
        self._implied: Provider | None = None  # created by `configure`
        self._channels: dict[str, Channel] = {}
        self._aside: set[Channel] = set()  # closed, but a callback of each is still running
        self._dropped = self._expired = 0  # the sums of channels that have ended
        for provider in providers:
            self.add_pluggable(provider)
        _all.add(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a PubSub cannot be pickled or copied; make one in each process")

    # Providers and settings.

    @property
    def providers(self) -> tuple[Provider, ...]:
        """The providers, in the order in which they were added."""
        return tuple(self._providers.values())

    def add_pluggable(self, provider: Provider) -> None:
        """Add a provider. Do nothing if it, or one with the same name and settings, was added before.

        The `PubSub` uses a copy of it, so that it can be added to several, each with its own settings.

        Args:
            provider: The provider, for example a `MqttOverWSProvider`.

        Raises:
            ProviderError: There is a provider with the same name and other settings; or the provider does not accept
                the settings of `configure`. It is not added then.
            TypeError: The argument is not a provider.
        """
        if not isinstance(provider, Provider):
            raise TypeError(f"a provider is a pubsub.Provider, not a {type(provider).__name__}")
        with self._runtime.lock:
            is_replaced = self._implied is not None and self._implied.name not in self._channels
            present = None if is_replaced else self._providers.get(provider.name)
            if present is not None:
                # Compared with the object that was added, because its copy may have been changed, for example resized.
                if provider is not present and not self._added[provider.name].same_as(provider):
                    raise ProviderError(
                        f"there is another provider named {provider.name!r}; remove it first, or give this one "
                        "another name: name=..."
                    )
            else:
                own = provider.own_copy()
                own.configure(self._settings)
                if is_replaced:
                    self._providers.clear()  # an implied one is the only one
                self._providers[provider.name], self._added[provider.name] = own, provider
            self._implied = None

    def configure(self, settings: Mapping[str, Any] | str | os.PathLike[str]) -> None:
        """Configure all providers, including those that are added later.

        Later settings replace earlier ones, and the arguments of a provider take precedence over both. A connection
        whose settings have changed is made again. If there is no provider, and the settings include those of AWS IoT
        and of a Cognito identity pool, an `AWSIoTProvider` is added. Another provider that is added before that one has
        connected replaces it.

        Args:
            settings: A dict such as `{"aws_pubsub_endpoint": "wss://…"}`; or a file that Amplify generates, as a path
                or as a dict: `aws-exports.js`, `amplifyconfiguration.json` or `amplify_outputs.json`.

        Raises:
            TypeError: The settings are neither.
            ValueError: The file is not such a configuration.
            OSError: The file cannot be read.
        """
        read = _read(settings)
        with self._runtime.lock:
            self._settings.update(read)
            if not self._providers and self._settings.keys() >= _IMPLY_AWS_IOT:
                from pubsub.providers.aws_iot import AWSIoTProvider

                self._implied = self._providers[AWSIoTProvider.kind] = AWSIoTProvider()
                self._added[AWSIoTProvider.kind] = self._implied
            changed = filter(lambda provider: provider.configure(self._settings), list(self._providers.values()))
            channels = list(filter(None, [self._channels.get(provider.name) for provider in changed]))
        for channel in channels:
            channel.client.reconnect_now()

    def select(self, provider: str | None) -> list[Provider]:
        """Return the providers that a call applies to: that with the given name, or all.

        Args:
            provider: The name of a provider; None: all.

        Raises:
            ProviderError: There is no such provider.
        """
        if provider is None:
            selected = list(self._providers.values())
        else:
            selected = [self._providers[provider]] if provider in self._providers else []
        if selected:
            return selected
        if provider is None:
            raise ProviderError("there is no provider; add one with add_pluggable")
        there = ", ".join(map(repr, self._providers)) or "none"
        raise ProviderError(f"there is no provider named {provider!r}; there is {there}")

    # State.

    @property
    def connection_states(self) -> dict[str, ConnectionState]:
        """The state of each provider's connection, by the provider's name.

        With `Sharded` that is the worst state of its connections; each connection is listed as `{name}-{number}`, too.
        """
        states: dict[str, ConnectionState] = {}
        with self._runtime.lock:
            for name in self._providers:
                channel = self._channels.get(name)
                states[name] = channel.state if channel is not None else ConnectionState.DISCONNECTED
                parts = channel.parts.copy() if channel is not None else {}
                states.update((f"{name}-{index}", state) for index, state in sorted(parts.items()))
        return states

    @property
    def connection_state(self) -> ConnectionState:
        """The state of the connection; with several providers, of the first one that is not connected, if any."""
        states = list(self.connection_states.values()) or [ConnectionState.DISCONNECTED]
        return next((state for state in states if state is not ConnectionState.CONNECTED), states[0])

    @property
    def pending(self) -> int:
        """The number of published messages that are not sent (QoS 0) or not completely acknowledged (QoS 1, 2) yet."""
        return sum(channel.client.pending for channel in list(self._channels.values()))

    @property
    def waiting(self) -> Waiting:
        """The queue of messages that are not sent yet: their number, their bytes, and the age of the oldest."""
        each = [channel.client.waiting for channel in list(self._channels.values())]
        oldest = max((waiting.oldest for waiting in each), default=0.0)
        return Waiting(sum(waiting.messages for waiting in each), sum(waiting.size for waiting in each), oldest)

    @property
    def dropped(self) -> int:
        """The number of messages that were dropped because the queue was full; see the option `overflow`."""
        return self._dropped + sum(channel.client.dropped for channel in list(self._channels.values()))

    @property
    def expired(self) -> int:
        """The number of messages that expired before they were sent; see the option `expire_after`."""
        return self._expired + sum(channel.client.expired for channel in list(self._channels.values()))

    def reauthenticate(self, provider: str | None = None) -> None:
        """Reconnect with new credentials. Cached credentials are discarded; subscriptions stay.

        It returns immediately; `connection_state_changes` reports the result. Without a connection the next one is made
        with new credentials.

        Args:
            provider: The name of a provider; None: all providers.

        Raises:
            ProviderError: There is no such provider.
        """
        for each in self.select(provider):
            each.reauthenticate()
            with self._runtime.lock:
                channel = self._channels.get(each.name)
            if channel is not None:
                channel.client.reconnect_now()

    def resize(self, connections: Connections, provider: str | None = None) -> None:
        """Change the number of connections of `Sharded` providers.

        It returns immediately. Topic Filters move to new connections, and away from those that are closed, without a
        message lost or delivered twice. A topic moves when none of its messages is in flight.

        Args:
            connections: The number; see `Sharded`.
            provider: The name of a provider; None: all that are `Sharded`.

        Raises:
            ProviderError: There is no such provider, or it is not `Sharded`.
            TypeError, ValueError: This is not a valid number of connections.
        """
        sharded = [each for each in self.select(provider) if isinstance(each, Sharded)]
        if not sharded:
            raise ProviderError("only a Sharded provider can be resized; every other provider has one connection")
        split(connections)
        for each in sharded:
            each.connections = connections
            with self._runtime.lock:
                channel = self._channels.get(each.name)
            if channel is not None:
                cast("PoolCore", channel.client).resize(connections)

    # Subscribing.

    def subscribe(
        self,
        topics: str | Iterable[str],
        *,
        qos: int = 0,
        provider: str | None = None,
        codec: Codec | None = None,
        timeout: float | None = None,
        dedupe: Dedupe | None = None,
    ) -> O:
        """Return an observable of the messages that match Topic Filters.

        Args:
            topics: A Topic Filter or several.
            qos: The maximum QoS of the delivery: 0, 1 or 2.
            provider: The name of a provider; None: all providers.
            codec: The codec that decodes the messages; None: that of the `PubSub`.
            timeout: Seconds without a message after which an iteration ends; None: never.
            dedupe: A function that returns a hashable key for each `Message`. A message whose key is among the last
                10,000 is skipped, for servers that deliver copies. A message with the key None is never skipped.

        Returns:
            The observable. Subscribing starts when it is subscribed to, iterated over or entered.

        Raises:
            LocalProtocolError: A Topic Filter or the QoS is not valid.
            TypeError: The topics are neither a str nor several str, or another argument has the wrong type.
            ValueError: There is no topic.

        Spec: §3.8, §4.7

        Examples:
            Iterate over the messages (with asyncio by `async for`), or pass callbacks:

            >>> from mqttws.broker import Broker
            >>> from pubsub import MqttOverWSProvider, PubSub
            >>> with Broker() as broker, PubSub(MqttOverWSProvider(broker.url)) as ps:
            ...     ps.publish("greenhouse/temperature", 21.5, qos=1, retain=True)
            ...     for message in ps.subscribe("greenhouse/#"):
            ...         print(message.topic, message.value)
            ...         break
            ...     subscription = ps.subscribe("barn/#").subscribe(next=print, error=print)
            ...     print(subscription.ready())
            greenhouse/temperature 21.5
            {'barn/#': 0}
        """
        wanted = check_filters(topics, qos)
        used = self._codec if codec is None else check_codec(codec)
        if dedupe is not None:
            self._check_function("dedupe", dedupe, awaited=False)
        if timeout is not None:
            check_seconds(timeout)

        def make(observer: Observer) -> SubscriptionCore:
            self._runtime.collect()
            return SubscriptionCore(self._runtime, self._join, wanted, observer, used, self.select(provider), dedupe)

        return self._observable(make, timeout)  # type: ignore[return-value]

    @property
    def in_callback(self) -> bool:
        """Whether the caller is a callback of a subscription. No message is delivered before it has returned."""
        return any(self._runtime.is_current(channel.runner) for channel in list(self._channels.values()))

    def respond(
        self,
        topic: str,
        function: Callable[[Message], Any],
        *,
        prefix: str = PREFIX,
        qos: int = 1,
        provider: str | None = None,
        codec: Codec | None = None,
        error: Callback | None = None,
    ) -> Any:
        """Call a function with each request to a topic, and publish its result as the response.

        A request that is delivered again is not answered again. If the codec cannot decode a request or encode the
        result of the function, or the function raises, that is logged, and the requester gets `RequestFailed`.

        Args:
            topic: The topic of the requests, without wildcards; see `requester`.
            function: A function of a `Message`; it returns a value that the codec can encode. With asyncio it may be a
                coroutine function.
            prefix: The Topic Name below which responses are published; must be the same for the requesters.
            qos: The QoS of the subscription to requests, and of the responses: 0, 1 or 2.
            provider: The name of a provider; None: all providers.
            codec: The codec of requests and responses; None: that of the `PubSub`.
            error: Called with each failure of the subscription; None: it is logged.

        Returns:
            The handle of the subscription; see `subscribe`.

        Raises:
            LocalProtocolError: A topic or the QoS is not valid.
            ProviderError: There is no provider, or a setting is missing.
            TypeError: The topic is not a str; or the function is not callable; or it is a coroutine function, and this
                is not asyncio.
        """
        check_qos(qos)
        check_topic(topic)
        self._check_function("function", function, awaited=True)
        if error is not None:
            self._check_function("error", error, awaited=True)

        def publish(to: str, message: Any, through: str, codec: Codec | None) -> None:
            self._runtime.log_failure(self.publish_nowait(to, message, qos=qos, provider=through, codec=codec))

        responder = Responder(function, error, self._runtime.accept, publish, prefix, codec)
        observable = self.subscribe(
            topic + "/+/+", qos=qos, provider=provider, codec=codec, dedupe=lambda message: message.topic
        )
        return observable.subscribe(next=responder.next, error=responder.error)

    def _check_function(self, name: str, function: object, *, awaited: bool) -> None:
        if not callable(function):
            raise TypeError(f"{name} must be a function, not {type(function).__name__}")
        if not awaited and is_coroutine_function(function):
            raise TypeError(f"{name} is a coroutine function, which is not awaited")
        self._runtime.check_callback(function)

    def _join(self, provider: Provider, subscription: SubscriptionCore, wanted: Mapping[str, int]) -> None:
        while not self.channel(provider).join(subscription, wanted):
            pass

    # Publishing.

    def publish_nowait(
        self,
        topics: str | Iterable[str],
        message: Any = REQUIRED,
        *,
        qos: int = 0,
        retain: bool = False,
        provider: str | None = None,
        codec: Codec | None = None,
        expire_after: float | None = None,
    ) -> F:
        """Queue a message for publishing, to one topic or several.

        Args:
            topics: A Topic Name or several.
            message: A value that the codec can encode; by default anything that JSON can represent, or bytes.
            qos: 0, 1 or 2.
            retain: Whether the server keeps the message for later subscribers.
            provider: The name of a provider; None: all providers.
            codec: The codec that encodes the message; None: that of the `PubSub`.
            expire_after: Seconds, above 0, that the message may wait to be sent; None: the `expire_after` of the
                provider.

        Returns:
            A future with the result or the exception of `publish`. Its callbacks may block: they are not called in the
            thread that does the I/O.

        Raises:
            PublishFailed: No topic was accepted: the queue is full, or there is no connection and the provider does
                not queue.
            LocalProtocolError, TypeError, ValueError: As in `publish`.

        Spec: §3.3, §4.3
        """
        deliveries = self._prepare(topics, message, qos, retain, provider, codec, expire_after)
        publication = self._new_publication(deliveries)
        publication.future = self._runtime.new_promise(publication.cancel)
        for delivery in deliveries:
            full = publication.add(delivery, self._send)
            if full is not None:
                publication.fail(delivery.topic, full)
        if not publication.was_accepted:
            raise publication.failure()
        publication.begin()
        promise: F = publication.future
        return promise

    def _prepare(
        self,
        topics: str | Iterable[str],
        message: Any,
        qos: int,
        retain: bool,
        provider: str | None,
        codec: Codec | None,
        expire_after: float | None,
    ) -> list[Delivery]:
        """Check the arguments before anything is sent, and return the messages to send.

        Raises:
            LocalProtocolError: A topic or the QoS is not valid.
            TypeError, ValueError: The codec cannot encode the message, or there is no topic or no message.
            ProviderError: There is no such provider.
            MQTTError: The server of a provider would not accept the message.
        """
        if self._runtime.abandoned:
            self._runtime.collect()
        names = check_topics(topics, qos)
        if message is REQUIRED:
            raise TypeError(f"there is no message: publish({names[0]!r}, message)")
        payload = (self._codec if codec is None else check_codec(codec)).encode(message)
        selected = self.select(provider)
        for each in selected:
            for topic in names:
                objection = each.objection_to_publish(topic, payload, qos)
                if objection is not None:
                    raise objection
        return [Delivery(each, topic, payload, qos, retain, expire_after) for each in selected for topic in names]

    @staticmethod
    def _new_publication(deliveries: list[Delivery]) -> Publication:
        return Publication(len({delivery.topic for delivery in deliveries}))

    def _send(self, delivery: Delivery) -> Sent:
        provider, topic, payload, qos, retain, expire_after = delivery
        while (sent := self.channel(provider).publish(topic, payload, qos, retain, expire_after)) is None:
            pass
        return sent

    # Connections.

    def channel(self, provider: Provider) -> Channel:
        """Return the channel of a provider. Make one if there is none.

        Args:
            provider: A provider of this `PubSub`.

        Raises:
            ProviderError: A setting of the provider is missing.
        """
        for closed in list(self._aside):  # the last callback of a closed connection makes no new one
            if closed.provider is provider and not closed.over and self._runtime.is_current(closed.runner):
                return closed
        if (channel := self._usable(provider)) is not None:
            return channel
        options = provider.client_options()  # code of the provider: outside the lock
        with self._runtime.lock:
            if (channel := self._usable(provider)) is not None:
                return channel
            gone = self._channels.get(provider.name)
            channel = Channel(self._runtime, provider, options, self.connection_state_changes, self._forget)
            try:
                channel.runner = self._runtime.start(channel)
                self._channels[provider.name] = channel
            except BaseException:  # Ctrl-C: the runner, if it has started, ends without connecting
                channel.is_closing = channel.over = True
                raise
        if gone is not None and not gone.over:
            gone.abandon(ConnectionClosed("the event loop of the connection was closed; subscribe again"))
        return channel

    def _usable(self, provider: Provider) -> Channel | None:
        channel = self._channels.get(provider.name)
        if channel is None or channel.over or not self._runtime.is_usable(channel.runner):
            return None
        return channel

    def _forget(self, channel: Channel) -> None:
        with self._runtime.lock:
            is_current = self._channels.get(channel.provider.name) is channel
            if is_current:
                del self._channels[channel.provider.name]
            if is_current or channel in self._aside:
                self._aside.discard(channel)
                self._dropped += channel.client.dropped
                self._expired += channel.client.expired

    def _set_aside(self, channels: Iterable[Channel]) -> None:
        """Let the next call make a new connection, though the last callback of a closed one has not returned."""
        with self._runtime.lock:
            for channel in filter(lambda each: self._channels.get(each.provider.name) is each, channels):
                del self._channels[channel.provider.name]
                self._aside.add(channel)

    def _take_out(self, provider: str | Provider) -> str:
        """Remove a provider, given as an object or by its name. Return its name.

        Raises:
            MQTTError: Its connection is in use in another event loop; nothing has changed.
            ProviderError: There is no such provider.
            TypeError: The argument is neither.
        """
        if not isinstance(provider, (str, Provider)):
            raise TypeError(f"expected a provider or its name, not {type(provider).__name__}")
        name = provider if isinstance(provider, str) else provider.name
        with self._runtime.lock:
            if name not in self._providers:
                raise ProviderError(f"there is no provider named {name!r}")
            if name in self._channels:
                self._runtime.is_usable(self._channels[name].runner)
            del self._providers[name]
            self._added.pop(name, None)
        return name

    def _begin_close(self, providers: Iterable[str] | None = None) -> list[Channel]:
        """Mark channels as being closed, those of some providers or all, and return them.

        Raises:
            MQTTError: One of them is in use in another event loop; nothing has changed.
        """
        with self._runtime.lock:
            names = list(self._channels) if providers is None else providers
            channels = list(filter(None, map(self._channels.get, names)))
        for channel in channels:
            self._runtime.is_usable(channel.runner)
        self._runtime.collect()
        for channel in channels:
            channel.closing()
        return channels

    def _forget_parent(self) -> None:
        """End all connections and subscriptions in a forked child, because they belong to the parent."""
        self._runtime.renew()
        channels = [*self._channels.values(), *self._aside]
        self._channels, self._aside = {}, set()
        for channel in channels:
            channel.abandon(
                ConnectionClosed("the process was forked, and the connection belongs to the parent; subscribe again")
            )

    def __repr__(self) -> str:
        states = ", ".join(f"{name} {state}" for name, state in self.connection_states.items())
        return f"<{self._name}: {states or 'no provider'}>"


def _read(settings: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, Any]:
    """Return settings as a flat dict. Those that Amplify generates are nested, or in a file."""
    if not isinstance(settings, (Mapping, str, os.PathLike)):
        raise TypeError(f"the settings must be a dict or the path of a file, not {type(settings).__name__}")
    nested = isinstance(settings, Mapping) and any(isinstance(value, Mapping) for value in settings.values())
    flat = dict(settings) if isinstance(settings, Mapping) else {}
    if nested or not isinstance(settings, Mapping):
        from pubsub.aws.settings import read_settings

        flat.update(read_settings(settings))
    return flat


def _forget_all() -> None:
    """Forget all connections in a forked child, because they belong to the parent."""
    for each in list(_all):
        each._forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
