"""The local Cognito service: requests and answers, directly and over HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from typing import Any
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttws.testing import mint_authority
from pubsub.aws.local import cognito_server
from pubsub.aws.local.cognito import Answer, IdentityPool, LocalCognito
from pubsub.aws.local.cognito_server import LocalCognitoServer
from pubsub.aws.local.keyring import KeyRing, Principal
from sigv4 import Credentials

POOL, CLOSED = "eu-west-1:00000000-0000-0000-0000-000000000001", "eu-west-1:00000000-0000-0000-0000-000000000002"
NOW = 1_767_225_600.0  # 2026-01-01
GOOGLE, PHONE = "accounts.google.com", "phone.example.com"
USERS = {"alice-token": "alice", "alice-again": "alice", "bob-token": "bob"}


class Service:
    """The service, with short methods to call it."""

    def __init__(self, **options: Any) -> None:
        self.ring = KeyRing()
        providers = {GOOGLE: USERS.get, PHONE: {"+49": "alice's phone"}.get}
        pools = [
            IdentityPool(POOL, providers=providers, guest_role_arn="arn:guest", user_role_arn="arn:user"),
            IdentityPool(CLOSED, guests=False, providers=providers),
        ]
        self.cognito = LocalCognito(pools, self.ring, **options)

    def raw(self, name: str, body: bytes, now: float = NOW) -> Answer:
        headers = {
            "content-type": "application/x-amz-json-1.1",
            "x-amz-target": f"AWSCognitoIdentityService.{name}",
        }
        return self.cognito.answer(headers, body, now=now)

    def call(self, operation: str, /, now: float = NOW, **given: Any) -> dict[str, Any]:
        answer = self.raw(operation, json.dumps(given).encode(), now)
        made: dict[str, Any] = json.loads(answer.body)
        assert (answer.status == 200) == ("__type" not in made)
        assert answer.headers.get("x-amzn-ErrorType") == made.get("__type")
        return made

    def new_id(self, pool: str = POOL, **logins: str) -> str:
        given: dict[str, Any] = {"IdentityPoolId": pool}
        if logins:
            given["Logins"] = logins
        return str(self.call("GetId", **given)["IdentityId"])

    def principal(self, answer: dict[str, Any]) -> Principal:
        key = self.ring.find(answer["Credentials"]["AccessKeyId"])
        assert key is not None
        return key.principal


@pytest.fixture
def service() -> Service:
    return Service()


def login(token: str, provider: str = GOOGLE) -> dict[str, str]:
    return {provider: token}


def test_a_guest_gets_an_identity_and_keys(service: Service) -> None:
    identity = service.new_id()
    assert identity.startswith("eu-west-1:")
    answer = service.call("GetCredentialsForIdentity", IdentityId=identity)
    keys = answer["Credentials"]
    assert answer["IdentityId"] == identity
    assert keys["AccessKeyId"].startswith("ASIA")
    assert len(keys["AccessKeyId"]) == 20
    assert keys["Expiration"] == NOW + 3600
    key = service.ring.find(keys["AccessKeyId"])
    assert key is not None
    assert key.credentials.secret_key == keys["SecretKey"]
    assert key.credentials.token == keys["SessionToken"]
    assert key.principal == Principal(identity, identity, POOL, (), "arn:guest")
    assert key.principal.is_guest
    assert key.principal.authenticated_by == ("unauthenticated",)
    assert not key.expired(NOW + 3599)
    assert key.expired(NOW + 3600)


def test_each_guest_has_another_identity_and_key(service: Service) -> None:
    one, other = service.new_id(), service.new_id()
    assert one != other
    keys = [service.call("GetCredentialsForIdentity", IdentityId=one)["Credentials"] for _ in range(2)]
    for name in ("AccessKeyId", "SecretKey", "SessionToken"):
        assert keys[0][name] != keys[1][name]


def test_a_user_has_one_identity(service: Service) -> None:
    alice = service.new_id(**login("alice-token"))
    assert service.new_id(**login("alice-again")) == alice
    assert service.new_id(**login("bob-token")) != alice
    assert service.new_id(CLOSED, **login("alice-token")) != alice
    answer = service.call("GetCredentialsForIdentity", IdentityId=alice, Logins=login("alice-again"))
    principal = service.principal(answer)
    assert principal == Principal(alice, alice, POOL, (GOOGLE,), "arn:user")
    assert not principal.is_guest
    assert principal.authenticated_by == ("authenticated", GOOGLE)


def test_a_role_may_be_chosen(service: Service) -> None:
    alice = service.new_id(**login("alice-token"))
    answer = service.call(
        "GetCredentialsForIdentity", IdentityId=alice, Logins=login("alice-token"), CustomRoleArn="arn:other"
    )
    assert service.principal(answer).role_arn == "arn:other"


def test_a_guest_who_signs_in_keeps_the_identity(service: Service) -> None:
    guest = service.new_id()
    answer = service.call("GetCredentialsForIdentity", IdentityId=guest, Logins=login("alice-token"))
    assert answer["IdentityId"] == guest
    assert not service.principal(answer).is_guest
    assert service.new_id(**login("alice-token")) == guest


def test_a_guest_who_signs_in_as_a_known_user_gets_that_identity(service: Service) -> None:
    alice = service.new_id(**login("alice-token"))
    answer = service.call("GetCredentialsForIdentity", IdentityId=service.new_id(), Logins=login("alice-token"))
    assert answer["IdentityId"] == alice


def test_a_second_login_is_joined_to_the_identity(service: Service) -> None:
    alice = service.new_id(**login("alice-token"))
    assert service.new_id(**login("alice-token"), **login("+49", PHONE)) == alice
    assert service.new_id(**login("+49", PHONE)) == alice
    answer = service.call("GetCredentialsForIdentity", IdentityId=alice, Logins=login("+49", PHONE))
    assert service.principal(answer).providers == (GOOGLE, PHONE)


def test_a_joined_login_stays_with_its_identity(service: Service) -> None:
    alice, phone = service.new_id(**login("alice-token")), service.new_id(**login("+49", PHONE))
    assert alice != phone
    assert service.new_id(**login("alice-token"), **login("+49", PHONE)) == alice
    assert service.new_id(**login("+49", PHONE)) == phone


@pytest.mark.parametrize(
    ("operation", "given_", "code", "message"),
    [
        ("GetId", {}, "InvalidParameterException", "IdentityPoolId is missing"),
        ("GetId", {"IdentityPoolId": 3}, "InvalidParameterException", "IdentityPoolId is not a text"),
        ("GetId", {"IdentityPoolId": ""}, "InvalidParameterException", "IdentityPoolId is empty"),
        ("GetId", {"IdentityPoolId": "eu:1"}, "ResourceNotFoundException", "IdentityPool 'eu:1' not found."),
        ("GetId", {"IdentityPoolId": CLOSED}, "NotAuthorizedException", "Unauthenticated access is not supported"),
        (
            "GetId",
            {"IdentityPoolId": POOL, "Logins": {"who.example": "x"}},
            "NotAuthorizedException",
            "not from a supported provider",
        ),
        (
            "GetId",
            {"IdentityPoolId": POOL, "Logins": login("forged")},
            "NotAuthorizedException",
            "Invalid login token.",
        ),
        ("GetId", {"IdentityPoolId": POOL, "Logins": ["x"]}, "InvalidParameterException", "Logins is not a map"),
        ("GetId", {"IdentityPoolId": POOL, "Logins": {"x": 1}}, "InvalidParameterException", "Logins is not a map"),
        ("GetCredentialsForIdentity", {}, "InvalidParameterException", "IdentityId is missing"),
        ("GetCredentialsForIdentity", {"IdentityId": "eu:1"}, "ResourceNotFoundException", "'eu:1' not found."),
        ("GetOpenIdToken", {"IdentityId": "eu:1"}, "ResourceNotFoundException", "'eu:1' not found."),
        ("DescribeIdentity", {}, "UnknownOperationException", ""),
    ],
)
def test_refusals(service: Service, operation: str, given_: dict[str, Any], code: str, message: str) -> None:
    answer = service.call(operation, **given_)
    assert answer["__type"] == code
    assert message in answer["message"]


def test_the_identity_of_a_user_requires_the_login(service: Service) -> None:
    alice = service.new_id(**login("alice-token"))
    for operation in ("GetCredentialsForIdentity", "GetOpenIdToken"):
        answer = service.call(operation, IdentityId=alice)
        assert (answer["__type"], answer["message"]) == (
            "NotAuthorizedException",
            f"Access to Identity '{alice}' is forbidden.",
        )
        answer = service.call(operation, IdentityId=alice, Logins=login("bob-token"))
        assert answer["__type"] == "NotAuthorizedException"
        assert "Logins don't match" in answer["message"]
        answer = service.call(operation, IdentityId=alice, Logins=login("forged"))
        assert answer["message"] == "Invalid login token."


def test_a_failing_provider_function_is_reported_without_the_token() -> None:
    def accept(token: str) -> str:
        raise RuntimeError(token)

    cognito = LocalCognito([IdentityPool(POOL, providers={GOOGLE: accept})], KeyRing())
    headers = {"x-amz-target": "AWSCognitoIdentityService.GetId"}
    body = json.dumps({"IdentityPoolId": POOL, "Logins": login("hunter2")}).encode()
    answer = cognito.answer(headers, body, now=NOW)
    assert b"raised RuntimeError" in answer.body
    assert b"hunter2" not in answer.body


def test_identities_are_bounded() -> None:
    service = Service(most=3)
    alice = service.new_id(**login("alice-token"))
    guests = [service.new_id() for _ in range(3)]
    gone = service.call("GetCredentialsForIdentity", IdentityId=alice, Logins=login("alice-token"))
    assert gone["__type"] == "ResourceNotFoundException"
    assert service.new_id(**login("alice-token")) != alice
    assert "Credentials" in service.call("GetCredentialsForIdentity", IdentityId=guests[-1])


def test_the_lifetime_of_keys_is_configurable() -> None:
    service = Service(life=90)
    answer = service.call("GetCredentialsForIdentity", IdentityId=service.new_id())
    assert answer["Credentials"]["Expiration"] == NOW + 90
    with pytest.raises(ValueError, match="at least 1 second"):
        Service(life=0)


# --- the basic flow ---


def sts(service: Service, now: float = NOW, **fields: str) -> tuple[int, ElementTree.Element]:
    headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    answer = service.cognito.answer(headers, urlencode(fields).encode(), now=now)
    assert answer.headers["Content-Type"] == "text/xml"
    return answer.status, ElementTree.fromstring(answer.body)


ASSUME = {"Action": "AssumeRoleWithWebIdentity", "RoleArn": "arn:mine", "RoleSessionName": "s"}


def test_the_basic_flow_gives_keys_of_the_role(service: Service) -> None:
    alice = service.new_id(**login("alice-token"))
    token = service.call("GetOpenIdToken", IdentityId=alice, Logins=login("alice-token"))["Token"]
    status, document = sts(service, **ASSUME, WebIdentityToken=token)
    assert status == 200
    key = service.ring.find(document.findtext(".//{*}AccessKeyId") or "")
    assert key is not None
    assert key.credentials.secret_key == document.findtext(".//{*}SecretAccessKey")
    assert key.credentials.token == document.findtext(".//{*}SessionToken")
    assert document.findtext(".//{*}Expiration") == "2026-01-01T01:00:00Z"
    assert key.principal == Principal(alice, alice, POOL, (GOOGLE,), "arn:mine")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"Action": "GetCallerIdentity"}, "InvalidAction"),
        ({}, "InvalidAction"),
        (ASSUME, "ValidationError"),
        ({**ASSUME, "WebIdentityToken": "forged<&>"}, "InvalidIdentityToken"),
    ],
)
def test_sts_refuses(service: Service, fields: dict[str, str], code: str) -> None:
    status, document = sts(service, **fields)
    assert (status, document.findtext(".//{*}Code")) == (400, code)


def test_a_token_of_cognito_expires(service: Service) -> None:
    guest = service.new_id()
    token = service.call("GetOpenIdToken", IdentityId=guest)["Token"]
    assert sts(service, NOW + 599, **ASSUME, WebIdentityToken=token)[0] == 200
    assert sts(service, NOW + 600, **ASSUME, WebIdentityToken=token)[1].findtext(".//{*}Code") == (
        "ExpiredTokenException"
    )
    service.call("GetOpenIdToken", IdentityId=guest, now=NOW + 600)
    assert sts(service, NOW + 600, **ASSUME, WebIdentityToken=token)[1].findtext(".//{*}Code") == (
        "InvalidIdentityToken"
    )


# --- no request makes it fail, and no secret is shown ---


@given(
    st.sampled_from(["GetId", "GetCredentialsForIdentity", "GetOpenIdToken", "Other"]),
    st.binary(max_size=40)
    | st.recursive(
        st.none() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["IdentityPoolId", "IdentityId", "Logins", "CustomRoleArn"]), inner)
        ),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode()),
)
def test_any_body_gets_an_answer(operation: str, body: bytes) -> None:
    service = Service()
    assert service.raw(operation, body).status in (200, 400)
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert service.cognito.answer(form, body, now=NOW).status == 400


def test_deep_json_gets_an_answer(service: Service) -> None:
    assert b"SerializationException" in service.raw("GetId", b"[" * 60_000).body


def test_an_answers_repr_hides_its_body(service: Service) -> None:
    answer = service.raw("GetCredentialsForIdentity", json.dumps({"IdentityId": service.new_id()}).encode())
    assert json.loads(answer.body)["Credentials"]["SecretKey"] not in repr(answer)
    assert "SessionToken" not in repr(answer)


# --- the key ring ---


def test_a_ring_removes_expired_keys() -> None:
    ring = KeyRing(keep_expired=100)
    principal = Principal("p")
    old = ring.mint(principal, now=0, life=10)
    ring.mint(principal, now=109, life=10)
    assert ring.find(old.access_key) is not None
    ring.mint(principal, now=110, life=10)
    assert ring.find(old.access_key) is None
    assert repr(ring) == "KeyRing(0 lasting, 2 temporary)"


def test_a_ring_is_bounded() -> None:
    ring = KeyRing(most=2)
    keys = [ring.mint(Principal("p"), now=0, life=10) for _ in range(3)]
    assert [ring.find(key.access_key) is None for key in keys] == [True, False, False]


def test_permanent_keys_are_never_removed() -> None:
    ring = KeyRing(most=1)
    mine = Credentials("AKIDMINE", "secret")
    ring.add(mine, Principal("me"))
    for _ in range(5):
        ring.mint(Principal("p"), now=0, life=10)
    found = ring.find("AKIDMINE")
    assert found is not None
    assert found.credentials is mine
    assert found.principal.authenticated_by == ()
    assert not found.principal.is_guest
    assert not found.expired(1e12)
    assert "secret" not in repr(found).replace("secret_key", "")


# --- over HTTP ---


def request(server: LocalCognitoServer, method: str, body: bytes = b"", **headers: str) -> tuple[int, Any, bytes]:
    where = urlsplit(server.endpoint)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    try:
        connection.request(method, "/", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_it_is_served(service: Service) -> None:
    with LocalCognitoServer(service.cognito, clock=lambda: NOW) as server:
        target = {"X-Amz-Target": "AWSCognitoIdentityService.GetId"}
        body = json.dumps({"IdentityPoolId": POOL}).encode()
        status, headers, answered = request(server, "POST", body, **target)
        assert status == 200
        assert json.loads(answered)["IdentityId"].startswith("eu-west-1:")
        assert headers["Date"] == "Thu, 01 Jan 2026 00:00:00 GMT"
        assert headers["Content-Type"] == "application/x-amz-json-1.1"
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert headers["Server"] is None
        status, headers, _ = request(server, "OPTIONS")
        assert (status, headers["Access-Control-Allow-Methods"]) == (204, "POST")
        assert request(server, "GET")[0] == 501
        assert request(server, "POST", b"x" * 65_537)[0] == 413


def test_a_body_of_unknown_length_is_refused(service: Service) -> None:
    with LocalCognitoServer(service.cognito) as server:
        where = urlsplit(server.endpoint)
        with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 411 ")


UNFINISHED = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n"


def test_closing_ends_an_unfinished_request(service: Service) -> None:
    server = LocalCognitoServer(service.cognito)
    where = urlsplit(server.endpoint)
    closing = threading.Thread(target=server.close)
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        connection.sendall(UNFINISHED)
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")  # so it reads the body now
        closing.start()
        closing.join(5)
        assert not closing.is_alive()
    closing.join(30)


@pytest.mark.parametrize("tls", [False, True])
def test_a_request_has_one_deadline(service: Service, tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cognito_server, "_TIMEOUT", 0.3)
    context = mint_authority().issue("127.0.0.1").server_context() if tls else None
    with LocalCognitoServer(service.cognito, context=context) as server:
        where = urlsplit(server.endpoint)
        with socket.create_connection((where.hostname, where.port), timeout=0.05) as connection:
            for byte in b"\x16\x03\x01\x02\x00\x01" + bytes(100) if tls else UNFINISHED + bytes(100):
                try:
                    connection.sendall(bytes([byte]))
                    ended = connection.recv(65536) == b""
                except TimeoutError:
                    continue
                except ConnectionError:
                    ended = True
                if ended:
                    return
    pytest.fail("a byte now and then postponed the end of the request")


def test_closing_frees_the_port(service: Service, closed_port: int) -> None:
    with LocalCognitoServer(service.cognito, port=closed_port):
        socket.create_connection(("127.0.0.1", closed_port), timeout=30).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", closed_port), timeout=30)
    with LocalCognitoServer(service.cognito, port=closed_port) as again:
        assert urlsplit(again.endpoint).port == closed_port
