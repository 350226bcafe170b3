"""Checks of the topics and the QoS of a call, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mqttws import LocalProtocolError, check_topic, check_topic_filter

__all__ = ["check_filters", "check_qos", "check_topics", "listed", "split_share"]

_SHARE = "$share/"


def check_filters(topics: str | Iterable[str], qos: int) -> dict[str, int]:
    """Check the Topic Filters and the QoS of a subscription.

    Args:
        topics: A Topic Filter or several.
        qos: 0, 1 or 2.

    Returns:
        Topic Filter -> QoS.

    Raises:
        LocalProtocolError: A Topic Filter or the QoS is not valid.
        TypeError: A Topic Filter is not a str.
        ValueError: There is no Topic Filter.
    """
    check_qos(qos)
    filters = listed(topics, "a Topic Filter", 'subscribe(["a", "b/#"])')
    for topic_filter in filters:
        check_topic_filter(topic_filter)
        split_share(topic_filter)
    return dict.fromkeys(filters, qos)


def check_topics(topics: str | Iterable[str], qos: int) -> list[str]:
    """Check the Topic Names and the QoS of a publish. Return the Topic Names; raise as `check_filters` does."""
    check_qos(qos)
    names = listed(topics, "a topic", 'publish(["a", "b"], message)')
    for topic in names:
        check_topic(topic)
    return names


def check_qos(qos: int) -> None:
    """Check a QoS.

    Raises:
        LocalProtocolError: The QoS is not 0, 1 or 2.
    """
    if not isinstance(qos, int) or isinstance(qos, bool) or qos not in (0, 1, 2):
        raise LocalProtocolError(f"the QoS is {qos!r}; it must be 0, 1 or 2", "MQTT-3.3.1-4")


def split_share(topic_filter: str) -> tuple[str | None, str]:
    """Split the Topic Filter of a shared subscription, `$share/<group>/<filter>`.

    MQTT 3.1.1 has no shared subscriptions. The form and its rules are those of MQTT 5.0, section 4.8.2, which servers
    also apply to clients of MQTT 3.1.1.

    Returns:
        The group, None for an ordinary Topic Filter; and the filter with which topics are matched.

    Raises:
        LocalProtocolError: The group or the filter is missing, or the group contains a wildcard.
    """
    if not topic_filter.startswith(_SHARE):
        return None, topic_filter
    group, _, matched = topic_filter.removeprefix(_SHARE).partition("/")
    if not group or not matched or "+" in group or "#" in group:
        raise LocalProtocolError(
            f"the Topic Filter {topic_filter!r} is ill-formed: a shared subscription is $share/<group>/<filter>, with "
            "neither '+' nor '#' in the group",
            "§4.7.1",
        )
    check_topic_filter(matched)
    return group, matched


def listed(topics: str | Iterable[str], what: str, form: str) -> list[str]:
    """Return topics as a list.

    Args:
        topics: The argument of the call.
        what: The name of one topic, for the error message.
        form: An example of a correct call, for the error message.

    Raises:
        TypeError: The argument is not a str or an iterable of str.
        ValueError: There is no topic.
    """
    if isinstance(topics, str):
        return [topics]
    if isinstance(topics, (Mapping, bytes, bytearray, memoryview)) or not isinstance(topics, Iterable):
        raise TypeError(f"the topics are a {type(topics).__name__}; expected {what}, or several in a list: {form}")
    given = list(topics)
    if not given:
        raise ValueError(f"there is no topic; pass {what}, or several in a list (an exhausted iterator has none)")
    for topic in given:
        if not isinstance(topic, str):
            raise TypeError(f"{what} is a str, not a {type(topic).__name__}: {topic!r:.80}")
    return given
