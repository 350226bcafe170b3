"""No secret appears in a log at DEBUG, or in a repr, error, traceback or pickle."""

from __future__ import annotations

import asyncio
import logging
import pickle
import re
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

import mqttws
import pubsub.aio
from pubsub import AWSIoTProvider, PubSub
from pubsub.aws.cognito import CognitoIdentity
from pubsub.aws.custom_auth import CustomAuthorizer
from pubsub.aws.local.authorizers import AuthorizerGrant, LocalAuthorizer, read_request
from pubsub.aws.local.endpoint import LocalIoTEndpoint
from pubsub.aws.local.identities import ALLOW_ALL, Identities
from sigv4 import Credentials, presign_iot_url

POOL = "eu-west-1:11111111-2222-3333-4444-555555555555"
REGION = "eu-west-1"
SECRET, WRONG = "canary/secret+of/alice", "canary/wrong+secret"
LOGIN, TOKEN, PASSWORD = "canary-login-token", "canary-custom-token", "canary-password"
KEYS = Credentials("AKIDOFALICE", SECRET)
BAD = Credentials("AKIDOFALICE", WRONG, "canary/session+token")
SIGNATURE = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


class Everything(logging.Handler):
    """A handler that stores every record, with its arguments and traceback."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []
        self._format = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts += [self._format.format(record), repr(record.args)]


@pytest.fixture
def logged() -> Iterator[list[str]]:
    handler = Everything()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield handler.texts
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


@pytest.fixture(params=[False, True], ids=["plain", "explain"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[LocalIoTEndpoint]:
    identities = Identities(REGION)
    identities.add_policy("all", ALLOW_ALL)
    identities.add_user("alice", KEYS, policies=["all"])
    identities.add_pool(POOL, guests=["all"], users=["all"], logins={"idp": {LOGIN: "bob"}.get})

    def decide(token: str, request: Any) -> AuthorizerGrant | None:
        if token != TOKEN:
            raise ValueError(f"no such token: {token}")
        return AuthorizerGrant("carol", identities.documents(["all"]))

    identities.add_authorizer(LocalAuthorizer("demo", decide))
    with LocalIoTEndpoint(identities, explain=request.param) as iot:
        yield iot


def shown(error: BaseException) -> list[str]:
    """Return every text representation of an error."""
    texts = [str(error), repr(error), "".join(traceback.format_exception(error))]
    try:
        texts.append(repr(pickle.dumps(error)))
    except Exception as fault:  # an error that cannot be pickled has no pickle to check
        texts.append(str(fault))
    return texts


def use(provider: AWSIoTProvider) -> list[str]:
    """Use a provider with threads and asyncio. Return its text and those of all errors."""
    texts = [repr(provider), str(provider)]
    errors: list[Exception] = []
    with PubSub(provider, timeout=30) as ps:
        texts.append(repr(ps))
        watch = ps.connection_state_changes.subscribe(lambda change: texts.append(repr(change)))
        handle = ps.subscribe("a", qos=1).subscribe(next=lambda message: None, error=errors.append)
        texts.append(repr(handle))
        try:
            ps.publish("a", 1, qos=1)
        except Exception as error:
            errors.append(error)
        watch.unsubscribe()

    async def in_a_loop() -> None:
        async with pubsub.aio.PubSub(provider, timeout=30) as ps:
            try:
                await ps.publish("a", 1, qos=1)
            except Exception as error:
                errors.append(error)

    asyncio.run(in_a_loop())
    return texts + [text for error in errors for text in shown(error)]


def test_no_secret_is_ever_shown(endpoint: LocalIoTEndpoint, logged: list[str]) -> None:
    texts: list[str] = [repr(endpoint), repr(endpoint.identities), repr(endpoint.broker)]
    secrets = {SECRET, WRONG, str(BAD.token), LOGIN, TOKEN, PASSWORD, "canary"}
    at = {"aws_pubsub_region": REGION, "aws_pubsub_endpoint": endpoint.url}
    cognito = CognitoIdentity(POOL, endpoint=endpoint.cognito_endpoint, logins={"idp": LOGIN})
    stranger = CognitoIdentity(POOL, endpoint=endpoint.cognito_endpoint, logins={"idp": "canary-wrong-login"})
    texts += use(AWSIoTProvider(**at, credentials=KEYS, password=PASSWORD, username="alice"))  # type: ignore[arg-type]
    texts += use(AWSIoTProvider(**at, credentials=BAD))  # type: ignore[arg-type]
    texts += use(AWSIoTProvider(**at, credentials=cognito))  # type: ignore[arg-type]
    temporary = cognito.get_frozen_credentials()
    secrets |= {temporary.secret_key, str(temporary.token)}
    texts += use(AWSIoTProvider(**at, credentials=Credentials(temporary.access_key, "canary", temporary.token)))  # type: ignore[arg-type]
    with pytest.raises(Exception, match="refused") as caught:
        stranger.get_frozen_credentials()
    texts += shown(caught.value)
    for via in ("headers", "query", "username"):
        for token in (TOKEN, "canary-wrong-token"):
            custom = CustomAuthorizer("demo", token, via=via, username="u", password=PASSWORD)  # type: ignore[arg-type]
            texts += [repr(custom), repr(read_request(f"/mqtt?token={token}", [("token", token)], "u", b"canary"))]
            texts += use(AWSIoTProvider(aws_pubsub_endpoint=endpoint.url, custom_authorizer=custom))
    signed = presign_iot_url(endpoint.url, BAD, REGION)
    with pytest.raises(mqttws.HandshakeRejected) as refused:
        mqttws.Client(str(signed), reconnect=False, timeout=30).open()
    texts += [repr(signed), *shown(refused.value)]
    everything = "\n".join([*texts, *logged])
    assert "refused" in everything
    assert "rejected with 403" in everything
    found = {secret for secret in secrets if secret in everything}
    assert not found
    assert not SIGNATURE.search(everything)
