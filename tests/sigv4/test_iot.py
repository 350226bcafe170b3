"""URLs of AWS IoT: the region in a host name, the signed parts, and the prepared signer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

import pytest
from AWSIoTPythonSDK.core.protocol.connection.cores import SigV4Core
from hypothesis import given, settings
from hypothesis import strategies as st

from sigv4 import Credentials, IotUrlSigner, RegionUnknown, SigningError, presign, presign_iot_url, region_from_endpoint
from sigv4.iot import SIGNERS_CACHED, _signer

KEYS = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
TEMPORARY = Credentials("ASIAEXAMPLE", "secret/with+signs", "token/with+signs==")
NOW = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
ENDPOINT = "wss://a1b2c3-ats.iot.eu-west-1.amazonaws.com/mqtt"


# --- the region -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("a1b2c3-ats.iot.eu-west-1.amazonaws.com", "eu-west-1"),
        ("a1b2c3.iot.us-east-1.amazonaws.com", "us-east-1"),
        ("A1B2C3-ATS.IOT.AP-SOUTHEAST-2.AMAZONAWS.COM", "ap-southeast-2"),
        ("a1b2c3-ats.iot.eu-west-1.amazonaws.com:443", "eu-west-1"),
        ("wss://a1b2c3-ats.iot.eu-west-1.amazonaws.com:8443/mqtt?x=1", "eu-west-1"),
        ("a1b2c3-ats.iot.eu-west-1.amazonaws.com.", "eu-west-1"),
        ("data.iot.us-west-2.amazonaws.com", "us-west-2"),
        ("data-ats.iot.us-west-2.amazonaws.com", "us-west-2"),
        ("data.iot-fips.us-east-2.amazonaws.com", "us-east-2"),
        ("data.iot-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("data-ats.iot.us-gov-east-1.amazonaws.com", "us-gov-east-1"),
        ("a1b2c3.ats.iot.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("data.ats.iot.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("a1b2c3-ats.iot.cn-northwest-1.amazonaws.com.cn", "cn-northwest-1"),
        ("vpce-0a1b2c-xyz.data.iot.us-east-1.vpce.amazonaws.com", "us-east-1"),
        ("vpce-0a1b2c-xyz-us-east-1a.data.iot.us-east-1.vpce.amazonaws.com", "us-east-1"),
        ("vpce-0a1b2c-xyz.data.iot.cn-north-1.vpce.amazonaws.com.cn", "cn-north-1"),
        ("data-ats.iot.eu-central-1.api.aws", "eu-central-1"),
        ("data-ats.iot.cn-north-1.api.amazonwebservices.com.cn", "cn-north-1"),
        ("data-ats.iot.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1"),
        ("data-ats.iot.us-iso-east-1.c2s.ic.gov", "us-iso-east-1"),
        ("data-ats.iot.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1"),
        ("data-ats.iot.eu-isoe-west-1.cloud.adc-e.uk", "eu-isoe-west-1"),
        ("data-ats.iot.us-isof-south-1.csp.hci.ic.gov", "us-isof-south-1"),
    ],
)
def test_the_region_is_found_in_every_form_of_an_aws_iot_host(endpoint, region):
    assert region_from_endpoint(endpoint) == region


@pytest.mark.parametrize(
    "endpoint",
    [
        "a1b2c3-ats.iot.eu-west-1.amazonaws.com.attacker.net",
        "a1b2c3-ats.iot.eu-west-1.amazonaws.com.cn.attacker.net",
        "a1b2c3-ats.iot.eu-west-1.notamazonaws.com",
        "a1b2c3-ats.iot.eu-west-1.amazonaws.org",
        "a1b2c3-ats.iot.eu-west-1.amazonaws.com.cn",
        "a1b2c3-ats.iot.cn-north-1.amazonaws.com",
        "a1b2c3-ats.iot.amazonaws.com",
        "a1b2c3-ats.iot.nowhere.amazonaws.com",
        "a1b2c3-ats.iot.eu-west-1.s3.amazonaws.com",
        "a1b2c3-ats.s3.eu-west-1.amazonaws.com",
        "iot-eu-west-1.amazonaws.com",
        "a..iot.eu-west-1.amazonaws.com",
        "attacker.net/a1b2c3-ats.iot.eu-west-1.amazonaws.com",
        "attacker.net?a1b2c3-ats.iot.eu-west-1.amazonaws.com",
        "mqtt.example.com",
        "localhost:8883",
        "127.0.0.1",
        "[::1]:443",
    ],
)
def test_the_region_of_similar_hosts_is_unknown(endpoint):
    with pytest.raises(RegionUnknown, match="give the region, for example region="):
        region_from_endpoint(endpoint)


# --- the endpoint ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("https://host/mqtt", "wss://"),
        ("wss://user:hunter2@host/mqtt", "without a user name"),
        ("wss://host/mqtt#part", "fragment"),
        ("wss://host:0/", "port of 1 to 65,535"),
        ("wss://host:99999/", "port of 1 to 65,535"),
        ("wss://host:port/", "a host of ASCII"),
        ("wss:///mqtt", "a host of ASCII"),
        ("wss://hö.st/mqtt", "a host of ASCII"),
        ("wss://\u212aelvin/mqtt", "a host of ASCII"),  # a sign that lower-cases to 'k'
        ("wss://ho st/mqtt", "a host of ASCII"),
        ("wss://host\r\n/mqtt", "a host of ASCII"),
        (ENDPOINT + "?X-Amz-Signature=abc", "not yet signed"),
        (ENDPOINT + "?X%2DAmz-Date=abc", "not yet signed"),
        (b"wss://host", "expected a str"),
    ],
)
def test_an_invalid_endpoint_is_refused_with_the_expected_form(endpoint, says):
    with pytest.raises(SigningError, match=says) as caught:
        presign_iot_url(endpoint, KEYS, "eu-west-1", NOW)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "url", "host"),
    [
        ("host.example", "wss://host.example/mqtt", "host.example"),
        ("HOST.example:443", "wss://host.example/mqtt", "host.example"),
        ("wss://host.example:443/mqtt", "wss://host.example/mqtt", "host.example"),
        ("wss://host.example:8443/mqtt", "wss://host.example:8443/mqtt", "host.example:8443"),
        ("wss://host.example:80", "wss://host.example:80/mqtt", "host.example:80"),
        ("ws://host.example:80/", "ws://host.example/", "host.example"),
        ("ws://127.0.0.1:443", "ws://127.0.0.1:443/mqtt", "127.0.0.1:443"),
        ("ws://[::1]:8083", "ws://[::1]:8083/mqtt", "[::1]:8083"),
        ("wss://host.example/a b/ü", "wss://host.example/a%20b/%C3%BC", "host.example"),
    ],
)
def test_the_signed_host_is_the_one_sent(endpoint, url, host):
    signed = presign_iot_url(endpoint, KEYS, "eu-west-1", NOW)
    assert signed.partition("?")[0] == url
    split = urlsplit(signed)
    assert f"{split.path}?{split.query}" == general(split.path, host, KEYS).target


def general(target, host, credentials, now=NOW, region="eu-west-1", service="iotdevicegateway", expires=None):
    return presign(
        "GET",
        target,
        headers=[("Host", host)],
        credentials=credentials,
        region=region,
        service=service,
        now=now,
        expires=expires,
        sign_token=False,
    )


# --- the URL --------------------------------------------------------------------------------------------------------


def test_the_literal_url_with_long_term_keys():
    assert presign_iot_url(ENDPOINT, KEYS, now=NOW) == (
        "wss://a1b2c3-ats.iot.eu-west-1.amazonaws.com/mqtt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIDEXAMPLE%2F20150830%2Feu-west-1%2Fiotdevicegateway%2Faws4_request"
        "&X-Amz-Date=20150830T123600Z&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=2e804a586cd2bd998103acd0c25cdbce016268435d17e45a9dce968584e75ab9"
    )


def test_the_token_is_appended_and_not_signed():
    with_token = presign_iot_url(ENDPOINT, TEMPORARY, now=NOW)
    without = presign_iot_url(ENDPOINT, Credentials(TEMPORARY.access_key, TEMPORARY.secret_key), now=NOW)
    assert with_token == without + "&X-Amz-Security-Token=token%2Fwith%2Bsigns%3D%3D"


def test_query_parameters_of_the_endpoint_are_signed_in_their_place():
    url = presign_iot_url(ENDPOINT + "?z=1&X-Amz-Customer=a b&a&ü=+", TEMPORARY, now=NOW, expires=300)
    keys = [key for key, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)]
    assert keys == [
        "ü",
        *(
            "X-Amz-Algorithm",
            "X-Amz-Credential",
            "X-Amz-Customer",
            "X-Amz-Date",
            "X-Amz-Expires",
            "X-Amz-SignedHeaders",
        ),
        *("a", "z", "X-Amz-Signature", "X-Amz-Security-Token"),
    ]
    assert "&X-Amz-Customer=a%20b&" in url
    assert "?%C3%BC=%2B&" in url


def test_the_clock_is_read_when_no_time_is_given():
    before = datetime.now(UTC).replace(microsecond=0)
    url = presign_iot_url(ENDPOINT, KEYS)
    date = dict(parse_qsl(urlsplit(url).query))["X-Amz-Date"]
    assert before <= datetime.strptime(date, "%Y%m%dT%H%M%S%z") <= datetime.now(UTC)


def test_a_url_of_the_python_sdk_v1_equals_ours_for_iotdata():
    class Core(SigV4Core):
        def _createAmazonDate(self):
            return ["20150830", "20150830T123600Z"]

    core = Core()
    core.setIAMCredentials(TEMPORARY.access_key, TEMPORARY.secret_key, "token+with=signs")
    host = urlsplit(ENDPOINT).hostname
    theirs = core.createWebsocketEndpoint(host, 443, "eu-west-1", "GET", "iotdata", "/mqtt")
    credentials = Credentials(TEMPORARY.access_key, TEMPORARY.secret_key, "token+with=signs")
    ours = presign_iot_url(ENDPOINT, credentials, now=NOW, service="iotdata", expires=86_400)
    assert ours == theirs.replace(":443/", "/")


# --- the prepared signer --------------------------------------------------------------------------------------------

words = st.text("az09-._~/%+ &=ü", max_size=8)


@given(
    st.lists(words, max_size=3).map("/".join),
    words.filter(lambda text: "#" not in text),
    st.sampled_from([KEYS, TEMPORARY]),
    st.lists(st.integers(0, 3 * 86_400), min_size=1, max_size=6),
    st.none() | st.integers(1, 604_800),
)
@settings(max_examples=200)
def test_a_prepared_signer_agrees_with_the_general_one_at_any_time(path, query, credentials, seconds, expires):
    signer = IotUrlSigner(f"wss://host.example:8443/{path}?{query}", "eu-west-1", expires=expires)
    for second in seconds:
        now = NOW + timedelta(seconds=second)
        url = signer.presign(credentials, now)
        sent_path = url.removeprefix("wss://host.example:8443").partition("?")[0]
        target = general(f"{sent_path}?{query}", "host.example:8443", credentials, now, expires=expires).target
        assert url == "wss://host.example:8443" + target


def test_a_prepared_signer_uses_the_given_credentials():
    signer = IotUrlSigner(ENDPOINT)
    first, second = signer.presign(KEYS, NOW), signer.presign(TEMPORARY, NOW)
    assert (first, second) == (presign_iot_url(ENDPOINT, KEYS, now=NOW), presign_iot_url(ENDPOINT, TEMPORARY, now=NOW))
    assert signer.presign(KEYS, NOW) == first
    again = Credentials(KEYS.access_key, KEYS.secret_key)  # equal, but another object
    assert signer.presign(again, NOW) == first
    other = Credentials(KEYS.access_key, "another secret".replace(" ", ""))
    assert signer.presign(other, NOW) == presign_iot_url(ENDPOINT, other, now=NOW) != first


def test_a_signer_has_its_region():
    assert IotUrlSigner(ENDPOINT).region == "eu-west-1"
    assert IotUrlSigner("wss://mqtt.example.com", "us-east-1").region == "us-east-1"


def test_a_signer_calls_a_provider_each_time():
    class Rotating:
        asked = 0

        def get_frozen_credentials(self):
            self.asked += 1
            return Credentials(f"AKID{self.asked}", "secret")

    provider, signer = Rotating(), IotUrlSigner(ENDPOINT)
    assert "Credential=AKID1%2F" in signer.presign(provider, NOW)
    assert "Credential=AKID2%2F" in signer.presign(provider, NOW)


def test_a_path_that_imitates_a_date_is_signed_as_a_path():
    endpoint = ENDPOINT + "/&X-Amz-Date=20150830T123600Z&"
    url = IotUrlSigner(endpoint).presign(KEYS, NOW)
    path = urlsplit(url).path
    assert url.endswith(general(path, urlsplit(url).hostname, KEYS).target)


@pytest.mark.parametrize("expires", [0, -1, 604_801, 1.5, True, "300"])
def test_an_expiry_out_of_range_is_refused(expires):
    with pytest.raises(SigningError, match="1 to 604800"):
        IotUrlSigner(ENDPOINT, expires=expires)
    with pytest.raises(SigningError, match="1 to 604800"):
        general("/", "host", KEYS, expires=expires)


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(SigningError, match="aware"):
        presign_iot_url(ENDPOINT, KEYS, now=NOW.replace(tzinfo=None))
    with pytest.raises(SigningError, match="aware"):
        presign_iot_url(ENDPOINT, KEYS, now="20150830T123600Z")


@pytest.mark.parametrize(
    ("region", "service"), [("eu west", "iot"), ("eu/west", "iot"), ("", "iot"), ("eu", ""), (1, "x")]
)
def test_a_scope_with_invalid_characters_is_refused(region, service):
    with pytest.raises(SigningError, match="expected letters, digits and hyphens"):
        IotUrlSigner(ENDPOINT, region, service=service)


def test_the_cache_of_endpoints_is_bounded_and_distinguishes_types():
    keys = Credentials("AKID", "secret")
    _signer.cache_clear()
    for number in range(3 * SIGNERS_CACHED):
        presign_iot_url(f"wss://a{number}-ats.iot.eu-west-1.amazonaws.com/mqtt", keys, now=NOW)
    assert _signer.cache_info().currsize == SIGNERS_CACHED
    endpoint = "wss://a-ats.iot.eu-west-1.amazonaws.com/mqtt"
    assert presign_iot_url(endpoint, keys, now=NOW, expires=1) == presign_iot_url(endpoint, keys, now=NOW, expires=1)
    with pytest.raises(SigningError, match="expires"):
        presign_iot_url(endpoint, keys, now=NOW, expires=True)
    with pytest.raises(SigningError, match="endpoint: expected a str"):
        presign_iot_url([endpoint], keys, now=NOW)
    others = [Credentials(f"AKID{number}", "secret", f"token{number}") for number in range(4)]
    for each in (*others, *others):
        assert presign_iot_url(endpoint, each, now=NOW) == IotUrlSigner(endpoint).presign(each, NOW)
