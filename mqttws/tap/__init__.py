"""A proxy between MQTT clients and a server, which forwards all bytes unchanged and decodes them into records.

The names of this package are loaded on first use::

    Tap, Line, Ring        the proxy (asyncio), an interface to control it, and its buffer of records
    SessionReader          decodes the two streams of one connection into records; sans-IO
    Record, Field, Part, Span, Change, Broken                            the results
    fields_of, packet_fields, summary, meaning, explain, read_payload    descriptions of a record
    to_json, to_line, lines, load    records as JSON, and back
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mqttws.tap.explaining import Explanation, explain, explanations
    from mqttws.tap.fields import fields_of, packet_fields, summary
    from mqttws.tap.jsonl import Loaded, Loader, hide, lines, load, to_json, to_line
    from mqttws.tap.meanings import meaning
    from mqttws.tap.payload import Payload, read_payload
    from mqttws.tap.pump import Action, Line, Tap
    from mqttws.tap.reader import SessionReader
    from mqttws.tap.record import Broken, Change, Field, Part, Record, Span
    from mqttws.tap.ring import Ring

_HOLDS = {
    "explaining": "Explanation explain explanations",
    "fields": "fields_of packet_fields summary",
    "jsonl": "Loaded Loader hide lines load to_json to_line",
    "meanings": "meaning",
    "payload": "Payload read_payload",
    "pump": "Action Line Tap",
    "reader": "SessionReader",
    "record": "Broken Change Field Part Record Span",
    "ring": "Ring",
}
_WHERE = {name: module for module, names in _HOLDS.items() for name in names.split()}

__all__ = [
    "Action",
    "Broken",
    "Change",
    "Explanation",
    "Field",
    "Line",
    "Loaded",
    "Loader",
    "Part",
    "Payload",
    "Record",
    "Ring",
    "SessionReader",
    "Span",
    "Tap",
    "explain",
    "explanations",
    "fields_of",
    "hide",
    "lines",
    "load",
    "meaning",
    "packet_fields",
    "read_payload",
    "summary",
    "to_json",
    "to_line",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'mqttws.tap' has no attribute {name!r}")
    value = getattr(import_module(f"mqttws.tap.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
