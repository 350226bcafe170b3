"""Behaviours of servers that applications notice: a short exchange for each, whose outcome is a few words.

The outcomes of our broker are the reference: they conform to the standard. If those of a server differ, its profile
must contain that.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from typing import Any

import mqttws
from mqttws import PROFILES, ConnectionClosed, MQTTError, Publish, SubscribeRejected

#: Seconds that a client waits for an answer.
SOON = 5.0
#: Seconds to wait for the first message, and after each message for another one, where the outcome of the standard is
#: expected. NATS sends again after 30 seconds what it had sent to a connection that was closed at that moment.
LIKE_THE_STANDARD = 45.0, 0.5
#: The same where another outcome is expected, which may be that no message comes, or that more than one does.
ANOTHER = 2.0, 3.0
#: The number of exchanges at the same time; each has topics and clients of its own.
AT_ONCE = 6
_numbers = count()

Behaviour = Callable[["Conversation"], str]
BEHAVIOURS: dict[str, tuple[str, Behaviour]] = {}
#: The outcomes of the standard and of our broker that are not "delivered".
REFERENCE = {
    "space_in_filter": "taken",
    "qos_2": "answered with PUBREC",
    "subscribe_qos_2": "granted QoS 2",
    "overlap": "one copy",
    "shared": "delivered once",
}


def behaviour(what: str) -> Callable[[Behaviour], Behaviour]:
    """Register an exchange under the name of its function."""

    def register(function: Behaviour) -> Behaviour:
        BEHAVIOURS[function.__name__] = what, function
        return function

    return register


class Conversation:
    """Clients of one server, each with its received messages.

    Args:
        url: the URL of the server.
        other: the URL of another node of its cluster; the same URL if there is only one node.
        differs: whether an outcome is expected that is not the standard's.
    """

    def __init__(self, url: Any, other: Any = None, *, differs: bool = False) -> None:
        self.url = url
        self.other = other or url
        self.first, self._next = ANOTHER if differs else LIKE_THE_STANDARD
        self.top = f"t{time.time_ns()}x{next(_numbers)}"  # unique, because earlier runs may have left state
        self._stack = ExitStack()

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def client(self, **options: Any) -> tuple[mqttws.Client, queue.Queue[Publish]]:
        """Connect a client. Return it with the queue of its messages."""
        received = options.pop("received", None) or queue.Queue()
        url = options.pop("url", self.url)
        made = mqttws.Client(url, **{"on_message": received.put, "reconnect": False, "timeout": SOON, **options})
        self._stack.enter_context(made)
        return made, received

    def sends(self, topic: str, topic_filter: str | None = None, qos: int = 1, payload: bytes = b"x") -> str:
        """Describe the outcome of a message."""
        subscriber, received = self.client()
        publisher, _ = self.client()
        try:
            subscriber.subscribe(topic_filter or f"{topic.partition('/')[0]}/#", qos)
            publisher.publish(topic, payload, qos)
        except (MQTTError, OSError) as error:
            return _named(error)
        return _copies(self.received(received), topic)

    def received(self, received: queue.Queue[Publish], least: int = 1) -> list[Publish]:
        """Return the messages that arrive, until no more do.

        Args:
            received: the queue of the client's messages.
            least: the number of messages that the standard requires.
        """
        messages: list[Publish] = []
        try:
            while True:
                messages.append(received.get(timeout=self.first if len(messages) < least else self._next))
        except queue.Empty:
            return messages


def _copies(messages: list[Publish], topic: str) -> str:
    if not messages:
        return "not delivered"
    topics = {message.topic for message in messages}
    if topics != {topic}:
        return "delivered under another topic"
    return "delivered" if len(messages) == 1 else f"{len(messages)} copies"


def _named(error: Exception) -> str:
    if isinstance(error, SubscribeRejected):
        return "subscription refused"
    if isinstance(error, ConnectionClosed):
        return "connection closed"
    return "no answer" if isinstance(error, TimeoutError) else type(error).__name__


@behaviour("a space in a Topic Name")
def space_in_topic(on: Conversation) -> str:
    return on.sends(f"{on.top}/a b")


@behaviour("a space in a Topic Filter")
def space_in_filter(on: Conversation) -> str:
    subscriber, _ = on.client()
    try:
        subscriber.subscribe(f"{on.top} c/#", 1)
    except (MQTTError, OSError) as error:
        return _named(error)
    return "taken"


@behaviour("a full stop in a Topic Name, `a.b/c`")
def dot_in_topic(on: Conversation) -> str:
    return on.sends(f"{on.top}/a.b/c")


@behaviour("`*` in a Topic Name")
def star_in_topic(on: Conversation) -> str:
    return on.sends(f"{on.top}/a*/b")


@behaviour("`>` as a level of a Topic Name")
def greater_in_topic(on: Conversation) -> str:
    return on.sends(f"{on.top}/>/b")


@behaviour("a letter beyond ASCII in a Topic Name")
def letter_in_topic(on: Conversation) -> str:
    return on.sends(f"{on.top}/grün")


@behaviour("an empty level, `a//b`")
def empty_level(on: Conversation) -> str:
    return on.sends(f"{on.top}//b")


@behaviour("a slash at the end, `a/`")
def slash_at_end(on: Conversation) -> str:
    return on.sends(f"{on.top}/a/", f"{on.top}/a/")


@behaviour("a slash at the beginning, `/a`")
def slash_at_beginning(on: Conversation) -> str:
    return on.sends(f"/{on.top}", f"/{on.top}")


@behaviour("`a/#` for the topic `a`")
def parent_level(on: Conversation) -> str:
    return on.sends(f"{on.top}", f"{on.top}/#")


@behaviour("a Topic Name of nine levels")
def nine_levels(on: Conversation) -> str:
    return on.sends("/".join([on.top, *"bcdefghi"]))


@behaviour("a Topic Name of 300 bytes")
def long_topic(on: Conversation) -> str:
    return on.sends(f"{on.top}/{'x' * (299 - len(on.top))}")


@behaviour("a payload of 1.5 MiB")
def large_payload(on: Conversation) -> str:
    return on.sends(f"{on.top}/a", payload=bytes(3 * 1024 * 1024 // 2))


@behaviour("a message of QoS 2")
def qos_2(on: Conversation) -> str:
    publisher, _ = on.client()
    try:
        publisher.publish(f"{on.top}/a", b"x", 2)
    except (MQTTError, OSError) as error:
        return _named(error)
    return "answered with PUBACK" if publisher.session.sender.lowered else "answered with PUBREC"


@behaviour("a subscription with QoS 2")
def subscribe_qos_2(on: Conversation) -> str:
    subscriber, _ = on.client()
    try:
        return f"granted QoS {subscriber.subscribe(f'{on.top}/#', 2)}"
    except (MQTTError, OSError) as error:
        return _named(error)


@behaviour("two Topic Filters that overlap")
def overlap(on: Conversation) -> str:
    subscriber, received = on.client()
    publisher, _ = on.client()
    subscriber.subscribe([(f"{on.top}/#", 1), (f"{on.top}/+", 1)])
    publisher.publish(f"{on.top}/a", b"x", 1)
    return {"delivered": "one copy"}.get(found := _copies(on.received(received), f"{on.top}/a"), found)


@behaviour("a shared subscription, `$share/group/a`")
def shared(on: Conversation) -> str:
    one, received = on.client()
    other, _ = on.client(received=received)
    publisher, _ = on.client()
    try:
        for subscriber in (one, other):
            subscriber.subscribe(f"$share/group/{on.top}/#", 1)
        for _ in range(4):
            publisher.publish(f"{on.top}/a", b"x", 1)
    except (MQTTError, OSError) as error:
        return _named(error)
    number = len(on.received(received, 4))
    return {0: "granted, not delivered", 4: "delivered once"}.get(number, f"{number} of 4 delivered")


@behaviour("a retained message")
def retained(on: Conversation) -> str:
    publisher, _ = on.client()
    try:
        publisher.publish(f"{on.top}/a", b"x", 1, retain=True)
    except (MQTTError, OSError) as error:
        return _named(error)
    return _retained(on, on.url)


@behaviour("a retained message, subscribed to with a wildcard")
def retained_by_wildcard(on: Conversation) -> str:
    publisher, _ = on.client()
    try:
        publisher.publish(f"{on.top}/a", b"x", 1, retain=True)
    except (MQTTError, OSError) as error:
        return _named(error)
    return _retained(on, on.url, "+")


@behaviour("a retained message, at another node of the cluster")
def retained_elsewhere(on: Conversation) -> str:
    publisher, _ = on.client()
    publisher.publish(f"{on.top}/a", b"x", 1, retain=True)
    return _retained(on, on.other)


def _retained(on: Conversation, url: str, level: str = "a") -> str:
    deadline = time.monotonic() + on.first
    while True:  # some servers store it after their answer
        subscriber, received = on.client(url=url)
        subscriber.subscribe(f"{on.top}/{level}", 1)
        messages = on.received(received, 0)
        if messages or time.monotonic() > deadline:
            return ("delivered" if messages[0].retain else "delivered without RETAIN") if messages else "not delivered"


@behaviour("a persistent session: a message while its client is disconnected")
def kept_session(on: Conversation) -> str:
    options: dict[str, Any] = {"client_id": on.top, "clean_session": False}
    try:
        subscriber, _ = on.client(**options)
        subscriber.subscribe(f"{on.top}/#", 1)
        subscriber.close()
        publisher, _ = on.client()
        publisher.publish(f"{on.top}/a", b"x", 1)
        subscriber, received = on.client(**options)
    except (MQTTError, OSError) as error:
        return _named(error)
    return _copies(on.received(received), f"{on.top}/a") if subscriber.state.session_present else "session lost"


@behaviour("a will")
def will(on: Conversation) -> str:
    subscriber, received = on.client()
    subscriber.subscribe(f"{on.top}/will", 1)
    try:
        leaver, _ = on.client(will=(f"{on.top}/will", b"gone", 1))
    except (MQTTError, OSError) as error:
        return _named(error)
    leaver.close(send_will=True)
    return _copies(on.received(received), f"{on.top}/will")


def observe(url: Any, other: Any, known: set[str]) -> dict[str, str]:
    """Run all exchanges with a server, several at the same time, and return their outcomes.

    Args:
        url: the URL of the server.
        other: the URL of another node; None if there is only one.
        known: the names of the exchanges whose outcome is expected to differ from the standard.
    """

    def outcome(name: str) -> str:
        with Conversation(url, other, differs=name in known) as on:
            return BEHAVIOURS[name][1](on)

    names = [name for name in BEHAVIOURS if name != "retained_elsewhere" or other is not None]
    with ThreadPoolExecutor(AT_ONCE) as pool:  # most of an exchange is waiting for what may not arrive
        return dict(zip(names, pool.map(outcome, names), strict=True))


def differences(found: dict[str, str]) -> set[str]:
    """Return the names of the exchanges whose outcome differs from the standard."""
    return {name for name, outcome in found.items() if outcome != REFERENCE.get(name, "delivered")}


def known(server: str) -> set[str]:
    """Return the names of the exchanges for which the profile of a server has a rule."""
    profile = PROFILES[server]
    names = {rule.name for rule in profile.rules}
    lowers = profile.max_qos < 2 or "qos_2" in names
    return names | ({"qos_2", "subscribe_qos_2"} if lowers else set())
