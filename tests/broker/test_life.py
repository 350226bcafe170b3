"""The life cycle of a broker: starting and stopping, URLs, metrics, and released resources."""

from __future__ import annotations

import asyncio
import errno
import gc
import math
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import pytest
from drivers import wait_until
from wire import PATIENCE

import mqttws
from mqttws import ConnAck, Connect, LocalProtocolError, PubAck, Publish
from mqttws.broker import Broker
from mqttws.broker.link import Link


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_blocking_program_runs_it_in_a_separate_thread():
    threads, files = set(threading.enumerate()), descriptors()
    with Broker() as broker:
        assert broker.url == broker.urls[0]
        assert broker.url.startswith("ws://127.0.0.1:")
        assert broker.url.endswith("/mqtt")
        with mqttws.connect(broker.url) as client:
            client.publish("a", b"", 1)
    wait_until(lambda: set(threading.enumerate()) <= threads and descriptors() <= files)


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
@pytest.mark.parametrize("how", ["in order", "cut", "refused", "while a hook waits"])
def test_a_closed_connection_is_freed_without_the_garbage_collector(start, wire, scheme, how):
    """In a busy broker the garbage collector runs rarely, and would keep the connections of many minutes."""
    asked = threading.Event()

    async def decide(peer, connect):
        asked.set()
        await asyncio.sleep(0.1 if how == "while a hook waits" else 0)
        return how != "refused"

    broker = start(sys_interval=None, authenticator=decide)
    gc.disable()
    try:
        peer = wire(broker, scheme).send(Connect("c"))
        assert asked.wait(PATIENCE)
        (link,) = broker._hub.admission.all
        transport, identity = weakref.ref(link._transport), id(link)
        del link
        if how in ("in order", "cut"):
            assert peer.receive() == ConnAck(0)
        if how == "refused":
            peer.rest()
        peer.close() if how != "cut" else peer.reset()
        end = time.monotonic() + PATIENCE
        while transport() is not None and time.monotonic() < end:
            time.sleep(0.001)
        assert transport() is None
        # A task that waited for the hook ends within a few iterations of the event loop.
        while [one for one in gc.get_objects() if id(one) == identity and isinstance(one, Link)]:
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        gc.enable()


def test_an_asynchronous_program_runs_it_in_its_own_loop():
    async def main() -> None:
        before = asyncio.all_tasks()
        async with Broker() as broker:
            async with mqttws.aio.connect(broker.urls[1]) as client:
                await client.subscribe("a", 1)
                assert broker.publish("a", b"x", 1) == 1  # called in the loop itself
                async for message in client.messages(timeout=30):
                    assert message.payload == b"x"
                    break
            assert broker.metrics()["clients/maximum"] == 1
        assert asyncio.all_tasks() == before

    asyncio.run(main())


def test_it_can_be_stopped_and_started_at_the_same_ports():
    broker = Broker()
    broker.start()
    urls = broker.urls
    try:
        with pytest.raises(RuntimeError, match="already running"):
            broker.start()
        with mqttws.connect(broker.url):
            broker.stop()
        broker.stop()  # a second stop does nothing
        broker.start()
        assert broker.urls == urls
        mqttws.connect(broker.url).close()
    finally:
        broker.stop()


def test_another_broker_takes_over_its_port():
    for _ in range(5):
        with Broker() as broker:
            port = int(broker.url.split(":")[2].split("/")[0])
            client = mqttws.connect(broker.url, reconnect=False)
        with Broker(ws_port=port) as other:
            assert other.url == broker.url
            mqttws.connect(other.url).close()
        client.close()


def test_an_asynchronous_broker_can_start_again():
    async def main() -> None:
        broker = Broker()
        await broker.start_async()
        with pytest.raises(RuntimeError, match="already running"):
            await broker.start_async()
        await broker.stop_async()
        await broker.stop_async()
        await broker.start_async()
        await broker.stop_async()

    asyncio.run(main())


def test_a_port_in_use_is_an_error_and_leaks_nothing():
    threads = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        broker = Broker(tcp_port=taken.getsockname()[1])
        with pytest.raises(OSError, match="in use") as caught:
            broker.start()
        assert caught.value.errno == errno.EADDRINUSE
    assert set(threading.enumerate()) <= threads
    broker.start()  # the port is free now
    broker.stop()


