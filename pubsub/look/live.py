"""A live view of a tap: the ladder, files that are saved at the same time, and a summary at the end."""

from __future__ import annotations

import asyncio
import ssl
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from mqttws.tap import Record, Tap
from pubsub.look.ladder import Ladder, plain
from pubsub.look.saving import Saver
from pubsub.look.totals import Totals
from pubsub.look.web import BATCH, Page

#: Seconds after which an unanswered packet is reported, once.
_LONG = 2.0


class View:
    """The outputs of a session: lines, files and a summary.

    Args:
        ladder: Converts records to lines.
        savers: The writers of files; `close` closes them.
        show: Prints the lines of an entry; None: print none.

    Attributes:
        explain: Returns an explanation of a record, or None.
        totals: The summary.
    """

    explain: Callable[[Record], str | None] | None = None

    def __init__(self, ladder: Ladder, savers: Iterable[Saver], show: Callable[[str], Any] | None) -> None:
        self._ladder = ladder
        self._savers = list(savers)
        self._show = show
        self._reported: set[int] = set()
        self.totals = Totals()

    def add(self, records: list[Record], settled: bool = True) -> None:
        """Show, save and count records."""
        for record in records:
            self.totals.add(record)
            if self._show is not None and (lines := "\n".join(self._ladder.lines(record))):
                self._show(lines)
            meaning = self.explain(record) if self.explain is not None else None
            if meaning is not None and self._show is not None:
                self._show(f"{'':30}! #{record.connection}: {plain(meaning)}")
        for saver in self._savers:
            saver.add(records, settled)

    def report_waiting(self, now: float) -> None:
        """Report each packet that has had no answer for a long time, once."""
        waiting = self._ladder.waiting
        for (connection, end, what), record in list(waiting.items()):
            if now - record.time > _LONG and record.number not in self._reported and self._show is not None:
                self._reported.add(record.number)
                self._show(
                    f"{'':30}? #{connection}: {end} {what}, {record.name} {record.number}: no answer for {_LONG:g} s"
                )
        self._reported &= {record.number for record in waiting.values()}

    def close(self) -> None:
        """Close the files."""
        with ExitStack() as stack:
            for saver in self._savers:
                stack.callback(saver.close)


async def look(
    url: str,
    view: View,
    announce: Callable[[Tap], None],
    make_line: Any = None,
    web: Callable[[str], None] | None = None,
    docs: str | None = None,
    **options: Any,
) -> None:
    """Run a tap until it is cancelled.

    Args:
        url: The URL of the server.
        view: The outputs.
        announce: Called with the tap when it listens.
        make_line: See `Tap`.
        web: Called with the URL of the web page; None: no page.
        docs: The target of the links of the page; see `pubsub.look.documentation.templates`.
        **options: The options of `Tap`.
    """
    page: Page | None = None

    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def add(records: list[Record], settled: bool) -> None:
        if failed.done():
            return
        try:
            view.add(records, settled)
        except Exception as error:  # the output has no reader, or a disk is full: this ends the view
            failed.set_exception(error)
            return
        if page is not None:
            page.note_change()

    async with Tap(url, on_records=add, make_line=make_line, **options) as tap:
        if web is not None:
            page = Page(tap.records.since, tap.records.get, inject=tap.inject, docs=docs)
            web(await page.start())
        announce(tap)
        try:
            while True:
                await asyncio.wait({failed}, timeout=1.0)
                if failed.done():
                    failed.result()
                view.report_waiting(time.time())
        finally:
            if page is not None:
                await page.stop()


async def show_page(records: list[Record], web: Callable[[str], None], docs: str | None = None) -> None:
    """Serve the page of a session that is over, until it is cancelled.

    Args:
        records: The records of the session.
        web: Called with the URL of the page.
        docs: The target of its links; see `pubsub.look.documentation.templates`.
    """
    by_number = {record.number: record for record in records}
    numbers = [record.number for record in records]
    page = Page(lambda last: records[bisect_right(numbers, last) :][:BATCH], by_number.get, docs=docs)
    web(await page.start())
    try:
        await asyncio.Event().wait()
    finally:
        await page.stop()


def contexts(
    near_tls: bool, ca_file: str | None, insecure: bool, secure: bool
) -> tuple[dict[str, ssl.SSLContext], bytes | None]:
    """Return the TLS contexts of a tap.

    Args:
        near_tls: Whether clients use TLS.
        ca_file: PEM file of the authorities to verify the server's certificate with; None: those of the system.
        insecure: Whether to skip that verification.
        secure: Whether the server uses TLS.

    Returns:
        The options of `Tap`; and the certificate, in PEM, that clients must trust, or None.
    """
    import mqttws.testing

    made: dict[str, ssl.SSLContext] = {}
    certificate = None
    if secure:
        made["far_tls"] = mqttws.tls_context(ca_file=ca_file, insecure_no_verification=insecure)
    if near_tls:
        authority = mqttws.testing.mint_authority()
        made["near_tls"] = authority.issue("localhost", "127.0.0.1", "::1").server_context()
        certificate = authority.certificate
    return made, certificate
