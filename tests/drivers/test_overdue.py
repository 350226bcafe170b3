"""`ack_timeout`: overdue acknowledgements; and acknowledgements of the wrong type."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from drivers import PATIENCE, States
from scripted import Scripted, connected

from mqttws import KeepAliveTimeout, MQTTError, PingReq, PubAck, PubComp, Publish, PubRec, PubRel, Reconnect, TimedOut

Make = Callable[..., Any]
AT_ONCE = Reconnect(initial=0.001, maximum=0.001)


@pytest.mark.parametrize("keep_alive", [0, 60])
def test_an_unresponsive_server_is_detected_without_keep_alive(make: Make, server: Scripted, keep_alive: int) -> None:
    states, errors = States(), list[MQTTError]()
    client, end = connected(
        make,
        server,
        keep_alive=keep_alive,
        ack_timeout=0.2,
        ping_timeout=0.2,
        reconnect=AT_ONCE,
        on_state=states,
        on_error=errors.append,
    )
    begun = time.monotonic()
    future = client.publish_nowait("a", b"x", 1)
    assert isinstance(end.receive(), Publish)
    assert end.receive() == PingReq()
    again = server.accept().welcome()
    assert time.monotonic() - begun < 10 < 60 / 4  # without `ping_timeout` it is a quarter of the keep alive
    assert isinstance(states.wait("disrupted").error, KeepAliveTimeout)
    assert [type(error) for error in errors] == [TimedOut]
    again.expect(Publish("a", b"x", 1, dup=True, packet_id=1)).send(PubAck(1))
    assert future.result(PATIENCE) is None


def test_a_missing_acknowledgement_is_reported_once(make: Make, server: Scripted) -> None:
    errors: list[MQTTError] = []
    client, end = connected(make, server, ack_timeout=0.1, ping_timeout=5.0, on_error=errors.append)
    future = client.publish_nowait("a", b"x", 2)
    assert isinstance(end.receive(), Publish)
    assert end.receive() == PingReq()
    end.send("d0 00")
    end.send(PubRec(1)).expect(PubRel(1))
    assert end.receive() == PingReq()  # now the PUBCOMP is overdue
    end.send("d0 00", PubComp(1))
    assert future.result(PATIENCE) is None
    assert [type(error) for error in errors] == [TimedOut, TimedOut]
    client.publish_nowait("now")
    end.expect(Publish("now"))


def test_acknowledgements_in_time_are_not_reported(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, ack_timeout=2.2)
    futures = [client.publish_nowait("a", b"x", 1) for _ in range(10)]
    for _ in futures:
        assert isinstance(end.receive(), Publish)
    for number, future in enumerate(futures):
        time.sleep(0.25)  # all together longer than the time-out
        end.send(PubAck(number + 1))
        future.result(PATIENCE)
    client.publish_nowait("now")
    end.expect(Publish("now"))


def test_a_puback_completes_a_message_of_qos_2(make: Make, server: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "mqttws")
    client, end = connected(make, server, reconnect=False)
    for packet_id in (1, 2):
        future = client.publish_nowait("a", b"x", 2)
        end.expect(Publish("a", b"x", 2, packet_id=packet_id)).send(PubAck(packet_id))
        assert future.result(PATIENCE) is None
    client.publish("now")
    assert sum("with PUBACK" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("qos", [1, 2])
def test_a_stalled_connection_is_left_for_another_url_if_requested(make: Make, qos: int) -> None:
    states, errors = States(), list[MQTTError]()
    with Scripted("mqtt") as first, Scripted("mqtt") as second:
        client = make(
            [first.url, second.url],
            client_id="c",
            ack_timeout=0.2,
            stalled="leave",
            reconnect=AT_ONCE,
            on_state=states,
            on_error=errors.append,
        )
        opening = first.soon(client.open)
        end = first.accept().welcome()
        opening.result(PATIENCE)
        future = client.publish_nowait("a", b"x", qos)
        assert isinstance(end.receive(), Publish)
        again = second.accept().welcome()
        again.expect(Publish("a", b"x", qos, dup=True, packet_id=1))
        again.send(PubAck(1)) if qos == 1 else again.send(PubRec(1)).expect(PubRel(1)).send(PubComp(1))
        assert future.result(PATIENCE) is None
    assert isinstance(states.wait("disrupted").error, TimedOut)
    assert "disrupted" not in states.names[states.names.index("disrupted") + 1 : states.names.index("connected", 3)]
    assert [type(error) for error in errors] == [TimedOut]


def test_closing_the_client_cancels_the_reconnect(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, ack_timeout=0.2, stalled="leave", reconnect=AT_ONCE)
    client.publish_nowait("a", b"x", 1)
    assert isinstance(end.receive(), Publish)
    client.close(timeout=0.6)
    assert client.state.name == "disconnected"
    assert client.state.error is None


def test_leaving_needs_an_ack_timeout(make: Make) -> None:
    with pytest.raises(ValueError, match="requires an ack_timeout"):
        make("mqtt://127.0.0.1", stalled="leave")