def test_a_stopped_broker_leaves_no_thread_of_the_executor():
    threads = set(threading.enumerate())
    for _ in range(20):
        with Broker("localhost"):  # asyncio looks it up in a thread
            pass
        assert set(threading.enumerate()) <= threads


def test_without_a_listener_there_is_no_broker():
    with pytest.raises(ValueError, match="a broker needs a listener"):
        Broker(ws_port=None, tcp_port=None)


@pytest.mark.parametrize("port", [-1, 65_536])
def test_an_invalid_port_is_refused(port):
    with pytest.raises(ValueError, match=f"the port of the mqtt listener is {port}; it must be 0 to 65,535"):
        Broker(tcp_port=port)


def test_an_empty_host_does_not_open_all_interfaces():
    with pytest.raises(ValueError, match="host is empty"):
        Broker("", tcp_port=1883)


def test_a_broker_needs_a_path():
    with pytest.raises(ValueError, match="paths is empty"):
        Broker(paths=())


@pytest.mark.parametrize(("name", "value"), [("paths", "/mqtt"), ("allowed_origins", "https://*.example")])
def test_a_str_is_not_taken_for_a_collection_of_characters(name, value):
    with pytest.raises(TypeError, match=f"{name} is the str "):
        Broker(**{name: value})


@pytest.mark.parametrize(
    "origin",
    [
        *("nonsense", "", "app.example", "https://", "https://app.example/", "https://app.example/page", "https:///"),
        *("https://App.example", "HTTPS://app.example", "https://*.example", "https://b\u00fccher.example", "file:"),
        *("https://app.example:443", "http://app.example:80", "https://app.example:", "https://app.example:0443"),
        *("https://user@app.example", "https://app.example?x", "https://a.example https://b.example", "https://::1"),
        *("wss://app.example", "ws://app.example", "https://app.example\n", "NULL"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin):
    with pytest.raises(ValueError, match="would match no page: write scheme://host"):
        Broker(allowed_origins=["https://app.example", origin])


def test_an_origin_that_is_no_str_is_refused():
    with pytest.raises(TypeError, match="an entry of allowed_origins is bytes; it must be str"):
        Broker(allowed_origins=[b"https://app.example"])


def test_origins_that_browsers_send_are_accepted():
    origins = ["*", "null", "https://app.example", "http://localhost:3000", "http://[::1]:8080", "http://192.0.2.1"]
    origins += ["https://app.example:80", "http://a_b.example", "https://xn--bcher-kva.example"]
    origins += ["chrome-extension://abcdef", "capacitor://localhost", "file://", "safari-web-extension://0A5B-C"]
    Broker(allowed_origins=origins)


@pytest.mark.parametrize("path", ["mqtt", "", 5])
def test_a_path_that_no_request_has_is_refused(path):
    with pytest.raises(ValueError, match=f"the path {path!r} does not begin with '/'"):
        Broker(paths=["/", path])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", 5),
        ("ws_port", "8083"),
        ("tls", "cert.pem"),
        ("limits", {"max_queued": 5}),
        ("departures", 5),
        ("store", "x"),
    ],
)
def test_an_argument_of_the_wrong_type_is_refused_by_name(name, value):
    with pytest.raises(TypeError, match=f"{name} must be .*, not {type(value).__name__}"):
        Broker(**{name: value})


@pytest.mark.parametrize("stop", [True, False])
def test_a_broker_whose_event_loop_has_ended_says_so_and_can_be_started_again(caplog, stop):
    broker = Broker()
    broker.start()
    thread = broker._thread
    broker._hub.loop.call_soon_threadsafe(sys.exit, 3)
    thread.join(10)
    assert not thread.is_alive()
    assert "the broker has stopped: its event loop has ended" in caplog.text
    with pytest.raises(RuntimeError, match="not running; start it first"):
        broker.publish("a")
    if stop:
        broker.stop()
    with broker, mqttws.connect(broker.url) as client:
        client.publish("a", b"", 1)


