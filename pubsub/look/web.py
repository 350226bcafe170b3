"""The web server for the page of a session. It listens only on the loopback interface.

The printed URL contains a token, which is exchanged for a cookie, once. Each request must have the cookie, this server
as its Host, and, if it changes anything, this server as its Origin. So neither the browser of another user nor the page
of another site can read a session or send into it.

Browsers do not separate cookies by port. Each page therefore has a random path of its own, for which its cookie is
set: no other server of this machine receives the cookie, and two pages do not replace each other's.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import h11

import mqttws
from mqttws.tap import Record, SessionReader
from pubsub.look.documentation import templates
from pubsub.look.page import as_row, explained, render

#: The maximum number of records in one event; the page draws between two events.
BATCH = 500
#: The maximum bytes of a request's body.
_LARGEST = 1024 * 1024
_COOKIE = "look"


class Refusal(Exception):
    """A refused request: a status, and a line for the page."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Page:
    """The server of the page.

    Args:
        records_since: Returns the records with a number greater than its argument.
        record: Returns the record with a number, or None if it is not stored any more.
        inject: Sends bytes in place of a peer, as `Tap.inject` does; None: nothing can be sent.
        broker: Returns the state of the embedded broker; None if there is none.
        publish: (topic, payload, qos, retain) -> the number of subscribers; for the embedded broker.
        allow_secrets: Whether the page may show secrets on request.
        docs: The target of its links; see `pubsub.look.documentation.templates`.

    Raises:
        ValueError: `docs` is not a valid URL.
    """

    def __init__(
        self,
        records_since: Callable[[int], list[Record]],
        record: Callable[[int], Record | None],
        *,
        inject: Callable[..., None] | None = None,
        broker: Callable[[], dict[str, Any]] | None = None,
        publish: Callable[[str, str, int, bool], int] | None = None,
        allow_secrets: bool = True,
        docs: str | None = None,
    ) -> None:
        self._links = templates(docs)
        self._records_since = records_since
        self._record = record
        self._inject = inject
        self._broker = broker
        self._publish = publish
        self._allow_secrets = allow_secrets
        self._token: str | None = secrets.token_urlsafe(24)
        self._cookie = f"{_COOKIE}={secrets.token_urlsafe(24)}"
        self._path = f"/{secrets.token_urlsafe(12)}/"
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._hosts: frozenset[str] = frozenset()

    async def start(self, port: int = 0) -> str:
        """Listen on the loopback interface. Return the URL, which can be opened once.

        Raises:
            OSError: The port is in use.
        """
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        port = self._server.sockets[0].getsockname()[1]
        self._hosts = frozenset({f"127.0.0.1:{port}", f"localhost:{port}"})
        return f"http://127.0.0.1:{port}{self._path}?token={self._token}"

    async def stop(self) -> None:
        """Stop listening, and close every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def note_change(self) -> None:
        """Send new records to the open pages."""
        self._changed.set()

    # One connection.

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._answer_requests(reader, writer)
        except (ConnectionError, h11.ProtocolError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer_requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)
        while True:
            request, body = await _read_request(http, reader)
            if request is None:
                return
            try:
                await self._answer(http, writer, request, body)
            except Refusal as refusal:
                await _send(http, writer, refusal.status, "text/plain; charset=utf-8", str(refusal).encode())
            except ValueError:  # of the target or the Origin, which cannot be parsed
                await _send(http, writer, 400, "text/plain; charset=utf-8", b"the request is not valid")
            if http.our_state is h11.MUST_CLOSE or http.their_state is h11.MUST_CLOSE:
                return
            http.start_next_cycle()

    async def _answer(
        self, http: h11.Connection, writer: asyncio.StreamWriter, request: h11.Request, body: bytes
    ) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in request.headers}
        target = urlsplit(request.target.decode("latin-1"))
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        if headers.get("host") not in self._hosts:
            raise Refusal(421, "this page is served only on this machine")
        method = request.method.decode("latin-1")
        if method == "GET" and target.path == self._path and "token" in query:
            return await self._let_in(http, writer, query["token"])
        # Split by hand: `SimpleCookie` finds nothing if a cookie of another program is unusual.
        cookies = [each.strip() for each in headers.get("cookie", "").split(";")]
        if not target.path.startswith(self._path) or not any(_equal(self._cookie, each) for each in cookies):
            raise Refusal(403, "open the URL that pubsub look has printed")
        path = target.path.removeprefix(self._path)
        if method == "POST":
            if urlsplit(headers.get("origin", "")).netloc not in self._hosts:
                raise Refusal(403, "the request comes from another page")
            return await _send_json(http, writer, await self._act(path, body))
        if path == "":
            nonce = secrets.token_urlsafe(16)
            data = {
                "live": True,
                "links": self._links,
                "broker": self._broker is not None,
                "sends": self._inject is not None,
            }
            return await _send(http, writer, 200, "text/html; charset=utf-8", render(data, nonce).encode())
        if path == "events":
            return await self._send_events(http, writer)
        if path == "explanations":
            return await _send_json(http, writer, explained())
        if path == "record":
            record = self._record(int(query["n"])) if query.get("n", "").isdecimal() else None
            if record is None:
                raise Refusal(404, "the record is not stored any more")
            shown = query.get("secrets") == "1" and self._allow_secrets
            return await _send_json(http, writer, as_row(record, shows_secrets=shown, fields=True))
        if path == "broker" and self._broker is not None:
            return await _send_json(http, writer, self._broker())
        raise Refusal(404, "there is nothing here")

    async def _let_in(self, http: h11.Connection, writer: asyncio.StreamWriter, token: str) -> None:
        """Exchange the token for the cookie, once."""
        if self._token is None or not _equal(self._token, token):
            raise Refusal(403, "this URL was used before; start pubsub look again for a new one")
        self._token = None
        cookie = f"{self._cookie}; HttpOnly; SameSite=Strict; Path={self._path}"
        await _send(http, writer, 303, "text/plain", b"", [("Location", self._path), ("Set-Cookie", cookie)])

    async def _send_events(self, http: h11.Connection, writer: asyncio.StreamWriter) -> None:
        """Send the stored records, then new ones as they arrive, but only as fast as the page reads."""
        headers = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store"), ("Connection", "close")]
        writer.write(http.send(h11.Response(status_code=200, headers=headers)) or b"")
        last = 0
        while True:
            self._changed.clear()
            while batch := self._records_since(last)[:BATCH]:
                last = batch[-1].number
                text = json.dumps([as_row(record) for record in batch], separators=(",", ":"))
                writer.write(http.send(h11.Data(data=f"data: {text}\n\n".encode())) or b"")
                await writer.drain()
                await asyncio.sleep(0)
            await self._changed.wait()

    # The requests of a page.

    async def _act(self, path: str, body: bytes) -> dict[str, Any]:
        try:
            wish = json.loads(body)
            if path == "decode":
                return _decode(wish["layer"], wish["sender"], bytes.fromhex(wish["data"]))
            if path == "send" and self._inject is not None:
                data = bytes.fromhex(wish["data"])
                self._inject(int(wish["connection"]), wish["sender"], data, framed=wish["layer"] == "frame")
                return {}
            if path == "publish" and self._publish is not None:
                given = self._publish(wish["topic"], wish["payload"], int(wish["qos"]), bool(wish["retain"]))
                return {"given": given}
        except (mqttws.MQTTError, ValueError, RecursionError) as error:
            return {"error": str(error) or type(error).__name__}
        except (KeyError, TypeError, OverflowError):  # OverflowError: of Infinity
            raise Refusal(400, "the request is not valid") from None
        raise Refusal(404, "there is nothing here")


def _equal(secret: str, text: str) -> bool:
    """Compare in constant time. As bytes, because `compare_digest` accepts only ASCII in a str."""
    return hmac.compare_digest(secret.encode(), text.encode(errors="surrogatepass"))


def _decode(layer: str, sender: str, data: bytes) -> dict[str, Any]:
    """Decode edited bytes, as the peer that receives them would."""
    if sender not in ("client", "server"):
        raise ValueError(f"{sender!r} is neither client nor server")
    reader = SessionReader(frames=layer == "frame")
    records = reader.receive_data(sender, data, 0.0) + reader.receive_end(sender, 0.0)
    wanted = ("frame", "mqtt", "other") if layer == "frame" else ("mqtt", "other")
    return {"records": [as_row(record, fields=True) for record in records if record.layer in wanted]}


# HTTP.


async def _read_request(http: h11.Connection, reader: asyncio.StreamReader) -> tuple[h11.Request | None, bytes]:
    """Read a request and its body. Return None at the end of the connection."""
    request, body = None, b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(64 * 1024))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
            if len(body) > _LARGEST:
                return None, b""
        elif isinstance(event, h11.EndOfMessage):
            return request, body
        else:
            return None, b""


async def _send_json(http: h11.Connection, writer: asyncio.StreamWriter, value: Any) -> None:
    await _send(http, writer, 200, "application/json", json.dumps(value).encode())


async def _send(
    http: h11.Connection,
    writer: asyncio.StreamWriter,
    status: int,
    kind: str,
    body: bytes,
    more: list[tuple[str, str]] | None = None,
) -> None:
    headers = [
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        *(more or ()),
    ]
    for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
        writer.write(http.send(event) or b"")
    await writer.drain()
