"""Server arguments, the options file, completion, and options that must not be ignored."""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from self_signed import encrypt, self_signed

import mqttws
from mqttws.broker import Broker
from pubsub.cli import COMMANDS, Failure, main, parse, pub, rr, serve
from pubsub.cli.options import PASSWORD, URL, USERNAME, client_options, take_server
from pubsub.cli.parsers import commands_of, make_parser
from pubsub.cli.words import expand

ROOT = Path(__file__).resolve().parents[2]


def parsed(command: str, *words: str) -> argparse.Namespace:
    arguments = parse([command, *words])
    take_server(arguments)
    return arguments


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in (URL, USERNAME, PASSWORD):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("words", "url", "topics"),
    [
        (["a"], "mqtt://localhost", ["a"]),
        (["ws://h/mqtt", "a"], "ws://h/mqtt", ["a"]),
        (["-h", "h", "a"], "mqtt://h", ["a"]),
        (["-h", "h", "-t", "a://b"], "mqtt://h", ["a://b"]),
        (["-h", "h", "--ask-key-password", "a"], "mqtts://h", ["a"]),
        (["--", "ws://h/mqtt", "-h"], "ws://h/mqtt", ["-h"]),
        (["-L", "mqtt://[::1]/a@b"], "mqtt://[::1]", ["a@b"]),
        (["-L", "mqtt://u:p@h/a@b"], "mqtt://u:p@h", ["a@b"]),
        (["-h", "::1", "-p", "1", "a"], "mqtt://[::1]:1", ["a"]),
        (["-p", "8883", "a"], "mqtts://localhost:8883", ["a"]),
        (["-h", "h", "--cafile", "x", "a"], "mqtts://h", ["a"]),
        (["-L", "mqtt://h/a/b"], "mqtt://h", ["a/b"]),
        (["-L", "mqtts://u:p@h:1/a%20b", "-t", "c"], "mqtts://u:p@h:1", ["a b", "c"]),
        (["-L", "wss://h/mqtt", "a"], "wss://h/mqtt", ["a"]),
    ],
)
def test_the_ways_to_name_the_server(words: list[str], url: str, topics: list[str]) -> None:
    arguments = parsed("sub", *words)
    assert (arguments.url, arguments.topic + arguments.words) == (url, topics)


def test_the_environment_names_the_server_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL, "wss://env/mqtt")
    assert parsed("sub", "a").url == "wss://env/mqtt"
    assert parsed("sub", "-h", "h", "a").url == "mqtt://h"
    assert parsed("sub", "ws://first/", "a").url == "ws://first/"


def test_a_server_is_named_once() -> None:
    with pytest.raises(Failure, match="omit -h and -p"):
        parsed("sub", "-L", "mqtt://h", "-p", "1", "a")


