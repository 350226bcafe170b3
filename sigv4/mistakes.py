"""The known mistakes of signers, each as a change to a correct signature.

`MISTAKES` is a table. A row has a code, a sentence, and a function that returns each way of making the mistake: the
fields of an `Attempt` to change, and a detail (a port, a region) for the sentence. `explaining` tries each row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple, TypeAlias

from . import canonical as c
from .attempts import Attempt, Case, derive_in_hex, sha256_hex
from .presigning import AUTH_PARAMETERS
from .signing import EMPTY_SHA256, TERMINATOR, UNSIGNED_PAYLOAD

__all__ = ["MISTAKES", "Mistake"]

_PORTS = (443, 80, 8443, 8883, 8080, 8083, 1883)
_METHODS = ("GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE", "PATCH")
_SERVICES = ("iotdevicegateway", "iotdata", "iot", "data.iot", "iotcore", "execute-api", "cognito-identity", "sts")
_REGIONS = (
    *("us-east-1", "us-east-2", "us-west-1", "us-west-2", "ca-central-1", "ca-west-1", "mx-central-1", "sa-east-1"),
    *("eu-west-1", "eu-west-2", "eu-west-3", "eu-central-1", "eu-central-2", "eu-north-1", "eu-south-1", "eu-south-2"),
    *("il-central-1", "me-south-1", "me-central-1", "af-south-1", "ap-east-1", "ap-south-1", "ap-south-2"),
    *("ap-southeast-1", "ap-southeast-2", "ap-southeast-3", "ap-southeast-4", "ap-southeast-5", "ap-northeast-1"),
    *("ap-northeast-2", "ap-northeast-3", "cn-north-1", "cn-northwest-1", "us-gov-east-1", "us-gov-west-1"),
)


_Ways: TypeAlias = Iterable[tuple[str, dict[str, Any]]]


class Mistake(NamedTuple):
    """One kind of mistake.

    Attributes:
        code: The kind of mistake, for programs.
        sentence: One sentence for people; `{}` is replaced by the detail.
        made: Returns every way of making the mistake, as (detail, changes to the correct attempt).
    """

    code: str
    sentence: str
    made: Callable[[Case, Attempt], _Ways]


# --- the ways of making them ----------------------------------------------------------------------------------------


def _plain(**changes: Any) -> _Ways:
    return [("", changes)]


def _token(case: Case, signed: bool) -> _Ways:
    if case.sign_token is not signed and case.claim.token_pairs:
        yield "", {"query": c.canonical_query(case.claim.pairs + (case.claim.token_pairs if signed else []))}


def _with_host(case: Case, host: str) -> dict[str, Any]:
    fields = {**case.claim.fields, "host": host}
    return {"headers": c.canonical_headers(fields, case.claim.signed_headers)}


def _port_signed(case: Case, right: Attempt) -> Iterator[tuple[str, dict[str, Any]]]:
    host = re.sub(r":\d+$", "", case.claim.fields["host"])
    for port in _PORTS:
        if f"{host}:{port}" != case.claim.fields["host"]:
            yield str(port), _with_host(case, f"{host}:{port}")


def _port_unsigned(case: Case, right: Attempt) -> _Ways:
    host = case.claim.fields["host"]
    return [("", _with_host(case, re.sub(r":\d+$", "", host)))]


def _host_case(case: Case, right: Attempt) -> _Ways:
    host = case.claim.fields["host"]
    return [("", _with_host(case, other)) for other in (host.lower(), host.upper())]


def _host_url(case: Case, right: Attempt) -> _Ways:
    host = case.claim.fields["host"]
    wrong = [f"{scheme}://{host}" for scheme in ("wss", "ws", "https", "http")] + [host + case.claim.path, host + "/"]
    return [("", _with_host(case, other)) for other in wrong]


def _path(case: Case, normalize: bool, double: bool) -> _Ways:
    return _plain(uri=c.canonical_uri(case.claim.path, normalize, double))


def _path_encoded_twice(case: Case, right: Attempt) -> _Ways:
    return _plain(uri=c.canonical_uri(right.uri, normalize=False))


def _path_slash(case: Case, right: Attempt) -> _Ways:
    return _plain(uri=right.uri[:-1] if right.uri.endswith("/") else right.uri + "/")


def _path_decoded(case: Case, right: Attempt) -> _Ways:
    decoded = c.decode(case.claim.path)
    return [*_plain(uri=decoded), *_plain(uri=c.canonical_uri(decoded, case.normalize_path))]


def _pairs(case: Case) -> list[tuple[str, str]]:
    return case.claim.pairs + (case.claim.token_pairs if case.sign_token else [])


def _unsorted(case: Case, right: Attempt) -> _Ways:
    """Return the query in the order in which it was sent, and with AWS's parameters after or before the others."""
    own = sorted(pair for pair in _pairs(case) if pair[0] not in AUTH_PARAMETERS)
    auth = sorted(pair for pair in _pairs(case) if pair[0] in AUTH_PARAMETERS)
    orders = (_pairs(case), own + auth, auth + own)
    return [("", {"query": "&".join(f"{key}={value}" for key, value in order)}) for order in orders]


