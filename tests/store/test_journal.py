"""The journal of a session: phases, identifiers and subscriptions survive the process, and finished messages do not."""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttws import (
    ClientConnection,
    ClientMachine,
    Connect,
    Decoder,
    Message,
    Packet,
    PubComp,
    Publish,
    PubRel,
    QueueFull,
    Session,
    StoreError,
)
from mqttws.protocol.claims import Holder
from mqttws.protocol.events import Closed, Connected, Delivered, Subscribed, Unsubscribed
from mqttws.protocol.journal import _HEAD, Journal
from mqttws.protocol.plain import Framing
from mqttws.protocol.store import MemoryStore
from mqttws.testing import Pair

CONNECT = Connect("c", clean_session=False)


def kept(store: MemoryStore, client_id: str = "c", **bounds: int) -> Session:
    session = Session(**bounds)
    session.keep_in(store, client_id)
    return session


def reborn(store: MemoryStore) -> Session:
    """Return the session of the next process."""
    store.crash()
    return kept(store)


def ready(session: Session) -> list[Packet]:
    packets, _ = session.sender.take_ready()
    return Decoder().feed(b"".join(packets))


def test_the_records_byte_for_byte() -> None:
    store = MemoryStore()
    session = kept(store)
    session.publish(Message("a", b"xy", 2, True))
    session.set_subscription("f/#", 1)
    assert store.load(b"") == [
        (b"o\0\x01c\0\0\0\0\0\0\0\x01", bytes.fromhex("00 06 0000 0000000000000000 0001") + b"axy"),
        (b"s\0\x01cf/#", b"\x01"),
    ]
    ready(session)
    assert store.load(b"o")[0][1] == bytes.fromhex("01 06 0001 0000000000000000 0001") + b"axy"
    session.sender.pubrec(1)
    assert store.load(b"o")[0][1] == bytes.fromhex("02 06 0001 0000000000000001 0001") + b"a"
    session.sender.pubcomp(1)
    assert store.load(b"o") == []
    publish = Publish("a", b"", 2, packet_id=0x1234)
    session.receiver.receive(publish, 0x1234)
    assert store.load(b"i") == []  # until it is taken it must arrive again
    session.receiver.acknowledge(publish)
    assert store.load(b"i") == [(b"i\0\x01c\x12\x34", b"")]
    session.receiver.pubrel(0x1234)
    assert session.discard_subscription("f/#")
    assert not session.discard_subscription("f/#")
    assert len(store) == 0


def test_each_phase_is_restored_in_order() -> None:
    store = MemoryStore()
    session = kept(store, max_in_flight=5)
    for number in range(7):
        session.publish(Message("a", b"%d" % number, 1 + number % 2))
    assert [publish.packet_id for publish in ready(session)] == [1, 2, 3, 4, 5]
    session.sender.pubrec(4)  # before that of 2
    session.sender.pubrec(2)
    session.sender.puback(1)
    store.commit()
    session.sender.puback(3)  # not committed
    again = reborn(store)
    resent, done = again.sender.resume(True)
    assert [packet for _, packet in resent] == [
        PubRel(4),
        PubRel(2),
        Publish("a", b"2", 1, False, True, 3),
        Publish("a", b"4", 1, False, True, 5),
    ]
    assert done == []
    assert ready(again) == [Publish("a", b"5", 2, packet_id=6), Publish("a", b"6", 1, packet_id=7)]
    assert again.publish(Message("a", b"", 1)) == 8  # after the tokens of the earlier process
    assert again.sender.pubcomp(4) is not None
    again.sender.puback(3)
    again.sender.pubrec(6)
    store.commit()
    third = reborn(store)
    assert third.sender.resume(True)[0] == [(0, PubRel(2)), (0, PubRel(6)), *third.sender.resume(True)[0][2:]]
    assert len(third.identifiers) == 4


def test_a_server_that_lost_the_session_leaves_nothing_behind() -> None:
    store = MemoryStore()
    session = kept(store)
    session.publish(Message("a", b"", 2))
    ready(session)
    session.sender.pubrec(1)
    publish = Publish("a", b"", 2, packet_id=9)
    session.receiver.receive(publish, 9)
    session.receiver.acknowledge(publish)
    store.commit()
    again = reborn(store)
    assert again.receiver.received == {9}
    again.receiver.begin(False)
    assert again.sender.resume(False)[1] == [1]
    assert len(store) == 0


