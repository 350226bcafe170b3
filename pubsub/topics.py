"""Topics as a caller gives them: one or several, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable

from mqttws import LocalProtocolError, check_topic, check_topic_filter

__all__ = ["check_filters", "check_topics"]


def check_filters(topics: str | Iterable[str], qos: int) -> dict[str, int]:
    """Check what a subscription asks for.

    Args:
        topics: a Topic Filter or several.
        qos: 0, 1 or 2.

    Returns:
        Topic Filter -> QoS.

    Raises:
        LocalProtocolError: a Topic Filter or the QoS is ill-formed.
        TypeError: a Topic Filter is no text.
        ValueError: there is none.
    """
    _check_qos(qos)
    filters = _as_list(topics, "a Topic Filter")
    for topic_filter in filters:
        check_topic_filter(topic_filter)
    return dict.fromkeys(filters, qos)


def check_topics(topics: str | Iterable[str], qos: int) -> list[str]:
    """Check what is published to: Topic Names, and a QoS. Raises as `check_filters` does."""
    _check_qos(qos)
    names = _as_list(topics, "a topic")
    for topic in names:
        check_topic(topic)
    return names


def _check_qos(qos: int) -> None:
    if type(qos) is not int or qos not in (0, 1, 2):
        raise LocalProtocolError(f"the QoS is {qos!r}; it must be 0, 1 or 2", "MQTT-3.3.1-4")


def _as_list(topics: str | Iterable[str], what: str) -> list[str]:
    given = [topics] if isinstance(topics, str) else list(topics)
    if not given:
        raise ValueError(f"there is no topic; give {what}, or several in a list")
    for topic in given:
        if not isinstance(topic, str):
            raise TypeError(f"{what} is a str, not a {type(topic).__name__}: {topic!r:.80}")
    return given
