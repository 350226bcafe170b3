"""Options: types and ranges are checked when the client is created; errors name the option."""

from __future__ import annotations

import copy
import functools
import math
import pickle
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drivers import PATIENCE
from scripted import Scripted, connected

import mqttws
from mqttws import Connect, ConnectError, Message, MQTTError, Publish, Reconnect, State, TimedOut
from mqttws.client.option_types import ClientOptions
from mqttws.client.options import Options

Make = Callable[..., Any]
NOWHERE = "mqtt://127.0.0.1:1"


async def later(error: Exception) -> bool:
    """Return what no client waits for."""
    return False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("client_id", 5),
        ("client_id", b"c"),
        ("keep_alive", "60"),
        ("keep_alive", True),
        ("clean_session", "no"),
        ("will", "gone"),
        ("will", ()),
        ("will", ("a", b"x", 0, False, 1)),
        ("username", 7),
        ("password", 7),
        ("tls", False),
        ("tls", "context"),
        ("headers", "Authorization: x"),
        ("headers", ["ab"]),
        ("headers", [("a", 1)]),
        ("headers", {"a": b"x"}),
        ("headers", 7),
        ("reconnect", 5),
        ("retry_first", 1),
        ("end_on", "CertificateError"),
        ("end_on", [5]),
        ("timeout", "5"),
        ("on_message", "print"),
        ("max_queued", 1.5),
        ("store", "file.db"),
        ("proxy", 8080),
        ("recover", later),
        ("end_on", later),
        ("end_on", functools.partial(later)),
    ],
)
def test_an_option_of_the_wrong_type_is_refused_by_name(make: Make, name: str, value: object) -> None:
    with pytest.raises(TypeError, match=name):
        make(NOWHERE, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_in_flight", 0),
        ("max_queued_bytes", 0),
        ("max_packet_size", 0),
        ("timeout", 0),
        ("overflow", "drop"),
        ("oversize", "keep"),
        ("username", b"\xff"),
        ("password", "\ud800"),
        ("client_id", "\ud800"),
        ("bind_address", "\ud800"),
        ("bind_address", "127.0.0.1\0"),
        ("unix_socket", "\ud800"),
        ("unix_socket", "a\0b"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(make: Make, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name.replace("client_id", "client identifier")):
        make(NOWHERE, **{name: value})


def test_a_path_of_a_unix_socket_may_have_bytes_that_are_not_utf_8(make: Make) -> None:
    assert make(NOWHERE, unix_socket="a\udcff").client_id
    assert make(NOWHERE, unix_socket="\0abstract").client_id


def test_contradictory_options_are_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="retry_first"):
        make(NOWHERE, retry_first=True, reconnect=False)


def test_errors_of_options_contain_no_secret(make: Make) -> None:
    for options in ({"password": ["secret"]}, {"headers": [("Authorization", b"secret")]}, {"username": ["secret"]}):
        with pytest.raises(TypeError) as caught:
            make(NOWHERE, **options)
        assert "secret" not in str(caught.value)


def test_equivalent_forms_of_an_option(make: Make, tcp_server: Scripted) -> None:
    client = make(tcp_server.url, client_id="c", will=("w", "gone", 1, True), username=b"ada", password=b"\xff")
    opening = tcp_server.soon(client.open)
    end = tcp_server.accept()
    assert end.receive() == Connect("c", will=Message("w", b"gone", 1, True), username="ada", password=b"\xff")
    end.send("20 02 00 00")
    opening.result(PATIENCE)


PLAIN = ["mqtt://127.0.0.1:1", "ws://127.0.0.1:1", ["mqtt://127.0.0.1:1", "ws://127.0.0.1:1"]]
WITHOUT_UPGRADE = ["mqtt://127.0.0.1:1", "mqtts://127.0.0.1:1", ["mqtt://127.0.0.1:1", "mqtts://127.0.0.1:1"]]
UNUSED = [
    *((url, {"tls": tls}) for url in PLAIN for tls in (True, ssl.create_default_context())),
    *((url, {"headers": headers}) for url in WITHOUT_UPGRADE for headers in ({"A": "b"}, [("A", "b")])),
    ("mqtt://127.0.0.1:1", {"tls": True, "unix_socket": "socket"}),
]


@pytest.mark.parametrize(("url", "options"), UNUSED)
def test_tls_and_headers_that_no_url_uses_are_refused(make: Make, url: Any, options: Any) -> None:
    """A password must not be sent in plain text where TLS was requested."""
    with pytest.raises(ValueError, match=r"given, but needs? a URL that begins with "):
        make(url, username="u", password="p", **options)
    make([*([url] if isinstance(url, str) else url), "wss://127.0.0.1:1"], **options)
    make(url, tls=None, headers={})


@pytest.mark.parametrize("options", [{"tls": True}, {"headers": {"A": "b"}}])
@pytest.mark.parametrize("bad", [[], ["nonsense"]])
def test_a_callable_without_a_url_that_uses_them_fails(
    make: Make, tcp_server: Scripted, options: Any, bad: list[str]
) -> None:
    with pytest.raises(ConnectError, match=r"given, but needs? a URL that begins with "):
        make(lambda: [*bad, tcp_server.url], username="u", password="p", **options).open()
    tcp_server._listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        tcp_server._listener.accept()
    tcp_server._listener.settimeout(PATIENCE)
    opening = tcp_server.soon(make(lambda: [tcp_server.url, "wss://127.0.0.1:1"], **options).open)
    tcp_server.accept().welcome()
    opening.result(PATIENCE)


@pytest.mark.parametrize("fresh", [False, True], ids=["a str", "a callable"])
@pytest.mark.parametrize(
    ("user", "options", "sent"),
    [
        ("alice", {"password": "p"}, ("alice", b"p")),
        ("x:p", {"username": "alice"}, ("alice", b"p")),
        ("x:y", {"username": "alice", "password": "p"}, ("alice", b"p")),
        (":p", {}, ("", b"p")),
        ("alice:p", {}, ("alice", b"p")),
    ],
)
def test_the_url_has_the_user_name_and_the_password_that_the_options_do_not_have(
    make: Make, tcp_server: Scripted, fresh: bool, user: str, options: Any, sent: tuple[str, bytes]
) -> None:
    url = tcp_server.url.replace("mqtt://", f"mqtt://{user}@")
    opening = tcp_server.soon(make((lambda: url) if fresh else url, client_id="c", **options).open)
    end = tcp_server.accept()
    assert end.receive() == Connect("c", username=sent[0], password=sent[1])
    end.send("20 02 00 00")
    opening.result(PATIENCE)


def test_a_password_needs_a_user_name_with_every_url(make: Make) -> None:
    for url in (NOWHERE, [NOWHERE.replace("mqtt://", "mqtt://alice@"), NOWHERE]):
        with pytest.raises(mqttws.LocalProtocolError, match="password"):
            make(url, password="p")
    with pytest.raises(ConnectError, match="password"):
        make(lambda: NOWHERE, password="p").open()
    mqttws.check_options(password="p")


def test_a_percent_encoded_byte_of_the_url_is_that_byte(make: Make, tcp_server: Scripted) -> None:
    client = make(tcp_server.url.replace("mqtt://", "mqtt://%C3%A4:%ff%00@"), client_id="c")
    opening = tcp_server.soon(client.open)
    end = tcp_server.accept()
    assert end.receive() == Connect("c", username="ä", password=b"\xff\x00")
    end.send("20 02 00 00")
    opening.result(PATIENCE)
    with pytest.raises(ValueError, match="user name"):
        make("mqtt://%ff@127.0.0.1")


def test_headers_as_a_mapping(make: Make) -> None:
    with Scripted("ws") as server:
        client = make(server.url, headers={"Authorization": "Bearer t", "id": "7"})
        opening = server.soon(client.open)
        head = server.accept().welcome().head
        opening.result(PATIENCE)
        assert b"\r\nAuthorization: Bearer t\r\n" in head
        assert b"\r\nid: 7\r\n" in head + b"\r\n"
        client.close(timeout=0.0)


@pytest.mark.parametrize("headers", [{"a": "\ud800secret"}, {"a": "secret\r\nb: c"}, {"\u00e9": "secret"}])
def test_an_invalid_header_is_refused(make: Make, headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="headers") as caught:
        make(NOWHERE, headers=headers)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", "a b", "a:", "a(b)", "Host", "upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Extensions"]
)
def test_a_header_name_that_is_no_token_or_belongs_to_the_handshake(make: Make, name: str) -> None:
    with pytest.raises(ValueError, match="headers: ") as caught:
        make(NOWHERE, headers={name: "secret"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("topic_filters", [{"topics": ["a"]}, b"a", 5, None, ("a", 1), [["a"]], [("a", 1, 2)], [None]])
def test_topic_filters_of_the_wrong_type_are_refused(make: Make, topic_filters: Any) -> None:
    client = make(NOWHERE)
    with pytest.raises(TypeError, match="Topic Filter"):
        client.subscribe_nowait(topic_filters)
    assert not client.session.subscriptions


def test_timeouts_are_both_mqtt_and_builtin_errors(make: Make, tcp_server: Scripted) -> None:
    client = make(tcp_server.url, client_id="c")
    with pytest.raises(TimedOut) as caught:
        client.open(timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, MQTTError)
    for kind in (mqttws.ConnectTimeout, mqttws.KeepAliveTimeout):
        assert issubclass(kind, TimeoutError)
        assert str(kind("it took too long")) == "it took too long"


def test_lone_surrogates_are_a_value_error(make: Make) -> None:
    client = make(NOWHERE)
    for arguments in (("\ud800", b"x"), ("a", "\ud800"), ("a", "x\udfff", 1)):
        with pytest.raises(ValueError, match="surrogate"):
            client.publish_nowait(*arguments)
    with pytest.raises(ValueError, match="surrogate"):
        client.subscribe_nowait("\udc80")


def test_the_typed_options_are_the_options() -> None:
    assert set(ClientOptions.__annotations__) == set(Options.__annotations__)


@pytest.mark.parametrize("name", ["ping_timeout", "ack_timeout", "connect_timeout", "answer_timeout", "expire_after"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_times_are_above_0(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be above 0"):
        Options(**{name: value})  # type: ignore[misc]


def test_an_unknown_option_is_named() -> None:
    """The error suggests the right spelling, for every function that takes options, and does not contain the value."""
    message = "connect and Client have no option 'keepalive' (did you mean 'keep_alive'?), 'xyzzy'"
    for make in (mqttws.connect, mqttws.Client, mqttws.aio.connect, mqttws.aio.Client):
        with pytest.raises(TypeError) as caught:
            make(NOWHERE, keepalive=5, xyzzy="hunter2")  # type: ignore[call-arg]
        assert str(caught.value) == message
    with pytest.raises(TypeError, match=r"a pool has no option 'cleansession'.*'clean_session'"):
        mqttws.check_options("a pool has", cleansession=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"'siz'.*'size'"):
        mqttws.check_options("a pool has", ["size"], siz=3)  # type: ignore[call-arg]


def test_the_repr_of_options_contains_no_secret() -> None:
    assert "hunter2" not in repr(Options(username="u", password="hunter2", proxy="http://u:hunter2@h:1"))


@pytest.mark.parametrize("name", ["initial", "maximum", "attempts", "stable_after", "takeovers", "interval", "spread"])
@pytest.mark.parametrize("value", [math.nan, -1.0])
def test_a_policy_refuses_what_no_delay_can_be_made_of(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}(=| is | ){value}"):
        Reconnect(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["initial", "interval", "spread"])
def test_a_policy_refuses_a_delay_without_end(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is inf; it must be 0 or more seconds, and finite"):
        Reconnect(**{"maximum": math.inf, name: math.inf})


def test_a_policy_and_a_state_are_values() -> None:
    policy = Reconnect(initial=2.0, attempts=3)
    assert policy == Reconnect(2.0, attempts=3)
    assert policy != Reconnect(2.0)
    assert hash(policy) == hash(Reconnect(2.0, attempts=3))
    assert repr(Reconnect()) == (
        "Reconnect(initial=1.0, maximum=60.0, attempts=None, stable_after=10.0, takeovers=5, interval=0.0, spread=0.0)"
    )
    assert policy.__replace__(spread=1.0) == Reconnect(2.0, attempts=3, spread=1.0)
    with pytest.raises(ValueError, match="spread is -1"):
        policy.__replace__(spread=-1)
    for copied in (copy.copy(policy), copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert copied == policy
    assert State("connected") == State("connected")
    assert State("connected") != State("disconnected")
    assert State("connected", endpoint="a:1") != State("connected", endpoint="b:1")
    assert State("connected", endpoint="a:1") == State("connected", endpoint="a:1")
    assert State("connected").__eq__(policy) is NotImplemented
    with pytest.raises(AttributeError):
        policy.initail = 5.0  # type: ignore[attr-defined]


def test_a_type_checker_finds_wrong_options(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import mqttws, mqttws.aio\n"
        "mqttws.connect('ws://h/', kep_alive=5)\n"
        "mqttws.Client('ws://h/', client_id=5)\n"
        "client = mqttws.Client('wss://h/', headers={'a': 'b'}, will=('a', b'x'), tls=True, end_on=ValueError)\n"
        "granted: int = client.subscribe('a')\n"
        "codes: tuple[int, ...] = client.subscribe(['a', ('b', 1)])\n"
        "wrong: str = client.subscribe('a')\n"
        "client.state.name == 'conected'\n"
        "mqttws.aio.Client('ws://h/', max_qued=1)\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--strict-equality", str(program)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    lines = sorted({int(line.split(":")[1]) for line in run.stdout.splitlines() if ": error:" in line})
    assert lines == [2, 3, 7, 8, 9], run.stdout


@pytest.mark.parametrize(("timeout", "kind"), [("5", TypeError), (True, TypeError), (math.nan, ValueError)])
@pytest.mark.parametrize(
    "call",
    [
        lambda client, timeout: client.open(timeout),
        lambda client, timeout: client.close(timeout),
        lambda client, timeout: client.flush(timeout),
        lambda client, timeout: client.publish("a", b"", 0, timeout=timeout),
        lambda client, timeout: client.publish("a", b"", 1, timeout=timeout),
        lambda client, timeout: client.subscribe("a", timeout=timeout),
        lambda client, timeout: client.unsubscribe("a", timeout=timeout),
        lambda client, timeout: next(iter(client.messages(timeout))),
    ],
    ids=["open", "close", "flush", "publish 0", "publish 1", "subscribe", "unsubscribe", "messages"],
)
def test_a_timeout_that_is_no_number_is_refused_and_nothing_begins(
    make: Make, server: Scripted, call: Callable[[Any, Any], object], timeout: object, kind: type[Exception]
) -> None:
    client, end = connected(make, server)
    with pytest.raises(kind, match="timeout"):
        call(client, timeout)
    client.publish_nowait("now", b"")  # the next packet
    end.expect(Publish("now", b""))
