"""The errors of the PubSub API itself. What goes wrong below arrives as the error of `mqttws` that it is.

The tree::

    MQTTError                    (of mqttws)
      PubSubError
        ProviderError            no provider, no such provider, or one that lacks a setting
        NotConnected             there is no connection now, and the provider was told not to queue
        PublishFailed(errors)    some of the topics of one `publish` failed
        DecodeFailed(message)    the codec could not read a message
        RequestFailed            the responder has reported that it failed
        SubscriptionEnded        a subscription ended before what was waited for

None holds a URL with its query, a password or a token.
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
    """The root of what this package adds to the errors of `mqttws`."""


class ProviderError(PubSubError, ValueError):
    """There is no provider, or none of that name, or it lacks a setting."""


class NotConnected(PubSubError):
    """The connection is lost, and the provider was made with `offline="raise"`: nothing was queued."""


class SubscriptionEnded(PubSubError):
    """The subscription ended before what was waited for happened."""


class RequestFailed(PubSubError):
    """The responder has reported that it failed; why is in its own log.

    Attributes:
        topic: of the request.
    """

    def __init__(self, topic: str) -> None:
        super().__init__(topic)
        self.topic = topic

    def __str__(self) -> str:
        return f"the responder to {self.topic!r} failed; its log says why"


class PublishFailed(PubSubError):
    """One call of `publish` failed for at least one of its topics; the others, if any, were delivered.

    Attributes:
        errors: topic -> why. With several providers the first failure of each topic.
        topics: how many topics the call had.
    """

    def __init__(self, errors: Mapping[str, BaseException], topics: int) -> None:
        super().__init__(dict(errors), topics)
        self.errors = dict(errors)
        self.topics = topics
        self.__cause__ = next(iter(self.errors.values()), None)

    def __str__(self) -> str:
        reasons = "; ".join(f"{topic!r}: {error}" for topic, error in self.errors.items())
        return f"{len(self.errors)} of {self.topics} topics could not be published to: {reasons}"


class DecodeFailed(PubSubError):
    """The codec could not read one message. The subscription goes on.

    Attributes:
        message: the message; its `value` is its payload.
    """

    def __init__(self, message: Message, reason: str) -> None:
        super().__init__(message, reason)
        self.message = message
        self.reason = reason

    def __str__(self) -> str:
        return f"the message on {self.message.topic!r} cannot be decoded: {self.reason}"
