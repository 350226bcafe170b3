"""The explanation of a refused request: the mistake that its client made.

`explain` describes the mistake in one sentence. Most mistakes are visible in the request, and `verify` names them.
The others only produce a different signature. A signature proves what was signed, so `explain` repeats each known
mistake and looks for the one that produces the client's signature. A match is proof, not a guess. The table of
mistakes is in `mistakes`.

This is for developers: an endpoint in production should not reveal more than `verify` does. No sentence contains a
secret, a token or a signature.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from . import canonical as c
from .claims import Claim, read_claim
from .signing import EMPTY_SHA256, TERMINATOR
from .verifying import IOT_SERVICES, Lookup, Rejected, find_credentials, verify

__all__ = ["Explanation", "explain"]

_is_like_a_secret = re.compile(r"[A-Za-z0-9+/]{40}").fullmatch


class Explanation(NamedTuple):
    """The reason why a request is refused.

    Attributes:
        code: The kind of mistake, for programs; `none` if the request verifies.
        sentence: The mistake, described for people.
    """

    code: str
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def explain(
    method: str | bytes,
    target: str | bytes,
    headers: c.HeadersLike,
    body_hash: str = EMPTY_SHA256,
    *,
    lookup: Lookup,
    now: datetime,
    skew: float = 300,
    longest: float | None = None,
    services: Collection[str] | None = IOT_SERVICES,
    region: str | None = None,
    sign_token: bool = False,
    normalize_path: bool = True,
    double_encode: bool = True,
) -> Explanation:
    """Describe in one sentence which mistake the client of a refused request made. Never raise.

    If no known mistake matches, the sentence says so and names the most likely causes.

    Args:
        method: The HTTP method, as received.
        target: `path?query`, as received.
        headers: The headers, as received: a mapping or pairs.
        body_hash: As for `verify`, like all arguments below.
        lookup: Returns the credentials of an access key.
        now: The aware time of arrival.
        skew: Seconds by which the client's clock may differ, 0 or more.
        longest: Maximum seconds that a signature is valid, 0 or more; None sets no maximum.
        services: The accepted services; None accepts all.
        region: The accepted region; None accepts all.
        sign_token: Whether the signature covers a session token in the query.
        normalize_path: Whether to resolve empty, `.` and `..` segments first.
        double_encode: Whether to percent-encode the path once more.

    Returns:
        The mistake; its code is `none` if the request verifies.
    """
    try:
        headers = c.pairs_of(headers)  # it may be an iterator, and is read more than once below
        answer = verify(
            method,
            target,
            headers,
            body_hash,
            lookup=lookup,
            now=now,
            skew=skew,
            longest=longest,
            services=services,
            region=region,
            sign_token=sign_token,
            normalize_path=normalize_path,
            double_encode=double_encode,
        )
        if not isinstance(answer, Rejected):
            return Explanation("none", "the request verifies: nothing is wrong with its signature")
        if answer.code not in ("clock", "unknown_key", "signature"):
            return Explanation(answer.code, answer.reason)
        claim = read_claim(method, target, headers)
        if answer.code == "clock":
            return _explain_clock(answer.reason, (claim.date - now).total_seconds(), skew)
        if answer.code == "unknown_key":
            return _explain_unknown_key(claim.access_key)
        secret_key = find_credentials(claim, lookup, now).secret_key
        return _search(claim, secret_key, body_hash, sign_token, normalize_path, double_encode)
    except Exception as error:  # as in `verify`: every request gets an answer
        return Explanation("setup", f"the request could not be read or verified: {type(error).__name__}")


def _explain_clock(reason: str, ahead: float, skew: float) -> Explanation:
    quarters = round(ahead / 900)
    if 0 < abs(quarters) <= 14 * 4 and abs(ahead - quarters * 900) <= min(skew, 60):
        hours = f"{quarters / 4:+g} h"
        return Explanation("clock", f"{reason}; {hours} is a time zone's offset: is local time written as UTC?")
    return Explanation("clock", reason)


def _explain_unknown_key(access_key: str) -> Explanation:
    if _is_like_a_secret(access_key):
        return Explanation("keys_swapped", "the access key looks like a secret key: are the two swapped?")
    if access_key != access_key.strip(" \t\r\n\"'"):
        return Explanation("unknown_key", "the access key is not known here: it has whitespace or quotes around it")
    return Explanation("unknown_key", f"the access key, {len(access_key)} characters, is not known here")


def _search(
    claim: Claim, secret_key: str, body_hash: str, sign_token: bool, normalize_path: bool, double_encode: bool
) -> Explanation:
    from .attempts import Attempt, Case  # imported here because only `explain` needs the table
    from .mistakes import MISTAKES

    case = Case(claim, sign_token, normalize_path, double_encode)
    right = Attempt(
        method=claim.method,
        uri=c.canonical_uri(claim.path, normalize_path, double_encode),
        query=c.canonical_query(claim.pairs + claim.token_pairs if sign_token else claim.pairs),
        headers=c.canonical_headers(claim.fields, claim.signed_headers),
        names=";".join(claim.signed_headers),
        payload=body_hash,
        stamp=claim.stamp,
        scope=claim.scope,
        secret=secret_key,
        key_parts=(claim.day, claim.region, claim.service, TERMINATOR),
    )
    for mistake in MISTAKES:
        for detail, changes in mistake.made(case, right):
            if right.changed(changes).signature() == claim.signature:
                return Explanation(mistake.code, mistake.sentence.format(detail))
    return Explanation("wrong_secret", _no_match(claim))


def _no_match(claim: Claim) -> str:
    return (
        "the signature matches neither this request nor any known mistake: most likely the client has another secret "
        f"key for this access key, or the request ({claim.method} with {len(claim.pairs)} signed parameters) was "
        "changed after it was signed"
    )
