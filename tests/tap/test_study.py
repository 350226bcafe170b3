"""The generated drawings and the tour are up to date, and a message passes the stops of the tour."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any

import pytest
import study
from ledger import ROOT
from wire import PATIENCE

from mqttws import (
    ClientMachine,
    LocalProtocolError,
    Message,
    PubAck,
    PubComp,
    PubRec,
    RemoteProtocolError,
    ServerMachine,
)
from mqttws.broker import Broker
from mqttws.codec.packets import PACKETS
from mqttws.protocol.outgoing import Identifiers
from mqttws.protocol.sending import Sender
from mqttws.tap.state import STEPS
from pubsub import MqttOverWSProvider, PubSub


def test_the_drawings_and_the_tour_are_up_to_date() -> None:
    made = {study.TOUR: study.tour()} | {
        study.PICTURES / f"{name}.svg": text for name, text in study.drawings().items()
    }
    stale = [path.name for path, text in made.items() if not path.exists() or path.read_text("utf-8") != text]
    assert stale == [], "make study"
    assert {path.name for path in study.PICTURES.iterdir()} == {path.name for path in made if path != study.TOUR}


@pytest.mark.parametrize("machine", [ClientMachine, ServerMachine])
def test_everything_that_a_machine_handles_is_drawn(machine: Any) -> None:
    make = study.client_in if machine is ClientMachine else study.server_in
    drawn = {
        (before, name.partition(" ")[0])
        for (before, _), names in study.transitions(make, machine.HANDLERS).items()
        for name in names
    }
    packets = PACKETS.values()  # there is also a handler for oversize packets, which are no packet type
    assert drawn == {(state, packet.__name__.upper()) for state, packet in machine.HANDLERS if packet in packets}


def test_the_steps_of_the_tap_are_those_of_the_sender() -> None:
    """For each step and answer the real sender continues or reports a violation, as in the table."""
    for step in ("published 1", "published 2", "received"):
        for answer in (PubAck, PubRec, PubComp):
            sender = Sender(Identifiers())
            sender.enqueue(Message("a", b"", 1 if step == "published 1" else 2))
            sender.take_ready(100_000)
            if step == "received":
                sender.pubrec(1)
            table = STEPS.get(("released" if step == "received" else step, answer))
            call = {PubAck: sender.puback, PubRec: sender.pubrec, PubComp: sender.pubcomp}[answer]
            if table is None:
                with pytest.raises((RemoteProtocolError, LocalProtocolError)):
                    call(1)
            else:
                call(1)


def test_a_message_passes_each_stop_of_the_tour() -> None:
    calls: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and "broker" not in threading.current_thread().name:
            calls.append((frame.f_code.co_filename, frame.f_code.co_qualname))

    wanted = [(str(ROOT / study.where(stop)[0]), stop.partition(":")[2]) for stop, _ in study.STOPS]
    assert len(wanted) == 10
    missed = wanted
    threading.setprofile(note)
    try:
        with Broker() as broker, PubSub(MqttOverWSProvider(broker.url)) as ps:
            arrived = threading.Event()
            ps.subscribe("a", qos=1).subscribe(next=lambda message: arrived.set()).ready(timeout=PATIENCE)
            # A message takes another way while the network thread still handles the answer before it.
            for _ in range(20):
                arrived.clear()
                calls.clear()
                before = sys.getprofile()
                sys.setprofile(note)
                try:
                    ps.publish("a", {"n": 1}, qos=1)
                    assert arrived.wait(PATIENCE)
                finally:
                    sys.setprofile(before)
                trip = iter(calls.copy())
                missed = [stop for stop in wanted if not any(call == stop for call in trip)]
                if not missed:
                    break
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]
    assert missed == []
