"""The output of messages by `sub` and `rr`: the payload, topic and payload, JSON, or a format string of mosquitto_sub.

A format string has three kinds of sequences: `%` for the message, `@` for the time (`strftime`), and a backslash for
special characters. Some letters accept flags, a width and a maximum after the `%`: `%-20.20t`. The sequences are those
of mosquitto_sub 2. Those for properties of MQTT 5 are replaced by nothing, as mosquitto_sub does for a message without
properties.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable
from typing import Any

import mqttws
from pubsub.cli.streams import complain

#: A function that returns the bytes to print for a message and the time of its arrival (ns since 1970).
Formatter = Callable[[mqttws.Publish, int], bytes]

_SEQUENCE = re.compile(
    r"%(?P<flags>[-0]*)(?P<width>\d{0,5})(?:\.(?P<most>\d{0,5}))?(?P<letter>.)|@(?P<time>.)|\\(?P<escape>.)", re.S
)
_ESCAPES = {"\\": b"\\", "0": b"\0", "a": b"\a", "e": b"\x1b", "n": b"\n", "r": b"\r", "t": b"\t", "v": b"\v"}
#: Letters that mosquitto_sub pads with zeros, and those that it truncates at a maximum width.
_ZERO_PADDED, _CUT = frozenset("AEFlmSxX"), frozenset("CIRt")
_PADDED = _ZERO_PADDED | _CUT | {"p"}
#: Properties of MQTT 5, which no message of MQTT 3.1.1 has.
_MQTT_5 = frozenset("ACDEFPRS")
#: The limits of JSON that is shown as JSON; jq 1.6 reads 256 levels, Python 4,300 digits.
_MOST_NESTED, _MOST_DIGITS = 200, 4000
#: The tokens of JSON.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{},:]|[^][{},:"\s]+')
#: The colour of a topic on a terminal: cyan.
_COLOUR, _PLAIN = b"\x1b[36m", b"\x1b[0m"


def parse_format(text: str, *, pretty: bool = False, to_terminal: bool = False) -> Formatter:
    """Compile a format string.

    Args:
        text: The format string; see mosquitto_sub(1).
        pretty: Whether `%j` and `%J` take several lines.
        to_terminal: Whether to escape what a peer has sent. The format string itself is never escaped.

    Raises:
        ValueError: The format string contains an unknown sequence.
    """
    parts: list[bytes | Callable[[mqttws.Publish, int], bytes]] = []
    end = 0
    for match in _SEQUENCE.finditer(text):
        parts.append(_encode(text[end : match.start()]))
        parts.append(_sequence(match, pretty, to_terminal))
        end = match.end()
    rest = text[end:]
    if rest[-1:] in ("%", "@", "\\") and rest:
        raise ValueError(f"the format ends in the middle of a sequence: {rest[-1]!r}")
    parts.append(_encode(rest))
    return lambda message, now: b"".join(part if isinstance(part, bytes) else part(message, now) for part in parts)


def _encode(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _sequence(match: re.Match[str], pretty: bool, to_terminal: bool) -> bytes | Callable[[mqttws.Publish, int], bytes]:
    if (escape := match["escape"]) is not None:
        if escape not in _ESCAPES:
            raise ValueError(f"the format has no sequence '\\{escape}'")
        return _ESCAPES[escape]
    if (code := match["time"]) is not None:
        return _time_sequence(code)
    letter = match["letter"]
    if letter == "%":
        return b"%"
    value = _values(pretty, to_terminal).get(letter)
    if value is None:
        raise ValueError(f"the format has no sequence '%{letter}'")
    if letter not in _PADDED or not (match["flags"] or match["width"] or match["most"]):
        return value
    width = int(match["width"] or 0)
    most = int(match["most"]) if match["most"] and letter in _CUT else None
    left = "-" in match["flags"]
    fill = b"0" if "0" in match["flags"] and not left and letter in _ZERO_PADDED else b" "

    def padded(message: mqttws.Publish, now: int) -> bytes:
        text = value(message, now)[:most]
        return text.ljust(width) if left else text.rjust(width, fill)

    return padded


def _values(pretty: bool, to_terminal: bool) -> dict[str, Callable[[mqttws.Publish, int], bytes]]:
    values: dict[str, Callable[[mqttws.Publish, int], bytes]] = {
        "l": lambda message, now: b"%d" % len(message.payload),
        "m": lambda message, now: b"%d" % (message.packet_id or 0),
        "p": lambda message, now: _payload(message, to_terminal),
        "q": lambda message, now: b"%d" % message.qos,
        "r": lambda message, now: b"%d" % message.retain,
        "t": lambda message, now: _topic(message, to_terminal),
        "x": lambda message, now: message.payload.hex().encode(),
        "X": lambda message, now: message.payload.hex().upper().encode(),
        "I": lambda message, now: _local("%Y-%m-%dT%H:%M:%S%z", now),
        "U": lambda message, now: b"%d.%09d" % divmod(now, 1_000_000_000),
        "j": lambda message, now: _mosquitto_json(message, now, pretty, to_terminal),
        "J": lambda message, now: _mosquitto_json(message, now, pretty, to_terminal, parsed=True),
    }
    return values | {letter: lambda message, now: b"" for letter in _MQTT_5}


def _time_sequence(code: str) -> bytes | Callable[[mqttws.Publish, int], bytes]:
    if code == "@":
        return b"@"
    if code == "N":
        return lambda message, now: b"%09d" % (now % 1_000_000_000)
    return lambda message, now: _local("%" + code, now)


def _local(form: str, now: int) -> bytes:
    try:
        return _encode(time.strftime(form, time.localtime(now // 1_000_000_000)))
    except ValueError:  # some platforms refuse unknown letters
        return b""


def _mosquitto_json(
    message: mqttws.Publish, now: int, pretty: bool, to_terminal: bool, *, parsed: bool = False
) -> bytes:
    """Return the output of mosquitto_sub for `%j` and `%J`; b"" for a payload that must be JSON, but is not."""
    shown: dict[str, Any] = {
        "tst": _local("%Y-%m-%dT%H:%M:%S.{}%z", now).decode().format(f"{now // 1000 % 1_000_000:06}"),
        "topic": message.topic,
        "qos": message.qos,
        "retain": int(message.retain),
        "payloadlen": len(message.payload),
    }
    if message.qos:
        shown["mid"] = message.packet_id
    text = message.payload.decode(errors="replace")
    if not parsed:
        return _dump(shown | {"payload": text}, None, pretty, to_terminal)
    if (value := as_json_text(message.payload)) is None:
        complain(f"Error: Message payload is not valid JSON on topic {printable(message.topic)}")
        return b""
    return _dump(shown, value, pretty, to_terminal)


# One line of JSON per message: `--json`.


def json_line(message: mqttws.Publish, *, pretty: bool = False, to_terminal: bool = False) -> bytes:
    """Return a message as JSON.

    The exact bytes of the payload can always be recovered: from `payload_base64` if they are not UTF-8; otherwise from
    `raw` if it is there; otherwise from `payload`, as UTF-8. If the payload is JSON, `payload` is its value. Numbers,
    escapes and repeated keys in it are unchanged, because they are not parsed and written again.

    Args:
        message: The message.
        pretty: Whether to indent it over several lines.
        to_terminal: Whether to escape characters that are not printable.
    """
    shown: dict[str, Any] = {"topic": message.topic, "qos": message.qos, "retain": message.retain}
    try:
        text = message.payload.decode()
    except UnicodeDecodeError:
        return _dump(shown | {"payload_base64": base64.b64encode(message.payload).decode()}, None, pretty, to_terminal)
    if (value := as_json_text(message.payload)) is None:
        return _dump(shown | {"payload": text}, None, pretty, to_terminal)
    return _dump(shown | {"raw": text}, value, pretty, to_terminal)


def as_json_text(payload: bytes) -> str | None:
    """Return a payload that is JSON (RFC 8259) as one line of the same JSON; None for any other.

    Return None also for JSON that many parsers refuse: with more than `_MOST_NESTED` levels, or a number of more than
    `_MOST_DIGITS` characters.
    """
    try:
        text = payload.decode()
        # Numbers are not converted: those of Python would lose digits or overflow.
        json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_refuse)
    except (ValueError, RecursionError):  # a peer may nest a hundred thousand lists
        return None
    if text.count("[") + text.count("{") > _MOST_NESTED and _depth(text) > _MOST_NESTED:
        return None
    # A line end inside JSON can only be white space between two tokens: in a string it would have to be an escape.
    return text.strip(" \t\r\n").replace("\r", " ").replace("\n", " ").replace("\t", " ")


def _number(text: str) -> str:
    if len(text) > _MOST_DIGITS:
        raise ValueError("the number is too long for most readers")
    return text


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _depth(text: str) -> int:
    deepest = depth = 0
    for each in _TOKEN.findall(text):
        depth += (each in "[{") - (each in "]}")
        deepest = max(deepest, depth)
    return deepest


def _dump(shown: dict[str, Any], value: str | None, pretty: bool, escaped: bool) -> bytes:
    """Return an object as JSON. `value`, the text of a JSON value, becomes its `payload` unchanged."""
    text = json.dumps(shown, ensure_ascii=False)
    if value is not None:
        text = f'{text[:-1]}, "payload": {value}}}'
    if pretty:
        text = _indented(text)
    if escaped:
        # `dumps` escapes a character above U+FFFF as two, the surrogate pair. Spec: RFC 8259 §7
        text = "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)
    return text.encode()


def _indented(text: str) -> str:
    """Indent JSON over several lines, without converting any of its values."""
    lines: list[str] = []
    line, depth, before = "", 0, ""
    for each in _TOKEN.findall(text):
        opens, closes = each in "[{", each in "]}"
        depth -= closes
        after_opening = before != "" and before in "[{"
        if before == "," or (after_opening != closes and (after_opening or closes)):
            lines.append(line)
            line = "  " * min(depth, 40)  # limited, because a peer may send deeply nested JSON
        line += each + (" " if each == ":" else "")
        depth += opens
        before = each
    return "\n".join([*lines, line])


# Plain text.


def plain_line(message: mqttws.Publish, *, verbose: bool, to_terminal: bool, in_colour: bool) -> bytes:
    """Return the payload; if `verbose`, the topic and the payload."""
    topic, payload = _topic(message, to_terminal), _payload(message, to_terminal)
    if in_colour:
        topic = _COLOUR + topic + _PLAIN
    return topic + b" " + payload if verbose else payload


# Text from a peer must not control a terminal, so invisible characters are escaped there.


def _topic(message: mqttws.Publish, to_terminal: bool) -> bytes:
    return (printable(message.topic) if to_terminal else message.topic).encode()


def _payload(message: mqttws.Publish, to_terminal: bool) -> bytes:
    if not to_terminal:
        return message.payload
    return printable(message.payload.decode(errors="backslashreplace")).encode()


def printable(text: str) -> str:
    """Escape invisible characters, except line ends and tabs."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else character.encode("unicode_escape").decode()
        for character in text
    )
