"""`python -m sigv4`: presign a URL, verify one, or explain why one is refused.

Secrets come from the environment or from a profile, never from arguments, which every process on the machine can read.
A signed URL is a credential as well: `verify` and `explain` read it from standard input unless it is an argument.

The scheme selects the rules. `wss` (or a host alone) means AWS IoT: the session token is appended after signing, and
the region is inferred from the host. `https` means any other service; S3 has its own rules for paths and payloads. A
signed URL names its service.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from . import (
    EMPTY_SHA256,
    IOT_SERVICE,
    IOT_SERVICES,
    UNSIGNED_PAYLOAD,
    BotocoreProvider,
    ChainProvider,
    Credentials,
    SharedFileProvider,
    SigV4Error,
    explain,
    fetch,
    presign,
    presign_iot_url,
    verify,
)
from .claims import Refusal, read_claim

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command line; None takes `sys.argv`.

    Returns:
        0 on success, also if the reader of a pipe has closed it; 1 if the URL is rejected; 2 if the command cannot be
        carried out; 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    if sys.stdout is None:
        _complain("there is no standard output to write to")
        return 2
    try:
        code, answer = _run(options)
        print(answer, flush=True)
        return code
    except (SigV4Error, ValueError) as error:
        _complain(str(error))
        return 2
    except BrokenPipeError:
        _discard_output()
        return 0
    except OSError as error:
        _discard_output()
        _complain(f"cannot write to standard output: {error.strerror}")
        return 2
    except KeyboardInterrupt:
        return 130


def _complain(text: str) -> None:
    """Write a line to standard error, if there is one: for None, print() would write to standard output."""
    if sys.stderr is None:
        return
    try:
        print(f"sigv4: {text}", file=sys.stderr, flush=True)
    except OSError:
        pass  # the reader has left


def _discard_output() -> None:
    """Discard buffered output: the interpreter would write it at exit, and report the same error again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sigv4", description="AWS Signature Version 4 on the command line.")
    commands = parser.add_subparsers(dest="command", required=True)
    presigning = commands.add_parser("presign", help="sign a URL and print it")
    presigning.add_argument("url", help="wss://host/mqtt, a host, or https://host/path")
    presigning.add_argument("--expires", type=int, metavar="SECONDS", help="how long the URL is valid, 1 to 604800")
    for command, text in (("verify", "verify a signed URL"), ("explain", "explain why a signed URL is refused")):
        judging = commands.add_parser(command, help=text)
        judging.add_argument("url", nargs="?", default="-", help="the signed URL; by default read from standard input")
        judging.add_argument("--at", type=_time, metavar="YYYYMMDDTHHMMSSZ", help="the time of arrival (default: now)")
        judging.add_argument(
            "--skew",
            type=_seconds,
            default=300,
            metavar="SECONDS",
            help="the tolerated clock difference (default: 300)",
        )
    for command_parser in commands.choices.values():
        command_parser.add_argument("--method", default="GET", help="the HTTP method (default: GET)")
        command_parser.add_argument("--region", help="the region; presign infers it from an AWS IoT host")
        command_parser.add_argument("--service", help=f"the service to sign for (default for wss: {IOT_SERVICE})")
        command_parser.add_argument("--profile", help="a profile of ~/.aws, instead of the environment's keys")
        command_parser.add_argument("--botocore", action="store_true", help="get the keys from botocore's whole chain")
    return parser


def _time(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time of the form YYYYMMDDTHHMMSSZ") from None


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number of seconds, 0 to 999,999,999")
    return int(text)


def _run(options: argparse.Namespace) -> tuple[int, str]:
    """Run the command. Return the exit code and the answer."""
    if options.url == "-" and sys.stdin is None:
        raise ValueError("there is no standard input to read the URL from")
    given = (options.url if options.url != "-" else sys.stdin.read()).strip()
    credentials = _credentials(options)
    if options.command == "presign":
        return 0, _presigned(given, credentials, options)
    return _judge(given, credentials, options)


def _credentials(options: argparse.Namespace) -> Credentials:
    if options.botocore:
        return fetch(BotocoreProvider(options.profile))
    return fetch(SharedFileProvider(options.profile) if options.profile else ChainProvider())


def _presigned(url: str, credentials: Credentials, options: argparse.Namespace) -> str:
    scheme, host, target = _split(url)
    if scheme not in ("http", "https"):
        if options.method != "GET":
            raise ValueError(f"a WebSocket is opened with GET, not with {options.method}")
        return str(
            presign_iot_url(
                url, credentials, options.region, service=options.service or IOT_SERVICE, expires=options.expires
            )
        )
    if options.region is None or options.service is None:
        raise ValueError("an https URL names neither its region nor its service: give --region and --service")
    signed = presign(
        options.method,
        target,
        headers=[("Host", host)],
        credentials=credentials,
        region=options.region,
        service=options.service,
        now=datetime.now(UTC),
        expires=options.expires,
        **_rules(options.service),
    )
    return f"{scheme}://{host}{signed.target}"


def _judge(url: str, credentials: Credentials, options: argparse.Namespace) -> tuple[int, str]:
    scheme, host, target = _split(url)
    request = (options.method, target, [("Host", host)])
    iot = scheme in ("ws", "wss")
    judged: dict[str, Any] = {
        "lookup": {credentials.access_key: credentials}.get,
        "now": options.at or datetime.now(UTC),
        "skew": options.skew,
        "services": (options.service,) if options.service else IOT_SERVICES if iot else None,
        "region": options.region,
        "sign_token": not iot,
        **_rules(options.service or _service_of(*request)),
    }
    answer = verify(*request, **judged)
    if answer:
        return 0, f"verified: signed by {answer.access_key}, good until {answer.valid_until:%Y-%m-%d %H:%M:%S} UTC"
    return 1, f"rejected: {answer.reason if options.command == 'verify' else explain(*request, **judged)}"


def _service_of(method: str, target: str, headers: list[tuple[str, str]]) -> str | None:
    """Return the service that the signature of a request names; None if it cannot be read, which `verify` explains."""
    try:
        return read_claim(method, target, headers).service
    except (Refusal, SigV4Error):
        return None


def _rules(service: str | None) -> dict[str, Any]:
    s3 = service == "s3"
    payload = UNSIGNED_PAYLOAD if s3 else EMPTY_SHA256
    return {"normalize_path": not s3, "double_encode": not s3, "body_hash": payload}


def _split(url: str) -> tuple[str, str, str]:
    """Split a URL into the scheme in lower case, the Host header that is sent for it, and the target.

    Raises:
        ValueError: The host has a user name, which no client sends in the Host header. It is not shown.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "wss", url
    scheme = scheme.lower()
    ends = [index for index in (rest.find("/"), rest.find("?")) if index >= 0]
    end = min(ends, default=len(rest))
    if "@" in rest[:end]:
        raise ValueError("expected a host without a user name and password")
    own_port = ":443" if scheme in ("https", "wss") else ":80"
    target = rest[end:]
    return scheme, rest[:end].lower().removesuffix(own_port), target if target.startswith("/") else f"/{target}"


if __name__ == "__main__":
    sys.exit(main())