@pytest.mark.parametrize(
    "words",
    [
        ["-h", "h", "mqtt://bob:secret@other", "t", "m"],
        ["-L", "mqtt://h", "mqtt://bob:secret@other", "t", "m"],
        ["mqtt://h", "t", "--", "mqtt://bob:secret@other", "m"],
        ["-h", "h", "-t", "t", "-m", "m", "mqtt://bob:secret@other"],
    ],
)
def test_a_second_server_is_no_topic(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pub", *words]) == 2
    shown = capsys.readouterr().err
    assert "the server is given once" in shown
    assert "secret" not in shown


def test_a_message_may_be_a_url() -> None:
    assert pub._split(parsed("pub", "-h", "h", "t", "ws://m"))[0] == ["t"]
    assert pub._split(parsed("pub", "-h", "h", "-t", "t", "ws://m"))[0] == ["t"]
    assert rr._split(parsed("rr", "-h", "h", "-t", "t", "ws://m")) == ("t", b"ws://m")


@pytest.mark.parametrize(
    ("line", "url"),
    [
        (["t", "m"], "mqtt://filed:1884"),
        (["-p", "1885", "t", "m"], "mqtt://filed:1885"),
        (["-h", "other", "t", "m"], "mqtt://other"),
        (["-L", "ws://other/", "t", "m"], "ws://other/"),
        (["ws://other/", "t", "m"], "ws://other/"),
        (["--", "ws://other/", "t", "m"], "ws://other/"),
    ],
)
def test_the_command_line_replaces_the_server_of_the_file(tmp_path: Path, line: list[str], url: str) -> None:
    (tmp_path / "pubsub").mkdir()
    file = tmp_path / "pubsub" / "pub"
    file.write_text("-h filed\n-p 1884\n-u alice\n")
    arguments = parsed("pub", *line)
    assert (arguments.url, arguments.words, arguments.username) == (url, ["t", "m"], "alice")
    if line[0] not in ("t", "-p"):
        for server in ("-L mqtt://filed", "mqtt://filed"):
            file.write_text(server + "\nkept\n")
            arguments = parsed("pub", *line)
            assert (arguments.url, arguments.words) == (url, ["kept", "t", "m"])


@pytest.mark.parametrize("server", ["-h filed\n-p 1884", "-p 1884", "-L ws://filed/", "ws://filed/"])
@pytest.mark.parametrize("command", ["pub", "rr"])
def test_the_message_may_be_a_url_if_the_file_names_the_server(command: str, server: str, tmp_path: Path) -> None:
    """As on one line: the only word after `-t` is the message."""
    (tmp_path / "pubsub").mkdir()
    (tmp_path / "pubsub" / command).write_text(server + "\n")
    split = {"pub": pub._split, "rr": rr._split}[command]
    together = split(parsed(command, *server.split(), "-t", "t", "http://m"))
    arguments = parsed(command, "-t", "t", "http://m")
    assert arguments.url != "http://m"
    topics, payload = split(arguments)
    assert (topics, [*payload]) == (together[0], [*together[1]])
    for rest in (["-m", "m"], ["-n"], ["t2"]):  # then it is the server
        assert parsed(command, "http://other/", "-t", "t", *rest).url == "http://other/"
    assert parsed(command, "-h", "other", "-t", "t", "http://m").url == "mqtt://other"


BAD = "mqtt://alice:s3cret@ho\u2100st"


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["pub", "-h", "alice:s3cret@h", "t", "m"], {}),
        (["pub", BAD, "t", "m"], {}),
        (["sub", "t"], {URL: BAD}),
        (["rr", BAD, "t", "m"], {}),
        (["rr", "mqtt://alice:s3cret@[h", "t", "m"], {}),
        (["bench", BAD, "--duration", "1"], {}),
        (["bench", "mqtt://alice:s3cret@[h", "--duration", "1"], {}),
        (["look", BAD], {}),
        (["pub", "-L", "mqtt://alice:s3cret/x@h", "-t", "t", "-m", "m"], {}),
        (["pub", "-L", "mqtt://alice:s3cret?/x@h", "-t", "t", "-m", "m"], {}),
        (["pub", "ws://alice:s3cret/x@h", "t", "m"], {}),
        (["pub", BAD, "t", "m", "--aws", "--region", "eu-west-1"], {}),
        (["pub", "wss://alice:s3cret@h/", "t", "m", "--aws", "--region", "eu-west-1"], {}),
        (["pub", "wss://alice:s3cret@a..b/", "t", "m", "--aws", "--region", "eu-west-1"], {}),
        (["pub", "-h", "alice:s3cret@h", "t", "m", "--aws", "--region", "eu-west-1"], {}),
    ],
)
def test_no_password_of_an_ill_formed_server_is_shown(
    words: list[str], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**environment, "AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "s"}.items():
        monkeypatch.setenv(name, value)
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert "s3cret" not in shown.err + shown.out


@pytest.mark.parametrize(
    "words",
    [
        ["bench", "mqtt://h", "mqtt://alice:s3cret@other"],
        ["pub", "mqtt://h", "t", "m", "--bogus", "mqtt://alice:s3cret@other"],
        ["pub", "-h", "h", "-p", "alice:s3cret@other"],
    ],
)
def test_an_error_of_the_parser_quotes_no_password(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert "s3cret" not in shown
    assert "...@other" in shown


@pytest.mark.parametrize("url", ["mqtt://h/temp%E4rature", "mqtt://al%E4@h/t"])
def test_a_url_that_is_no_utf8_is_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pub", "-L", url, "-m", "1"]) == 2
    assert "of the URL is not UTF-8 after percent-decoding" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "operands"),
    [
        (["--", "t", "--file=x"], ["t", "--file=x"]),
        (["t", "--", "-r"], ["t", "-r"]),
        (["--", "t", "--"], ["t", "--"]),
        (["-q", "1", "t", "--", "--help", "--", "-o", "x"], ["t", "--help", "--", "-o", "x"]),
        (["--qos=1", "t", "--", "--help"], ["t", "--help"]),
    ],
)
def test_what_follows_two_dashes_is_no_option(words: list[str], operands: list[str]) -> None:
    assert parsed("pub", *words).words == operands