def printed(script: str) -> list[str]:
    """Run a program. Return the lines that it prints."""
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_an_exception_of_a_signal_handler_anywhere_in_a_call_does_not_block_the_event_loop():
    broker = Broker()
    broker.start()
    loop, complete, at = broker._hub.loop, False, 0

    def interrupt(frame, event, arg):
        nonlocal events
        events += 1
        if event == "c_call" and arg.__name__ == "get":  # the outcome is waited for
            waited.set()
        if events == at and not complete:
            sys.setprofile(None)
            raise KeyboardInterrupt

    while not complete:
        at, events, waited, answered = at + 1, 0, threading.Event(), threading.Event()
        loop.call_soon_threadsafe(waited.wait, PATIENCE)  # so that the call is not made before
        try:
            sys.setprofile(interrupt)
            broker.publish("a")
            complete = True
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        waited.set()
        loop.call_soon_threadsafe(answered.set)
        assert answered.wait(PATIENCE), f"the event loop is blocked after an exception at event {at}"
    assert at > 20
    broker.stop()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system cannot send a signal to a thread")
@pytest.mark.parametrize("moment", ["before the event loop", "before it listens", "after it listens"])
def test_ctrl_c_during_the_start_stops_what_was_started(moment):
    lines = printed(
        f"""
        import asyncio, signal, threading
        from mqttws.broker import Broker

        def interrupt(now):
            if now == {moment!r} and not handled.is_set():
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                handled.wait()

        class Interrupted(Broker):
            async def _listen(self, hub, scheme):
                interrupt("before it listens")
                await super()._listen(hub, scheme)
                interrupt("after it listens")

        def run(*arguments):
            interrupt("before the event loop")
            return whole(*arguments)

        def handle(*arguments):
            handled.set()
            raise KeyboardInterrupt

        handled = threading.Event()
        signal.signal(signal.SIGINT, handle)
        whole, asyncio.new_event_loop = asyncio.new_event_loop, run
        broker = Interrupted()
        try:
            broker.start()
        except KeyboardInterrupt:
            print("interrupted", [each.name for each in threading.enumerate()])
        asyncio.new_event_loop = whole
        Interrupted._listen = Broker._listen
        with broker:
            print(broker.publish("a"))
        """
    )
    assert lines == ["interrupted ['MainThread']", "0"]


def test_a_broker_that_another_thread_stops_during_its_start_does_not_run_on():
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Broker):
        async def _listen(self, hub, scheme):
            begun.set()
            await asyncio.to_thread(go_on.wait, PATIENCE)
            await super()._listen(hub, scheme)

    def start():
        with pytest.raises(RuntimeError, match="the broker was stopped while it was being started"):
            broker.start()
        ended.append("start")

    def stop():
        broker.stop()
        ended.append("stop")

    broker, ended = Slow(ws_port=None), []
    threads = [threading.Thread(target=start), threading.Thread(target=stop)]
    threads[0].start()
    assert begun.wait(PATIENCE)
    background = broker._thread
    threads[1].start()
    wait_until(lambda: background._stopping)
    go_on.set()
    for thread in (*threads, background):
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert sorted(ended) == ["start", "stop"]
    with pytest.raises(RuntimeError, match="not running"):
        broker.publish("a")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_keeps_no_socket_even_if_its_parent_has_no_free_descriptor():
    lines = printed(
        """
        import os, resource, socket, stat, warnings
        from mqttws.broker import Broker

        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads

        def listeners():
            found = 0
            for descriptor in range(64):
                try:
                    is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
                except OSError:
                    continue
                if is_socket:
                    one = socket.socket(fileno=descriptor)
                    found += one.family == socket.AF_INET
                    one.detach()
            return found

        with Broker() as broker:
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            filling = []
            try:
                while True:
                    filling.append(os.dup(0))
            except OSError:
                pass
            print(listeners(), flush=True)
            if not (pid := os.fork()):
                print(listeners(), flush=True)
                os._exit(0)
            os.waitpid(pid, 0)
            print(listeners())
            for each in filling:
                os.close(each)
        """
    )
    assert lines == ["2", "0", "2"]


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan])
def test_an_invalid_sys_interval_is_refused(seconds):
    with pytest.raises(ValueError, match=f"sys_interval is {seconds}; it must be above 0 seconds, or None"):
        Broker(sys_interval=seconds)


def test_it_has_the_configured_listeners():
    with Broker(ws_port=None) as broker:
        assert [url.partition(":")[0] for url in broker.urls] == ["mqtt"]
        assert broker.url == broker.url_of("mqtt")
        with pytest.raises(KeyError, match="there is no ws listener; there are mqtt"):
            broker.url_of("ws")


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_it_listens_over_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")
    with Broker(host="::1") as broker:
        assert broker.url.startswith("ws://[::1]:")
        mqttws.connect(broker.url).close()


