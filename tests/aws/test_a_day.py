"""24 hours of simulated time, with credentials that expire after 90 seconds and a client clock that is an hour off.

The sockets, the endpoint, the Cognito service and the clients are real. The test sets the time of day: that of the
endpoint is right, that of the clients is an hour behind at first, and after half a day an hour ahead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import mqttws
from pubsub import AWSIoTProvider
from pubsub.aws import cognito_api
from pubsub.aws.cognito import CognitoIdentity
from pubsub.aws.limits import IoTLimits
from pubsub.aws.local.endpoint import LocalIoTEndpoint
from pubsub.aws.local.identities import ALLOW_ALL, Identities

POOL = "eu-west-1:11111111-2222-3333-4444-555555555555"
LIFE = 90.0
STEP = 60.0  # so each set of credentials serves one or two connections
DAY = 24 * 3600.0
CLIENTS = 3


class Time:
    """The right time, and the wrong time of the clients."""

    def __init__(self) -> None:
        self.right = 1_800_000_000.0
        self.off = -3600.0

    def here(self) -> float:
        return self.right + self.off


class Requests:
    """Counts the requests to Cognito, and how many were in progress at the same time."""

    def __init__(self, post: Callable[..., Any]) -> None:
        self._post = post
        self._lock = threading.Lock()
        self._under_way = 0
        self.most = 0
        self.count = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        with self._lock:
            self._under_way += 1
            self.count += 1
            self.most = max(self.most, self._under_way)
        try:
            return self._post(*arguments, **options)
        finally:
            with self._lock:
                self._under_way -= 1


def test_no_message_is_lost_in_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    time, requests = Time(), Requests(cognito_api.post)
    monkeypatch.setattr(cognito_api, "post", requests)
    identities = Identities("eu-west-1")
    identities.add_policy("all", ALLOW_ALL)
    identities.add_pool(POOL, guests=["all"])
    endpoint = LocalIoTEndpoint(
        identities,
        clock=lambda: time.right,
        credentials_life=LIFE,
        limits=IoTLimits(publish_rate=None, stored_rate=None, lifecycle_events=False),
    )
    endpoint._hooks._monotonic = lambda: time.right  # the rate of CONNECTs of a client, too
    with endpoint:
        cognito = CognitoIdentity(POOL, endpoint=endpoint.cognito_endpoint, clock=time.here)
        provider = AWSIoTProvider("eu-west-1", endpoint.url, cognito, clock=time.here)
        provider._clock._monotonic = lambda: time.right  # the interval of clock corrections, too
        received: set[bytes] = set()
        arrived = threading.Condition()

        def take(message: mqttws.Publish) -> None:
            with arrived:
                received.add(message.payload)
                arrived.notify_all()

        clients = [
            mqttws.Client(
                provider.url,
                client_id=f"device-{number}",
                recover=provider.recover,
                on_message=take if number == 0 else None,
                clean_session=False,
                timeout=30,
                reconnect=mqttws.Reconnect(initial=0.01, maximum=0.05, stable_after=0.0),
            )
            for number in range(CLIENTS)
        ]
        try:
            for client in clients:
                client.open()
            clients[0].subscribe("day/#", 1)
            sent = _live_through_a_day(time, clients)
            with arrived:
                assert arrived.wait_for(lambda: len(received) == len(sent), 30)
        finally:
            for client in clients:
                client.close()
    assert received == sent
    assert requests.most == 1
    assert requests.count >= DAY / LIFE
    assert abs(provider._clock.offset + time.off) < 301


def _live_through_a_day(time: Time, clients: list[mqttws.Client]) -> set[bytes]:
    """Publish and reconnect every minute. Return the payloads that were sent."""
    sent: set[bytes] = set()
    steps = int(DAY / STEP)
    for step in range(steps):
        time.right += STEP
        if step == steps // 2:
            time.off = 3600.0
        futures = []
        # All connections end at the same time while messages are in flight: every client needs credentials.
        for when in ("before", "after"):
            for number, client in enumerate(clients):
                payload = f"{when}: {number} at {step}".encode()
                sent.add(payload)
                futures.append(client.publish_nowait(f"day/{number}", payload, qos=1))
                if when == "before":
                    client.reconnect_now()
        for future in futures:
            future.result(30)
    return sent