def test_a_copy_of_a_message_of_an_earlier_process_is_answered_and_not_delivered() -> None:
    store = MemoryStore()
    session = kept(store)
    publish = Publish("a", b"", 2, packet_id=9)
    session.receiver.receive(publish, 9)
    session.receiver.acknowledge(publish)
    store.commit()
    again = reborn(store)
    again.receiver.begin(True)
    assert not again.receiver.receive(Publish("a", b"", 2, dup=True, packet_id=9), 9)
    assert again.receiver.answers() == [b"\x50\x02\x00\x09"]
    assert again.receiver.pubrel(9) == PubComp(9)
    assert len(store) == 0
    early = Publish("a", b"", 2, packet_id=10)  # released before it was taken, so nothing is stored
    again.receiver.receive(early, 10)
    again.receiver.pubrel(10)
    assert len(store) == 0


def test_qos_0_is_not_stored_and_withdrawn_messages_are_removed() -> None:
    store = MemoryStore()
    session = kept(store, max_queued=3)
    session.publish(Message("a", b"zero"))
    token = session.publish(Message("a", b"one", 1))
    assert len(store) == 1
    assert session.sender.withdraw(token)
    assert len(store) == 0
    session.publish(Message("a", b"two", 2))
    session.publish(Message("a", b"three", 1))
    with pytest.raises(QueueFull):
        session.publish(Message("a", b"four", 1))
    assert len(store) == 2
    assert [session.sender.drop_oldest() for _ in range(2)][1] is not None
    assert len(store) == 1
    session.publish(Message("a", b"zero"))
    session.abandon()  # fails the callers; the records of the store stay
    assert reborn(store).sender.waiting == 0  # nothing was committed
    session.sender.drop_oldest()
    assert session.sender.drop_oldest() is None


def test_abandoning_keeps_stored_messages() -> None:
    store = MemoryStore()
    session = kept(store)
    session.publish(Message("a", b"zero"))
    session.publish(Message("a", b"one", 1))
    store.commit()
    session.abandon()
    assert session.sender.waiting == 1
    assert ready(session) == [Publish("a", b"one", 1, packet_id=1)]
    assert ready(reborn(store)) == [Publish("a", b"one", 1, packet_id=1)]


def test_sessions_in_one_store_are_separate() -> None:
    store = MemoryStore()
    names = ["c", "cc", "", "ć", "c\x00"]
    for name in names:
        session = kept(store, name)
        session.publish(Message(f"t/{name or 'empty'}".replace("\0", "0"), b"", 1))
        session.set_subscription("c", 1)
    for name in names:
        session = kept(store, name)
        assert [publish.topic for publish in ready(session)] == [f"t/{name or 'empty'}".replace("\0", "0")]
        assert session.subscriptions == {"c": 1}
        session.erase()
        session.erase()
        session.publish(Message("a", b"", 1))
    assert len(store) == 0


ONE = (1).to_bytes(8, "big")


@pytest.mark.parametrize(
    ("token", "head", "rest"),
    [
        (ONE, "", b""),
        (ONE, "ff" * 20, b""),
        (ONE, "00 01 0000 0000000000000000 0001", b"#"),
        (ONE, "00 00 0000 0000000000000000 0001", b"a"),  # QoS 0
        (ONE, "00 03 0000 0000000000000000 0001", b"a"),
        (ONE, "03 01 0001 0000000000000000 0001", b"a"),  # no such phase
        (ONE, "00 11 0000 0000000000000000 0001", b"a"),  # no such flag
        (ONE, "00 01 0000 0000000000000000 0002", b"a"),  # the topic ends after the value
        (ONE, "00 01 0001 0000000000000000 0001", b"a"),  # it waits and has an identifier
        (ONE, "01 01 0000 0000000000000000 0001", b"a"),  # it was sent and has none
        (ONE, "01 09 0001 0000000000000000 0001" + "3ff0000000000000" * 2, b"a"),  # it was sent and has an age
        (ONE, "00 09 0000 0000000000000000 0001" + "3ff0000000000000", b"a"),
        (ONE, "01 02 0001 0000000000000001 0001", b"a"),  # the number of a PUBREC before there is one
        (ONE, "02 02 0001 0000000000000000 0001", b"a"),  # a PUBREC without a number
        (ONE, "02 02 0001 ffffffffffffffff 0001", b"a"),  # the last number
        (ONE, "02 01 0001 0000000000000001 0001", b"a"),  # a PUBREC for QoS 1
        (ONE, "02 02 0001 0000000000000001 0001", b"ab"),  # a payload after the PUBREC
        (ONE[1:], "00 01 0000 0000000000000000 0001", b"a"),
        (ONE + b"\0", "00 01 0000 0000000000000000 0001", b"a"),
        (bytes(8), "00 01 0000 0000000000000000 0001", b"a"),
        (b"\xff" * 8, "00 01 0000 0000000000000000 0001", b"a"),  # the last token
    ],
)
def test_an_invalid_record_is_refused(token: bytes, head: str, rest: bytes) -> None:
    store = MemoryStore()
    store.put(b"o\0\x01c" + token, bytes.fromhex(head) + rest)
    with pytest.raises(StoreError, match="a message in the store cannot be read"):
        kept(store)