def test_it_listens_by_name():
    with Broker(host="localhost") as broker:
        mqttws.connect(broker.url).close()


@pytest.mark.parametrize("verb", [lambda b: b.publish("a"), lambda b: b.metrics(), lambda b: b.disconnect("c")])
def test_methods_that_need_a_running_broker_raise(verb):
    broker = Broker()
    with pytest.raises(RuntimeError, match="the broker is not running; start it first"):
        verb(broker)


def test_publishing_from_many_threads(broker, client):
    peer = client("c")
    peer.subscribe(("a/#", 1))
    threads = [
        threading.Thread(target=lambda n=number: [broker.publish(f"a/{n}", b"x") for _ in range(100)])
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    assert len(peer.messages(800)) == 800
    for thread in threads:
        thread.join()


def test_arguments_of_publish_are_checked(broker):
    for topic, qos in (("a/#", 0), ("", 0), ("a", 3)):
        with pytest.raises(LocalProtocolError):
            broker.publish(topic, b"", qos)
    with pytest.raises(TypeError):
        broker.publish("a", 5)
    assert broker.publish("unsubscribed") == 0
    assert broker.publish("kept", "text", retain=True) == 0


def test_a_client_can_be_disconnected(broker, client):
    peer = client("c", clean_session=False)
    assert broker.disconnect("c")
    assert peer.rest() == b""
    assert not broker.disconnect("c")
    assert not broker.disconnect("unknown")


def test_metrics_count_clients_and_messages(broker, client):
    peer = client("c", clean_session=False)
    peer.subscribe(("a", 1), ("b/#", 0))
    peer.send(Publish("a", b"x", 1, True, packet_id=1))
    assert {type(peer.receive()) for _ in range(2)} == {PubAck, Publish}
    figures = broker.metrics()
    expected = {
        "clients/connected": 1,
        "clients/disconnected": 0,
        "clients/total": 1,
        "clients/maximum": 1,
        "connections/accepted": 1,
        "connections/refused": 0,
        "publish/messages/received": 1,
        "publish/messages/sent": 1,
        "publish/messages/dropped": 0,
        "retained messages/count": 1,
        "retained messages/bytes": 2,
        "subscriptions/count": 2,
    }
    assert {name: figures[name] for name in expected} == expected
    assert figures["bytes/received"] > 0 < figures["bytes/sent"]
    peer.send("e0 00").rest()
    assert broker.metrics()["clients/disconnected"] == 1
    client("c", clean_session=True).send("e0 00").rest()
    assert broker.metrics()["subscriptions/count"] == broker.metrics()["clients/total"] == 0


def test_sys_delivers_current_metrics_and_then_changes(start, client):
    broker = start(sys_anonymous=True, sys_interval=0.05)
    peer = client("c", broker)
    peer.subscribe(("$SYS/broker/clients/total", 0), ("$SYS/broker/version", 0))
    first = {message.topic: message for message in peer.messages(2)}
    assert first["$SYS/broker/clients/total"].payload == b"1"
    assert first["$SYS/broker/version"].payload.startswith(b"mqttws")
    assert all(message.retain for message in first.values())
    client("d", broker)
    assert peer.messages(1) == [Publish("$SYS/broker/clients/total", b"2")]


def test_sys_requires_authorization_and_is_read_only(client):
    peer = client("c")
    assert peer.subscribe(("$SYS/#", 0), ("$SYS", 0), ("$SYSTEM", 0), ("#", 0)) == (0x80, 0x80, 0, 0)
    named = client("d", username="ann")
    assert named.subscribe(("$SYS/broker/version", 0)) == (0x80,)  # without an authenticator a user name proves nothing


def test_a_thousand_connections_leak_nothing(broker):
    files = descriptors()
    for number in range(1000):
        with mqttws.Client(broker.urls[number % 2], reconnect=False) as client:
            client.subscribe("a")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:  # the broker has not yet seen the end of the last one
        figures = broker.metrics()
        left = [figures[name] for name in ("clients/total", "clients/connected", "subscriptions/count")]
        if left == [0, 0, 0] and descriptors() <= files:
            return
    pytest.fail(f"clients, connected, subscriptions: {left}; descriptors: {files} before, {descriptors()} after")