@pytest.mark.parametrize("text", ["--", "-o"])
def test_the_value_of_an_option_may_be_any_text(text: str) -> None:
    arguments = parsed("pub", "-t", text, "-m", text, "-q", "1")
    assert (arguments.topic, arguments.message, arguments.qos, arguments.words) == ([text], text, 1, [])
    assert parsed("pub", "--topic", "t", "--message", text).message == text


@pytest.mark.parametrize(
    ("words", "environment", "user"),
    [
        (["mqtt://h"], {PASSWORD: "p"}, (None, None)),
        (["mqtt://alice@h"], {PASSWORD: "p"}, ("alice", b"p")),
        (["mqtt://al%20ice@h"], {PASSWORD: "p"}, ("al ice", b"p")),
        (["mqtt://alice:own@h"], {PASSWORD: "p"}, (None, None)),
        (["mqtt://alice@h", "-u", "bob"], {PASSWORD: "p"}, ("bob", b"p")),
        (["mqtt://alice:own@h", "-u", "bob"], {PASSWORD: "p"}, ("bob", None)),  # the client has the URL's password
        (["mqtt://h", "-u", "bob", "-P", "q"], {PASSWORD: "p"}, ("bob", b"q")),
        (["mqtt://h"], {USERNAME: "eve", PASSWORD: "p"}, ("eve", b"p")),
    ],
)
def test_the_precedence_of_passwords(
    words: list[str], environment: dict[str, str], user: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    options = client_options(parsed("sub", *words, "a"))
    assert (options["username"], options["password"]) == user


@pytest.mark.parametrize("text", ["-5", "-", "-x y", "--file", ""])
def test_a_message_may_begin_with_a_dash(text: str) -> None:
    assert parsed("pub", "-t", "a", "-m", text).message == text
    assert parsed("pub", "-t", "-a", "-m", text).topic == ["-a"]
    assert parsed("sub", "a", "--will-topic", "w", "--will-payload", text).will_payload == text


def test_the_options_file(tmp_path: Path) -> None:
    (tmp_path / "pubsub").mkdir()
    (tmp_path / "pubsub" / "sub").write_text("-h broker.example   # the default\n\n-p 1884\n-t 'a b'\n-q 1\n")
    arguments = parsed("sub", "-q", "2", "c")
    assert (arguments.url, arguments.topic, arguments.words) == ("mqtt://broker.example:1884", ["a b"], ["c"])
    assert arguments.qos == 2
    assert parsed("pub", "a", "x").url == "mqtt://localhost"
    other = tmp_path / "other"
    other.write_text("-h other", encoding="utf-8-sig")  # as Windows editors write it
    for words in (["-o", str(other)], [f"-o{other}"], [f"-o={other}"]):
        assert parsed("sub", *words, "c").url == "mqtt://other"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-t sensors/#   # all of them", ["-t", "sensors/#"]),
        ("-P se#cret", ["-P", "se#cret"]),
        ("-P '#a' \\#b ''#c", ["-P", "#a", "#b", "#c"]),
        ("  # -t a", []),
        ("", []),
    ],
)
def test_a_comment_begins_at_the_beginning_of_a_word(tmp_path: Path, line: str, words: list[str]) -> None:
    file = tmp_path / "options"
    file.write_text(line + "\n-q 1\n")
    assert expand("sub", ["-o", str(file)])[0] == [*words, "-q", "1"]


