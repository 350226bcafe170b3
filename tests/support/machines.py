"""Helpers of tests/protocol: machines in any state, and what they send and report."""

from __future__ import annotations

from mqttws import ClientMachine, ConnAck, Connect, MQTTError, Packet, ServerMachine, Session
from mqttws.protocol.events import Closed, Connected, ConnectReceived
from mqttws.protocol.machine import CLOSED, CONNECTED, NEW, Machine

NOW = 1_000.0
CONNECT = Connect("c", clean_session=False, keep_alive=60)


def client(
    connect: Connect = CONNECT,
    session: Session | None = None,
    state: str = CONNECTED,
    present: bool = False,
    **options: object,
) -> ClientMachine:
    """Return a client's machine in a state, with no pending output or events."""
    machine = ClientMachine(connect, session or Session(), **options)  # type: ignore[arg-type]
    if state is not NEW:
        machine.start(NOW)
        assert machine.data_to_send(NOW) == connect.encode()
    if state in (CONNECTED, CLOSED):
        machine.receive_data(ConnAck(0, present).encode(), NOW)
        assert machine.events.popleft() == Connected(present)
    if state is CLOSED:
        machine.disconnect()
        machine.data_to_send(NOW)
        machine.events.clear()
    return machine


def server(
    connect: Connect = CONNECT, session: Session | None = None, state: str = CONNECTED, present: bool = False
) -> ServerMachine:
    """Return a server's machine in a state, with no pending output or events."""
    machine = ServerMachine()
    if state is not NEW:
        machine.receive_data(connect.encode(), NOW)
        assert machine.events.popleft() == ConnectReceived(connect)
    if state in (CONNECTED, CLOSED):
        machine.accept(session or Session(), present, NOW)
        assert machine.data_to_send(NOW).startswith(ConnAck(0, present).encode())
    if state is CLOSED:
        machine.close()
        machine.events.clear()
    return machine


def sends(machine: Machine, now: float = NOW) -> str:
    return machine.data_to_send(now).hex(" ")


def feed(machine: Machine, *packets: Packet, now: float = NOW) -> list[object]:
    machine.receive_data(b"".join(packet.encode() for packet in packets), now)
    return take(machine)


def take(machine: Machine) -> list[object]:
    events = list(machine.events)
    machine.events.clear()
    return events


def closing_error(events: list[object]) -> MQTTError | None:
    assert isinstance(events[-1], Closed)
    return events[-1].error
