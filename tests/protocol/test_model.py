"""A client, a server and a lossy line: QoS 1 arrives at least once, QoS 2 exactly once, in order.

The model records only the published messages. Hypothesis publishes, moves some bytes, takes messages late and out of
order, and cuts the line at any byte. At the end the line stays up, everything is taken, and the messages each side
received are compared with those the other side published.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mqttws import Connect, Message, ProtocolError, Publish, Session
from mqttws.protocol.events import Closed, ConnectReceived, Delivered, Sent, UpgradeRequested
from mqttws.testing import Pair

CONNECT = Connect("c", clean_session=False, keep_alive=0)


class LossyLine(RuleBasedStateMachine):
    """One session, many connections."""

    pair: Pair
    websocket: bool

    @initialize(websocket=st.booleans(), window=st.integers(1, 4))
    def begin(self, websocket: bool, window: int) -> None:
        self.websocket = websocket
        self.client_session = Session(max_in_flight=window)
        self.server_session = Session(max_in_flight=window)
        self.published: dict[str, list[tuple[int, bytes]]] = {"client": [], "server": []}
        self.seen: dict[str, list[Publish]] = {"client": [], "server": []}
        self.untaken: dict[str, list[Publish]] = {"client": [], "server": []}
        self.tokens: dict[str, set[int]] = {"client": set(), "server": set()}
        self.unacknowledged: dict[str, set[int]] = {"client": set(), "server": set()}  # QoS 0
        self.sent = {"client": 0, "server": 0}
        self.done: dict[str, list[int]] = {"client": [], "server": []}
        self.known = False
        self.connect()

    def connect(self) -> None:
        self.pair = Pair(
            CONNECT,
            client_session=self.client_session,
            server_session=self.server_session,
            websocket=self.websocket,
            automatic=False,
        )
        self.settle()

    def settle(self) -> None:
        """Handle the events of both sides."""
        pair = self.pair
        while pair.client_events or pair.server_events:
            for side, events in (("client", pair.client_events), ("server", pair.server_events)):
                taken = list(events)
                events.clear()
                for event in taken:
                    self.act(side, event)
            pair.collect()

    def act(self, side: str, event: object) -> None:
        pair = self.pair
        if isinstance(event, (UpgradeRequested, ConnectReceived)) and pair.server.closed:
            return  # the line was cut meanwhile
        if isinstance(event, UpgradeRequested):
            pair.server.accept_upgrade(pair.clock())
        elif isinstance(event, ConnectReceived):
            pair.server.accept(self.server_session, self.known, pair.clock())
            self.known = True
        elif isinstance(event, Publish):
            self.seen[side].append(event)
            self.untaken[side].append(event)
        elif isinstance(event, Delivered):
            self.done[side] += event.tokens
        elif isinstance(event, Sent):
            self.sent[side] = max(self.sent[side], event.token)
        elif isinstance(event, Closed):
            assert not isinstance(event.error, ProtocolError), event

    def acknowledge(self, side: str, publish: Publish) -> None:
        """Acknowledge as a driver does: through the connection if there is one, otherwise through the session."""
        connection = self.pair.client if side == "client" else self.pair.server
        session = self.client_session if side == "client" else self.server_session
        if connection.connected:
            connection.acknowledge(publish)
        else:
            session.receiver.acknowledge(publish)

    SIDES = st.sampled_from(["client", "server"])

    @rule(side=SIDES, qos=st.integers(0, 2))
    def publish(self, side: str, qos: int) -> None:
        if side == "server" and not self.known:
            return
        session = self.client_session if side == "client" else self.server_session
        payload = f"{side}-{len(self.published[side])}".encode()
        self.published[side].append((qos, payload))
        (self.tokens if qos else self.unacknowledged)[side].add(session.publish(Message("t", payload, qos)))

    @rule(count=st.integers(1, 40))
    def towards_the_server(self, count: int) -> None:
        self.pair.deliver_to_server(count)
        self.settle()

    @rule(count=st.integers(1, 40))
    def towards_the_client(self, count: int) -> None:
        self.pair.deliver_to_client(count)
        self.settle()

    @rule()
    def everything(self) -> None:
        while self.pair.to_server or self.pair.to_client:
            self.pair.deliver_to_server()
            self.pair.deliver_to_client()
            self.settle()
        self.pair.collect()

    @precondition(lambda self: any(self.untaken.values()))
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        side = data.draw(st.sampled_from([side for side, untaken in self.untaken.items() if untaken]))
        untaken = self.untaken[side]
        self.acknowledge(side, untaken.pop(data.draw(st.integers(0, len(untaken) - 1))))
        self.pair.collect()

    @rule()
    def cut(self) -> None:
        self.pair.cut()
        self.settle()
        self.connect()

    @invariant()
    def nothing_overtakes_and_nothing_is_seen_twice(self) -> None:
        if not hasattr(self, "published"):
            return
        for side, other in (("client", "server"), ("server", "client")):
            order = {payload: number for number, (_, payload) in enumerate(self.published[other])}
            for qos in (0, 1, 2):
                seen = [publish for publish in self.seen[side] if publish.qos == qos]
                firsts = list(dict.fromkeys(order[publish.payload] for publish in seen))
                assert firsts == sorted(firsts), f"QoS {qos} out of order"
                if qos != 1:
                    assert len(seen) == len(firsts), f"QoS {qos} seen twice"
                for publish in seen:
                    if not publish.dup:
                        assert sum(p.payload == publish.payload and not p.dup for p in seen) == 1

    def teardown(self) -> None:
        if not hasattr(self, "published"):
            return
        self.everything()
        for _ in range(1_000):
            for side in ("client", "server"):
                while self.untaken[side]:
                    self.acknowledge(side, self.untaken[side].pop(0))
            self.pair.collect()
            self.everything()
            if not any(self.untaken.values()) and not self.client_session.sender and not self.server_session.sender:
                break
        self.nothing_overtakes_and_nothing_is_seen_twice()
        for side, other in (("client", "server"), ("server", "client")):
            payloads = [publish.payload for publish in self.seen[side]]
            for qos, payload in self.published[other]:
                if qos == 1:
                    assert payload in payloads, "QoS 1 was lost"
                elif qos == 2:
                    assert payloads.count(payload) == 1, "QoS 2 not exactly once"
            assert sorted(self.done[other]) == sorted(self.tokens[other]), "each is reported as done once"
            assert self.sent[other] >= max(self.unacknowledged[other], default=0), "reported as sent"
        for session in (self.client_session, self.server_session):
            assert len(session.identifiers) == 0
            assert len(session.sender) == 0
            assert session.receiver.received == frozenset()


LossyLine.TestCase.settings = settings(max_examples=300, stateful_step_count=40)
TestLossyLine = pytest.mark.statement("MQTT-4.4.0-1")(
    pytest.mark.statement("MQTT-4.3.3-2")(pytest.mark.statement("MQTT-4.6.0-6")(LossyLine.TestCase))
)


@pytest.mark.parametrize("websocket", [False, True])
def test_the_line_is_cut_after_every_byte(websocket: bool) -> None:
    """One exchange in both directions, taken immediately; cut after its first byte, its second, and so on."""
    sides, cut, whole = ("server", "client"), 0, False
    while not whole:
        cut += 1
        line = LossyLine()
        line.begin(websocket=websocket, window=2)
        line.everything()
        for number, qos in enumerate((1, 2, 2, 1, 0, 2, 1, 0)):
            line.publish(side=sides[number % 2], qos=qos)
        line.pair.collect()
        for moved in range(cut):
            if moved % 2:
                line.towards_the_server(count=1)
            else:
                line.towards_the_client(count=1)
            for side in sides:
                while line.untaken[side]:
                    line.acknowledge(side, line.untaken[side].pop(0))
            line.pair.collect()
        whole = not line.pair.to_server and not line.pair.to_client
        assert not whole or not (line.client_session.sender or line.server_session.sender)  # all is acknowledged
        line.cut()
        line.teardown()
