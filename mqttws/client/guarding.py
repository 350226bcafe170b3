"""Checking of a client's calls against the profile of its server, before anything is sent.

The methods `publish`, `publish_nowait` and `subscribe_nowait` are wrapped only if the client has a profile other than
"plain", or a `max_qos`. Otherwise there is no cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps

from mqttws.client.callbacks import WARNING, is_coroutine_function
from mqttws.client.option_types import TopicFilters
from mqttws.client.options import Options
from mqttws.client.pending import as_list
from mqttws.client.profiles import PROFILES, Rule
from mqttws.codec.publishing import Message, as_payload
from mqttws.hints import Any

#: The arguments for the wrapped method.
Call = tuple[tuple[Any, ...], dict[str, Any]]


class Guard:
    """The checks of one client: it rejects unsupported calls, warns of deviations, and lowers the QoS if necessary.

    Args:
        options: The options of the client.
        standing: A function that returns the Topic Filters to which the client is subscribed.
        warn: A function that logs a warning.
    """

    def __init__(
        self,
        options: Options,
        standing: Callable[[], Iterable[str]],
        warn: Callable[[str], object],
    ) -> None:
        self.profile = PROFILES[options.server]
        self.max_qos = min(options.max_qos, self.profile.max_qos)
        self._standing = standing
        self._warn = warn
        self._warned: set[str] = set()

    def publish(
        self, topic: str, payload: bytes | str = b"", qos: int = 0, retain: bool = False, *rest: Any, **more: Any
    ) -> Call:
        """Check the arguments of `publish` and `publish_nowait`. Return them with the QoS lowered if necessary.

        Raises:
            Unsupported: The server does not support the message.
        """
        qos = self._lowered(qos)
        if isinstance(topic, str):
            rules = self.profile.publish_rules(topic, len(as_payload(payload)), qos, retain)
            self._check(f"the message to {topic!r}", rules)
        return (topic, payload, qos, retain, *rest), more

    def subscribe(self, topic_filters: TopicFilters, qos: int = 0, *rest: Any, **more: Any) -> Call:
        """Check the arguments of `subscribe`. Return them with the QoS lowered if necessary.

        Raises:
            Unsupported: The server does not support one of the Topic Filters.
        """
        qos = self._lowered(qos)
        if isinstance(topic_filters, str):
            self._check_filters([(topic_filters, qos)])
            return (topic_filters, qos, *rest), more
        given = [(each[0], self._lowered(each[1])) if _is_pair(each) else each for each in as_list(topic_filters)]
        pairs = [(each, qos) if isinstance(each, str) else each for each in given]
        self._check_filters([pair for pair in pairs if _is_pair(pair)])  # the client rejects all others
        return (given, qos, *rest), more

    def will(self, will: Message) -> Message:
        """Check a Will Message. Return it with the QoS lowered if necessary.

        Raises:
            Unsupported: The server does not support it.
        """
        qos = self._lowered(will.qos)
        rules = self.profile.publish_rules(will.topic, len(will.payload), qos, will.retain)
        self._check(f"the will to {will.topic!r}", rules)
        return Message(will.topic, will.payload, qos, will.retain)

    def _check_filters(self, wanted: list[tuple[str, int]]) -> None:
        beside = {*self._standing(), *(topic_filter for topic_filter, _ in wanted)}
        for topic_filter, qos in wanted:
            self._check(f"the Topic Filter {topic_filter!r}", self.profile.subscribe_rules(topic_filter, qos, beside))

    def _check(self, subject: str, rules: list[Rule]) -> None:
        objection = self.profile.objection(subject, rules)
        if objection is not None:
            raise objection
        for rule in rules:
            self._note(rule.name, f"{self.profile.server} {rule.says}")

    def _lowered(self, qos: Any) -> Any:
        if type(qos) is not int or not self.max_qos < qos <= 2:  # the client rejects invalid values
            return qos
        whose = self.profile.server if self.max_qos == self.profile.max_qos else "the option max_qos"
        self._note("max_qos", f"QoS {qos} is sent as QoS {self.max_qos}, the maximum of {whose}")
        return self.max_qos

    def _note(self, name: str, text: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            self._warn(text)


def put_guard(
    client: Any,
    options: Options,
    standing: Callable[[], Iterable[str]],
    log: Callable[[int, tuple[Any, ...]], object],
) -> None:
    """Wrap the methods of a client so that a `Guard` checks their arguments first, and check its will.

    Args:
        client: The client.
        options: The options of the client.
        standing: See `Guard`.
        log: See `Driver.log`.

    Raises:
        Unsupported: The server does not support the will.
    """
    guard = Guard(options, standing, lambda text: log(WARNING, ("%s: %s", client.client_id, text)))
    if options.will is not None:
        options.will = guard.will(options.will)  # it is sent with each CONNECT
    for verb, prepare in (
        ("publish", guard.publish),
        ("publish_nowait", guard.publish),
        ("subscribe_nowait", guard.subscribe),  # `subscribe` calls it
    ):
        setattr(client, verb, _wrapped(getattr(client, verb), prepare))


def _is_pair(each: Any) -> bool:
    """Return whether an item is a (Topic Filter, QoS) pair."""
    return isinstance(each, (tuple, list)) and len(each) == 2 and isinstance(each[0], str)


def _wrapped(verb: Callable[..., Any], prepare: Callable[..., Call]) -> Callable[..., Any]:
    if is_coroutine_function(verb):

        @wraps(verb)
        async def awaited(*arguments: Any, **options: Any) -> Any:
            arguments, options = prepare(*arguments, **options)
            return await verb(*arguments, **options)

        return awaited

    @wraps(verb)
    def called(*arguments: Any, **options: Any) -> Any:
        arguments, options = prepare(*arguments, **options)
        return verb(*arguments, **options)

    return called
