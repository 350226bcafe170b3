"""A provider with several connections instead of one, for servers that limit the load of one connection."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping
from typing import Any, ClassVar, Self

from mqttws import ConnectBudget
from pubsub.errors import ProviderError
from pubsub.pool.budgets import Both, Budget
from pubsub.pool.sizing import Connections, split
from pubsub.providers.base import Provider
from pubsub.providers.endpoints import Urls

__all__ = ["Sharded"]

#: The part of a server's rate of Topic Filters that is used: other clients of the account subscribe, too.
_USED = 0.9


class Sharded(Provider):
    """Several connections of another provider, which publish and subscribe like one.

    All messages of a topic are published through the same connection, so their order is kept. Each Topic Filter is
    subscribed to on one connection, and no message is delivered twice. `$share/<group>/<filter>` is subscribed to on
    all connections that receive: the server distributes its messages among them.

    The client identifiers are `{client_id}-{number}`, from 0; policies must allow them all. The first connection has
    the will. `PubSub.connection_states` contains the worst state under the provider's name, and the state of each
    connection under `{name}-{number}`.

    `max_inbound_bytes` bounds the messages that wait in each connection, and those that wait in the queue which all of
    them share.

    Args:
        provider: The provider that determines where and how each connection is made.
        connections: "auto": as many as the provider's known limits require; or a number, half of
            which publish while the others receive (1: one does both); or a pair (publishing, receiving).
            `PubSub.resize` changes it.
        name: The name for the argument `provider` of other methods; None: the name of `provider`.
        most_connections: The maximum number of connections with "auto", at least 2.
        connect_rate: The maximum rate of CONNECTs of all connections together, in packets per second, above 0.

    Raises:
        ProviderError: The provider has `clean_session=False`, as one with a `store` has. Topic Filters and topics move
            between connections, so messages that a server or a store keeps for one of them would be lost, delivered
            twice, or sent after later messages of their topic.
        TypeError, ValueError: An argument has the wrong type, or is out of its range.
    """

    kind: ClassVar[str] = "Sharded"

    def __init__(
        self,
        provider: Provider,
        connections: Connections = "auto",
        *,
        name: str | None = None,
        most_connections: int = 256,
        connect_rate: float = 50.0,
    ) -> None:
        if isinstance(provider, Sharded) or not isinstance(provider, Provider):
            raise TypeError(f"provider is a {type(provider).__name__}; expected a provider of one connection")
        split(connections)
        if most_connections < 2:
            raise ValueError(f"most_connections is {most_connections}; it must be at least 2")
        options = provider.connection_options
        if not options.get("clean_session", True):  # a store needs that, too
            raise ProviderError(
                f"{provider.name} has clean_session=False: what a server or a store keeps belongs to one client "
                "identifier, but topics and Topic Filters move between connections; use clean_session=True here. For "
                "what must outlive a connection or the process, use a provider beside this one, or several that each "
                "have a part of the topics"
            )
        super().__init__(name=name if name is not None else provider.name, offline=provider.offline)
        self.provider = provider
        self.connections = connections
        self.most_connections = most_connections
        self.budget = ConnectBudget(connect_rate)
        self.receiving_budget = self._receiving_budget(connect_rate)
        rate = provider.subscribe_rate
        self.filters = None if rate is None else ConnectBudget(_USED * rate, max(1, int(rate / 2)))

    def _receiving_budget(self, connect_rate: float) -> Budget:
        """Return the budget of connections that receive: each subscribes to all its Topic Filters when it connects."""
        rate, most = self.provider.subscribe_rate, self.provider.max_subscriptions
        if rate is None or most is None or _USED * rate / most >= connect_rate:
            return self.budget
        return Both(self.budget, ConnectBudget(_USED * rate / most))

    @property
    def max_subscriptions(self) -> int | None:
        """The maximum number of Topic Filters of each connection; None if unknown."""
        return self.provider.max_subscriptions

    def url(self) -> Urls:
        """Return the URL of one connection, or several; see `Provider.url`."""
        return self.provider.url()

    def url_async(self) -> Urls | Awaitable[Urls]:
        """Return the URL of one connection for the asyncio client; see `Provider.url_async`."""
        return self.provider.url_async()

    def client_options(self) -> dict[str, Any]:
        """Return the options of the client for one new connection; see `Provider.client_options`."""
        return self.provider.client_options()

    def with_turns(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of one connection with its budget of CONNECTs; see `Provider.with_turns`."""
        return self.provider.with_turns(options)

    def objection_to_publish(self, topic: str, payload: bytes, qos: int) -> Exception | None:
        """Return why the server would not accept a message; see `Provider.objection_to_publish`."""
        return self.provider.objection_to_publish(topic, payload, qos)

    def objections_to_subscribe(self, wanted: Mapping[str, int], standing: Collection[str]) -> Mapping[str, Exception]:
        """Return why the server would not accept some Topic Filters; see `Provider.objections_to_subscribe`.

        Topic Filters beyond the limit of all connections are refused.
        """
        most, objections = self.max_subscriptions, dict[str, Exception]()
        count = len(standing)
        for topic_filter, qos in wanted.items():
            is_new = topic_filter not in standing
            is_full = most is not None and is_new and count >= most * self._most_receiving()
            full = [f"{number}" for number in range(most or 0)] if is_full else []
            found = self.provider.objections_to_subscribe({topic_filter: qos}, full)
            objections.update(found)
            count += is_new and not found
        return objections

    def _most_receiving(self) -> int:
        return self.most_connections - 1 if self.connections == "auto" else split(self.connections).receiving

    def explain(self, error: Exception) -> Exception:
        """Return an explanation of an error of a connection; see `Provider.explain`."""
        return self.provider.explain(error)

    def recover(self, error: Exception) -> bool:
        """Handle a failed attempt; see `Provider.recover`."""
        return self.provider.recover(error)

    def reauthenticate(self) -> None:
        """Discard cached credentials."""
        self.provider.reauthenticate()

    def own_copy(self) -> Self:
        """Return a copy for one `PubSub`, which can also be resized on its own; see `Provider.own_copy`."""
        made = super().own_copy()
        made.provider = self.provider.own_copy()
        return made

    def configure(self, settings: Mapping[str, Any]) -> bool:
        """Set the settings of the provider; see `Provider.configure`."""
        return self.provider.configure(settings)

    def same_as(self, other: Provider) -> bool:
        """Return whether another provider has the same settings and options; see `Provider.same_as`."""
        return self is other or (
            isinstance(other, Sharded)
            and (self.name, self.connections, self.most_connections, self.budget.rate)
            == (other.name, other.connections, other.most_connections, other.budget.rate)
            and self.provider.same_as(other.provider)
        )
