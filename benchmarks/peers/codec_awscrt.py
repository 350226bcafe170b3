"""awscrt: only its signing of URLs, with a signing configuration for each time, as a client needs."""

from __future__ import annotations

import itertools

import workloads as work
from awscrt import auth, http
from timing import main, nanoseconds


def sign() -> float:
    """Sign an AWS IoT URL at changing times."""
    provider = auth.AwsCredentialsProvider.new_static(*work.KEYS)
    times = work.times()

    def run(count: int) -> str:
        for _, now in zip(range(count), itertools.cycle(times), strict=False):
            config = auth.AwsSigningConfig(
                signature_type=auth.AwsSignatureType.HTTP_REQUEST_QUERY_PARAMS,
                credentials_provider=provider,
                region=work.REGION,
                service="iotdevicegateway",
                date=now,
                expiration_in_seconds=work.EXPIRES,
                omit_session_token=True,
            )
            request = http.HttpRequest("GET", "/mqtt", http.HttpHeaders([("Host", work.IOT_HOST)]))
            url = auth.aws_sign_request(request, config).result().path
        return url

    assert "X-Amz-Signature=" in run(1)
    return nanoseconds(run)


main({"sign": sign})
