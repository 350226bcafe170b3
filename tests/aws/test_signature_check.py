"""The record of used signatures in the local endpoint: for how long, and how many."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest

from pubsub.aws.local import signature_check
from pubsub.aws.local.keyring import Key, KeyRing, Principal
from pubsub.aws.local.signature_check import Forbidden, SignatureCheck
from sigv4 import Credentials, presign_iot_url

REGION = "eu-west-1"
HOST = f"example-ats.iot.{REGION}.amazonaws.com"
KEYS = Credentials("AKIDOFALICE", "the-secret-key-of-alice")
START = 1_700_000_000.0


class Clerk:
    """A signature check with a simulated clock, and a client that signs at a given time."""

    def __init__(self) -> None:
        self.now = START
        ring = KeyRing()
        ring.add(KEYS, Principal("alice"))
        self.check = SignatureCheck(ring, REGION, replay_grace=2.0, clock=lambda: self.now)

    def use(self, signed_at: float) -> str:
        """Use a signature of the given time. Return "taken", or the kind of the refusal."""
        url = urlsplit(str(presign_iot_url(f"wss://{HOST}/mqtt", KEYS, REGION, datetime.fromtimestamp(signed_at, UTC))))
        answer = self.check.examine("GET", f"{url.path}?{url.query}", [("host", HOST)])
        assert isinstance(answer, Key | Forbidden)
        return answer.code if isinstance(answer, Forbidden) else "taken"


def test_the_grace_period_begins_with_the_first_use() -> None:
    """A later use does not restart it; otherwise a signature that is used every second would be valid without end."""
    clerk = Clerk()
    answers = []
    for second in (0.0, 1.5, 2.0, 2.5, 3.0, 299.0):
        clerk.now = START + second
        answers.append(clerk.use(START))
    assert answers == ["taken"] * 3 + ["replayed"] * 3


def test_of_too_many_signatures_the_first_used_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one used last, nor the least recently used one, nor all."""
    monkeypatch.setattr(signature_check, "_MOST_SEEN", 3)
    clerk = Clerk()
    for age in (0, 1, 2, 0, 3):  # the second use of 0 does not make it a later one
        assert clerk.use(START - age) == "taken"
        assert len(clerk.check._seen) <= 3
    clerk.now += 3
    assert [clerk.use(START - age) for age in (1, 2, 3)] == ["replayed"] * 3
    assert clerk.use(START) == "taken"  # a consequence of the bound: four within five minutes
    assert len(clerk.check._seen) == 3


def test_a_signature_is_stored_until_it_expires() -> None:
    clerk = Clerk()
    assert clerk.use(START) == "taken"
    clerk.now = START + 299
    assert clerk.use(START + 299) == "taken"
    assert clerk.use(START) == "replayed"
    clerk.now = START + 301  # the first has expired: it is refused for that, and not stored
    assert clerk.use(START + 301) == "taken"
    assert clerk.use(START) not in ("taken", "replayed")
    assert len(clerk.check._seen) == 2
