"""What a profile knows, put before the verbs of a client.

The plain profile costs nothing: only a client with another one, or with a `max_qos`, has its verbs wrapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from mqttws.client.callbacks import WARNING, is_coroutine_function
from mqttws.client.options import Options, TopicFilters
from mqttws.client.pending import as_list
from mqttws.client.profiles import PROFILES, Rule
from mqttws.codec.publishing import Message, as_payload

#: The arguments of a call, as they are to be.
Call = tuple[tuple[Any, ...], dict[str, Any]]


class Guard:
    """Refuses or warns of what a server is known not to do, and lowers a QoS that it does not take.

    Args:
        options: of the client.
        standing: gives the Topic Filters that the client has.
        warn: writes a warning.
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

    def publish(self, topic: str, payload: bytes | str = b"", qos: int = 0, retain: bool = False, **more: Any) -> Call:
        """Check a message, and return it as it is to be sent.

        Raises:
            Unsupported: the server does not take it.
        """
        qos = self._lowered(qos)
        if isinstance(topic, str):
            rules = self.profile.publish_rules(topic, len(as_payload(payload)), qos, retain)
            self._check(f"the message to {topic!r}", rules)
        return (topic, payload, qos, retain), more

    def subscribe(self, topic_filters: TopicFilters, qos: int = 0, **more: Any) -> Call:
        """Check Topic Filters, and return them as they are to be sent.

        Raises:
            Unsupported: the server does not take one of them.
        """
        qos = self._lowered(qos)
        if isinstance(topic_filters, str):
            self._check_filters([(topic_filters, qos)])
            return (topic_filters, qos), more
        given = [(each[0], self._lowered(each[1])) if _is_pair(each) else each for each in as_list(topic_filters)]
        pairs = [(each, qos) if isinstance(each, str) else each for each in given]
        self._check_filters([pair for pair in pairs if _is_pair(pair)])  # what is none is refused later
        return (given, qos), more

    def check_will(self, will: Message | None) -> None:
        """Check a will, as a message.

        Raises:
            Unsupported: the server does not take it.
        """
        if will is not None:
            rules = self.profile.publish_rules(will.topic, len(will.payload), will.qos, will.retain)
            self._check(f"the will to {will.topic!r}", rules)

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
        if type(qos) is not int or not self.max_qos < qos <= 2:  # what is no QoS is refused later
            return qos
        self._note("max_qos", f"QoS {qos} is sent as QoS {self.max_qos}, the most that {self.profile.server} takes")
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
    """Let a guard see the arguments of a client's verbs first.

    Args:
        client: whose verbs are wrapped.
        options: of the client.
        standing: see `Guard`.
        log: see `Driver.log`.

    Raises:
        Unsupported: the server does not take the will.
    """
    guard = Guard(options, standing, lambda text: log(WARNING, ("%s: %s", client.client_id, text)))
    guard.check_will(options.will)
    for verb, prepare in (
        ("publish", guard.publish),
        ("publish_nowait", guard.publish),
        ("subscribe_nowait", guard.subscribe),  # which `subscribe` calls
    ):
        setattr(client, verb, _wrapped(getattr(client, verb), prepare))


def _is_pair(each: Any) -> bool:
    """Return whether one of several Topic Filters has a QoS."""
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
