"""The base of the providers: a name, settings, and what a connection needs to know.

A provider opens no connection and keeps none. Its methods give the URL (`url`, called at each attempt), the options
(`client_options`), what cannot be published or subscribed to (`objection_to_publish`, `objections_to_subscribe`), what
an error means (`explain`), and whether something was learnt from it that makes another attempt worth while
(`recover`). So one provider object may serve several `PubSub`s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Collection, Iterator, Mapping
from typing import Any, ClassVar, Literal, Unpack

from mqttws import PROFILES, ConnectionOptions, check_options
from pubsub.providers.endpoints import Urls

__all__ = ["ClientOptions", "Provider"]


class ClientOptions(ConnectionOptions, total=False):
    """The options of a provider: those of `mqttws.connect`, and two more.

    Attributes:
        hold_seconds: How long, from the first connection, messages of a kept session (`clean_session=False`) wait,
            unacknowledged, for observers of their topics; above 0, `math.inf` for as long as the connection stands; by
            default 60. Then they are acknowledged and dropped, with a warning in the log, and so are later ones: the
            server sends no more when too many messages are unacknowledged.
        hold_bytes: Of topics and payloads that may wait so, at least 1; by default 16 MiB. Beyond it no more messages
            are taken from the connection until one of them is.
    """

    hold_seconds: float
    hold_bytes: int


class Provider(ABC):
    """Base of the providers.

    Args:
        name: By which `provider=` selects it; None: the name of its kind, such as "MqttOverWSProvider".
        offline: What `publish` does while a connection is lost: "queue" keeps messages, within `max_queued` and
            `max_queued_bytes`, until it is back; "raise" fails at once with `NotConnected`.
        settings: Given to the constructor of the provider, which take precedence over `configure`; None stands for
            one that was not given.
        **options: See `ClientOptions`.

    Raises:
        TypeError: There is no such option, or it has the wrong type.
        ValueError, LocalProtocolError: An option is out of its range, or breaks a rule of the standard.
    """

    #: The name of its kind, as Amplify has it.
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
        if not self.hold_seconds > 0:
            raise ValueError(f"hold_seconds is {self.hold_seconds}; it must be above 0")
        if self.hold_bytes < 1:
            raise ValueError(f"hold_bytes is {self.hold_bytes}; it must be at least 1")
        headers: Any = options.get("headers")
        if isinstance(headers, Iterator):  # it would be used up by the check
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
        self._knows_nothing = not self._profile.rules

    @property
    def connection_options(self) -> Mapping[str, Any]:
        """The options that it was given for its connections."""
        return self._options

    @property
    def max_subscriptions(self) -> int | None:
        """How many Topic Filters the server takes of one connection; None: nothing is known."""
        return None

    @abstractmethod
    def url(self) -> Urls:
        """Return the URL to connect to, or several, all of which one attempt tries.

        Called at each attempt, so that what expires is fresh. It may block.

        Raises:
            ProviderError: A setting is missing.
        """

    def url_async(self) -> Urls | Awaitable[Urls]:
        """Return the same for the asyncio client, which awaits it: it must not block."""
        return self.url()

    def client_options(self) -> dict[str, Any]:
        """Return the options of the client for a new connection.

        Raises:
            ProviderError: A setting is missing.
        """
        return dict(self._options)

    def objection_to_publish(self, topic: str, payload: bytes, qos: int) -> Exception | None:
        """Return why the server would not take a message; None if nothing is known against it.

        What is known is the profile of the option `server`.
        """
        if self._knows_nothing:
            return None
        return self._profile.objection_to_publish(topic, len(payload), min(qos, self._max_qos))

    def objections_to_subscribe(self, wanted: Mapping[str, int], standing: Collection[str]) -> Mapping[str, Exception]:
        """Return why the server would not take some Topic Filters; nothing of those that it may take.

        Args:
            wanted: Topic Filter -> requested QoS.
            standing: The Topic Filters that the connection has already.
        """
        if self._knows_nothing:
            return {}
        found = {
            topic_filter: self._profile.objection_to_subscribe(topic_filter, min(qos, self._max_qos))
            for topic_filter, qos in wanted.items()
        }
        return {topic_filter: objection for topic_filter, objection in found.items() if objection is not None}

    def explain(self, error: Exception) -> Exception:
        """Return what an error of the connection is: itself, or one that says more."""
        return error

    def recover(self, error: Exception) -> bool:
        """Handle a failed attempt. Return whether to make another one immediately, whatever the error."""
        return False

    def reauthenticate(self) -> None:  # noqa: B027 - most providers hold nothing to forget
        """Drop the credentials that it keeps."""

    def configure(self, settings: Mapping[str, Any]) -> bool:
        """Take settings; those given to the constructor take precedence. Return whether anything has changed."""
        previous, self._settings = self._settings, {**settings, **self._own}
        return self._settings != previous

    def same_as(self, other: Provider) -> bool:
        """Return whether another provider has the same settings and options."""
        return self is other or (
            type(self) is type(other)
            and (self.name, self.offline, self.hold_seconds, self.hold_bytes, self._own, self._options)
            == (other.name, other.offline, other.hold_seconds, other.hold_bytes, other._own, other._options)
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"
