"""The exceptions of the PubSub API itself. Failures of the connection are reported as exceptions of `mqttws`.

The tree::

    MQTTError                    (of mqttws)
      PubSubError
        ProviderError            no provider, no such provider, or one with a missing setting
        NotConnected             there is no connection now, and the provider was made with offline="raise"
        PublishFailed(errors)    some of the topics of one `publish` failed
        DecodeFailed(message)    the codec could not decode a message
        RequestFailed            the responder has reported a failure
        SubscriptionEnded        a subscription ended before the awaited event

No message contains the query of a URL, a password or a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mqttws import MQTTError
from pubsub.other_distribution import check

if TYPE_CHECKING:
    from pubsub.message import Message

__all__ = [
    "DecodeFailed",
    "NotConnected",
    "ProviderError",
    "PubSubError",
    "PublishFailed",
    "RequestFailed",
    "SubscriptionEnded",
]


check()


class PubSubError(MQTTError):
    """The base of the exceptions that this package adds to those of `mqttws`."""


class ProviderError(PubSubError, ValueError):
    """There is no provider, none with that name, or one with a missing setting."""


class NotConnected(PubSubError):
    """The connection is lost, and the provider was made with `offline="raise"`: nothing was queued."""


class SubscriptionEnded(PubSubError):
    """The subscription ended before the awaited event happened."""


class RequestFailed(PubSubError):
    """The responder has reported a failure; the reason is in its log.

    Attributes:
        topic: The topic of the request.
    """

    def __init__(self, topic: str) -> None:
        super().__init__(topic)
        self.topic = topic

    def __str__(self) -> str:
        return f"the responder to {self.topic!r} failed; its log contains the reason"


class PublishFailed(PubSubError):
    """One call of `publish` failed for at least one of its topics; the others, if any, were delivered.

    Attributes:
        errors: Topic -> exception; with several providers the first failure of each topic.
        topics: The number of topics of the call.
    """

    def __init__(self, errors: Mapping[str, BaseException], topics: int) -> None:
        super().__init__(dict(errors), topics)
        self.errors = dict(errors)
        self.topics = topics
        self.__cause__ = next(iter(self.errors.values()), None)

    def __str__(self) -> str:
        reasons = "; ".join(f"{topic!r}: {error}" for topic, error in self.errors.items())
        return f"publishing failed for {len(self.errors)} of {self.topics} topics: {reasons}"


class DecodeFailed(PubSubError):
    """The codec could not decode a message. The subscription continues.

    Attributes:
        message: The message; its `value` is its payload.
        reason: The error of the codec, as text.
    """

    def __init__(self, message: Message, reason: str) -> None:
        super().__init__(message, reason)
        self.message = message
        self.reason = reason

    def __str__(self) -> str:
        return f"the message on {self.message.topic!r} cannot be decoded: {self.reason}"
