"""Measure how many URLs a second each signer creates, all in one run on one core.

    python benchmarks/bench_signer.py [seconds]

Every signer creates the same AWS IoT URL from the same credentials, for a time that advances by one second with each
URL, as between connections. The rounds alternate, so that changes of the machine's speed affect all signers equally;
the best round of each counts. Before the timing the signatures are compared.

The signers: botocore (`SigV4QueryAuth`), AWSIoTPythonSDK (`SigV4Core`, which reads the clock itself), awscrt in C (once
with a signing configuration for each time, as a client needs, once with a single one and a constant time, its best
case), `sigv4.presign` and `sigv4.IotUrlSigner`.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from unittest import mock

import botocore.auth
from awscrt import auth, http
from AWSIoTPythonSDK.core.protocol.connection.cores import SigV4Core
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials

from sigv4 import Credentials, IotUrlSigner, presign

ACCESS_KEY = "AKIDEXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"  # noqa: S105 - the example of AWS's documentation
HOST = "a1b2c3d4e5f6g7-ats.iot.eu-west-1.amazonaws.com"
REGION, SERVICE, EXPIRES = "eu-west-1", "iotdevicegateway", 86_400
START = datetime(2026, 3, 1, tzinfo=UTC)
TIMES = [START + timedelta(seconds=second) for second in range(4_000)]
ROUNDS = 7

Signer = Callable[[datetime], str]


def general_presign() -> Signer:
    credentials, headers = Credentials(ACCESS_KEY, SECRET_KEY), [("Host", HOST)]

    def sign(now: datetime) -> str:
        return presign(
            "GET",
            "/mqtt",
            headers=headers,
            credentials=credentials,
            region=REGION,
            service=SERVICE,
            now=now,
            expires=EXPIRES,
        ).target

    return sign


def iot_url_signer() -> Signer:
    credentials, signer = Credentials(ACCESS_KEY, SECRET_KEY), IotUrlSigner(f"wss://{HOST}/mqtt", expires=EXPIRES)
    return lambda now: signer.presign(credentials, now)


def crt_config(provider: auth.AwsCredentialsProvider, now: datetime) -> auth.AwsSigningConfig:
    return auth.AwsSigningConfig(
        signature_type=auth.AwsSignatureType.HTTP_REQUEST_QUERY_PARAMS,
        credentials_provider=provider,
        region=REGION,
        service=SERVICE,
        date=now,
        expiration_in_seconds=EXPIRES,
        omit_session_token=True,
    )


def crt_request() -> http.HttpRequest:
    return http.HttpRequest("GET", "/mqtt", http.HttpHeaders([("Host", HOST)]))


def awscrt_each_time() -> Signer:
    provider = auth.AwsCredentialsProvider.new_static(ACCESS_KEY, SECRET_KEY)
    return lambda now: auth.aws_sign_request(crt_request(), crt_config(provider, now)).result().path


def awscrt_one_config() -> Signer:
    config = crt_config(auth.AwsCredentialsProvider.new_static(ACCESS_KEY, SECRET_KEY), START)
    return lambda now: auth.aws_sign_request(crt_request(), config).result().path


def botocore_query_auth() -> Signer:
    signer = botocore.auth.SigV4QueryAuth(BotocoreCredentials(ACCESS_KEY, SECRET_KEY), SERVICE, REGION, expires=EXPIRES)

    def sign(now: datetime) -> str:
        request = AWSRequest("GET", f"https://{HOST}/mqtt")
        signer.add_auth(request)
        return request.url

    return sign


def python_sdk_v1() -> Signer:
    core = SigV4Core()
    core.setIAMCredentials(ACCESS_KEY, SECRET_KEY, "")
    return lambda now: core.createWebsocketEndpoint(HOST, 443, REGION, "GET", SERVICE, "/mqtt")


SIGNERS: dict[str, Callable[[], Signer]] = {
    "botocore": botocore_query_auth,
    "AWSIoTPythonSDK": python_sdk_v1,
    "awscrt": awscrt_each_time,
    "awscrt, one configuration": awscrt_one_config,
    "sigv4.presign": general_presign,
    "sigv4.IotUrlSigner": iot_url_signer,
}


class FixedCore(SigV4Core):
    """The SDK's signer with a given time, for the comparison."""

    def _createAmazonDate(self) -> list[str]:
        return [f"{START:%Y%m%d}", f"{START:%Y%m%dT%H%M%SZ}"]


def check() -> None:
    """Check that all signers create the same signature for one time."""
    core = FixedCore()
    core.setIAMCredentials(ACCESS_KEY, SECRET_KEY, "")
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=START.replace(tzinfo=None)):
        urls = {name: make()(START) for name, make in SIGNERS.items() if name != "AWSIoTPythonSDK"}
    urls["AWSIoTPythonSDK"] = core.createWebsocketEndpoint(HOST, 443, REGION, "GET", SERVICE, "/mqtt")
    signatures = {re.search("Signature=([0-9a-f]{64})", url)[1] for url in urls.values()}  # type: ignore[index]
    if len(signatures) != 1:
        raise SystemExit(f"the signers disagree: {len(signatures)} signatures for one request")


def seconds_for(sign: Signer, count: int) -> float:
    times = [TIMES[index % len(TIMES)] for index in range(count)]
    start = time.perf_counter()
    for now in times:
        sign(now)
    return time.perf_counter() - start


def measure(seconds: float) -> dict[str, float]:
    """Return the URLs a second of each signer, the best of some alternating rounds, in about `seconds` for all."""
    signers = {name: make() for name, make in SIGNERS.items()}
    share = seconds / len(signers) / ROUNDS
    counts = {name: max(100, int(share / seconds_for(sign, 500) * 500)) for name, sign in signers.items()}
    best = dict.fromkeys(signers, 0.0)
    for _ in range(ROUNDS):
        for name, sign in signers.items():
            best[name] = max(best[name], counts[name] / seconds_for(sign, counts[name]))
    return best


def main() -> None:
    check()
    rates = measure(float(sys.argv[1]) if len(sys.argv) > 1 else 10)
    print(f"{'signer':<28}{'URLs/s':>12}{'µs/URL':>10}{'× awscrt':>10}{'× its best':>12}")
    for name, rate in rates.items():
        times, best = rate / rates["awscrt"], rate / rates["awscrt, one configuration"]
        print(f"{name:<28}{rate:>12,.0f}{1e6 / rate:>10.2f}{times:>10.2f}{best:>12.2f}")


if __name__ == "__main__":
    main()