@pytest.mark.parametrize("home", ["/dev/null", "with a file"])
def test_a_default_file_that_is_not_there_is_no_error(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    (tmp_path / ".config").write_text("")
    monkeypatch.setenv("HOME", home if home == "/dev/null" else str(tmp_path))
    assert parsed("sub", "a").url == "mqtt://localhost"


def test_an_invalid_options_file_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sub", "-o", str(tmp_path / "none"), "a"]) == 2
    (tmp_path / "odd").write_text("-h 'h")
    assert main(["sub", "-o", str(tmp_path / "odd"), "a"]) == 2
    (tmp_path / "bytes").write_bytes(b"\xff")
    assert main(["sub", "-o", str(tmp_path / "bytes"), "a"]) == 2
    (tmp_path / "nested").write_text(f"-o {tmp_path / 'odd'}")
    assert main(["sub", "-o", str(tmp_path / "nested"), "a"]) == 2
    (tmp_path / "good").write_text("-q 1")
    assert main(["sub", f"-o{tmp_path / 'good'}", "-o", str(tmp_path / "good"), "a"]) == 2
    assert capsys.readouterr().err.count("\n") == 5


@pytest.mark.parametrize(
    ("words", "option", "code"),
    [(["pub"], "-f", 2), (["rr"], "-f", 2), (["pub", "-m", "x", "-i", "me", "-q", "1"], "--store", 1)],
)
def test_a_name_in_an_options_file_that_no_file_has(
    words: list[str], option: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "options").write_text(f'{option} "a\0b"')
    assert main([*words, "-o", str(tmp_path / "options"), "-L", "mqtt://127.0.0.1:1", "-t", "a"]) == code
    assert "embedded null" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["-D", "-x", "--tls-engine", "--keyform"])
def test_unsupported_options_are_refused_with_the_reason(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["pub", "-t", "a", "-m", "x", option, "value"])
    assert ended.value.code == 2
    assert re.search(r"MQTT 5|Python's ssl", capsys.readouterr().err)


@pytest.mark.parametrize("version", ["mqttv5", "mqttv31", "5"])
def test_another_version_of_the_protocol_is_refused(version: str) -> None:
    with pytest.raises(SystemExit):
        main(["pub", "-t", "a", "-m", "x", "-V", version])


@pytest.mark.parametrize(
    "words",
    [
        ["--key", "k.pem"],
        ["--cafile", "ca.pem", "-L", "ws://h/"],
        ["--psk", "00"],
        ["--tls-use-os-certs", "-L", "mqtt://h"],
        ["--key-password-file", "none", "-L", "mqtt://h"],
        ["--ask-key-password", "-L", "ws://h/"],
        ["--ask-key-password", "-L", "wss://h/"],
        ["--capath", "no-such-folder", "-h", "h"],
        ["--ciphers", "NONE-SUCH", "-L", "wss://h/"],
        ["-i", "a", "-I", "b"],
        ["--will-payload", "gone"],
        ["--will-qos", "1"],
        ["--will-retain"],
    ],
)
def test_connection_options_without_an_effect_are_refused(words: list[str]) -> None:
    assert main(["pub", "-t", "a", "-m", "x", *words]) == 2


@pytest.mark.parametrize(
    "words",
    [
        ["pub", "ws://127.0.0.1:1", "t", "m", "--timeout", "1e12"],
        ["pub", "ws://127.0.0.1:1", "t", "m", "--repeat", "2", "--repeat-delay", "1e12"],
        ["sub", "ws://127.0.0.1:1", "t", "-W", "inf"],
        ["bench", "ws://127.0.0.1:1", "--drain", "1e300"],
        ["look", "ws://127.0.0.1:1", "--keep", "1e300"],
    ],
)
def test_a_time_beyond_what_the_system_can_wait_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "is too large; the maximum is 1,000,000,000" in capsys.readouterr().err


def test_a_rate_that_the_client_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "ws://127.0.0.1:1", "--connect-budget", "1e9"]) == 2
    assert "attempts per second" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "\udcff"])
