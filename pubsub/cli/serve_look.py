"""`pubsub serve --look`: the broker, and a page of its sessions, subscriptions, retained messages and live traffic.

Clients connect to taps on the ports of the listeners, and the taps connect to the broker, which listens on free ports
of this machine. So for the broker every client has the address of this machine.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import mqttws
from mqttws.broker import Broker
from mqttws.tap import Record, Tap
from pubsub.cli.formats import printable
from pubsub.cli.streams import complain, show
from pubsub.look.web import Page

#: The maximum number of bytes of a retained payload that are shown.
_MOST = 200
#: The maximum number of rows of a table; the page shows the total.
_ROWS = 1000


async def serve_with_page(
    make_broker: Callable[[dict[str, Any]], Broker],
    ports: dict[str, int | None],
    host: str,
    tls: ssl.SSLContext | None,
    ended: asyncio.Event,
    docs: str | None = None,
) -> None:
    """Serve until an event is set.

    Args:
        make_broker: Returns the broker for its ports.
        ports: The ports of the listeners, by `Broker`'s names; None for no listener.
        host: The address to listen on.
        tls: The context of the TLS listeners.
        ended: The event.
        docs: The target of the links of the page; see `pubsub.look.documentation.templates`.
    """
    page: Page | None = None
    taps: list[Tap] = []

    def note(records: list[Record], settled: bool) -> None:
        if page is not None:
            page.note_change()

    def inject(connection: int, sender: str, data: bytes, *, framed: bool) -> None:
        for tap in taps:
            if tap.has(connection):
                return tap.inject(connection, sender, data, framed=framed)
        raise ValueError(f"connection {connection} is over")

    inner = {
        "ws_port": 0 if ports["ws_port"] is not None or ports["wss_port"] is not None else None,
        "tcp_port": 0 if ports["tcp_port"] is not None or ports["mqtts_port"] is not None else None,
    }
    async with make_broker(inner) as broker, AsyncExitStack() as stack:
        for name, port in ports.items():
            if port is None:
                continue
            url = broker.url_of("ws" if name.startswith("ws") else "mqtt")
            near = tls if name in ("wss_port", "mqtts_port") else None
            tap = Tap(url, host=host, port=port, near_tls=near, on_records=note, share=taps[0] if taps else None)
            taps.append(await stack.enter_async_context(tap))
        records = taps[0].records
        page = Page(
            records.since,
            records.get,
            inject=inject,
            broker=lambda: _state(broker),
            publish=lambda topic, payload, qos, retain: broker.publish(topic, payload, qos, retain),
            docs=docs,
        )
        stack.push_async_callback(page.stop)
        complain(f"open {await page.start()}")
        show("\n".join(tap.url for tap in taps))
        await ended.wait()


def _state(broker: Broker) -> dict[str, Any]:
    """Return what the page shows of the broker."""
    sessions = broker.sessions()
    subscriptions: dict[str, list[str]] = {}
    for session in sessions:
        for topic_filter in session.subscriptions:
            subscriptions.setdefault(topic_filter, []).append(session.client_id)
    return {
        "sessions": [
            {
                "client_id": session.client_id,
                "connected": session.connected,
                # None if the session is from the store, and its client has not connected since.
                "address": f"{session.address[0]}:{session.address[1]}" if session.address[0] else "",
                "waiting": session.waiting,
                "in_flight": session.in_flight,
            }
            for session in sessions[:_ROWS]
        ],
        "subscriptions": dict(sorted(subscriptions.items())[:_ROWS]),
        "retained": [[message.topic, _shown(message)] for message in broker.retained()[:_ROWS]],
        "metrics": broker.metrics(),
    }


def _shown(message: mqttws.Message) -> str:
    return printable(message.payload[:_MOST].decode(errors="backslashreplace"))
