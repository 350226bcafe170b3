"""The file of users."""

from __future__ import annotations

import hashlib
import hmac
import logging
import pickle

import pytest

import mqttws
from mqttws.broker import Users, hash_password

PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def hashed() -> str:
    return hash_password(PASSWORD)


def test_a_hash_is_scrypts_and_salted(hashed):
    assert hashed.startswith("scrypt$16384$8$1$")
    assert hash_password(PASSWORD) != hashed
    assert PASSWORD not in hashed


def test_passwords_are_checked(hashed):
    users = Users({"ann": hashed, "bob": hash_password(b"\xff\x00")})
    assert users.check("ann", PASSWORD.encode())
    assert not users.check("ann", b"wrong")
    assert not users.check("ann", b"")
    assert users.check("bob", b"\xff\x00")
    assert not users.check("nobody", PASSWORD.encode())


def test_a_file_is_read(tmp_path, hashed):
    path = tmp_path / "users"
    path.write_text(f"# who may come\n\nann:{hashed}\n  urn:thing:7:{hashed}  \n")
    users = Users.load(path)
    assert users.check("ann", PASSWORD.encode())
    assert users.check("urn:thing:7", PASSWORD.encode())
    assert repr(users) == "Users(2)"


@pytest.mark.parametrize("line", ["ann", ":x", "ann:{0}\nann:{0}"])
def test_a_line_that_cannot_be_read_is_named(tmp_path, hashed, line):
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
def test_a_hash_that_cannot_be_read_is_not_shown(text):
    with pytest.raises(ValueError, match="the hash of user 'ann' cannot be read") as caught:
        Users({"ann": text})
    assert "5ecre7" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_broker_lets_its_users_in_and_nobody_else(start, hashed, caplog):
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
        assert next(client.messages(timeout=10)).topic.startswith("$SYS/broker/")
    with mqttws.connect(start().url) as client, pytest.raises(mqttws.SubscribeRejected):
        client.subscribe("$SYS/#")


def test_hashes_do_not_show(hashed):
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
    for name, password, right in (("ann", PASSWORD, True), ("ann", "wrong", False), ("nobody", PASSWORD, False)):
        done.clear()
        assert users.check(name, password.encode()) is right
        assert done == ["scrypt 16384 8 1", "compared 32 32"]
