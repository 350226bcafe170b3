"""The web page that shows a session: one HTML file with style and script. It contains the records, or loads them.

Nothing is loaded from other servers. The script has a nonce, and the content security policy allows no other script.
"""

from __future__ import annotations

import json
import secrets
from importlib.resources import files
from typing import Any

import mqttws
from mqttws.tap import Record, explanations, to_json
from pubsub.look.documentation import templates


def render(data: dict[str, Any], nonce: str | None = None) -> str:
    """Return the page.

    Args:
        data: The data for the script: `live`, and the keys that belong to it.
        nonce: The nonce of style and script; None: a new one.
    """
    parts = files("pubsub.look").joinpath("page")
    style, script, page = (parts.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js", "html"))
    embedded = to_text(data)
    nonce = nonce or secrets.token_urlsafe(16)
    page = page.replace("@nonce@", nonce).replace("@style@", style)
    before, _, after = page.partition("@data@")
    middle, _, end = after.partition("@script@")
    return f"{before}{embedded}{middle}{script}{end}"


def saved_parts(docs: str | None = None) -> tuple[str, str]:
    """Return the parts before and after the rows of a page that contains a session and needs no server.

    Args:
        docs: See `pubsub.look.documentation.templates`.
    """
    data = {"live": False, "links": templates(docs), "explanations": explained(), "records": ["@rows@"]}
    before, _, after = render(data).partition('"@rows@"')
    return before, after


def to_text(row: dict[str, Any]) -> str:
    """Return a row as text for the page. "<" is escaped, because it could end the script element."""
    return json.dumps(row, separators=(",", ":")).replace("<", "\\u003c")


def as_row(record: Record, *, shows_secrets: bool = False, fields: bool = False) -> dict[str, Any]:
    """Return a record for the page: its JSON form, and the values that the page filters by."""
    row = to_json(record, secrets=shows_secrets, fields=fields)
    packet = record.packet
    packet_id = getattr(packet, "packet_id", None)
    if packet_id is not None:
        row["id"] = packet_id
    if isinstance(packet, mqttws.Publish):
        row["topics"] = [packet.topic]
    elif isinstance(packet, mqttws.Subscribe):
        row["topics"] = [topic_filter for topic_filter, _ in packet.topic_filters]
    elif isinstance(packet, mqttws.Unsubscribe):
        row["topics"] = list(packet.topic_filters)
    return row


def explained() -> dict[str, Any]:
    """Return the explanations of fields, by key."""
    return {key: found._asdict() for key, found in explanations().items()}
