"""Providers: what a `PubSub` connects through."""

from pubsub.providers.base import ClientOptions, Provider
from pubsub.providers.websocket import MqttOverWSProvider

__all__ = ["ClientOptions", "MqttOverWSProvider", "Provider"]
