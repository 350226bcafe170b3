"""The pytest plugin: fixtures of a recording broker, clients, and the local AWS IoT endpoint.

Each run of pytest loads it, so it imports the other packages only when a test uses a fixture. No asyncio plugin is
required: the asyncio clients are not open, and `async with` opens them in the event loop of the test.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import mqttws
    import mqttws.aio
    import pubsub.aio
    from mqttws.testing import Faults
    from pubsub import PubSub
    from pubsub.aws.local.endpoint import LocalIoTEndpoint
    from pubsub.testing.broker import RecordingBroker

_BROKERS = pytest.StashKey["list[RecordingBroker]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini option."""
    parser.addini(
        "mqtt_clients_left_open",
        "the result of a test that leaves a client connected: error (default) or ignore",
        default="error",
    )


@pytest.fixture
def mqtt_broker(request: pytest.FixtureRequest) -> Iterator[RecordingBroker]:
    """A new MQTT broker (`RecordingBroker`) for this test: `url`, `messages`, `clients`, `retained` ..."""
    yield from _broker(request)


@pytest.fixture(scope="session")
def mqtt_broker_session(request: pytest.FixtureRequest) -> Iterator[RecordingBroker]:
    """One MQTT broker (`RecordingBroker`) for the whole run of the tests."""
    yield from _broker(request)


def _broker(request: pytest.FixtureRequest) -> Iterator[RecordingBroker]:
    from pubsub.testing.broker import RecordingBroker

    with RecordingBroker() as broker:
        request.node.stash.setdefault(_BROKERS, []).append(broker)
        yield broker
        if request.config.getini("mqtt_clients_left_open") == "ignore":
            return
        left = broker.left_open()
        if left:
            pytest.fail(f"the test left clients open: {', '.join(left)}", pytrace=False)


@pytest.fixture
def mqtt_client(mqtt_broker: RecordingBroker) -> Iterator[mqttws.Client]:
    """A connected blocking client (`mqttws.Client`) of `mqtt_broker`."""
    import mqttws

    with mqttws.connect(mqtt_broker.url) as client:
        yield client


@pytest.fixture
def mqtt_client_async(mqtt_broker: RecordingBroker) -> mqttws.aio.Client:
    """An asyncio client (`mqttws.aio.Client`) of `mqtt_broker`, to be opened by `async with`."""
    import mqttws.aio

    return mqttws.aio.Client(mqtt_broker.url)


@pytest.fixture
def pubsub_client(mqtt_broker: RecordingBroker) -> Iterator[PubSub]:
    """A `pubsub.PubSub` with a provider for `mqtt_broker`."""
    from pubsub import MqttOverWSProvider, PubSub

    with PubSub(MqttOverWSProvider(aws_pubsub_endpoint=mqtt_broker.url)) as client:
        yield client


@pytest.fixture
def pubsub_client_async(mqtt_broker: RecordingBroker) -> pubsub.aio.PubSub:
    """A `pubsub.aio.PubSub` with a provider for `mqtt_broker`, to be used by `async with`."""
    import pubsub.aio
    from pubsub import MqttOverWSProvider

    return pubsub.aio.PubSub(MqttOverWSProvider(aws_pubsub_endpoint=mqtt_broker.url))


@pytest.fixture
def mqtt_faults(mqtt_broker: RecordingBroker) -> Iterator[Faults]:
    """`mqttws.testing.Faults` for `mqtt_broker`: it injects faults by rules; clients connect to its `url`."""
    from mqttws.testing import Faults

    with Faults(mqtt_broker.url) as faults:
        yield faults


@pytest.fixture
def iot_endpoint() -> Iterator[LocalIoTEndpoint]:
    """A local AWS IoT endpoint; its one user has all permissions: `url`, `region`, `credentials`, `identities`."""
    from pubsub.aws.local.endpoint import LocalIoTEndpoint

    with LocalIoTEndpoint() as endpoint:
        yield endpoint


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add the latest events of its brokers to the report of a failed test."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for broker in [*item.session.stash.get(_BROKERS, []), *item.stash.get(_BROKERS, [])]:
            shown = "\n".join(list(broker.happened)[-30:]) or "nothing happened"
            report.sections.append((f"MQTT at {broker.url}", shown))
