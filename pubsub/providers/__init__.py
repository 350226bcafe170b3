"""Providers, which determine where and how a `PubSub` connects."""

from pubsub.providers.base import ClientOptions, Provider
from pubsub.providers.websocket import MqttOverWSProvider

__all__ = ["ClientOptions", "MqttOverWSProvider", "Provider"]