def _query_as(write: Callable[[str], str]) -> Callable[[Case, Attempt], _Ways]:
    """Return the mistake of writing each key and value of the canonical query with `write`."""

    def ways(case: Case, right: Attempt) -> _Ways:
        return _plain(query="&".join(f"{write(key)}={write(value)}" for key, value in sorted(_pairs(case))))

    return ways


def _lower_hex(part: str) -> str:
    return re.sub("%[0-9A-F]{2}", lambda escape: escape[0].lower(), part)


def _bare_keys(case: Case, right: Attempt) -> _Ways:
    return _plain(query="&".join(f"{key}={value}" if value else key for key, value in sorted(_pairs(case))))


def _query_partly(case: Case, right: Attempt) -> _Ways:
    auth = [pair for pair in _pairs(case) if pair[0] in AUTH_PARAMETERS]
    return _plain(query=c.canonical_query(auth))


def _query_without_auth(case: Case, right: Attempt) -> _Ways:
    own = [pair for pair in _pairs(case) if pair[0] not in AUTH_PARAMETERS]
    return _plain(query=c.canonical_query(own))


def _other_methods(case: Case, right: Attempt) -> _Ways:
    others = [method for method in (*_METHODS, right.method.lower(), right.method.upper()) if method != right.method]
    return [(method, {"method": method}) for method in others]


def _payload_of_header(case: Case, right: Attempt) -> _Ways:
    return _plain(payload=case.claim.fields.get("x-amz-content-sha256", right.payload))


def _no_blank_line(case: Case, right: Attempt) -> _Ways:
    return _plain(headers=right.headers.removesuffix("\n"))


def _title_case(case: Case, right: Attempt) -> _Ways:
    fields = {name.title(): value for name, value in case.claim.fields.items()}
    names = [name.title() for name in case.claim.signed_headers]
    headers = c.canonical_headers(fields, names)
    return [("", {"headers": headers}), ("", {"headers": headers, "names": ";".join(names)})]


def _other_key(index: int, values: Iterable[str]) -> Callable[[Case, Attempt], _Ways]:
    """Return the mistake of deriving the key from another region or service than the scope names."""

    def ways(case: Case, right: Attempt) -> _Ways:
        parts = right.key_parts
        for value in values:
            yield value, {"key_parts": (*parts[:index], value, *parts[index + 1 :])}

    return ways


def _other_day(case: Case, right: Attempt) -> _Ways:
    for days in (-1, 1):
        day = f"{case.claim.date + timedelta(days=days):%Y%m%d}"
        yield day, {"key_parts": (day, *right.key_parts[1:])}
    yield right.stamp, {"key_parts": (right.stamp, *right.key_parts[1:])}


def _other_order(case: Case, right: Attempt) -> _Ways:
    day, region, service, end = right.key_parts
    return [("", {"key_parts": parts}) for parts in ((day, service, region, end), (region, day, service, end))]


def _other_end(case: Case, right: Attempt) -> _Ways:
    return [*_plain(key_parts=right.key_parts[:3]), *_plain(key_parts=(*right.key_parts[:3], TERMINATOR.upper()))]


def _whitespace(case: Case, right: Attempt) -> _Ways:
    secret = right.secret
    written = (secret + "\n", secret + "\r\n", secret + " ", " " + secret, f'"{secret}"', f"'{secret}'")
    return [("", {"secret": other}) for other in written]


def _escaped(case: Case, right: Attempt) -> _Ways:
    secret = right.secret
    written = (c.encode(secret), c.decode(secret), secret.replace("+", " "), secret.replace("/", r"\/"))
    return [("", {"secret": other}) for other in written if other != secret]


def _prefix(case: Case, right: Attempt) -> _Ways:
    return [("", {"prefix": prefix}) for prefix in ("", "AWS", "aws4", "AWS4AWS4")]


def _whole_credential(case: Case, right: Attempt) -> _Ways:
    return _plain(scope=f"{case.claim.access_key}/{right.scope}")


# --- the table ------------------------------------------------------------------------------------------------------

