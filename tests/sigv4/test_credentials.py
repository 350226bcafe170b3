"""Credentials: immutable and hidden in text, and fetched from every supported source."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import hashlib
import json
import os
import pickle
import socket
import sys
import traceback
from datetime import UTC, datetime, timedelta, timezone
from unittest import mock

import botocore.exceptions
import pytest
from botocore.credentials import Credentials as BotocoreCredentials
from botocore.credentials import DeferredRefreshableCredentials, ReadOnlyCredentials, RefreshableCredentials
from botocore.session import Session

from sigv4 import (
    BotocoreProvider,
    ChainProvider,
    Credentials,
    CredentialsProvider,
    CredentialsUnavailable,
    EnvironmentProvider,
    SharedFileProvider,
    fetch,
    fetch_async,
)

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SECRET, TOKEN = "canary-secret", "canary-token"


# --- the class ------------------------------------------------------------------------------------------------------


def test_the_fields_in_their_order():
    credentials = Credentials("AKID", SECRET, TOKEN, expires_at=NOW)
    assert (credentials.access_key, credentials.secret_key, credentials.token) == ("AKID", SECRET, TOKEN)
    assert credentials.expires_at == NOW
    assert Credentials("AKID", SECRET).token is None
    assert Credentials("AKID", SECRET, "").token is None
    with pytest.raises(TypeError):
        Credentials("AKID", SECRET, TOKEN, NOW)


def test_they_are_immutable_and_compare_by_value():
    credentials = Credentials("AKID", SECRET, TOKEN)
    assert credentials == Credentials("AKID", SECRET, TOKEN) != Credentials("AKID", SECRET, "other")
    assert hash(credentials) == hash(Credentials("AKID", SECRET, TOKEN))
    with pytest.raises(dataclasses.FrozenInstanceError):
        credentials.token = None
    assert copy.copy(credentials) is copy.deepcopy(credentials) is credentials


def test_they_are_not_shown():
    credentials = Credentials("AKID", SECRET, TOKEN, expires_at=NOW)
    for text in (repr(credentials), str(credentials), f"{credentials}", f"{[credentials]}", f"{credentials!s:>9}"):
        assert "AKID" in text
        assert SECRET not in text
        assert TOKEN not in text


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_they_are_not_pickled_nor_serialised(protocol):
    credentials = Credentials("AKID", SECRET, TOKEN)
    with pytest.raises(TypeError, match="fetch them again"):
        pickle.dumps(credentials, protocol)
    with pytest.raises(TypeError, match="fetch them again"):
        pickle.dumps(ValueError("with", credentials), protocol)
    with pytest.raises(TypeError):
        json.dumps(credentials)
    with pytest.raises(TypeError):
        credentials.__getstate__()


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("", "s"), ValueError, "access_key: expected text"),
        (("AK/ID", "s"), ValueError, "access_key: .* without '/', found it at index 2"),
        (("AK ID", "s"), ValueError, "access_key: .* without whitespace"),
        (("AKID", "canary\n"), ValueError, "secret_key: .* without whitespace, found it at index 6"),
        (("AKID", "canary\x00"), ValueError, "secret_key: .* without a control character"),
        (("AKID", "canary\udc80"), ValueError, "secret_key: .* without a control character"),
        (("AKID", ""), ValueError, "secret_key: expected text"),
        (("AKID", None), TypeError, "secret_key: expected a str, got NoneType"),
        (("AKID", b"canary"), TypeError, "secret_key: expected a str, got bytes"),
        (("AKID", "s", "can\nary"), ValueError, "token: .* without whitespace, found it at index 3; was it wrapped"),
        (("AKID", "s", 1), TypeError, "token: expected a str, got int"),
    ],
)
def test_invalid_fields_are_refused_without_showing_them(arguments, error, says):
    with pytest.raises(error, match=says) as caught:
        Credentials(*arguments)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("expires_at", "error"), [(datetime(2026, 1, 1), ValueError), ("2026-01-01", TypeError), (0, TypeError)]
)
def test_an_expiry_without_a_time_zone_is_refused(expires_at, error):
    with pytest.raises(error, match="expires_at: expected"):
        Credentials("AKID", "s", expires_at=expires_at)


def test_expires_within():
    credentials = Credentials("AKID", "s", expires_at=NOW + timedelta(seconds=60))
    assert credentials.expires_within(60, NOW)
    assert not credentials.expires_within(59, NOW)
    assert credentials.expires_within(0, NOW.astimezone(timezone(timedelta(hours=5))) + timedelta(minutes=2))
    assert not Credentials("AKID", "s").expires_within(1e9, NOW)


# --- sources --------------------------------------------------------------------------------------------------------

KEYS = Credentials("AKID", SECRET, TOKEN)


class Provider:
    def __init__(self, given):
        self.given = given

    def get_frozen_credentials(self):
        return self.given


async def awaited():
    await asyncio.sleep(0)
    return KEYS


class AsyncCallable:
    async def __call__(self):
        return KEYS


class AsyncProvider:
    async def get_frozen_credentials(self):
        return KEYS


BLOCKING = [KEYS, Provider(KEYS), lambda: KEYS, lambda: Provider(KEYS), ReadOnlyCredentials("AKID", SECRET, TOKEN)]
AWAITABLE = [awaited, AsyncCallable(), AsyncProvider(), lambda: awaited()]


@pytest.mark.parametrize("source", BLOCKING)
def test_a_source_is_fetched(source):
    given = fetch(source)
    assert type(given) is Credentials
    assert given == KEYS
    assert isinstance(KEYS, CredentialsProvider)


@pytest.mark.parametrize("run", [None, asyncio.to_thread])
@pytest.mark.parametrize("source", BLOCKING + AWAITABLE)
def test_a_source_is_fetched_and_awaited(source, run):
    assert asyncio.run(fetch_async(source, run)) == KEYS


def test_blocking_sources_run_in_a_thread_and_awaitable_ones_do_not():
    ran = []

    async def run(call):
        ran.append(call)
        return call()

    asyncio.run(fetch_async(awaited, run))
    asyncio.run(fetch_async(AsyncProvider(), run))
    asyncio.run(fetch_async(KEYS, run))
    assert not ran
    asyncio.run(fetch_async(Provider(KEYS), run))
    assert len(ran) == 1


@pytest.mark.parametrize("source", AWAITABLE)
def test_an_awaitable_is_not_fetched_without_waiting(source):
    with pytest.raises(TypeError, match="await fetch_async"):
        fetch(source)


def test_an_awaitable_that_cannot_be_closed_is_refused():
    class Later:
        def __await__(self):
            return iter([KEYS])

    with pytest.raises(TypeError, match="await fetch_async"):
        fetch(Later)


@pytest.mark.parametrize("source", [None, lambda: None, Provider(None)])
def test_a_source_without_credentials_is_an_error(source):
    with pytest.raises(CredentialsUnavailable, match="returned None"):
        fetch(source)


@pytest.mark.parametrize(
    "source", [3, "AKID:canary", ("AKID", "canary"), lambda: "canary", Provider({"secret": "canary"})]
)
def test_an_invalid_source_is_refused_without_showing_it(source):
    with pytest.raises(TypeError, match=r"expected credentials .* got") as caught:
        fetch(source)
    assert "canary" not in str(caught.value)


def test_the_expiry_is_copied_with_the_fields():
    class Given:
        access_key, secret_key, token, expires_at = "AKID", "s", None, NOW

    assert fetch(Given()).expires_at == NOW


# --- the environment ------------------------------------------------------------------------------------------------


def test_the_environment():
    environ = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": SECRET}
    assert fetch(EnvironmentProvider(environ)) == Credentials("AKID", SECRET)
    environ["AWS_SESSION_TOKEN"] = TOKEN
    assert fetch(EnvironmentProvider(environ)) == KEYS


def test_the_environment_is_read_at_each_fetch(monkeypatch):
    provider = EnvironmentProvider()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FIRST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    assert fetch(provider).access_key == "FIRST"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "SECOND")
    assert fetch(provider).access_key == "SECOND"


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({}, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY not set"),
        ({"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": ""}, "environment: AWS_SECRET_ACCESS_KEY not set"),
    ],
)
def test_an_environment_without_keys(environ, says):
    with pytest.raises(CredentialsUnavailable, match=says):
        fetch(EnvironmentProvider(environ))


# --- the shared files -----------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = DEFAULT\naws_secret_access_key = percent%secret\n\n"
        f"[work]\naws_access_key_id=WORK\naws_secret_access_key={SECRET}\naws_session_token={TOKEN}\n\n"
        "[half]\naws_access_key_id=HALF\n"
    )
    (tmp_path / "config").write_text(
        "[profile configured]\naws_access_key_id = CONFIGURED\naws_secret_access_key = s\n\n"
        "[profile role]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = work\n"
    )
    return {
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
    }


def test_the_profiles_of_the_shared_files(files):
    assert fetch(SharedFileProvider(environ=files)) == Credentials("DEFAULT", "percent%secret")
    assert fetch(SharedFileProvider("work", environ=files)) == Credentials("WORK", SECRET, TOKEN)
    assert fetch(SharedFileProvider("configured", environ=files)).access_key == "CONFIGURED"
    assert fetch(SharedFileProvider(environ={**files, "AWS_PROFILE": "work"})).access_key == "WORK"


def test_given_paths_take_precedence_over_the_environment(files, tmp_path):
    other = tmp_path / "other"
    other.write_text("[default]\naws_access_key_id=OTHER\naws_secret_access_key=s\n")
    assert fetch(SharedFileProvider(path=other, environ=files)).access_key == "OTHER"
    other.write_text("[profile p]\naws_access_key_id=P\naws_secret_access_key=s\n")
    assert fetch(SharedFileProvider("p", config_path=other, environ=files)).access_key == "P"


def test_a_changed_file_is_read_again(files):
    provider = SharedFileProvider("work", environ=files)
    assert fetch(provider).access_key == "WORK"
    with open(files["AWS_SHARED_CREDENTIALS_FILE"], "w") as file:
        file.write("[work]\naws_access_key_id=LATER\naws_secret_access_key=s\n")
    assert fetch(provider).access_key == "LATER"


@pytest.mark.parametrize(
    ("section", "profile"),
    [
        ('profile "my dev"', "my dev"),
        ("profile 'my dev'", "my dev"),
        ("profile my dev", "my dev"),  # botocore requires the quotes
        ("profile \t dev", "dev"),
        ("profile default", "default"),
        ("default", "default"),
    ],
)
def test_the_sections_of_the_config_file(tmp_path, section, profile):
    config = tmp_path / "config"
    config.write_text(
        f"['open]\n[{section}]\naws_access_key_id=AKID\naws_secret_access_key=s\n[sso-session {profile}]\n"
    )
    assert fetch(SharedFileProvider(profile, path=tmp_path / "none", config_path=config)).access_key == "AKID"


def test_profile_default_takes_precedence_over_default(tmp_path):
    config = tmp_path / "config"
    keys = "aws_access_key_id={}\naws_secret_access_key=s\n"
    config.write_text("[profile default]\n" + keys.format("FIRST") + "[default]\n" + keys.format("SECOND"))
    assert fetch(SharedFileProvider(path=tmp_path / "none", config_path=config)).access_key == "FIRST"


def test_keys_that_are_not_valid_are_unavailable(tmp_path):
    file = tmp_path / "credentials"
    file.write_text(f"[default]\naws_access_key_id=AKID # mine\naws_secret_access_key={SECRET}\n")
    environ = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": f"{SECRET}\n"}
    for source, says in (
        (SharedFileProvider(path=file, config_path=tmp_path / "none"), "credentials: access_key: expected printable"),
        (EnvironmentProvider(environ), "environment: secret_key: expected printable"),
        (lambda: ReadOnlyCredentials("AKID", f"{SECRET} ", None), "not valid: secret_key: expected printable"),
    ):
        with pytest.raises(CredentialsUnavailable, match=says) as caught:
            fetch(source)
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        assert fetch(ChainProvider(source, NEXT)) == NEXT


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ("missing", r"no section \[missing\] among default, work, half; .* no section \[profile missing\]"),
        ("half", "does not have both aws_access_key_id and aws_secret_access_key"),
        ("role", "use BotocoreProvider"),
    ],
)
def test_a_missing_profile_is_an_error(files, profile, says):
    with pytest.raises(CredentialsUnavailable, match=says):
        fetch(SharedFileProvider(profile, environ=files))


@pytest.mark.parametrize(
    "content",
    [
        b"aws_secret_access_key = canary\n",
        b"[default]\ncanary\n",
        b"[default]\na=canary\na=canary\n",
        b"[default]\n\xff canary",
    ],
)
def test_a_file_that_does_not_parse_is_not_quoted(tmp_path, content):
    path = tmp_path / "broken"
    path.write_bytes(content)
    with pytest.raises(CredentialsUnavailable, match="is not a valid INI file") as caught:
        fetch(SharedFileProvider(path=path, config_path=tmp_path / "none", environ={}))
    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is None


def test_missing_or_unreadable_files_are_an_error(tmp_path):
    with pytest.raises(CredentialsUnavailable, match=r"does not exist; .* does not exist"):
        fetch(SharedFileProvider(path=tmp_path / "a", config_path=tmp_path / "b", environ={}))
    with pytest.raises(CredentialsUnavailable, match="cannot be read"):
        fetch(SharedFileProvider(path=tmp_path, config_path=tmp_path / "b", environ={}))


# --- chains ---------------------------------------------------------------------------------------------------------


def test_a_chain_uses_the_first_source_with_credentials(files):
    empty, full = EnvironmentProvider({}), SharedFileProvider("work", environ=files)
    assert fetch(ChainProvider(empty, full)).access_key == "WORK"
    assert fetch(ChainProvider(KEYS, full)) == KEYS
    with pytest.raises(CredentialsUnavailable, match=r"environment: .* not set; environment: .* not set"):
        fetch(ChainProvider(empty, empty))


def test_the_usual_chain_is_the_environment_and_then_the_files(files, monkeypatch):
    for name, value in files.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    assert fetch(ChainProvider()).access_key == "DEFAULT"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    assert fetch(ChainProvider()).access_key == "ENV"


def test_botocores_chain_is_used_and_its_tuple_copied(files, monkeypatch):
    for name, value in files.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    given = fetch(BotocoreProvider("work"))
    assert type(given) is Credentials
    assert given == Credentials("WORK", SECRET, TOKEN)
    session = Session(profile="work")
    assert fetch(BotocoreProvider(session=session)) == given
    assert fetch(session.get_credentials) == given
    assert SECRET in repr(session.get_credentials().get_frozen_credentials())  # the reason for the copy
    assert SECRET not in repr(given)


@pytest.mark.parametrize("form", ["own session", "given session"])
def test_botocore_reads_keys_that_were_written_anew(monkeypatch, tmp_path, form):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    provider = BotocoreProvider(session=Session() if form == "given session" else None)
    with pytest.raises(CredentialsUnavailable):
        fetch(provider)
    for key in "AKIDONE", "AKIDTWO":
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n")
        assert fetch(provider) == Credentials(key, "s")
    file.unlink()
    with pytest.raises(CredentialsUnavailable):
        fetch(provider)


def test_credentials_that_were_set_in_a_session_of_botocore_are_kept():
    session = Session()
    session.set_credentials("AKIDSET", "s")
    provider = BotocoreProvider(session=session)
    assert [fetch(provider), fetch(provider)] == [Credentials("AKIDSET", "s")] * 2


def test_a_session_that_is_not_one_of_botocore_decides_on_its_credentials():
    class LikeBoto3:
        """A session as in boto3: around one of botocore, of which it has only some methods."""

        def __init__(self):
            self._session = Session()
            self._session.get_credentials = lambda: BotocoreCredentials("AKIDBOTO", "s", method="env")

        def get_credentials(self):
            return self._session.get_credentials()

    class Vault(Session):
        def get_credentials(self):
            return BotocoreCredentials("AKIDVAULT", "s")

    assert fetch(BotocoreProvider(session=LikeBoto3())) == Credentials("AKIDBOTO", "s")
    assert fetch(BotocoreProvider(session=Vault())) == Credentials("AKIDVAULT", "s")


def test_credentials_that_botocore_refreshes_are_kept_until_that_fails(profiles, tmp_path):
    """They come from a process here, whose runs are counted; others come over the network, which takes long."""
    runs, end = tmp_path / "runs", datetime.now(UTC) + timedelta(days=1)
    answer = {"Version": 1, "AccessKeyId": "AKID", "SecretAccessKey": "s", "Expiration": end.isoformat()}
    script = tmp_path / "process.py"
    script.write_text(f"open(r'{runs}', 'a').write('x')\nprint({json.dumps(json.dumps(answer))})\n")
    with (tmp_path / "config").open("a") as config:
        config.write(f"[profile counted]\ncredential_process = {sys.executable} {script}\n")
    provider = BotocoreProvider("counted")
    assert [fetch(provider).expires_at for _ in range(3)] == [end] * 3
    assert runs.read_text() == "x"
    with (
        mock.patch.object(
            RefreshableCredentials, "get_frozen_credentials", side_effect=botocore.exceptions.BotoCoreError
        ),
        pytest.raises(CredentialsUnavailable),
    ):
        fetch(provider)
    assert fetch(provider).expires_at == end
    assert runs.read_text() == "xx"


def test_botocore_without_credentials(monkeypatch):
    class Empty:
        def get_credentials(self):
            return None

    with pytest.raises(CredentialsUnavailable, match="found no credentials"):
        fetch(BotocoreProvider(session=Empty()))


def test_botocore_not_installed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "botocore.session", None)
    with pytest.raises(CredentialsUnavailable, match="pip install"):
        fetch(BotocoreProvider())


# --- botocore's errors and expiry times -----------------------------------------------------------------------------

NEXT = Credentials("AKIDNEXT", "secret")


@pytest.fixture
def profiles(monkeypatch, tmp_path):
    """A configuration with a profile for single sign-on without a login, and one with a broken process."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    config = tmp_path / "config"

    def printing(given):
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        file.write_text(given if isinstance(given, str) else json.dumps(given))
        return f"{sys.executable} -c \"print(open(r'{file}').read())\""

    answer = {"Version": 1, "AccessKeyId": "AKID", "SecretAccessKey": SECRET}
    failing = f"{sys.executable} -c \"import sys; sys.exit('{SECRET}')\""
    cache = tmp_path / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    (cache / (hashlib.sha1(b"https://broken.example").hexdigest() + ".json")).write_text("{")
    config.write_text(
        "[profile broken_sso]\nsso_start_url = https://broken.example\nsso_region = eu-west-1\n"
        "sso_account_id = 123456789012\nsso_role_name = r\n"
        "[profile sso]\nsso_session = s\nsso_account_id = 123456789012\nsso_role_name = r\n"
        "[sso-session s]\nsso_start_url = https://login.example/start\nsso_region = eu-west-1\n"
        "[profile old_sso]\nsso_start_url = https://login.example/start\nsso_region = eu-west-1\n"
        "sso_account_id = 123456789012\nsso_role_name = r\n"
        f"[profile process]\ncredential_process = {failing}\n"
        f"[profile not_json]\ncredential_process = {printing(SECRET)}\n"
        "[profile no_process]\ncredential_process = /nonexistent/process\n"
        f"[profile past]\ncredential_process = {printing(answer | {'Expiration': '2001-01-01T00:00:00Z'})}\n"
        f"[profile no_date]\ncredential_process = {printing(answer | {'Expiration': SECRET})}\n"
        f"[profile space]\ncredential_process = {printing(answer | {'SecretAccessKey': SECRET + ' '})}\n"
        "[profile role]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = missing\n"
        "[profile loop]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = loop\n"
        "[profile half]\naws_access_key_id = AKIDHALF\n"
    )
    for name, value in {"AWS_CONFIG_FILE": str(config), "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


@pytest.mark.parametrize(
    "profile",
    [
        *("sso", "old_sso", "broken_sso", "process", "not_json", "no_process", "past", "no_date", "space"),
        *("role", "loop", "half", "no such profile"),
    ],
)
@pytest.mark.parametrize("form", ["provider", "session", "credentials", "async"])
def test_missing_credentials_of_botocore_are_credentials_unavailable(profiles, profile, form):
    source = BotocoreProvider(profile)
    if form != "provider":
        source = BotocoreProvider(session=Session(profile=profile))
    if form == "credentials":
        source = lambda: Session(profile=profile).get_credentials()  # noqa: E731 - as programs write it
    with pytest.raises(CredentialsUnavailable) as caught:
        asyncio.run(fetch_async(source, asyncio.to_thread)) if form == "async" else fetch(source)
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown
    assert fetch(ChainProvider(source, NEXT)) == NEXT


def test_a_header_that_botocore_cannot_send_is_not_shown(profiles, monkeypatch, tmp_path):
    """Its HTTPClientError quotes the header of the session token."""
    with (tmp_path / "config").open("a") as config:
        config.write(
            "[profile environment]\nrole_arn = arn:aws:iam::123456789012:role/r\n"
            "credential_source = Environment\nregion = eu-west-1\n"
        )
    with socket.create_server(("127.0.0.1", 0)) as server:
        for name, value in {
            "ACCESS_KEY_ID": "AKID",
            "SECRET_ACCESS_KEY": "s",
            "SESSION_TOKEN": f"{SECRET}\n",
            "ENDPOINT_URL_STS": f"http://127.0.0.1:{server.getsockname()[1]}",
            "MAX_ATTEMPTS": "1",
        }.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        with pytest.raises(CredentialsUnavailable, match=r"^botocore has no credentials: HTTPClientError$") as caught:
            fetch(BotocoreProvider("environment"))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", ["CredentialRetrievalError", "MetadataRetrievalError", "TokenRetrievalError"])
def test_an_answer_that_an_exception_of_botocore_quotes_is_not_shown(name):
    def source():
        raise getattr(botocore.exceptions, name)(provider="p", error_msg=SECRET)

    with pytest.raises(CredentialsUnavailable, match=f"^botocore has no credentials: {name}$"):
        fetch(source)


@pytest.mark.parametrize("bug", [lambda: {}["tokn"], lambda: json.loads("{")])
def test_a_bug_in_a_function_that_botocore_calls_is_not_changed(bug):
    source = DeferredRefreshableCredentials(refresh_using=bug, method="test")
    with pytest.raises((KeyError, ValueError)) as caught:
        fetch(ChainProvider(source, NEXT))
    assert not isinstance(caught.value, CredentialsUnavailable)


def test_a_program_that_botocore_calls_may_call_botocore(profiles):
    def refresh():
        return Session(profile="not_json").get_credentials().get_frozen_credentials()

    source = DeferredRefreshableCredentials(refresh_using=refresh, method="test")
    assert fetch(ChainProvider(source, NEXT)) == NEXT


def test_a_memory_error_in_botocore_is_not_changed(profiles, monkeypatch):
    monkeypatch.setattr(json, "loads", mock.Mock(side_effect=MemoryError))  # reads the output of the process
    with pytest.raises(MemoryError):
        fetch(BotocoreProvider("not_json"))


def test_other_errors_are_not_changed():
    with pytest.raises(ZeroDivisionError):
        fetch(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(fetch_async(lambda: 1 / 0, asyncio.to_thread))


@pytest.mark.parametrize("form", ["object", "callable", "async", "chain", "session"])
def test_the_expiry_of_refreshable_credentials_is_kept(form):
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    refreshable = RefreshableCredentials.create_from_metadata(
        {"access_key": "AKID", "secret_key": "s", "token": "t", "expiry_time": end.isoformat()}, dict, "test"
    )

    class Holder:
        def get_credentials(self):
            return refreshable

    source = {
        "object": refreshable,
        "callable": lambda: refreshable,
        "async": refreshable,
        "chain": ChainProvider(refreshable, NEXT),
        "session": BotocoreProvider(session=Holder()),
    }[form]
    given = asyncio.run(fetch_async(source, asyncio.to_thread)) if form == "async" else fetch(source)
    assert given == Credentials("AKID", "s", "t", expires_at=end)


@pytest.mark.parametrize("token", [" t", "t\n", "\tt\r\n"])
def test_white_space_around_a_token_is_stripped(token):
    assert Credentials("AKID", "s", token) == Credentials("AKID", "s", "t")
    assert Credentials("AKID", "s", " \n") == Credentials("AKID", "s")
