"""The formats of printed messages: as mosquitto_sub prints, and JSON from which the payload can be restored."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttws import Publish, connect
from mqttws.broker import Broker
from pubsub.cli.formats import as_json_text, json_line, parse_format, plain_line

NOW = 1_700_000_000_123_456_789


def shown(form: str, message: Publish) -> bytes:
    return parse_format(form)(message, NOW)


@pytest.mark.parametrize(
    ("form", "printed"),
    [
        ("%t %p", b"a/b 21.5"),
        ("%%|%@@", None),
        ("%l", b"4"),
        ("%q%r", b"11"),
        ("%m", b"7"),
        ("%x %X", b"32312e35 32312E35"),
        ("%06l|%-6l|%6l|%-06l", b"000004|4     |     4|4     "),
        ("%10.2t|%.2t|%-5.1t|", b"        a/|a/|a    |"),
        ("%U", b"1700000000.123456789"),
        ("@@ @N", b"@ 123456789"),
        (r"\\\0\a\e\n\r\t\v", b"\\\0\a\x1b\n\r\t\v"),
        ("%A%C%D%E%F%P%R%S", b""),
        ("grüß %p", "grüß 21.5".encode()),
    ],
)
def test_sequences(form: str, printed: bytes | None) -> None:
    message = Publish("a/b", b"21.5", 1, True, packet_id=7)
    if printed is None:
        with pytest.raises(ValueError, match="no sequence"):
            parse_format(form)
    else:
        assert shown(form, message) == printed


@pytest.mark.parametrize("form", ["%", "50 %", "@", "\\", "%z", "%5", r"\x", "%-"])
def test_a_format_with_a_sequence_that_does_not_exist_is_refused(form: str) -> None:
    with pytest.raises(ValueError, match="sequence"):
        parse_format(form)


@pytest.mark.skipif(not shutil.which("mosquitto_sub"), reason="mosquitto_sub is not installed")
@pytest.mark.parametrize("payload", [b"21.5", b"\x00\xff", b'{"n": 1}', b"a\nb"])
def test_mosquitto_sub_prints_the_same(payload: bytes) -> None:
    form = r"%t|%p|%l|%q|%r|%x|%X|%10t|%-10t|%10.3t|%06l|%-6l|\t\\\n|%%-@@|%12p|%A%C%E%F%R%S|"
    with Broker() as broker, connect(broker.url_of("mqtt")) as client:
        client.publish("sensors/1", payload, qos=1, retain=True)
        port = broker.url_of("mqtt").rpartition(":")[2]
        options = ["-h", "127.0.0.1", "-p", port, "-t", "sensors/1", "-q", "1", "-C", "1", "-W", "10", "-F", form]
        theirs = subprocess.run(["mosquitto_sub", *options], stdout=subprocess.PIPE, timeout=30, check=True).stdout
        ours = subprocess.run(
            [sys.executable, "-m", "pubsub", "sub", *options], stdout=subprocess.PIPE, timeout=30, check=True
        ).stdout
    assert ours == theirs


@pytest.mark.parametrize(
    ("form", "printed"),
    [
        (r"\e[1m%t %p", b"\x1b[1ma\\x1b b\\x9b\\x07\\xff"),
        ("%-12t|%12p|", b"a\\x1b       |b\\x9b\\x07\\xff|"),
        ("%x", b"62c29b07ff"),
    ],
)
def test_a_terminal_gets_only_control_characters_of_the_format(form: str, printed: bytes) -> None:
    assert parse_format(form, to_terminal=True)(Publish("a\x1b", "b\x9b\x07".encode() + b"\xff"), NOW) == printed


@pytest.mark.parametrize("letter", ["j", "J"])
@pytest.mark.parametrize("pretty", [False, True])
def test_json_of_mosquitto_sub_on_a_terminal(letter: str, pretty: bool) -> None:
    payload = '["\x7f\x9b\u202e\U000e0041"]'
    line = parse_format("%" + letter, pretty=pretty, to_terminal=True)(Publish("\x9b", payload.encode()), NOW).decode()
    assert all(each.isprintable() or each == "\n" for each in line)
    found = json.loads(line)
    assert (found["topic"], found["payload"]) == ("\x9b", payload if letter == "j" else json.loads(payload))


def test_json_of_mosquitto_sub() -> None:
    message = Publish("a", b'{"n": [1]}', 1, packet_id=3)
    quoted, plain = json.loads(shown("%j", message)), json.loads(shown("%J", message))
    assert (quoted.pop("payload"), plain.pop("payload")) == ('{"n": [1]}', {"n": [1]})
    assert quoted == plain
    assert list(quoted) == ["tst", "topic", "qos", "retain", "payloadlen", "mid"]
    assert quoted["tst"].startswith("2023-11-1")
    assert ".123456" in quoted["tst"]


def test_invalid_json_is_reported_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown("%J", Publish("a\x1bb", b"{")) == b""
    assert capsys.readouterr().err == "Error: Message payload is not valid JSON on topic a\\x1bb\n"


def payload_of(line: bytes) -> bytes:
    """Restore the payload as docs/guide/shell.md describes."""
    found = json.loads(line)
    if "payload_base64" in found:
        return base64.b64decode(found["payload_base64"])
    return str(found.get("raw", found["payload"])).encode()


AWKWARD = [
    *(b"", b"NaN", b"-Infinity", b'"\\ud800"', b'{"a": 1, "a": 2}', b"1e999", b"0.1000000000000000000001", b"9" * 5000),
    *(b"\xef\xbb\xbf1", b" 1 \r\n", b'{"a":\n [1,\t2]}', b"[" * 201 + b"]" * 201, b"[" * 100_000),
    *(
        "\u2028\x7f\x9b".encode(),
        "\U000e0041\U0010ffff".encode(),
        b'["\xf3\xa0\x81\x81"]',
        b"\xff",
        b'"\x00"',
        b"01",
        b"nul",
    ),
]
LEAVES = st.none() | st.booleans() | st.integers() | st.text()
VALUES = st.recursive(LEAVES, lambda each: st.lists(each) | st.dictionaries(st.text(), each))


@pytest.mark.parametrize("pretty", [False, True])
@pytest.mark.parametrize("to_terminal", [False, True])
@pytest.mark.parametrize("payload", AWKWARD, ids=repr)
def test_unusual_payloads_are_restored_exactly(payload: bytes, to_terminal: bool, pretty: bool) -> None:
    line = json_line(Publish("t", payload), to_terminal=to_terminal, pretty=pretty)
    assert payload_of(line) == payload
    assert pretty or b"\n" not in line
    if to_terminal:
        assert all(each.isprintable() or each == "\n" for each in line.decode())


@given(st.binary() | (VALUES | st.floats()).map(lambda value: json.dumps(value).encode()))
def test_any_payload_is_restored(payload: bytes) -> None:
    lines = [json_line(Publish("t", payload), pretty=pretty) for pretty in (False, True)]
    assert [payload_of(line) for line in lines] == [payload, payload]
    assert json.loads(lines[0], parse_constant=str) == json.loads(lines[1], parse_constant=str)


@given(VALUES, st.sampled_from([None, 2]))
def test_json_is_shown_as_its_value(value: object, indent: int | None) -> None:
    line = json_line(Publish("t", json.dumps(value, indent=indent).encode()))
    assert json.loads(line)["payload"] == value


def test_numbers_and_repeated_keys_are_printed_unchanged() -> None:
    assert as_json_text(b'{"a": 1.50, "a": 1e999}') == '{"a": 1.50, "a": 1e999}'


def test_a_topic_is_coloured_in_text_formats() -> None:
    message = Publish("a", b"x")
    assert plain_line(message, verbose=True, to_terminal=True, in_colour=True) == b"\x1b[36ma\x1b[0m x"
    assert plain_line(message, verbose=True, to_terminal=True, in_colour=False) == b"a x"