@pytest.mark.parametrize("words", [["serve", "--no-tcp", "--ws-port", "0"], ["serve", "--aws-iot"], ["look", "ws://h"]])
def test_an_ill_formed_host_to_listen_on(host: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--host", host]) == 2
    assert capsys.readouterr().err == f"pubsub {words[0]}: cannot listen: {host!r} is not a host\n"


# sub and rr with a broker in this process.


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as broker, mqttws.connect(broker.url) as client:
        for number in range(4):
            client.publish(f"kept/{number}", f"{number}", qos=1, retain=True)
        yield broker


def output_of(*words: str, code: int = 0) -> list[str]:
    done = subprocess.run([sys.executable, "-m", "pubsub", *words], capture_output=True, timeout=30, text=True)
    assert done.returncode == code, done.stderr
    return sorted(done.stdout.splitlines())


def test_filters(broker: Broker) -> None:
    sub = ("sub", broker.url, "kept/#", "-W", "1")
    assert output_of(*sub, "-C", "2", "-T", "kept/0", "-T", "kept/2") == ["1", "3"]
    assert output_of(*sub, "-N", "-C", "4") == ["0123"]
    assert output_of("sub", broker.url, "kept/#", "-E") == []
    assert output_of(*sub, "-R", code=27) == []
    assert output_of(*sub, "--quiet", "--remove-retained", "--retained-only") == ["0", "1", "2", "3"]
    assert output_of(*sub, code=27) == []  # removed


def test_retained_only_ends_at_the_first_live_message(broker: Broker) -> None:
    with mqttws.connect(broker.url) as client:
        command = [sys.executable, "-m", "pubsub", "sub", broker.url, "kept/#", "live", "--retained-only"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as sub:
            assert sub.stdout is not None
            assert sorted(sub.stdout.readline() for _ in range(4)) == [b"0\n", b"1\n", b"2\n", b"3\n"]
            client.publish("live", b"x", qos=1)
            assert sub.wait(30) == 0


def test_unsubscribing_from_a_kept_session(broker: Broker) -> None:
    session = ("-i", "s", "-c", "-q", "1")
    assert output_of("sub", broker.url, "live", "-E", *session) == []
    assert output_of("sub", broker.url, "other", "-U", "live", "-E", *session) == []
    with mqttws.connect(broker.url) as client:
        client.publish("live", b"x", qos=1)
        client.publish("other", b"y", qos=1)
    assert output_of("sub", broker.url, "other", "-C", "1", "-W", "9", *session) == ["y"]


def test_repeating(broker: Broker) -> None:
    with mqttws.connect(broker.url) as client:
        client.subscribe("r", 1)
        assert output_of("pub", broker.url, "r", "x", "-q", "1", "--repeat", "3", "--repeat-delay", "0.01") == []
        assert [message.payload for message in itertools.islice(client.messages(timeout=30), 3)] == [b"x"] * 3


def test_request_and_response(broker: Broker) -> None:
    with mqttws.connect(broker.url) as server:
        server.subscribe("ask", 1)
        command = [sys.executable, "-m", "pubsub", "rr", broker.url, "ask", "6 * 7", "-e", "answer", "-v", "-W", "20"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as asking:
            request = next(iter(server.messages(timeout=20)))
            server.publish("answer", b"42 = " + request.payload, qos=1)
            assert asking.communicate(timeout=30)[0] == b"answer 42 = 6 * 7\n"
            assert asking.returncode == 0
    assert output_of("rr", broker.url, "ask", "x", "-e", "answer", "-W", "0.3", code=27) == []


# serve.

#: A value for each option of `serve` that takes one.
VALUES = {"cert": "cert.pem", "key": "cert.pem", "client_ca": "cert.pem", "identities": "x.toml", "users": "users",
          "ca_out": "ca.pem", "name": "host", "path": "/p", "allow_origin": "https://o", "store": "s.db",
          "docs": "https://docs.example/"}  # fmt: skip


def serve_options() -> list[argparse.Action]:
    actions = commands_of(make_parser("serve"))["serve"]._actions
    return [action for action in actions if action.dest not in ("help", "host", "verbose", "aws_iot")]


class Took(Exception):
    """The command line was accepted."""


@pytest.mark.parametrize("mode", [[], ["--aws-iot"], ["--tls-dev"], ["--aws-iot", "--tls-dev"], ["--cert", "c.pem"]])
@pytest.mark.parametrize("action", serve_options(), ids=lambda action: action.dest)
def test_each_option_of_serve_has_an_effect_or_is_refused(action: argparse.Action, mode: list[str]) -> None:
    """An option is accepted only if it changes the created objects."""
    if action.option_strings[0] in mode:
        pytest.skip("the mode is this option")
    words = [action.option_strings[0]]
    if action.nargs != 0:
        words.append(VALUES.get(action.dest, "7"))
    made = [settings(mode + extra) for extra in ([], words)]
    assert made[1] is None or made[1] != made[0], f"{words} has no effect with {mode}"


def settings(words: list[str]) -> dict[str, object] | None:
    """Return the settings that `serve` creates from its arguments; None if they are refused."""
    from pubsub.aws.local import endpoint, identities

    made: dict[str, object] = {}

    def record(*arguments: object, **options: object) -> None:
        made.update(options, arguments=arguments)
        raise Took

    def context(arguments: argparse.Namespace) -> tuple[object, ...]:
        return arguments.tls_dev, arguments.cert, arguments.key, arguments.client_ca, arguments.ca_out, arguments.name

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serve, "Broker", record)
        patch.setattr(serve, "SQLiteStore", lambda path: __import__("contextlib").nullcontext(path))
        patch.setattr(serve, "_server_tls", context)
        patch.setattr(serve.Users, "load", staticmethod(lambda path: path))
        patch.setattr(
            endpoint.LocalIoTEndpoint, "__init__", lambda self, *each, **options: made.update(options, identities=each)
        )
        patch.setattr(endpoint.LocalIoTEndpoint, "write_authority", lambda self, path: made.update(ca_out=path))
        patch.setattr(
            identities.Identities, "load", classmethod(lambda kind, path: argparse.Namespace(pools=True, of=path))
        )
        patch.setattr(serve, "_serve_aws", lambda made: (_ for _ in ()).throw(Took))
        try:
            code = main(["serve", *words])
        except Took:
            return made
    assert code == 2
    return None


def test_tls_is_never_plain_text() -> None:
    """With TLS options, the broker opens no plain listener unless its port is given."""

    def ports(*words: str) -> dict[str, object]:
        made = settings(list(words))
        assert made is not None
        return {name: made[name] for name in ("ws_port", "tcp_port", "wss_port", "mqtts_port")}

    plain = {"ws_port": 8083, "tcp_port": 1883, "wss_port": None, "mqtts_port": None}
    tls = {"ws_port": None, "tcp_port": None, "wss_port": 8084, "mqtts_port": 8883}
    assert ports() == plain
    assert ports("--cert", "c") == ports("--tls-dev") == ports("--cert", "c", "--client-ca", "a") == tls
    assert ports("--cert", "c", "--wss-port", "1") == tls | {"wss_port": 1, "mqtts_port": None}
    assert ports("--cert", "c", "--ws-port", "1") == tls | {"ws_port": 1}
    assert ports("--tls-dev", "--ws-port", "1", "--no-tcp") == tls | {"wss_port": 1, "mqtts_port": None}
    assert ports("--cert", "c", "--no-ws") == tls | {"wss_port": None}
    for words in itertools.product([["--client-ca", "a", "--cert", "c"]], [["--ws-port", "1"], ["--tcp-port", "1"]]):
        assert settings([*itertools.chain(*words)]) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cert", "nowhere.pem"], "--cert nowhere.pem cannot be read: No such file or directory"),
        (["--cert", "both.pem", "--key", "nowhere.pem"], "--cert both.pem with --key nowhere.pem cannot be read"),
        (["--cert", "other"], "--cert other cannot be used: "),
        (["--cert", "both.pem", "--key", "other"], "--cert both.pem with --key other cannot be used: "),
        (
            ["--cert", "both.pem", "--key", "secret.pem"],
            "--key secret.pem cannot be used: the private key is enc",
        ),
        (["--cert", "both.pem", "--client-ca", "nowhere.pem"], "--client-ca nowhere.pem cannot be read"),
        (["--cert", "both.pem", "--client-ca", "other"], "--client-ca other cannot be used: "),
    ],
)
def test_a_file_for_tls_that_cannot_be_used_is_named(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    self_signed(tmp_path / "both.pem")
    (tmp_path / "secret.pem").write_bytes((tmp_path / "both.pem").read_bytes())
    encrypt(tmp_path / "secret.pem", b"hunter2")
    (tmp_path / "other").write_text("neither a certificate nor a key\n")
    monkeypatch.chdir(tmp_path)
    assert main(["serve", "--wss-port", "0", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", [["sub", "a"], ["pub", "-t", "a", "-n"]])
def test_an_encrypted_key_of_a_client_needs_an_option(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    self_signed(tmp_path / "both.pem")
    encrypt(tmp_path / "both.pem", b"hunter2")
    assert main([*command, "-h", "127.0.0.1", "-p", "1", "--cert", str(tmp_path / "both.pem")]) == 2
    assert "the private key is encrypted, and there is no key_password: use --ask-key-pas" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--tls-alpn", "\u00e9"], ["--tls-alpn", "x" * 256]])
def test_only_an_encrypted_key_needs_a_password(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pub", "wss://127.0.0.1:1/", *words, "--timeout", "1", "a", "m"]) == 2
    shown = capsys.readouterr().err
    assert "the TLS options cannot be used" in shown
    assert "key-password" not in shown


# Output generated from the parsers, and the page.


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_its_shell(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", str(script)], check=True, timeout=30)
    if shell == "bash":
        words = 'source "$0"; COMP_WORDS=(pubsub pub --tls-v); COMP_CWORD=2; _pubsub; echo "${COMPREPLY[@]}"'
        done = subprocess.run([shell, "-c", words, str(script)], stdout=subprocess.PIPE, check=True, timeout=30)
        assert done.stdout == b"--tls-version\n"


def every_parser(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for each in commands_of(parser).values():
        yield each
        yield from every_parser(each)


@pytest.mark.parametrize("what", ["bash", "zsh", "fish", "man"])
def test_every_option_and_choice_is_generated(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", what]) == 0
    page = re.sub(r"\\f[BRI]", " ", capsys.readouterr().out.replace("\\-", "-"))
    for parser in every_parser(make_parser(*COMMANDS)):
        for action in parser._actions:
            if action.help != argparse.SUPPRESS:
                found = {option.lstrip("-") if what == "fish" else option for option in action.option_strings}
                if not action.option_strings:
                    found = {str(word) for word in action.choices or ()}
                assert all(re.search(rf"(?<![\w-]){re.escape(each)}(?![\w-])", page) for each in found), found


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["aws", ""], {"attach-policy", "whoami", "-h", "--help"}),
        (["aws", "whoami"], {"whoami"}),
        (["aws", "whoami", "--pro"], {"--profile"}),
        (["aws", "attach-policy", "--pol"], {"--policy-name"}),
        (["aws", "whoami", "--pol"], set()),
        (["completion", "b"], {"bash"}),
        (["look", "--colour", "al"], {"always"}),
        (["pa"], {"passwd"}),
    ],
)
def test_what_bash_offers(words: list[str], offered: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    script += '\nCOMP_WORDS=(pubsub "$@"); COMP_CWORD=$#; _pubsub; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", script, "bash", *words], stdout=subprocess.PIPE, check=True, timeout=30)
    assert set(done.stdout.decode().split()) == offered


TOOLS = {"mosquitto_pub": "pub", "mosquitto_sub": "sub", "mosquitto_rr": "rr"}


@pytest.mark.parametrize("tool", TOOLS)
def test_every_option_of_mosquittos_tools_is_in_the_table(tool: str) -> None:
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    text = subprocess.run([tool, "--help"], stdout=subprocess.PIPE, timeout=30).stdout.decode()
    theirs = {"-" + word for word in re.findall(r"^ -(-?[a-zA-Z][a-z0-9-]*) :", text, re.M)}
    assert len(theirs) > 30
    page = (ROOT / "docs" / "guide" / "shell.md").read_text()
    rows = {
        name: row
        for row in page.splitlines()
        if row.startswith("| `-")
        for name in re.findall(r"`(-[^` ]+)", row.split("|")[1])
    }
    actions = commands_of(make_parser(*COMMANDS))[TOOLS[tool]]._actions
    ours = {option: action for action in actions for option in action.option_strings}
    for option in theirs:
        assert option in rows, f"{option} of {tool} is not in docs/guide/shell.md"
        assert option in ours, f"{option} of {tool} is not answered by pubsub {TOOLS[tool]}"
        refused = ours[option].help == argparse.SUPPRESS
        assert refused == ("refused" in rows[option]), option