def test_two_messages_with_one_packet_identifier_are_refused() -> None:
    store = MemoryStore()
    for token in (1, 2):
        value = bytes.fromhex("01 01 0005 0000000000000000 0001") + b"a"
        store.put(b"o\0\x01c" + token.to_bytes(8, "big"), value)
    with pytest.raises(StoreError, match="a second message with the packet identifier 5"):
        kept(store)


@pytest.mark.parametrize(
    ("packet_id", "value"), [(b"\0\0", b""), (b"\x01", b""), (b"", b""), (b"\0\0\x01", b""), (b"\0\x01", b"x")]
)
def test_an_invalid_identifier_is_refused(packet_id: bytes, value: bytes) -> None:
    store = MemoryStore()
    store.put(b"i\0\x01c" + packet_id, value)
    with pytest.raises(StoreError, match="a packet identifier in the store cannot be read"):
        kept(store)


@pytest.mark.parametrize(
    ("topic_filter", "value"),
    [(b"a", b""), (b"a", b"\x03"), (b"a", b"\0\0"), (b"\xff", b"\0"), (b"", b"\0"), (b"a#", b"\0"), (b"a\0", b"\0")],
)
def test_an_invalid_subscription_is_refused(topic_filter: bytes, value: bytes) -> None:
    store = MemoryStore()
    store.put(b"s\0\x01c" + topic_filter, value)
    with pytest.raises(StoreError, match="a subscription in the store cannot be read"):
        kept(store)


HEADS = st.builds(
    _HEAD.pack,
    st.integers(0, 3),
    st.integers(0, 17),
    st.integers(0, 2),
    st.sampled_from([0, 1, 2, (1 << 63) - 1, (1 << 64) - 1]),
    st.integers(0, 2),
)
VALUES = st.one_of(st.binary(max_size=40), st.builds(bytes.__add__, HEADS, st.binary(max_size=20)))
KEYS = st.one_of(st.binary(max_size=9), st.sampled_from([0, 1, 2, (1 << 63) - 1]).map(lambda n: n.to_bytes(8, "big")))


@given(st.lists(st.tuples(st.sampled_from([b"o", b"i", b"s"]), KEYS, VALUES), max_size=3))
def test_a_session_from_any_bytes_can_be_used_or_is_refused(records: list[tuple[bytes, bytes, bytes]]) -> None:
    store = MemoryStore()
    for kind, key, value in records:
        store.put(kind + b"\0\x01c" + key, value)
    try:
        session = kept(store)
    except StoreError:
        return
    session.publish(Message("a", b"", 2))
    session.sender.resume(True)
    sent = [packet for packet in ready(session) if isinstance(packet, Publish)]
    for packet_id in (packet.packet_id for packet in sent if packet.qos == 2 and packet.packet_id):
        session.sender.pubrec(packet_id)
        session.sender.pubcomp(packet_id)
    reborn(store).erase()


def test_a_session_that_another_one_has_replaced_changes_nothing() -> None:
    store = MemoryStore()
    first = kept(store)
    token = first.publish(Message("a", b"1", 1))
    second = kept(store)
    first.publish(Message("a", b"2", 1))
    first.sender.withdraw(token)
    assert first.store is not None
    with pytest.raises(StoreError, match="a newer client has taken over this store with the client identifier 'c'"):
        first.store.commit()
    assert first.sender.journal is not None
    with pytest.raises(StoreError, match="a newer client"):
        first.sender.journal.outgoing()
    assert [packet.payload for packet in ready(second) if isinstance(packet, Publish)] == [b"1"]
    assert second.store is not None
    second.store.commit()
    assert len(store) == 1


def test_a_holder_in_use_keeps_its_claim() -> None:
    store, holder = MemoryStore(), Holder()
    session = Session()
    session.keep_in(store, "c", holder=holder)
    holder.activate()
    with pytest.raises(StoreError, match="another client"):
        kept(store)
    kept(store, "d")
    kept(MemoryStore(), "c")
    with pytest.raises(StoreError, match="a client uses this store with the client identifier 'c'; use another store"):
        Session().keep_in(store, "c", holder=Holder("broker"))
    session.publish(Message("a", b"", 1))
    store.commit()
    holder.active = False
    with pytest.raises(StoreError, match="a client uses"):  # whose records are not those of a broker
        Session().keep_in(store, "c", holder=Holder("broker"))
    later = kept(store)
    assert later.sender.waiting == 1
    with pytest.raises(StoreError, match="a newer client"):
        holder.activate()
    assert not holder.active


