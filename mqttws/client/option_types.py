"""The types of a client's options, for type checkers, which detect a misspelt option or a wrong type.

A client does not load this module, because `TypedDict` and `Literal` need `typing`. `Options` checks its values itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

from mqttws.client.reconnect import Reconnect, Turns
from mqttws.codec.publishing import Message, Publish
from mqttws.errors import ConnectError, MQTTError
from mqttws.protocol.store import Store

if TYPE_CHECKING:
    from mqttws.client.state import State
    from mqttws.client.tls import TLSOption  # it loads ssl, which a plain connection does not need

#: One Topic Filter, or several, each with or without a QoS.
TopicFilters = str | Sequence[str | tuple[str, int]]
#: Additional headers of the WebSocket upgrade request.
HeadersOption = Mapping[str, str] | Iterable[tuple[str, str]]
#: A will, or the arguments of one.
WillOption = (
    Message | tuple[str] | tuple[str, bytes | str] | tuple[str, bytes | str, int] | tuple[str, bytes | str, int, bool]
)
#: The errors that end a client: exception classes, or a function that returns whether an error does.
EndOn = type[Exception] | Collection[type[Exception]] | Callable[[Exception], bool]

Overflow = Literal["block", "raise", "drop_oldest", "drop_newest"]
Oversize = Literal["skip", "end"]
Stall = Literal["wait", "leave"]
UrlOrder = Literal["given", "random"]
ServerName = Literal["plain", "mosquitto", "nats", "rabbitmq", "aws-iot"]


class ConnectionOptions(TypedDict, total=False):
    """The options of a connection, which the providers of `pubsub` accept as well; `Options` describes each."""

    client_id: str | None
    keep_alive: int
    clean_session: bool
    will: WillOption | None
    username: str | bytes | None
    password: str | bytes | None
    tls: TLSOption
    headers: HeadersOption
    reconnect: bool | Reconnect
    connect_budget: Turns | None
    retry_first: bool
    end_on: EndOn
    timeout: float
    connect_timeout: float | None
    answer_timeout: float | None
    url_order: UrlOrder
    server: ServerName
    max_qos: int
    on_error: Callable[[MQTTError], object] | None
    max_in_flight: int
    max_in_flight_qos2: int
    max_queued: int
    max_queued_bytes: int
    overflow: Overflow
    expire_after: float | None
    store: Store | None
    max_inbound_bytes: int
    max_packet_size: int
    oversize: Oversize
    max_filters: int
    ping_timeout: float | None
    ack_timeout: float | None
    stalled: Stall
    publish_rate: float | None
    resend_after: float | None
    proxy: str | None
    unix_socket: str | None
    bind_address: str | None


class ClientOptions(ConnectionOptions, total=False):
    """The options of `mqttws.connect`, `mqttws.Client` and their asyncio versions; `Options` describes each."""

    on_message: Callable[[Publish], object] | None
    on_state: Callable[[State], object] | None
    manual_ack: bool
    recover: Callable[[ConnectError], bool] | None
