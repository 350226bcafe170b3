"""The base class of the providers, which determine where and how a `PubSub` connects.

A provider opens no connection and keeps none. Its methods return the URL (`url`, called at each attempt), the options
(`client_options`), the messages and Topic Filters that the server would not accept (`objection_to_publish`,
`objections_to_subscribe`), the explanation of an error (`explain`), and whether another attempt should be made
immediately after a failed one (`recover`). What it does keep, such as the settings of `PubSub.configure`, belongs to
one `PubSub`. So each `PubSub` uses a copy (`own_copy`), and several can be given one provider.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Collection, Iterator, Mapping
from contextlib import suppress
from types import MemberDescriptorType, MethodType
from typing import Any, ClassVar, Literal, Self, Unpack

from mqttws import PROFILES, ConnectionOptions, check_options
from pubsub.providers.endpoints import Urls

__all__ = ["ClientOptions", "Provider"]


class ClientOptions(ConnectionOptions, total=False):
    """The options of a provider: those of `mqttws.connect`, and two more.

    Attributes:
        hold_seconds: The time, from the first connection, for which messages of a kept session (`clean_session=False`)
            are held, unacknowledged, until their topics have an observer. In seconds, above 0; `math.inf` for no limit;
            by default 60. After that they are acknowledged and dropped, with a warning in the log, and so are later
            ones, because a server stops sending when too many messages are unacknowledged.
        hold_bytes: The maximum bytes of topics and payloads of held messages, at least 1; by default 16 MiB. Beyond it
            no more messages are taken from the connection until there is space.
    """

    hold_seconds: float
    hold_bytes: int


class Provider(ABC):
    """The base class of the providers.

    Args:
        name: The name for the argument `provider` of other methods; None: the name of the class, for example
            "MqttOverWSProvider".
        offline: What `publish` does while the connection is lost. "queue" queues messages, within `max_queued` and
            `max_queued_bytes`, until there is a connection; "raise" fails immediately with `NotConnected`.
        settings: The settings from the constructor, which take precedence over `configure`. None as a value means that
            the setting was not given.
        **options: See `ClientOptions`.

    Raises:
        TypeError: There is no such option, or it has the wrong type.
        ValueError, LocalProtocolError: An option is out of its range, or breaks a rule of the standard.
    """

    #: The default name, as in Amplify.
    kind: ClassVar[str]

    def __init__(
        self,
        *,
        name: str | None = None,
        offline: Literal["queue", "raise"] = "queue",
        settings: Mapping[str, Any] | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        if offline not in ("queue", "raise"):
            raise ValueError(f"offline is {offline!r}; expected 'queue' or 'raise'")
        self.name = name if name is not None else self.kind
        self.hold_seconds = options.pop("hold_seconds", 60.0)
        self.hold_bytes = options.pop("hold_bytes", 16 * 1024 * 1024)
        for option, kinds in (("name", (str,)), ("hold_seconds", (int, float)), ("hold_bytes", (int,))):
            value = getattr(self, option)
            if not isinstance(value, kinds) or isinstance(value, bool):
                wanted = " or ".join(kind.__name__ for kind in kinds)
                raise TypeError(f"{option} must be {wanted}, not {type(value).__name__}")
        if not self.hold_seconds > 0:
            raise ValueError(f"hold_seconds is {self.hold_seconds}; it must be above 0")
        if self.hold_bytes < 1:
            raise ValueError(f"hold_bytes is {self.hold_bytes}; it must be at least 1")
        headers: Any = options.get("headers")
        if isinstance(headers, Iterator):  # the check would exhaust it
            options["headers"] = tuple(headers)
        code = type(self).__init__.__code__
        own = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
        names = (*own, "hold_seconds", "hold_bytes")
        check_options(f"{self.kind} has", names, **options)  # type: ignore[misc] # without the two that were taken out
        self.offline = offline
        self._own = {key: value for key, value in (settings or {}).items() if value is not None}
        self._settings: dict[str, Any] = dict(self._own)
        self._options = options
        self._profile = PROFILES[options.get("server", "plain")]
        self._max_qos = min(options.get("max_qos", 2), self._profile.max_qos)
        self._has_no_rules = not self._profile.rules

    @property
    def connection_options(self) -> Mapping[str, Any]:
        """The options of the connections."""
        return self._options

    @property
    def max_subscriptions(self) -> int | None:
        """The maximum number of Topic Filters of one connection; None if unknown."""
        return None

    @property
    def subscribe_rate(self) -> float | None:
        """The maximum rate of Topic Filters, per second, of all connections' SUBSCRIBEs; None if unknown."""
        return None

    @abstractmethod
    def url(self) -> Urls:
        """Return the URL to connect to, or several, all of which an attempt tries.

        Called at each attempt, so that a signature or a token can be new. May block.

        Raises:
            ProviderError: A setting is missing.
        """

    def url_async(self) -> Urls | Awaitable[Urls]:
        """Return the same as `url` for the asyncio client, or an awaitable of it. Must not block."""
        return self.url()

    def client_options(self) -> dict[str, Any]:
        """Return the options of the client for a new connection.

        Raises:
            ProviderError: A setting is missing.
        """
        return dict(self._options)

    def with_turns(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of one connection, with the budget of CONNECTs that the server's limits require.

        Args:
            options: The options of that connection. If there are several, each has its own `client_id`.
        """
        return options

    def objection_to_publish(self, topic: str, payload: bytes, qos: int) -> Exception | None:
        """Return why the server would not accept a message, as far as is known; otherwise None.

        Known are the rules of the profile that the option `server` selects.

        Args:
            topic: The Topic Name.
            payload: The encoded message.
            qos: 0, 1 or 2.
        """
        if self._has_no_rules:
            return None
        return self._profile.objection_to_publish(topic, len(payload), min(qos, self._max_qos))

    def objections_to_subscribe(self, wanted: Mapping[str, int], standing: Collection[str]) -> Mapping[str, Exception]:
        """Return why the server would not accept some Topic Filters, as far as is known.

        Args:
            wanted: Topic Filter -> requested QoS.
            standing: The Topic Filters that the connection has already.

        Returns:
            Topic Filter -> reason, without those that the server may accept.
        """
        if self._has_no_rules:
            return {}
        found = {
            topic_filter: self._profile.objection_to_subscribe(topic_filter, min(qos, self._max_qos))
            for topic_filter, qos in wanted.items()
        }
        return {topic_filter: objection for topic_filter, objection in found.items() if objection is not None}

    def explain(self, error: Exception) -> Exception:
        """Return an explanation of an error of the connection: the error itself, or a more precise one.

        Args:
            error: The error.
        """
        return error

    def recover(self, error: Exception) -> bool:
        """Handle a failed attempt. Return whether to make another one immediately, regardless of the error.

        Args:
            error: The error of the attempt.
        """
        return False

    def reauthenticate(self) -> None:  # noqa: B027 - most providers have no credentials to discard
        """Discard cached credentials."""

    def own_copy(self) -> Self:
        """Return a copy for one `PubSub`, whose settings and options do not change those of this provider.

        It has the same attributes. Where those, the settings or the options are methods of this provider, such as a
        callable endpoint, the copy has its own methods. A subclass whose state all `PubSub`s are to share may return
        `self`; then they also share the settings.
        """
        # Not by `copy.copy`: a subclass may forbid it, as pickling does, or take other arguments in `__new__`.
        made = object.__new__(type(self))
        vars(made).update({name: _rebound(value, self, made) for name, value in vars(self).items()})
        for member in _slots(type(self)):
            with suppress(AttributeError):  # it has no value
                member.__set__(made, _rebound(member.__get__(self), self, made))
        for name in vars(made).keys() & {"_own", "_settings", "_options"}:
            vars(made)[name] = {key: _rebound(value, self, made) for key, value in vars(made)[name].items()}
        return made

    def configure(self, settings: Mapping[str, Any]) -> bool:
        """Set the settings. Those of the constructor take precedence. Return whether anything has changed.

        Args:
            settings: The settings; see `PubSub.configure`.
        """
        previous, self._settings = self._settings, {**settings, **self._own}
        return self._settings != previous

    def same_as(self, other: Provider) -> bool:
        """Return whether another provider has the same settings and options.

        Args:
            other: The other provider.
        """
        return self is other or (
            type(self) is type(other)
            and (self.name, self.offline, self.hold_seconds, self.hold_bytes, self._own, self._options)
            == (other.name, other.offline, other.hold_seconds, other.hold_bytes, other._own, other._options)
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


def _slots(kind: type) -> Iterator[MemberDescriptorType]:
    """Return the descriptors of the `__slots__` of a class and its bases."""
    return (each for base in kind.__mro__ for each in vars(base).values() if isinstance(each, MemberDescriptorType))


def _rebound(value: Any, old: Provider, new: Provider) -> Any:
    """Return a value, or the same method of another provider if it is a method of the old one."""
    return MethodType(value.__func__, new) if isinstance(value, MethodType) and value.__self__ is old else value