MISTAKES: tuple[Mistake, ...] = (
    Mistake(
        "token_signed",
        "the session token is covered by the signature; for AWS IoT it is appended to the URL after signing",
        lambda case, right: _token(case, signed=True),
    ),
    Mistake(
        "token_unsigned",
        "the session token is not covered by the signature; this service requires it among the signed parameters",
        lambda case, right: _token(case, signed=False),
    ),
    Mistake("port_signed", "the client signed its Host with port {}, but sent the Host without it", _port_signed),
    Mistake("port_unsigned", "the client sent its Host with a port, but signed the Host without it", _port_unsigned),
    Mistake("host_case", "the client signed its Host in another case than it sent it in", _host_case),
    Mistake("host_url", "the client signed a URL in place of its Host, which has no scheme and no path", _host_url),
    Mistake(
        "path_encoded_once",
        "the client signed its path as it sent it; this service requires it percent-encoded once more",
        lambda case, right: _path(case, case.normalize_path, double=False) if case.double_encode else (),
    ),
    Mistake(
        "path_encoded_twice", "the client percent-encoded its path once too often before signing", _path_encoded_twice
    ),
    Mistake(
        "path_not_normalized",
        "the client signed its path without resolving empty, '.' and '..' segments",
        lambda case, right: _path(case, normalize=False, double=case.double_encode),
    ),
    Mistake(
        "path_normalized",
        "the client resolved empty, '.' and '..' segments in its path; this service requires it unchanged",
        lambda case, right: _path(case, normalize=True, double=case.double_encode),
    ),
    Mistake("path_decoded", "the client signed its path percent-decoded", _path_decoded),
    Mistake(
        "path_slash", "the client signed its path with or without a final '/', unlike the one it sent", _path_slash
    ),
    Mistake("path_missing", "the client signed the path '/', but sent another", lambda *_: _plain(uri="/")),
    Mistake("query_unsorted", "the client did not sort its query parameters before signing", _unsorted),
    Mistake(
        "query_lower_hex",
        "the client signed escapes in lower case, as '%2f'; they must be upper case",
        _query_as(_lower_hex),
    ),
    Mistake(
        "query_plus",
        "the client signed spaces in its query as '+'; they must be '%20'",
        _query_as(lambda part: part.replace("%20", "+")),
    ),
    Mistake(
        "query_not_encoded",
        "the client signed its query without percent-encoding it",
        _query_as(c.decode),
    ),
    Mistake("query_encoded_twice", "the client percent-encoded its query twice before signing", _query_as(c.encode)),
    Mistake("query_bare_key", "the client signed a key without a value as 'key'; it must be 'key='", _bare_keys),
    Mistake("query_partly", "the client left its own query parameters out of what it signed", _query_partly),
    Mistake("query_unsigned", "the client left the X-Amz parameters out of what it signed", _query_without_auth),
    Mistake("method", "the client signed the method {}, but sent another", _other_methods),
    Mistake(
        "payload_unsigned",
        "the client signed UNSIGNED-PAYLOAD; this service requires the hash of the body, even if it is empty",
        lambda *_: _plain(payload=UNSIGNED_PAYLOAD),
    ),
    Mistake(
        "payload_empty",
        "the client signed the hash of an empty body, but sent another body",
        lambda *_: _plain(payload=EMPTY_SHA256),
    ),
    Mistake(
        "payload_missing",
        "the client signed nothing in place of the payload's hash; an empty body has a hash, too",
        lambda *_: _plain(payload=""),
    ),
    Mistake(
        "payload_upper_hex",
        "the client signed the payload's hash in upper-case hexadecimal; it must be lower case",
        lambda case, right: _plain(payload=right.payload.upper()),
    ),
    Mistake(
        "payload_hash",
        "the client signed the hash in X-Amz-Content-Sha256, which is not the body's",
        _payload_of_header,
    ),
    Mistake("headers_end", "the client signed no empty line after the canonical headers", _no_blank_line),
    Mistake("header_case", "the client signed header names with capitals; they must be lower case", _title_case),
    Mistake("region_in_key", "the client derived its key for the region {}, unlike its scope", _other_key(1, _REGIONS)),
    Mistake(
        "service_in_key", "the client derived its key for the service {}, unlike its scope", _other_key(2, _SERVICES)
    ),
    Mistake("day_in_key", "the client derived its key for the day {}, unlike its scope, which is in UTC", _other_day),
    Mistake("key_order", "the client derived its key in another order than day, region, service", _other_order),
    Mistake("key_end", "the client derived its key without the final 'aws4_request'", _other_end),
    Mistake(
        "key_in_hex",
        "the client derived its key from hexadecimal text; each step takes the raw bytes of the previous one",
        lambda *_: _plain(derive=derive_in_hex),
    ),
    Mistake("key_prefix", "the client derived its key without exactly one 'AWS4' before the secret", _prefix),
    Mistake("secret_whitespace", "the client's secret key has whitespace or quotes around it", _whitespace),
    Mistake("secret_escaped", "the client's secret key was escaped: its '/' or '+' is encoded or replaced", _escaped),
    Mistake(
        "scope_in_string",
        "the client put the whole credential in its string to sign; the scope does not contain the access key",
        _whole_credential,
    ),
    Mistake(
        "hash_upper_hex",
        "the client wrote the canonical request's hash in upper-case hexadecimal; it must be lower case",
        lambda *_: _plain(digest=lambda data: sha256_hex(data).upper()),
    ),
    Mistake(
        "hash_missing",
        "the client put the canonical request itself in its string to sign, in place of its hash",
        lambda *_: _plain(digest=c.text),
    ),
    Mistake(
        "line_ends", "the client ended its lines with CR LF; they must end with LF", lambda *_: _plain(line_end="\r\n")
    ),
)
