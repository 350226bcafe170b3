"""AWS Amplify's PubSub for Python: publish and subscribe through pluggable providers, by MQTT over WebSocket.

With an instance::

    from pubsub import MqttOverWSProvider, PubSub

    with PubSub(MqttOverWSProvider("wss://broker.example/mqtt")) as ps:
        ps.publish("a", {"n": 1})
        for message in ps.subscribe(["a", "b/#"], qos=1, timeout=5):
            print(message.topic, message.value)

or, as in Amplify, with the module: `pubsub.add_pluggable`, `pubsub.configure`, `pubsub.subscribe`, `pubsub.publish` and
so on are the methods of the shared instance `pubsub.default()`. `pubsub.aio` is the same for asyncio.

Names are loaded on first use: `import pubsub` itself loads neither asyncio nor ssl nor wsproto.
"""

from __future__ import annotations

from os.path import dirname, exists

TYPE_CHECKING = False  # importing `typing` for it would delay the first message
if TYPE_CHECKING:
    from typing import Any

    from mqttws import Waiting
    from pubsub.codecs import BYTES, JSON, TEXT, Codec
    from pubsub.errors import (
        DecodeFailed,
        NotConnected,
        ProviderError,
        PublishFailed,
        PubSubError,
        RequestFailed,
        SubscriptionEnded,
    )
    from pubsub.message import Message
    from pubsub.providers.aws_iot import AWSIoTProvider
    from pubsub.providers.base import ClientOptions, Provider
    from pubsub.providers.sharded import Sharded
    from pubsub.providers.websocket import MqttOverWSProvider
    from pubsub.shared import (
        add_pluggable,
        close,
        configure,
        connect,
        default,
        flush,
        publish,
        publish_nowait,
        reauthenticate,
        remove_pluggable,
        subscribe,
    )
    from pubsub.states import ConnectionState, ConnectionStateChange
    from pubsub.sync import Messages, Observable, PubSub, Requester, Subscription
    from pubsub.watching import StateChanges

    connection_state: ConnectionState
    connection_states: dict[str, ConnectionState]
    connection_state_changes: StateChanges
    dropped: int
    expired: int
    pending: int
    waiting: Waiting

__version__ = "0.1.0"

#: Module -> its public names.
_HOLDS = {
    "codecs": "BYTES Codec JSON TEXT",
    "errors": "DecodeFailed NotConnected ProviderError PubSubError PublishFailed RequestFailed SubscriptionEnded",
    "message": "Message",
    "providers.aws_iot": "AWSIoTProvider",
    "providers.base": "ClientOptions Provider",
    "providers.sharded": "Sharded",
    "providers.websocket": "MqttOverWSProvider",
    "shared": (
        "add_pluggable close configure connect default flush publish publish_nowait reauthenticate remove_pluggable "
        "subscribe"
    ),
    "states": "ConnectionState ConnectionStateChange",
    "sync": "Messages Observable PubSub Requester Subscription",
}
_WHERE = {name: module for module, names in _HOLDS.items() for name in names.split()}
#: Attributes of the shared instance, which are looked up at each access.
_OF_DEFAULT = frozenset(
    {"connection_state", "connection_state_changes", "connection_states", "dropped", "expired", "pending", "waiting"}
)
_SUBMODULES = frozenset({"aio", "aws"})

__all__ = [
    "BYTES",
    "JSON",
    "TEXT",
    "AWSIoTProvider",
    "ClientOptions",
    "Codec",
    "ConnectionState",
    "ConnectionStateChange",
    "DecodeFailed",
    "Message",
    "Messages",
    "MqttOverWSProvider",
    "NotConnected",
    "Observable",
    "Provider",
    "ProviderError",
    "PubSub",
    "PubSubError",
    "PublishFailed",
    "RequestFailed",
    "Requester",
    "Sharded",
    "Subscription",
    "SubscriptionEnded",
    "add_pluggable",
    "close",
    "configure",
    "connect",
    "connection_state",
    "connection_state_changes",
    "connection_states",
    "default",
    "dropped",
    "expired",
    "flush",
    "pending",
    "publish",
    "publish_nowait",
    "reauthenticate",
    "remove_pluggable",
    "subscribe",
    "waiting",
]


if exists(f"{dirname(__file__)}/pub.py"):
    # PyPubSub was installed into this folder, so the files of the two packages are mixed.
    from pubsub.other_distribution import refuse

    refuse()


def _module(name: str) -> Any:
    return __import__(f"pubsub.{name}", fromlist=("",))  # `importlib` would delay the first message


def __getattr__(name: str) -> Any:
    if name in _OF_DEFAULT:
        return getattr(_module("shared").default(), name)
    if name in _SUBMODULES:
        return _module(name)
    if name not in _WHERE:
        raise AttributeError(f"module 'pubsub' has no attribute {name!r}")
    value = getattr(_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE, *_OF_DEFAULT])