def test_a_claim_ends_with_its_session() -> None:
    """The registry of claims keeps neither a store nor a session."""
    store, holder = MemoryStore(), Holder()
    session = Session()
    session.keep_in(store, "c", holder=holder)
    holder.activate()
    gone = weakref.ref(store)
    del session
    kept(store)
    del store
    gc.collect()
    assert gone() is None


class Full(MemoryStore):
    """A store with a full disk."""

    full = False

    def commit(self) -> None:
        if self.full:
            raise StoreError("the disk is full")
        super().commit()


def test_no_byte_is_sent_before_its_state_is_committed() -> None:
    store = MemoryStore()
    session = kept(store)
    pair = Pair(CONNECT, client_session=session).open()
    for qos in (1, 2):
        pair.client.publish(Message("a", b"x", qos))
    commits = store.commits
    assert pair.client.data_to_send(pair.clock())
    assert store.commits == commits + 1
    again, _ = _safe(store).sender.resume(True)
    assert [packet.qos for _, packet in again if isinstance(packet, Publish)] == [1, 2]


def _safe(store: MemoryStore) -> Session:
    store.crash()
    return kept(store)


def test_a_store_that_fails_ends_the_connection_without_a_byte() -> None:
    store = Full()
    pair = Pair(CONNECT, client_session=kept(store), websocket=False).open()
    pair.client.publish(Message("a", b"x", 1))
    store.full = True
    assert pair.client.data_to_send(pair.clock()) == b""
    (event,) = pair.client.events()
    assert isinstance(event, Closed)
    assert isinstance(event.error, StoreError)
    assert pair.client.data_to_send(pair.clock()) == b""


def test_one_commit_for_several_machines() -> None:
    store = MemoryStore()
    connections = []
    for name in ("a", "b"):
        session = kept(store, name)
        connection = ClientConnection(ClientMachine(Connect(name, clean_session=False), session), Framing(), 0.0)
        connection.receive_data(bytes.fromhex("20 02 01 00"), 0.0)
        connection.data_to_send(0.0)
        connection.publish(Message("t", b"", 1))
        connections.append(connection)
    commits = store.commits
    for connection in connections:
        connection.machine.prepare()
        connection.machine.prepare()
    assert all(connection.data_to_send(0.0) == bytes.fromhex("32 05 00 01 74 00 01") for connection in connections)
    assert store.commits == commits + 1
    connections[0].disconnect(0.0)
    connections[0].machine.prepare()
    assert connections[0].data_to_send(0.0) == bytes.fromhex("e0 00")


def test_a_finished_session_leaves_the_store_empty() -> None:
    store = MemoryStore()
    pair = Pair(CONNECT, client_session=kept(store)).open()
    tokens = [pair.client.publish(Message("a", b"x", qos)) for qos in (1, 2)]
    pair.client.subscribe([("f", 2)])
    pair.server.publish(Message("f", b"y", 2))
    pair.run()
    done = [token for event in pair.client_events if isinstance(event, Delivered) for token in event.tokens]
    assert done == tokens
    assert store.load(b"") == [(b"s\0\x01cf", b"\x02")]
    pair.client.unsubscribe(["f"])
    pair.run()
    assert len(store) == 0


@pytest.mark.parametrize("full", [False, True])
def test_an_answered_request_is_committed_before_its_caller_is_notified(full: bool) -> None:
    """No byte is sent after a SUBACK, so no other commit would follow, and a crash would undo the subscription."""
    store = Full()
    connection = ClientConnection(ClientMachine(CONNECT, kept(store)), Framing(), 0.0)
    connection.receive_data(bytes.fromhex("20 02 00 00"), 0.0)
    connection.subscribe([("f", 1), ("g", 1)])
    connection.data_to_send(0.0)
    assert list(connection.events()) == [Connected(False)]
    connection.receive_data(bytes.fromhex("90 04 0001 01 01"), 0.0)
    assert next(connection.events()) == Subscribed(1, (("f", 1), ("g", 1)))
    store.crash()
    assert Journal(store, "c").subscriptions() == {"f": 1, "g": 1}
    connection.unsubscribe(["f"])
    connection.data_to_send(0.0)
    store.full = full
    connection.receive_data(bytes.fromhex("b0 02 0002"), 0.0)
    (event,) = connection.events()
    if full:
        assert isinstance(event, Closed)
        assert isinstance(event.error, StoreError)
    else:
        assert event == Unsubscribed(2, (("f", 0),))
    assert reborn(store).subscriptions == ({"f": 1, "g": 1} if full else {"g": 1})
