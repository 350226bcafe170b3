"""Server profiles: unsupported operations are refused, lowered or warned about before anything is sent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
from drivers import PATIENCE
from hypothesis import given
from hypothesis import strategies as st
from scripted import Scripted

import mqttws
import mqttws.aio
from mqttws import (
    PROFILES,
    Connect,
    LocalProtocolError,
    Message,
    Publish,
    SubAck,
    Subscribe,
    Unsupported,
    topic_matches,
)
from mqttws.broker import Broker
from mqttws.broker.hooks import Access, Peer
from mqttws.client.profiles import overlap
from pubsub.aws.limits import IoTLimits

Make = Callable[..., Any]


@pytest.fixture
def asked() -> list[tuple[str, str, int]]:
    return []


@pytest.fixture
def url(asked: list[tuple[str, str, int]]) -> Iterator[str]:
    """Return the URL of a broker that records requests."""

    def authorize(peer: Peer, access: Access) -> bool:
        asked.append((access.action, access.topic, access.qos))
        return True

    with Broker(authorizer=authorize, sys_interval=None) as broker:
        yield broker.url_of("mqtt")


@pytest.mark.parametrize(
    ("server", "message", "says"),
    [
        ("nats", ("a b", b"x", 0), "closes the connection if a Topic Name contains a space"),
        ("nats", ("a b", b"x", 1), "closes the connection if a Topic Name contains a space"),
        ("rabbitmq", ("a*", b"x", 1), r"with '\*' in its Topic Name"),
        ("aws-iot", ("a", b"x", 2), "if the QoS is 2"),
        ("aws-iot", ("a/b/c/d/e/f/g/h/i", b"x", 0), "7 slashes"),
        ("aws-iot", ("a" * 257, b"x", 0), "256 bytes"),
        ("aws-iot", ("\u00fc" * 129, b"x", 0), "256 bytes"),
        ("aws-iot", ("a", bytes(128 * 1024 + 1), 0), "128 KiB"),
    ],
)
def test_a_message_that_breaks_the_server_is_not_sent(
    make: Make, url: str, asked: list[Any], server: str, message: Any, says: str
) -> None:
    client = make(url, server=server).open()
    for verb in (client.publish, client.publish_nowait):
        with pytest.raises(Unsupported, match=says):
            verb(*message)
    client.publish("last", b"x", 1)
    assert asked == [("publish", "last", 1)]


@pytest.mark.parametrize(
    "rest", ["a" * 256, "a" * 257, "\u00fc" * 128, "\u00fc" * 129, "a\n" * 129, "/" * 7, "/" * 8, ""]
)
@pytest.mark.parametrize(
    "prefix", ["", "$aws/rules/r/", f"$aws/rules/{'r' * 100}/", "$aws/rules/", "$aws/rules", "$aws/"]
)
def test_a_topic_is_measured_as_by_the_limits_of_aws_iot(prefix: str, rest: str) -> None:
    """Without the prefix of Basic Ingest, but with any other."""
    topic = f"{prefix}{rest}"
    allowed = IoTLimits(reserved_topics=True).objection_to_publish(topic, 1, 0) is None
    assert (PROFILES["aws-iot"].objection_to_publish(topic, 1, 0) is None) is allowed


@pytest.mark.parametrize(("server", "will"), [("nats", ("a b",)), ("aws-iot", ("a", b"x", 2)), ("rabbitmq", ("*",))])
def test_a_will_that_breaks_the_server_is_refused_when_the_client_is_made(make: Make, server: str, will: Any) -> None:
    with pytest.raises(Unsupported, match=r"^the will to"):
        make("mqtt://127.0.0.1", server=server, will=will)


@pytest.mark.parametrize(
    ("server", "topic_filter"),
    [("nats", "a b/#"), ("nats", "$share/g/a"), ("rabbitmq", "$share/g/a"), ("aws-iot", "a/b/c/d/e/f/g/h/+")],
)
def test_a_topic_filter_that_breaks_the_server_is_not_sent(
    make: Make, url: str, asked: list[Any], server: str, topic_filter: str
) -> None:
    client = make(url, server=server).open()
    for wanted in (topic_filter, ["fine", topic_filter], [("fine", 1), (topic_filter, 1)]):
        with pytest.raises(Unsupported, match="is not sent"):
            client.subscribe(wanted)
        with pytest.raises(Unsupported, match="is not sent"):
            client.subscribe_nowait(wanted)
    assert not asked


def test_the_plain_profile_sends_everything(make: Make, url: str) -> None:
    client = make(url).open()
    client.publish("a b/c.d/*", b"x", 2)
    assert client.subscribe(["$share/g/a b", ("#", 2)]) == (0, 2)


@pytest.mark.parametrize("options", [{"max_qos": 1}, {"server": "rabbitmq"}])
def test_an_unsupported_qos_is_lowered(
    make: Make, tcp_server: Scripted, options: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "mqttws")
    client = make(tcp_server.url, client_id="c", **options)
    opening = tcp_server.soon(client.open)
    end = tcp_server.accept().welcome()
    opening.result(PATIENCE)
    for number in (1, 2):
        client.publish_nowait("a", b"x", 2)
        end.expect(Publish("a", b"x", 1, packet_id=number))
    client.publish_nowait("a")
    end.expect(Publish("a"))
    client.subscribe_nowait("a", 2)
    subscribe = end.receive()
    assert isinstance(subscribe, Subscribe)
    assert subscribe.topic_filters == (("a", 1),)
    end.send(SubAck(subscribe.packet_id, (1,)))
    client.subscribe_nowait([("b", 2), ("c", 0), "d"], 2)
    subscribe = end.receive()
    assert isinstance(subscribe, Subscribe)
    assert subscribe.topic_filters == (("b", 1), ("c", 0), ("d", 1))
    assert [record.getMessage() for record in caplog.records if "QoS 2" in record.getMessage()] == [
        f"c: QoS 2 is sent as QoS 1, the maximum of {'RabbitMQ' if 'server' in options else 'the option max_qos'}"
    ]


@pytest.mark.parametrize(
    ("options", "whose"),
    [
        ({"max_qos": 1}, "the option max_qos"),
        ({"server": "rabbitmq"}, "RabbitMQ"),
        ({"server": "aws-iot", "max_qos": 1}, "the option max_qos"),
    ],
)
def test_the_qos_of_a_will_is_lowered(
    make: Make, tcp_server: Scripted, options: Any, whose: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "mqttws")
    client = make(tcp_server.url, client_id="c", will=("status", b"gone", 2), **options)
    opening = tcp_server.soon(client.open)
    end = tcp_server.accept()
    assert end.receive() == Connect("c", will=Message("status", b"gone", 1))
    end.send("20 02 00 00")
    opening.result(PATIENCE)
    client.publish_nowait("a", b"x", 2)
    end.expect(Publish("a", b"x", 1, packet_id=1))
    assert [record.getMessage() for record in caplog.records] == [
        f"c: QoS 2 is sent as QoS 1, the maximum of {whose}"  # once, for the will and the message
    ]


@pytest.mark.parametrize("options", [{}, {"max_qos": 1}, {"server": "mosquitto"}])
def test_a_profile_changes_no_signature(make: Make, url: str, options: Any) -> None:
    client = make(url, client_id="c", **options).open()
    client.publish_nowait("a", b"x", 1, False, 60.0).result(PATIENCE)
    with pytest.raises(ValueError, match="expire_after is -1"):
        client.publish_nowait("a", b"x", 1, False, -1)
    with pytest.raises(TypeError, match="positional"):
        client.publish("a", b"x", 1, False, 60.0)
    with pytest.raises(TypeError, match="positional"):
        client.subscribe_nowait("a", 1, 2)


def test_differences_of_the_server_are_warned_about_once(
    make: Make, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "mqttws")
    client = make(url, server="rabbitmq", client_id="c").open()
    for _ in range(3):
        client.publish("a.b", b"x", 1, True)
    client.subscribe(["a/+", "b/#"])
    assert [record.getMessage() for record in caplog.records if record.name == "mqttws"] == [
        "c: RabbitMQ delivers a message to 'a.b' under 'a/b'",
        "c: RabbitMQ keeps a retained message on one node only",
        "c: RabbitMQ sends no retained messages for Topic Filters with wildcards",
    ]


@pytest.mark.parametrize("at_once", [False, True])
def test_copies_for_overlapping_topic_filters_are_warned_about(
    make: Make, url: str, caplog: pytest.LogCaptureFixture, at_once: bool
) -> None:
    caplog.set_level(logging.WARNING, "mqttws")
    client = make(url, server="nats", client_id="c").open()
    client.subscribe(["a/+", "b"])
    client.subscribe("a/+")
    assert not caplog.records
    client.subscribe(["x/+", "x/y"] if at_once else "a/#")
    assert [record.getMessage() for record in caplog.records] == [
        "c: NATS sends a copy for each Topic Filter that matches"
    ]


def test_invalid_calls_are_refused_as_without_a_profile(make: Make, url: str) -> None:
    client = make(url, server="nats").open()
    for wrong in (("a", b"x", 3), ("a/#", b"x"), ("a", b"x", "1")):
        with pytest.raises((LocalProtocolError, TypeError)):
            client.publish(*wrong)
    with pytest.raises(TypeError):
        client.publish(5)
    with pytest.raises(LocalProtocolError):
        client.subscribe("a", 3)
    with pytest.raises(LocalProtocolError):
        client.subscribe("a#")
    for filters in ([("a",)], [None], [("a", 1, 2)], [5, "a"], {"a": 1}, 5):
        with pytest.raises(TypeError):
            client.subscribe(filters)


def test_options_are_checked(make: Make) -> None:
    with pytest.raises(ValueError, match="server is 'emqx'; it must be one of plain, mosquitto, nats, rabbitmq, aws"):
        make("mqtt://127.0.0.1", server="emqx")
    with pytest.raises(ValueError, match="max_qos is 3; it must be 0, 1 or 2"):
        make("mqtt://127.0.0.1", max_qos=3)
    with pytest.raises(TypeError, match="max_qos must be int, not bool"):
        make("mqtt://127.0.0.1", max_qos=True)


def test_one_message_shows_whether_shared_subscriptions_are_delivered(driver: type[Any], make: Make, url: str) -> None:
    def probe(*arguments: Any, **options: Any) -> bool:
        if driver.__name__ == "Blocking":
            return mqttws.delivers_shared(*arguments, **options)
        return asyncio.run(mqttws.aio.delivers_shared(*arguments, **options))

    assert probe(url, server="nats") is True
    with Broker(authorizer=lambda peer, access: not access.group, sys_interval=None) as refuses:
        assert probe(refuses.url, "t") is False
    with Broker(authorizer=lambda peer, access: access.action == "subscribe", sys_interval=None) as withholds:
        assert probe(withholds.url, "t", timeout=0.3) is False


LEVELS = ("a", "b", "$x")
TOPICS = ["/".join(levels) for length in (1, 2, 3) for levels in product((*LEVELS, ""), repeat=length)]
FILTERS = st.lists(st.sampled_from([*LEVELS, "+"]), min_size=1, max_size=2).flatmap(
    lambda levels: st.sampled_from(["/".join(levels), "/".join([*levels, "#"]), "#"])
)


@given(FILTERS, FILTERS)
def test_topic_filters_overlap_where_a_topic_matches_both(one: str, other: str) -> None:
    both = [topic for topic in TOPICS if topic and topic_matches(one, topic) and topic_matches(other, topic)]
    assert overlap(one, other) is bool(both)
