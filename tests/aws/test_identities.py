"""The identities of the local endpoint, created in code and read from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mqttws.testing import mint_authority
from pubsub.aws.local.authorizers import AuthorizerGrant, read_request
from pubsub.aws.local.identities import ALLOW_ALL, Identities
from pubsub.aws.local.keyring import Principal
from sigv4 import Credentials

POOL = "eu-west-1:11111111-2222-3333-4444-555555555555"
SECRET = "canary-secret-of-alice-0123456789"
FILE = f"""
region = "eu-west-1"
account_id = "210987654321"

[policies]
device = "device.json"
inline = '{json.dumps(ALLOW_ALL)}'
[policies.chat]
Version = "2012-10-17"
[[policies.chat.Statement]]
Effect = "Allow"
Action = "iot:*"
Resource = "*"

[users.alice]
access_key = "AKIDALICE"
secret_key = "{SECRET}"
policies = ["chat", "inline"]

[pools."{POOL}"]
guests = ["chat"]
users = ["inline"]
attached = ["device"]
logins."accounts.google.com" = {{"a-token" = "bob"}}

[things.bulb]
type = "lamp"
attributes = {{room = "kitchen"}}
certificate = "bulb.crt"
policies = ["device"]

[authorizers.demo]
token_key = "key"
tokens."t0k" = {{principal = "carol", policies = ["chat"]}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "device.json").write_text(json.dumps(ALLOW_ALL))
    mint_authority().issue(common_name="bulb", identity_for="client").write(tmp_path, "bulb")
    return tmp_path


def load(folder: Path, text: str, name: str = "identities.toml") -> Identities:
    (folder / name).write_text(text)
    return Identities.load(folder / name)


def names(policies: Any) -> list[str] | None:
    return None if policies is None else [policy.name for policy in policies]


def test_a_whole_file(folder: Path) -> None:
    identities = load(folder, FILE)
    assert (identities.region, identities.account_id) == ("eu-west-1", "210987654321")
    key = identities.ring.find("AKIDALICE")
    assert key is not None
    assert key.credentials == Credentials("AKIDALICE", SECRET)
    role, iot = identities.sides(key.principal)
    assert (names(role), names(iot)) == (["chat", "inline"], None)
    (pool,) = identities.pools
    assert pool.providers["accounts.google.com"]("a-token") == "bob"
    assert pool.providers["accounts.google.com"]("another") is None
    guest, user = Principal("g", "g", POOL), Principal("u", "u", POOL, ("accounts.google.com",))
    assert [names(side) for side in identities.sides(guest)] == [["chat"], None]
    assert [names(side) for side in identities.sides(user)] == [["inline"], ["device"]]
    identities.attach_policy("chat", "u")
    assert names(identities.sides(user).iot) == ["device", "chat"]
    identities.detach_policy("chat", "u")
    assert names(identities.sides(user).iot) == ["device"]
    (certificate,) = identities._certificates
    assert [names(side) for side in identities.sides(Principal(certificate))] == [None, ["device"]]
    thing = identities.thing("bulb", certificate)
    assert thing is not None
    assert (thing.type_name, thing.attributes, thing.attached) == ("lamp", {"room": "kitchen"}, True)
    assert identities.thing("bulb", "other") != thing
    assert identities.thing("other", certificate) is None
    authorizer = identities.authorizer("demo")
    assert authorizer is not None
    assert authorizer is identities.authorizer(None)
    grant = authorizer.answer(read_request("/mqtt?key=t0k", []))
    assert isinstance(grant, AuthorizerGrant)
    assert (grant.principal, names(grant.policies)) == ("carol", ["chat"])
    assert "refused the token" in str(authorizer.answer(read_request("/mqtt?key=no", [])))
    assert SECRET not in repr(identities) + repr(identities.__dict__)


def test_json_has_the_same_structure(folder: Path) -> None:
    document = {
        "policies": {"all": ALLOW_ALL},
        "users": {"a": {"access_key": "AK", "secret_key": "s", "policies": ["all"]}},
    }
    identities = load(folder, json.dumps(document), "identities.json")
    assert identities.region == "us-east-1"
    assert identities.ring.find("AK") is not None


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("[users.alice]", "[user.alice]", "user is unknown; expected one of region"),
        ("secret_key =", "secret =", "users.alice.secret is unknown"),
        (f'secret_key = "{SECRET}"', "", "users.alice.secret_key is missing; expected text"),
        (f'"{SECRET}"', f'"{SECRET}\\n"', "users.alice: secret_key: expected printable text"),
        (f'"{SECRET}"', f'["{SECRET}"]', "users.alice.secret_key is a list"),
        (f'"{SECRET}"', f'"{SECRET}', "TOMLDecodeError: a fault at line"),
        ('policies = ["chat", "inline"]', 'policies = "chat"', "users.alice.policies is a str"),
        ('policies = ["chat", "inline"]', 'policies = ["chatt"]', "there is no policy 'chatt'; there are chat, device"),
        ('{"a-token" = "bob"}', '{"a-token" = 1}', "a user is not a text"),
        ('certificate = "bulb.crt"', "", "things.bulb.policies cannot be attached"),
        ('Effect = "Allow"', 'Effect = "Perhaps"', "Effect is 'Perhaps'"),
        ('principal = "carol"', 'who = "carol"', "authorizers.demo.tokens.<token>.who is unknown"),
    ],
)  # fmt: skip
def test_errors_name_the_place_and_not_the_value(folder: Path, before: str, after: str, said: str) -> None:
    text = FILE.replace('{"a-token" = "bob"}', '{"a-token" = "bob"}')
    assert before in text
    with pytest.raises(ValueError) as caught:
        load(folder, text.replace(before, after, 1))
    assert said in str(caught.value)
    for secret in (SECRET, "t0k", "a-token"):
        assert secret not in str(caught.value)


def test_invalid_files_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="expected an object"):
        load(folder, "[]", "identities.json")
    with pytest.raises(ValueError, match="at line 1, column"):
        load(folder, "{", "identities.json")
    with pytest.raises(FileNotFoundError):
        Identities.load(folder / "none.toml")
    (folder / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="it is not UTF-8"):
        Identities.load(folder / "binary.toml")


def test_things_and_authorizers_in_code() -> None:
    identities, credentials = Identities.for_one_user("eu-west-1")
    assert identities.ring.find(credentials.access_key) is not None
    with pytest.raises(ValueError, match="there is no thing 'bulb'"):
        identities.attach_thing("bulb", "p")
    with pytest.raises(ValueError, match="there is no policy 'x'"):
        identities.attach_policy("x", "p")
    assert identities.authorizer("x") is None
    assert identities.sides(Principal("p", "p", "no such pool")) == ((), None)
    assert identities.certificate_principal(b"unknown") is None
