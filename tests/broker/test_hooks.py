"""The hooks: when each is called, with which arguments, and the effect of its result."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import math
import socket
import ssl
import threading
import time
import types
from urllib.parse import urlsplit

import pytest
from wire import PATIENCE

from mqttws import (
    AccessDenied,
    ConnAck,
    Connect,
    KeepAliveTimeout,
    MalformedPacket,
    Message,
    PubAck,
    Publish,
    compiled,
)
from mqttws.broker import Accepted, Access, Broker, Limits, Peer, Refused, Rejection, Verdict
from mqttws.broker.hooks import Hooks

SECRET = "AKIDsecret"


def test_all_hooks_get_the_same_peer_and_may_store_data_in_it(start, wire):
    said: list[tuple[str, object]] = []

    def note(what, answer=None):
        def hook(peer, *more):
            if peer.context is None:
                peer.context = object()
            said.append((what, peer.context, peer.client_id, *more))
            return answer

        return hook

    broker = start(
        on_upgrade=note("upgrade"),
        authenticator=note("connect", True),
        authorizer=note("access", True),
        on_connected=note("connected"),
        on_disconnected=note("disconnected"),
    )
    connect = Connect("c", username="u", password=b"p")
    peer = wire(broker, "ws", headers=("X-Extra: 1",)).send(connect)
    peer.expect("20 02 00 00")
    peer.subscribe(("a", 1))
    peer.send(Publish("a", b"", 1, True, packet_id=1), "e0 00").rest()
    assert len({context for _, context, *_ in said}) == 1
    assert [(what, *more) for what, _, *more in said] == [
        ("upgrade", ""),
        ("connect", "c", connect),
        ("connected", "c"),
        ("access", "c", Access("subscribe", "a", 1, False)),
        ("access", "c", Access("publish", "a", 1, True)),
        ("access", "c", Access("receive", "a", 1, False)),
        ("disconnected", "c", None),
    ]


@pytest.mark.skipif(compiled, reason="a compiled machine takes no subclasses")
@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_each_packet_is_shown_in_its_order(start, wire, scheme):
    shown = []
    broker = start(on_packet=lambda peer, sent, packet: shown.append((sent, packet)))
    peer = wire(broker, scheme).send("10 0d 00 04 4d 51 54 54 04 02 00 3c 00 01 63")  # CONNECT, client identifier "c"
    peer.expect("20 02 00 00")  # CONNACK
    peer.send("30 05 00 01 61 78 79", "f0 00").rest()  # PUBLISH "xy" to "a"; then packet type 15, which is reserved
    assert shown[:3] == [(False, Connect("c")), (True, ConnAck(0)), (False, Publish("a", b"xy"))]
    sent, fault = shown[3]
    assert not sent
    assert isinstance(fault, MalformedPacket)
    assert len(shown) == 4


def test_the_peer_has_its_address(start, wire):
    seen: list[Peer] = []
    broker = start(on_upgrade=seen.append, authenticator=lambda peer, connect: seen.append(peer) or True)
    with wire(broker, "ws", upgrade=False) as peer:
        peer.head = peer.upgrade("/mqtt?X-Amz-Signature=" + SECRET, "somewhere:1", ("X-Token: " + SECRET,))
        peer.connect("c", username="u")
    over_ws = seen[0]
    assert over_ws.scheme == "ws"
    assert over_ws.target == "/mqtt?X-Amz-Signature=" + SECRET
    assert over_ws.header("host") == "somewhere:1"
    assert over_ws.header("x-token") == SECRET
    assert over_ws.header("x-none") is None
    assert over_ws.address[0] == over_ws.local_address[0] == "127.0.0.1"
    assert over_ws.tls is None
    assert over_ws.username == "u"
    assert SECRET not in repr(over_ws) + str(over_ws)
    wire(broker, "mqtt").connect("c")
    assert (seen[-1].scheme, seen[-1].target, seen[-1].headers) == ("mqtt", None, ())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_upgrade_hook_can_reject(start, wire, asynchronous):
    rejection = Rejection(403, [("x-amzn-ErrorType", "ForbiddenException")], b'{"message":null}')

    async def later(peer):
        await asyncio.sleep(0)
        return rejection

    broker = start(on_upgrade=later if asynchronous else lambda peer: rejection)
    answer = wire(broker, "ws", upgrade=False).upgrade("/mqtt", "x")
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"x-amzn-errortype: ForbiddenException\r\n" in answer.replace(b"x-amzn-ErrorType", b"x-amzn-errortype")
    assert b"content-length: 16\r\n" in answer
    assert answer.endswith(b'\r\n\r\n{"message":null}')


def test_an_upgrade_hook_that_fails_is_answered_by_500(start, wire, caplog):
    def hook(peer):
        raise LookupError("no such thing")

    answer = wire(start(on_upgrade=hook), "ws", upgrade=False).upgrade("/mqtt", "x")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert "LookupError" in caplog.text


@pytest.mark.parametrize(("answer", "code"), [(False, 5), (Refused(4), 4), (Refused(), 5), (True, 0), (Accepted(), 0)])
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.statement("U-4")
def test_the_result_of_the_authenticator_is_used(start, wire, answer, code, asynchronous):
    async def later(peer, connect):
        await asyncio.sleep(0.01)
        return answer

    broker = start(authenticator=later if asynchronous else lambda peer, connect: answer)
    peer = wire(broker).send(Connect("c"), "c0 00")
    if code:
        assert peer.rest() == bytes((0x20, 2, 0, code))
    else:
        peer.expect("20 02 00 00", "d0 00")


def test_a_refusal_has_a_return_code_of_the_standard():
    with pytest.raises(ValueError, match="1 to 5"):
        Refused(6)


@pytest.mark.parametrize(
    ("answer", "options", "complaint"),
    [
        (Accepted, {"keep_alive": -1}, "keep_alive is -1; it must be 0 to 65,535 seconds"),
        (Accepted, {"keep_alive": 65_536}, "keep_alive is 65536"),
        (Accepted, {"session_expiry": -1.0}, "session_expiry is -1.0; it must be 0 or more seconds"),
        (Accepted, {"session_expiry": math.nan}, "session_expiry is nan"),
        (Rejection, {"status": 200}, "the status of a rejection is 200; it must be 300 to 599, and not 304"),
        (Rejection, {"status": 304}, "the status of a rejection is 304"),
        (Rejection, {"status": 600}, "the status of a rejection is 600"),
    ],
)
def test_an_answer_out_of_range_is_refused_when_it_is_made(answer, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        answer(**options)


@pytest.mark.parametrize("name", ["client_id", "owner"])
def test_an_answer_of_the_wrong_type_is_refused_when_it_is_made(name):
    with pytest.raises(TypeError, match=f"{name} must be str or None, not int"):
        Accepted(**{name: 5})


def test_an_authenticator_that_never_answers_is_not_waited_for(start, wire, hurry):
    asked = []

    async def never(peer, connect):
        asked.append(connect.client_id)
        hurry(broker)
        await asyncio.Event().wait()

    broker = start(authenticator=never)
    assert wire(broker).send(Connect("c")).rest() == b""
    assert asked == ["c"]


def test_the_hooks_share_the_time_for_the_connect(start, wire, caplog):
    """Each of them takes less than `connect_timeout`, and both together take longer."""

    def pass_time(seconds: float) -> None:
        hub = broker._hub
        hub.now = lambda: hub.loop.time() + seconds
        (link,) = hub.admission.all
        hub.loop.call_soon(link._on_timer)

    async def on_upgrade(peer):
        pass_time(400.0)
        await asyncio.sleep(0.0)

    async def authenticator(peer, connect):
        pass_time(800.0)
        await asyncio.Event().wait()

    broker = start(on_upgrade=on_upgrade, authenticator=authenticator, limits=Limits(connect_timeout=600.0))
    peer = wire(broker, "ws").send(Connect("c"))
    assert peer.frame() == (8, bytes.fromhex("03 e9"))
    assert "the hook has not answered in time" in caplog.text
    peer.socket.sendall(bytes.fromhex("88 82 00 00 00 00 03 e9"))  # the client's part of the closing handshake is read
    assert peer.socket.recv(1) == b""


def test_an_authenticator_is_cancelled_when_its_client_disconnects(start, wire):
    begun, cancelled = threading.Event(), threading.Event()

    async def slow(peer, connect):
        try:
            begun.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    broker = start(authenticator=slow)
    wire(broker).send(Connect("c"))
    assert begun.wait(30)
    broker.stop()
    assert cancelled.is_set()


def test_an_authenticator_that_has_not_started_is_cancelled(start, wire, monkeypatch):
    """The bytes that contain the CONNECT also end the connection."""
    monkeypatch.setattr("mqttws.broker.link._SLICE", 60.0)  # both are handled in one slice, also under load
    asked: list[str] = []

    async def ask(peer, connect):
        asked.append(connect.client_id)
        return True

    broker = start(authenticator=ask)
    assert wire(broker).send(Connect("c"), "f0 00").rest() == b""
    gc.collect()  # would warn about a coroutine that was never awaited
    assert wire(broker).send(Connect("d")).receive() == ConnAck(0)
    assert asked == ["d"]


def test_the_authenticator_may_change_identifier_and_keep_alive_and_expiry(start, wire, client):
    answers = {
        "short": Accepted(client_id="longer", keep_alive=1),
        "gone": Accepted(session_expiry=1e-9),
    }
    seen = []
    broker = start(
        authenticator=lambda peer, connect: answers.get(connect.client_id, True),
        on_disconnected=lambda peer, error: seen.append((peer.client_id, type(error))),
    )
    assert client("short", broker, keep_alive=0).rest() == b""
    assert seen == [("longer", KeepAliveTimeout)]
    client("gone", broker, clean_session=False).send("e0 00").rest()
    assert not client("gone", broker, clean_session=False).session_present


def test_a_session_belongs_to_its_user(start, wire, client):
    broker = start(authenticator=lambda peer, connect: True)
    client("c", broker, clean_session=False, username="ann").subscribe(("a", 1))
    for username in ("bob", None):
        refused = wire(broker).send(Connect("c", False, username=username))
        assert refused.rest() == bytes.fromhex("20 02 00 02")
    assert client("c", broker, clean_session=False, username="ann").session_present


def test_an_owner_may_have_many_user_names(start, client):
    broker = start(authenticator=lambda peer, connect: Accepted(owner="both"))
    client("c", broker, clean_session=False, username="?SDK=JavaScript")
    assert client("c", broker, clean_session=False, username="?SDK=Python").session_present


def test_without_an_authenticator_user_names_prove_nothing(client):
    client("c", clean_session=False, username="ann")
    assert client("c", clean_session=False, username="bob").session_present


@pytest.mark.statement("MQTT-3.3.5-2")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_denied_publish_is_acknowledged_and_dropped(start, client, caplog, qos):
    def authorizer(peer, access):
        return access.action != "publish" or Verdict(False, reason="rule 7")

    broker = start(authorizer=authorizer)
    watcher = client("watcher", broker)
    watcher.subscribe(("#", 0))
    peer = client("c", broker)
    peer.send(Publish("secret", b"x", qos, True, packet_id=9 if qos else None))
    if qos:
        peer.expect("40 02 00 09" if qos == 1 else "50 02 00 09")
    else:
        peer.quiet()
    watcher.quiet()
    figures = broker.metrics()
    assert (figures["publish/messages/denied"], figures["retained messages/count"]) == (1, 0)
    assert "PUBLISH to 'secret' denied: rule 7" in caplog.text


@pytest.mark.statement("MQTT-3.3.5-2")
@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_a_denial_may_end_the_connection(start, client, scheme):
    ended = []
    broker = start(
        authorizer=lambda peer, access: Verdict(peer.client_id == "watcher", close=True, reason="policy"),
        on_disconnected=lambda peer, error: ended.append(error),
    )
    watcher = client("watcher", broker)
    watcher.subscribe(("#", 1))
    for packet in (
        Publish("a", b"", 1, packet_id=1),
        Publish("a", b""),
        "82 06 00 01 00 01 61 00",
    ):
        assert client("c", broker, scheme).send(packet, Publish("b")).rest() == b""
        watcher.quiet()  # packets after it were not processed
    assert [type(error) for error in ended] == [AccessDenied] * 3
    assert "policy" in str(ended[0])


def test_a_denied_connection_closes_the_websocket_with_1008(start, client):
    broker = start(authorizer=lambda peer, access: Verdict(False, close=True))
    opcode, payload = client("c", broker, "ws").send(Publish("a")).frame()
    assert (opcode, int.from_bytes(payload[:2], "big")) == (8, 1008)


def test_receiving_is_authorized_message_by_message(start, client):
    broker = start(authorizer=lambda peer, access: access.action != "receive" or access.topic != "a/secret")
    broker.publish("a/secret", b"kept", 1, True)
    broker.publish("a/open", b"kept", 1, True)
    peer = client("c", broker)
    peer.subscribe(("a/#", 1))
    broker.publish("a/secret", b"live")
    broker.publish("a/open", b"live")
    assert [(message.topic, message.payload) for message in peer.messages(2)] == [
        ("a/open", b"kept"),
        ("a/open", b"live"),
    ]
    peer.quiet()


def test_a_denied_delivery_may_end_only_the_receivers_connection(start, client):
    broker = start(
        authorizer=lambda peer, access: Verdict(access.action != "receive" or peer.client_id != "c", close=True)
    )
    others = [client(name, broker) for name in ("b", "d")]
    peer = client("c", broker, will=Message("a", b"gone"))
    for each in (*others, peer):
        each.subscribe(("a", 0))
    publisher = client("publisher", broker)
    publisher.send(Publish("a", b"x", 1, packet_id=1)).expect(PubAck(1))
    assert peer.rest() == b""
    for other in others:
        assert {message.payload for message in other.messages(2)} == {b"x", b"gone"}


def test_a_failing_authorizer_ends_only_the_connection_concerned(start, client, caplog):
    def authorizer(peer, access):
        if peer.client_id == "bad":
            raise LookupError("no such rule")
        return True

    broker = start(authorizer=authorizer)
    good = client("good", broker)
    good.subscribe(("a", 1))
    assert client("bad", broker).send(Publish("a", b"x", 1, packet_id=1)).rest() == b""
    assert client("bad", broker).send("82 06 00 01 00 01 61 00").rest() == b""
    good.send(Publish("a", b"y", 0))
    assert good.messages(1) == [Publish("a", b"y")]
    assert caplog.text.count("LookupError: no such rule") == 2


def test_an_authorizer_that_fails_on_a_delivery_ends_only_the_receiver(start, client):
    def authorizer(peer, access):
        if access.action == "receive" and peer.client_id == "bad":
            raise LookupError("no such rule")
        return True

    broker = start(authorizer=authorizer)
    bad, good = client("bad", broker), client("good", broker)
    bad.subscribe(("a", 1))
    good.subscribe(("a", 0))
    good.send(Publish("a", b"y", 0))
    assert good.messages(1) == [Publish("a", b"y")]
    assert bad.rest() == b""


@pytest.mark.parametrize("failing", ["authorizer", "on_published"])
def test_a_will_is_not_published_if_its_hook_fails(start, client, caplog, failing):
    """The end of its connection is still reported."""
    ended = threading.Event()

    def fail(*arguments):
        if armed:
            raise LookupError("no such rule")
        return True

    armed = []
    broker = start(on_disconnected=lambda peer, error: ended.set(), **{failing: fail})
    watcher = client("watcher", broker)
    watcher.subscribe(("will", 0))
    peer = client("c", broker, will=Message("will", b"x"))
    armed.append(True)
    peer.reset()
    assert ended.wait(30)
    armed.clear()
    watcher.quiet()
    assert "a hook failed, and the will to 'will' is not published" in caplog.text
    assert broker.metrics()["publish/messages/denied"] == 1


def test_a_connected_hook_that_fails_ends_its_connection(start, wire, client):
    def hook(peer):
        if peer.client_id == "bad":
            raise LookupError("no such thing")

    broker = start(on_connected=hook)
    good = client("good", broker)
    assert wire(broker).send(Connect("bad")).rest() in (b"", bytes.fromhex("20 02 00 00"))
    good.quiet()
    assert broker.metrics()["clients/connected"] == 1


def test_a_disconnected_hook_that_fails_is_logged(start, client, caplog):
    def hook(peer, error):
        raise LookupError("no such thing")

    broker = start(on_disconnected=hook)
    client("c", broker).send("e0 00").rest()
    client("c", broker).quiet()
    assert "on_disconnected failed" in caplog.text


def test_presence_hooks_are_called_once_each_with_the_reason(start, client):
    calls = []
    broker = start(
        on_connected=lambda peer: calls.append((peer.client_id, "connected")),
        on_disconnected=lambda peer, error: calls.append((peer.client_id, type(error).__name__)),
    )
    client("a", broker).send("e0 00").rest()
    client("b", broker).send("f0 00").rest()
    taken = client("c", broker)
    client("c", broker, keep_alive=1).rest()
    taken.rest()
    assert calls == [
        ("a", "connected"),
        ("a", "NoneType"),
        ("b", "connected"),
        ("b", "MalformedPacket"),
        ("c", "connected"),
        ("c", "SessionTakenOver"),
        ("c", "connected"),
        ("c", "KeepAliveTimeout"),
    ]


def test_hooks_may_publish(start, client):
    broker = start(on_connected=lambda peer: broker.publish("$aws/events/presence/connected/" + peer.client_id, "{}"))
    watcher = client("watcher", broker)
    watcher.subscribe(("$aws/events/#", 0))
    client("c", broker)
    assert watcher.messages(1) == [Publish("$aws/events/presence/connected/c", b"{}")]


def test_a_refused_client_causes_one_log_line(start, wire, caplog):
    caplog.set_level(logging.WARNING, "mqttws.broker")
    broker = start(authenticator=lambda peer, connect: Refused(4, "who is this?"))
    wire(broker).send(Connect("c", username=SECRET, password=SECRET.encode())).rest()
    broker.stop()
    lines = [record.getMessage() for record in caplog.records if "c'" in record.getMessage()]
    assert len(lines) == 1
    assert "refused with return code 4: who is this?" in lines[0]
    assert SECRET not in caplog.text


EXITS = {
    "SystemExit": SystemExit(3),
    "CancelledError": asyncio.CancelledError(),
    "pytest.fail": pytest.fail.Exception("a check in a hook"),  # a BaseException
}


def must_leave(hook, peer):
    """Return whether a hook is called for the client that it shall end."""
    return peer.client_id == "bad" or (hook == "on_upgrade" and "bad" in peer.target)


def check_only_bad_ends(start, wire, client, hook, leave):
    """Check that a hook that exits for one client ends its connection, and neither another one nor the broker."""
    broker = start(paths=("/mqtt", "/bad"), **{hook: leave})
    good = client("good", broker, "ws")
    bad = wire(broker, "ws", upgrade=False)
    answer = bad.upgrade("/bad", "x")
    if hook == "on_upgrade":
        assert answer.startswith(b"HTTP/1.1 500 ")
    else:
        bad.send(Connect("bad"), Publish("a", b"", 1, packet_id=1), "e0 00")
        while bad.frame()[0] != 8:  # the close frame; the broker would wait five seconds for that of the client
            pass
    good.quiet()
    client("new", broker, "ws").quiet()
    broker.stop()


@pytest.mark.parametrize("raised", EXITS)
@pytest.mark.parametrize(
    "hook",
    ["on_upgrade", "authenticator", "authorizer", "on_connected", "on_disconnected", "on_published", "on_packet"],
)
def test_an_exit_in_a_hook_ends_only_the_connection_concerned(start, wire, client, hook, raised):
    if hook == "on_packet" and compiled:
        pytest.skip("the compiled build does not call on_packet")

    def leave(peer, *more):
        if must_leave(hook, peer):
            raise EXITS[raised]
        return None if hook == "on_upgrade" else True

    check_only_bad_ends(start, wire, client, hook, leave)


@pytest.mark.parametrize("raised", EXITS)
@pytest.mark.parametrize("hook", ["on_upgrade", "authenticator"])
def test_an_exit_in_an_async_hook_ends_only_its_connection(start, wire, client, hook, raised):
    async def leave(peer, *more):
        await asyncio.sleep(0)
        if must_leave(hook, peer):
            raise EXITS[raised]
        return None if hook == "on_upgrade" else True

    check_only_bad_ends(start, wire, client, hook, leave)


def test_ctrl_c_in_a_hook_does_not_prevent_the_stop(start, wire, caplog):
    def interrupted(peer, connect):
        raise KeyboardInterrupt

    broker = start(authenticator=interrupted)
    wire(broker).send(Connect("a")).rest()
    broker.stop()
    assert "its event loop has ended" in caplog.text
    gc.collect()  # a connection that was left open would be reported in a later test


@pytest.mark.parametrize("how", ["its time is up", "the broker stops"])
def test_a_hook_that_ignores_its_cancellation_is_not_waited_for(start, wire, caplog, hurry, how):
    begun, released = threading.Event(), []

    async def authenticator(peer, connect):
        released.append((asyncio.get_running_loop(), event := asyncio.Event()))
        begun.set()
        if how == "its time is up":
            hurry(broker)
        while not event.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await event.wait()
        return True

    broker = start(authenticator=authenticator)
    client = wire(broker).send(Connect("a"))
    assert begun.wait(PATIENCE)
    loop, event = released[0]
    if how == "the broker stops":
        broker.stop()
        assert loop.is_closed()
        assert "1 tasks of hooks ignored their cancellation" in caplog.text
    assert client.rest() == b""
    if how == "its time is up":
        loop.call_soon_threadsafe(event.set)
        broker.stop()
        assert "ignored" not in caplog.text


def test_the_thread_of_a_hook_is_not_waited_for(start, wire):
    begun, released, ended = threading.Event(), threading.Event(), threading.Event()

    def block():
        begun.set()
        released.wait(PATIENCE)
        ended.set()

    async def authenticator(peer, connect):
        await asyncio.to_thread(block)
        return True

    broker = start(authenticator=authenticator)
    client = wire(broker).send(Connect("a"))
    assert begun.wait(PATIENCE)
    broker.stop()
    try:
        assert not ended.is_set()
        assert client.rest() == b""
    finally:
        released.set()
    assert ended.wait(PATIENCE)


def test_an_asynchronous_generator_of_a_hook_that_does_not_close_is_not_waited_for(start, wire):
    begun, loops, generators = threading.Event(), [], []

    async def generator():
        event = asyncio.Event()
        loops.append((asyncio.get_running_loop(), event))
        try:
            yield
        finally:
            await event.wait()

    async def authenticator(peer, connect):
        generators.append(generator())
        await anext(generators[0])
        begun.set()
        return True

    broker = start(authenticator=authenticator)
    wire(broker).send(Connect("a"))
    assert begun.wait(PATIENCE)
    threads = [threading.Thread(target=broker.stop, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    try:
        assert not any(thread.is_alive() for thread in threads)
    finally:
        loop, event = loops[0]
        with contextlib.suppress(RuntimeError):  # the loop is closed, as it should be
            loop.call_soon_threadsafe(event.set)


@pytest.mark.parametrize("reason", ["its time is up", "the broker stops"])
def test_a_hook_that_fails_when_it_is_cancelled_is_logged_with_its_client(start, wire, caplog, hurry, reason):
    begun, failed = threading.Event(), threading.Event()

    async def authenticator(peer, connect):
        try:
            begun.set()
            if reason == "its time is up":
                hurry(broker)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            asyncio.current_task().add_done_callback(lambda task: failed.set())
            raise LookupError("the database is gone") from None

    broker = start(authenticator=authenticator)
    wire(broker).send(Connect("a"))
    assert begun.wait(PATIENCE)
    if reason == "the broker stops":
        broker.stop()
    assert failed.wait(PATIENCE)
    broker.stop()
    gc.collect()  # asyncio would log an exception that nothing has retrieved
    assert "never retrieved" not in caplog.text
    (record,) = [each for each in caplog.records if "after it had been cancelled" in each.getMessage()]
    assert "127.0.0.1" in record.getMessage()
    assert "LookupError: the database is gone" in caplog.text


@types.coroutine
def awaitable_generator(*arguments):
    yield from asyncio.sleep(0).__await__()
    return True


@pytest.mark.parametrize("hook", [awaitable_generator, functools.partial(awaitable_generator, 1)])
def test_a_generator_function_that_can_be_awaited_is_a_coroutine_function(start, client, hook):
    client("c", start(authenticator=hook)).quiet()
    with pytest.raises(TypeError, match="authorizer is a coroutine function"):
        Broker(authorizer=hook)


@pytest.mark.parametrize("answer", [None, 1, "yes"])
def test_an_answer_of_another_type_ends_the_connection_and_takes_over_no_session(start, wire, client, caplog, answer):
    answers = {"first": True, "second": answer}
    broker = start(authenticator=lambda peer, connect: answers[connect.username])
    first = client("a", broker, username="first", clean_session=False)
    wire(broker).send(Connect("a", username="second", clean_session=False)).rest()
    first.quiet()
    assert f"the authenticator returned {type(answer).__name__}; expected a bool, Accepted or Refused" in caplog.text


@pytest.mark.parametrize("hook", ["authorizer", "on_connected", "on_disconnected", "on_published", "on_packet"])
def test_a_coroutine_function_that_would_not_be_awaited_is_refused(hook):
    async def later(*arguments):
        raise AssertionError

    with pytest.raises(TypeError, match=f"{hook} is a coroutine function; only on_upgrade and authenticator are"):
        Broker(**{hook: later})
    with pytest.raises(TypeError, match=f"{hook} must be a function, not int"):
        Broker(**{hook: 5})


@pytest.mark.parametrize(
    "hook", ["on_upgrade", "authenticator", "authorizer", "on_connected", "on_disconnected", "on_published"]
)
def test_a_generator_function_is_refused(hook):
    def generate(*arguments):
        yield True

    with pytest.raises(TypeError, match=f"{hook} is a generator function"):
        Broker(**{hook: generate})


def test_without_an_authorizer_everything_is_allowed():
    assert Hooks().authorize(Peer("ws", ("127.0.0.1", 1)), Access("publish", "a", 0, False)).allowed


def test_a_qos_2_message_that_a_hook_failed_on_is_routed_when_it_is_sent_again(start, client):
    """[MQTT-4.4.0-1], [MQTT-4.3.3-2]: the failed one was neither routed nor answered."""
    routed: list[bytes] = []
    failures = [OSError("the disk was full")]

    def note(peer, message):
        if failures:
            raise failures.pop()
        routed.append(message.payload)

    broker = start(on_published=note)
    peer = client("c", broker, clean_session=False)
    assert peer.send("34 06 00 01 74 00 01 41", "34 06 00 01 74 00 02 42").rest() == b""
    peer = client("c", broker, clean_session=False)
    assert peer.session_present
    peer.send("3c 06 00 01 74 00 01 41").expect("50 02 00 01")
    peer.send("3c 06 00 01 74 00 02 42").expect("50 02 00 02")
    peer.send("3c 06 00 01 74 00 01 41").expect("50 02 00 01")
    assert routed == [b"A", b"B"]


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_a_client_that_has_closed_while_a_hook_was_asked_takes_over_no_session(start, client, wire, scheme):
    asked: list[asyncio.Event] = []
    begun = threading.Event()

    async def slow_once(peer, connect):
        if connect.client_id == "c" and not asked:
            asked.append(asyncio.Event())
            begun.set()
            await asked[0].wait()
        return True

    broker = start(authenticator=slow_once)
    watcher = client("watcher", broker)
    watcher.subscribe(("will", 0))
    dead = wire(broker, scheme).send(Connect("c", will=Message("will", b"w")))
    assert begun.wait(PATIENCE)
    dead.close()
    alive = client("c", broker, will=Message("will", b"w"))
    broker._call(asked[0].set)
    alive.quiet()
    watcher.quiet()
    alive.quiet()
    assert [session.client_id for session in broker.sessions() if session.connected] == ["watcher", "c"]


@pytest.mark.parametrize("tls", [False, True])
def test_what_a_client_has_sent_before_the_connack_and_a_close_is_handled(start, client, wire, server_tls, tls):
    """§3.1.4: a client need not wait for the CONNACK. The hook answers after it has closed the connection."""
    asked: list[asyncio.Event] = []
    begun = threading.Event()

    async def slow_once(peer, connect):
        if connect.client_id == "device":
            asked.append(asyncio.Event())
            begun.set()
            await asked[0].wait()
        return True

    broker = start(authenticator=slow_once, mqtts_port=0, tls=server_tls)
    watcher = client("watcher", broker)
    watcher.subscribe(("#", 0))
    data = b"".join([Connect("device").encode(), Publish("t", b"x").encode(), b"\xe0\x00"])
    device = wire(broker, upgrade=False) if not tls else None
    if device is not None:
        device.send(data)
        assert begun.wait(PATIENCE)
        device.close()
    else:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        port = urlsplit(broker.url_of("mqtts")).port
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as plain, context.wrap_socket(plain) as secure:
            secure.sendall(data)
            assert begun.wait(PATIENCE)
    broker._call(asked[0].set)
    watcher.expect(Publish("t", b"x"))


def test_silent_connections_make_room_before_those_that_wait_for_a_hook(start, wire):
    """Here for the newcomers of an attacker: none of them sends a CONNECT."""
    asked: list[asyncio.Event] = []
    begun = threading.Event()

    async def slow(peer, connect):
        asked.append(asyncio.Event())
        begun.set()
        await asked[0].wait()
        return True

    broker = start(authenticator=slow, limits=Limits(max_connections=4))
    waiting = wire(broker).send(Connect("c"))
    assert begun.wait(PATIENCE)
    silent = [wire(broker) for _ in range(8)]
    for connection in silent[:5]:  # three have room beside the one that waits
        assert connection.rest() == b""
    broker._call(asked[0].set)
    assert waiting.receive() == ConnAck(0)


def test_a_rate_and_tls_lose_nothing_that_a_client_has_sent_before_its_end(start, client, server_tls):
    """[MQTT-3.1.2-10]: its DISCONNECT counts, too, so that its will is not published."""
    broker = start(mqtts_port=0, tls=server_tls, limits=Limits(publish_rate=50))
    watcher = client("watcher", broker)
    watcher.subscribe(("#", 0))
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = urlsplit(broker.url_of("mqtts")).port
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as plain, context.wrap_socket(plain) as secure:
        secure.sendall(Connect("c", will=Message("will", b"w")).encode())
        assert secure.recv(4) == ConnAck(0).encode()
        messages = [Publish("t", bytes(1_000)).encode() for _ in range(70)]
        secure.sendall(b"".join([*messages, b"\xe0\x00"]))
        with contextlib.suppress(OSError):
            secure.settimeout(0.01)
            secure.unwrap()  # sends the close_notify, and does not wait for that of the broker
    assert {message.topic for message in watcher.messages(70)} == {"t"}
    deadline = time.monotonic() + PATIENCE
    while len(broker.sessions()) > 1:
        assert time.monotonic() < deadline
    watcher.quiet()


@pytest.fixture
def slow(start):
    """Return a broker whose authenticator waits when it is asked about "slow"; and functions to await and end that."""
    asked: list[asyncio.Event] = []
    begun = threading.Semaphore(0)

    async def authenticator(peer, connect):
        if connect.client_id == "slow":
            asked.append(asyncio.Event())
            begun.release()
            await asked[-1].wait()
        return True

    def make(**options):
        broker = start(authenticator=authenticator, **options)
        return broker, lambda: begun.acquire(timeout=PATIENCE), lambda: broker._call(lambda: [e.set() for e in asked])

    return make


@pytest.mark.parametrize("half", [True, False])
def test_a_client_that_has_left_while_a_hook_is_asked_does_not_block_the_stop(slow, wire, half):
    broker, begun, _ = slow()
    peer = wire(broker).send(Connect("slow"), "c0 00")  # more than the CONNECT, which waits
    assert begun()
    peer.socket.shutdown(socket.SHUT_WR) if half else peer.reset()
    stopping = threading.Thread(target=broker.stop)
    stopping.start()
    stopping.join(PATIENCE)
    assert not stopping.is_alive()


def test_a_client_that_has_closed_its_half_while_a_hook_is_asked_gets_its_answers(slow, wire):
    broker, begun, answer = slow()
    peer = wire(broker).send(Connect("slow"), Publish("a", b"x", 1, packet_id=7))
    assert begun()
    peer.socket.shutdown(socket.SHUT_WR)
    answer()
    assert peer.rest() == bytes.fromhex("20 02 00 00 40 02 00 07")


def test_a_client_that_has_closed_its_half_takes_over_no_session_of_a_later_connection(slow, wire, client):
    broker, begun, answer = slow()
    peer = wire(broker).send(Connect("slow"), "c0 00")
    assert begun()
    peer.socket.shutdown(socket.SHUT_WR)
    later = wire(broker).send(Connect("slow"))
    assert begun()
    broker._call(lambda: None)
    answer()
    assert later.receive() == ConnAck(0)
    later.quiet()


def test_an_evicted_connection_is_not_accepted_when_its_hook_answers(slow, wire, caplog):
    broker, begun, answer = slow(limits=Limits(max_pending_per_address=2))
    waiting = []
    for _ in range(3):
        waiting.append(wire(broker).send(Connect("slow"), "c0 00"))
        assert begun()
    answer()
    assert waiting[0].rest() == b""
    assert waiting[1].rest()[:4] == ConnAck(0).encode()  # the third connection takes its session over
    assert waiting[2].receive() == ConnAck(0)
    waiting[2].quiet()
    assert "error in the broker" not in caplog.text


def test_messages_are_dropped_for_a_client_that_is_lost_and_still_has_messages_to_be_handled(start, client):
    broker = start(limits=Limits(publish_rate=1))
    watcher = client("watcher", broker)
    watcher.subscribe(("a", 0))
    peer = client("c", broker)
    peer.subscribe(("b", 0))
    peer.send(*[Publish("a", b"%d" % n) for n in range(5)])
    watcher.messages(1)
    link = next(link for link in broker._hub.admission.all if link._handler.peer.client_id == "c")
    peer.reset()
    deadline = time.monotonic() + PATIENCE
    while not link._lost:
        assert time.monotonic() < deadline
    assert broker.publish("b", b"x") == 0
    assert not broker._hub.turns.crowded  # nothing can be done for it before the rate allows that
    broker.stop()


@pytest.mark.parametrize("waits", [True, False])
def test_what_a_client_has_sent_before_its_close_frame_is_handled(slow, wire, client, waits):
    """§3.1.4, over a WebSocket: CONNECT, PUBLISH, DISCONNECT and a close frame in one piece."""
    broker, begun, answer = slow()
    watcher = client("watcher", broker)
    watcher.subscribe(("#", 0))
    data = b"".join([Connect("slow" if waits else "c").encode(), Publish("t", b"x").encode(), b"\xe0\x00"])
    device = wire(broker, "ws")
    device.socket.sendall(bytes((0x82, 0x80 | len(data))) + bytes(4) + data + bytes.fromhex("88 82 00 00 00 00 03 e8"))
    if waits:
        assert begun()
        answer()
    watcher.expect(Publish("t", b"x"))
    assert device.frame()[0] in (2, 8)


@pytest.mark.statement("MQTT-4.6.0-5")
@pytest.mark.parametrize("way", ["kicked", "denied", "kicked at each"])
def test_a_client_closed_by_its_own_message_keeps_the_order_of_its_messages(start, client, way):
    numbers = range(1, 401)

    def on_published(peer: Peer | None, message: Message) -> None:
        if way == "kicked at each" or (way == "kicked" and message.payload == b"1"):
            broker.disconnect("c")

    def authorize(peer: Peer, access: Access) -> Verdict:
        allowed = way != "denied" or access.action != "receive" or peer.client_id == "watcher"
        return Verdict(allowed, close=True)

    broker = start(on_published=on_published, authorizer=authorize)
    watcher = client("watcher", broker)
    watcher.subscribe(("a", 1), ("w", 1))
    peer = client("c", broker, will=Message("w", b"", 1))
    peer.subscribe(("a", 0))
    peer.send(*(Publish("a", b"%d" % number, 1, packet_id=number) for number in numbers))
    payloads = []
    while (message := watcher.receive()).topic != "w":
        payloads.append(int(message.payload))
        watcher.send(PubAck(message.packet_id))
    assert payloads == list(numbers[: len(payloads)])
    assert payloads
