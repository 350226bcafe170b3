"""The users file: hashes, parsing, authentication, and the queue of password checks."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import threading

import pytest
from wire import PATIENCE

import mqttws
from mqttws import Connect
from mqttws.broker import Users, hash_password
from mqttws.broker.hashing import Hashing

PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def hashed() -> str:
    return hash_password(PASSWORD)


def test_a_hash_uses_scrypt_and_a_salt(hashed):
    assert hashed.startswith("scrypt$16384$8$1$")
    assert hash_password(PASSWORD) != hashed
    assert PASSWORD not in hashed


def test_passwords_are_checked(hashed):
    users = Users({"ann": hashed, "bob": hash_password(b"\xff\x00")})
    assert users.check("ann", PASSWORD.encode())
    assert not users.check("ann", b"wrong")
    assert not users.check("ann", b"")
    assert users.check("bob", b"\xff\x00")
    assert not users.check("unknown", PASSWORD.encode())


def test_a_users_file_is_read(tmp_path, hashed):
    path = tmp_path / "users"
    path.write_text(f"# who may come\n\nann:{hashed}\n  urn:thing:7:{hashed}  \n")
    users = Users.load(path)
    assert users.check("ann", PASSWORD.encode())
    assert users.check("urn:thing:7", PASSWORD.encode())
    assert repr(users) == "Users(2)"


def test_a_users_file_may_have_a_byte_order_mark(tmp_path, hashed):
    path = tmp_path / "users"
    path.write_text(f"ann:{hashed}\n", encoding="utf-8-sig")
    assert Users.load(path).check("ann", PASSWORD.encode())


def test_a_file_that_is_not_utf_8_is_named(tmp_path):
    path = tmp_path / "users"
    path.write_bytes(b"ann:\xff\n")
    with pytest.raises(ValueError, match=r"users: it is not UTF-8 at byte 4$"):
        Users.load(path)


@pytest.mark.parametrize("line", ["ann", ":x", "ann:{0}\nann:{0}"])
def test_an_invalid_line_is_named(tmp_path, hashed, line):
    path = tmp_path / "users"
    path.write_text("# a comment\n" + line.format(hashed))
    with pytest.raises(ValueError, match=r"users, line [23]: expected name:scrypt.*, each name once"):
        Users.load(path)


@pytest.mark.parametrize(
    "text",
    [
        "5ecre7",
        "md5$16384$8$1$c2FsdA==$5ecre7==",
        "scrypt$16385$8$1$c2FsdA==$c2FsdA==",
        "scrypt$1$8$1$c2FsdA==$c2FsdA==",
        "scrypt$16384$0$1$c2FsdA==$c2FsdA==",
        "scrypt$16384$8$1$c2FsdA==$",
        "scrypt$16384$8$1$5ecre7$c2FsdA==",
        "scrypt$x$8$1$c2FsdA==$c2FsdA==",
        "scrypt$1073741824$8$1$c2FsdA==$c2FsdA==",
    ],
)
def test_an_invalid_hash_is_not_shown(text):
    with pytest.raises(ValueError, match="the hash of user 'ann' cannot be read") as caught:
        Users({"ann": text})
    assert "5ecre7" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_only_users_of_the_file_are_accepted(start, hashed, caplog):
    caplog.set_level(logging.DEBUG)
    broker = start(authenticator=Users({"ann": hashed}))
    with mqttws.connect(broker.url, username="ann", password=PASSWORD) as client:
        client.publish("a", b"", 1)
    for username, password, code in [("ann", "wr0ng", 4), ("bob", PASSWORD, 4), (None, None, 5), ("ann", None, 5)]:
        with pytest.raises(mqttws.ConnectionRefused) as caught:
            mqttws.connect(broker.url, username=username, password=password)
        assert caught.value.return_code == code
    assert PASSWORD not in caplog.text
    assert "wr0ng" not in caplog.text


def test_users_may_read_sys_and_others_may_not(start, hashed):
    with mqttws.connect(start(authenticator=Users({"ann": hashed})).url, username="ann", password=PASSWORD) as client:
        assert client.subscribe("$SYS/#") == 0
        assert next(client.messages(timeout=30)).topic.startswith("$SYS/broker/")
    with mqttws.connect(start().url) as client, pytest.raises(mqttws.SubscribeRejected):
        client.subscribe("$SYS/#")


def test_hashes_are_not_in_the_repr(hashed):
    users = Users({"ann": hashed})
    digest = hashed.rpartition("$")[2]
    assert digest not in repr(users) + repr(vars(users))
    assert PASSWORD.encode() not in pickle.dumps(users)


def test_every_answer_costs_one_hash_and_one_comparison_in_constant_time(hashed, monkeypatch):
    users = Users({"ann": hashed})
    done: list[str] = []
    scrypt, compare_digest = hashlib.scrypt, hmac.compare_digest

    def hash_it(*arguments, **costs):
        done.append(f"scrypt {costs['n']} {costs['r']} {costs['p']}")
        return scrypt(*arguments, **costs)

    def compare(one, other):
        done.append(f"compared {len(one)} {len(other)}")
        return compare_digest(one, other)

    monkeypatch.setattr(hashlib, "scrypt", hash_it)
    monkeypatch.setattr(hmac, "compare_digest", compare)
    for name, password, right in (("ann", PASSWORD, True), ("ann", "wrong", False), ("unknown", PASSWORD, False)):
        done.clear()
        assert users.check(name, password.encode()) is right
        assert done == ["scrypt 16384 8 1", "compared 32 32"]


class NotedUsers(Users):
    """Users that record the checked passwords."""

    def __init__(self, hashes: dict[str, str]) -> None:
        self.checked: list[bytes] = []
        super().__init__(hashes)

    def check(self, username: str, password: bytes) -> bool:
        self.checked.append(password)
        return super().check(username, password)


def test_a_right_password_is_accepted_among_three_hundred_wrong_ones(start, wire, client):
    """All come from one address."""
    users = NotedUsers({"ann": hash_password("right"), "bob": hash_password("other")})
    broker = start(authenticator=users)
    wrong = [wire(broker) for _ in range(300)]
    for number, each in enumerate(wrong):
        name = ("ann", "bob", f"unknown {number}")[number % 3]
        each.send(Connect(f"w{number}", username=name, password=b"wrong %d" % number))
    before = len(users.checked)
    client("c", broker, username="ann", password=b"right").quiet()
    assert users.checked.index(b"right") - before < 20
    client("d", broker, username="ann", password=b"right").quiet()  # its password is cached by now
    assert users.checked.count(b"right") == 1
    assert {each.rest() for each in wrong} <= {bytes.fromhex(f"20 02 00 0{code}") for code in (3, 4)} | {b""}


def test_concurrent_checks_of_one_password_run_once():
    checked = []
    entered, go_on = threading.Event(), threading.Event()

    def check(username, password):
        checked.append((username, password))
        entered.set()
        assert go_on.wait(PATIENCE)
        return password == b"right"

    async def run():
        hashing = Hashing(check, threads=1)
        many = [asyncio.create_task(hashing.check("a", "ann", b"wrong")) for _ in range(50)]
        await asyncio.to_thread(entered.wait, PATIENCE)
        gone = asyncio.create_task(hashing.check("a", "ann", b"right"))
        stays = asyncio.create_task(hashing.check("b", "ann", b"right"))
        await asyncio.sleep(0)
        gone.cancel()  # as if its connection has ended
        go_on.set()
        assert await asyncio.gather(*many) == [False] * 50
        assert await stays is True
        assert await hashing.check("c", "ann", b"wrong") is False

    asyncio.run(run())
    assert checked == [("ann", b"wrong"), ("ann", b"right")]


def test_addresses_take_turns_the_newest_first_and_few_may_wait(monkeypatch):
    monkeypatch.setattr("mqttws.broker.hashing._PAUSE", 0.0)
    order = []
    entered, go_on = threading.Event(), threading.Event()

    def check(username, password):
        entered.set()
        assert go_on.wait(PATIENCE)
        order.append(username)
        return True

    async def run():
        hashing = Hashing(check, threads=1)
        asked = [asyncio.create_task(hashing.check("x", "first", b""))]
        await asyncio.to_thread(entered.wait, PATIENCE)
        asked += [asyncio.create_task(hashing.check("greedy", f"g{number}", b"")) for number in range(20)]
        asked += [asyncio.create_task(hashing.check("poor", f"p{number}", b"")) for number in range(2)]
        await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(*asked)

    answers = asyncio.run(run())
    assert order[:6] == ["first", "g19", "p1", "g18", "p0", "g17"]
    assert answers == [True] + [None] * 4 + [True] * 18


def test_a_failing_check_is_raised_and_stops_nothing():
    def check(username, password):
        if username == "bad":
            raise MemoryError("planted")
        return True

    async def run():
        hashing = Hashing(check, threads=1)
        with pytest.raises(MemoryError):
            await hashing.check("a", "bad", b"")
        assert await hashing.check("a", "good", b"")

    asyncio.run(run())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_passwords_are_checked_in_a_forked_child(hashed):
    """The thread of the parent that waits for passwords does not exist there."""
    script = """
        import os, sys, warnings
        import mqttws
        from mqttws.broker import Broker, Users

        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads
        users = Users({"ann": sys.argv[1], "bob": sys.argv[1]})

        def log_in(broker, username):
            with mqttws.connect(broker.url, username=username, password=sys.argv[2]) as client:
                print(username, client.state.name, flush=True)

        with Broker(authenticator=users) as broker:
            log_in(broker, "ann")
            if not (pid := os.fork()):
                try:
                    with Broker(authenticator=users) as other:
                        log_in(other, "bob")
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)
            log_in(broker, "bob")
    """
    command = [sys.executable, "-c", textwrap.dedent(script), hashed, PASSWORD]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["ann", "connected"],
        ["bob", "connected"],
        ["bob", "connected"],
    ]
