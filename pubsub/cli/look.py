"""`pubsub look URL`: show the traffic between clients and a broker. `pubsub look FILE`: show that of a saved session.

The session goes to standard output; the URL for clients, and problems of a file, to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mqttws.tap import Record, Tap
from pubsub.cli import FAILED, OK, USAGE, Failure
from pubsub.cli.aws_link import signed_taps
from pubsub.cli.options import add_aws_link_arguments, check_without_aws, documentation, port, positive
from pubsub.cli.printing import Printer
from pubsub.cli.streams import complain, input_file, may_be_coloured, show
from pubsub.look.comparing import MOST, compare
from pubsub.look.ladder import Ladder, plain
from pubsub.look.live import View, contexts, look, show_page
from pubsub.look.reading import Source, Unreadable, read_all
from pubsub.look.saving import SAVERS, saver_for

if TYPE_CHECKING:
    from mqttws.testing import Faults

_MIB = 1024 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `look`."""
    parser.add_argument("what", metavar="URL|FILE", nargs="+",
                        help="a broker's URL; or a file: .jsonl, pcap, pcapng, a raw stream, hexadecimal (-: standard "
                             "input); with two files show their differences")  # fmt: skip
    parser.add_argument("-v", "--verbose", action="count", default=0,
                        help="show frames, fields and bytes; -vv: also explain each field")  # fmt: skip
    parser.add_argument("--web", action="store_true",
                        help="also show the session as a web page: its URL goes to standard error")  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="show only the summary")
    parser.add_argument("--save", action="append", default=[], metavar="FILE",
                        help=f"save the session; by the extension, as {', '.join(SAVERS)}; may be "
                             "repeated")  # fmt: skip
    parser.add_argument("--secrets", action="store_true", help="show and save passwords, tokens and signatures")
    parser.add_argument("--docs", type=documentation, metavar="URL",
                        help="documentation for the links of --web and of a saved page (default: that of the project, "
                             "if published)")  # fmt: skip
    parser.add_argument("--colour", choices=("auto", "always", "never"), default="auto",
                        help="colour the output (default: auto)")  # fmt: skip
    live = parser.add_argument_group("with a broker's URL")
    live.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    live.add_argument("--port", type=port, default=0, help="port to listen on (default: any free port)")
    live.add_argument("--keep", type=positive(float), default=64.0, metavar="MIB",
                      help="memory for records (default: 64)")  # fmt: skip
    live.add_argument("--tls-dev", action="store_true",
                      help="accept clients with TLS, with a new certificate for this run")  # fmt: skip
    live.add_argument("--ca-out", metavar="FILE", help="file to write that certificate's authority to, for clients")
    live.add_argument(
        "--ca-file", metavar="FILE", help="PEM file of the authorities to verify the broker's certificate with"
    )
    live.add_argument("--insecure", action="store_true", help="do not verify the broker's certificate")
    add_aws_link_arguments(parser)
    live.add_argument("--faults", metavar="FILE", help="TOML file of rules that inject faults; see docs/tap.md")
    live.add_argument("--seed", type=int, metavar="N", help="seed of the rules' random choices (default: the file's)")
    live.add_argument("--record-faults", metavar="FILE", help="file to write rules to that repeat the same faults")


def run(arguments: argparse.Namespace) -> int:
    """Run `look`."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    urls = [word for word in arguments.what if "://" in word]
    if urls and len(arguments.what) > 1:
        raise Failure("a URL must be the only argument", USAGE)
    if len(arguments.what) > 2:
        raise Failure("at most two files can be compared", USAGE)
    if not urls:
        _refuse_live_options(arguments)
    _check_docs(arguments)
    if len(arguments.what) == 2 and (arguments.save or arguments.web):
        raise Failure("--save and --web are for one session, and have no effect on two files", USAGE)
    _check_targets(arguments)
    if len(arguments.what) == 2:
        return _compare(arguments.what[0], arguments.what[1], arguments.secrets)
    if urls:
        return _look_and_print(urls[0], arguments)
    with ExitStack() as stack:
        _check_readable(arguments.what[0])  # before a file is overwritten
        view = _view(arguments, show)
        stack.callback(view.close)
        code = _read(arguments.what[0], view, arguments)
        show("\n".join(view.totals.lines()))
        return code


def _check_docs(arguments: argparse.Namespace) -> None:
    if arguments.docs is None:
        return
    if not arguments.web and not any(name.endswith(".html") for name in arguments.save):
        raise Failure("--docs requires --web, or --save with a .html file", USAGE)


def _check_targets(arguments: argparse.Namespace) -> None:
    """Refuse to write to a file that is read, or that is written already."""
    taken = {os.path.realpath(word) for word in arguments.what if "://" not in word and word != "-"}
    if arguments.faults is not None:
        taken.add(os.path.realpath(arguments.faults))
    for name in filter(None, (*arguments.save, arguments.record_faults, arguments.ca_out)):
        path = os.path.realpath(name)  # unlike Path.resolve(), it takes a loop of symbolic links
        if path in taken:
            raise Failure(f"{name} is read or written already; give another file", USAGE)
        taken.add(path)


def _refuse_live_options(arguments: argparse.Namespace) -> None:
    for name in (
        "aws",
        "region",
        "profile",
        "cognito",
        "port",
        "tls_dev",
        "ca_out",
        "ca_file",
        "insecure",
        "faults",
        "seed",
        "record_faults",
    ):
        if getattr(arguments, name):
            raise Failure(f"--{name.replace('_', '-')} is for a broker's URL, and has no effect on a file", USAGE)


def _view(arguments: argparse.Namespace, show: Callable[[str], None]) -> View:
    colour = arguments.colour == "always" or (arguments.colour == "auto" and may_be_coloured())
    ladder = Ladder(arguments.verbose, colour, arguments.secrets)
    savers = []
    for name in arguments.save:
        try:
            savers.append(saver_for(name, arguments.secrets, arguments.docs))
        except ValueError as error:
            raise Failure(str(error), USAGE) from None
        except OSError as error:
            raise Failure(f"{name} cannot be written: {error.strerror or error}") from None
    return View(ladder, savers, None if arguments.quiet else show)


# Files.


def _check_readable(name: str) -> None:
    if name != "-":
        try:
            with Path(name).open("rb") as file:
                file.read(1)
        except OSError as error:
            raise Failure(f"{name} cannot be read: {plain(error.strerror or str(error))}") from None


def _source(name: str) -> Source:
    return Source(name, input_file() if name == "-" else None)


def _read(name: str, view: View, arguments: argparse.Namespace) -> int:
    source = _source(name)
    kept: list[Record] = []
    try:
        for record in source.records():
            view.add([record], False)
            if arguments.web:
                kept.append(record)
    except (OSError, Unreadable) as error:
        raise Failure(f"{name} cannot be read: {plain(str(error))}") from None
    for complaint in source.complaints[:100]:
        complain(f"pubsub look: {plain(name)}: {plain(complaint)}")
    if arguments.web:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(show_page(kept, _announce_page, arguments.docs))
    return FAILED if source.complaints else OK


def _compare(one: str, other: str, secrets: bool) -> int:
    sides = []
    for name in (one, other):
        try:
            sides.append(read_all(_source(name), MOST, lambda text: complain(f"pubsub look: {plain(text)}")))
        except (OSError, Unreadable) as error:
            raise Failure(f"{name} cannot be read: {plain(str(error))}") from None
    different = False
    for line in compare(sides[0], sides[1], secrets):
        different = True
        show(line)
    if not different:
        show("no difference: the same packets in the same order")
    return FAILED if different else OK


# With a broker's URL.


def _look_and_print(url: str, arguments: argparse.Namespace) -> int:
    """Show the traffic until a signal. What the reader of the output has not taken then is written until a second."""
    printer = Printer()
    view = _view(arguments, printer.show)
    try:
        try:
            _look(url, view, arguments, printer)
        finally:
            view.close()  # before the reader is waited for
    except Failure:
        printer.finish()
        raise
    printer.finish("\n".join(view.totals.lines()))
    return OK


def _look(url: str, view: View, arguments: argparse.Namespace, printer: Printer) -> None:
    options: dict[str, Any] = {"host": arguments.host, "port": arguments.port, "keep": int(arguments.keep * _MIB)}
    secure = url.lower().startswith(("wss:", "mqtts:"))
    if not secure and (arguments.ca_file or arguments.insecure):
        raise Failure("--ca-file and --insecure are for a broker with TLS", USAGE)
    if arguments.ca_out and not arguments.tls_dev:
        raise Failure("--ca-out needs --tls-dev", USAGE)
    try:
        made, certificate = contexts(arguments.tls_dev, arguments.ca_file, arguments.insecure, secure)
        if arguments.ca_out and certificate is not None:
            Path(arguments.ca_out).write_bytes(certificate)
    except (OSError, ModuleNotFoundError) as error:
        raise Failure(f"TLS is not available: {error}") from None
    if arguments.aws:
        signing, view.explain = signed_taps(url, arguments)
        options |= signing
    else:
        check_without_aws(arguments)
    faults = _faults(url, arguments)
    if faults is not None:
        options |= {"make_line": faults.make_line, "limit": faults.LIMIT}
    try:
        asyncio.run(_until_asked(url, view, arguments, printer, {**options, **made}))
    except UnicodeError:  # of the codec idna, or of a host that is not UTF-8
        raise Failure(f"cannot listen: {arguments.host!r} is not a host", USAGE) from None
    except ValueError as error:
        raise Failure(str(error), USAGE) from None
    except OSError as error:
        raise Failure(f"cannot listen: {error.strerror or error}") from None

    if faults is not None and arguments.record_faults:
        try:
            Path(arguments.record_faults).write_text(faults.decided.to_toml(), "utf-8")
        except OSError as error:
            raise Failure(f"{arguments.record_faults} cannot be written: {error.strerror or error}") from None


def _faults(url: str, arguments: argparse.Namespace) -> Faults | None:
    """Read the file of rules. Return None without one."""
    if arguments.faults is None:
        if arguments.seed is not None or arguments.record_faults:
            raise Failure("--seed and --record-faults need --faults", USAGE)
        return None
    from mqttws.testing import Faults, Rules

    try:
        rules = Rules.from_toml(Path(arguments.faults).read_text("utf-8"))
        return Faults(url, rules, seed=arguments.seed)
    except OSError as error:
        raise Failure(f"{arguments.faults} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise Failure(f"{arguments.faults}: {error}", USAGE) from None


async def _until_asked(
    url: str, view: View, arguments: argparse.Namespace, printer: Printer, options: dict[str, Any]
) -> None:
    """Show the traffic until Ctrl-C, or until nothing can be printed."""
    looking = asyncio.ensure_future(
        look(
            url,
            view,
            lambda tap: _announce(tap, arguments),
            web=_announce_page if arguments.web else None,
            docs=arguments.docs,
            **options,
        )
    )
    loop = asyncio.get_running_loop()
    printer.on_failure = lambda: loop.call_soon_threadsafe(looking.cancel)
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError):  # Windows, or not the main thread
            loop.add_signal_handler(number, looking.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await looking


def _announce_page(url: str) -> None:
    """Print the URL of the page, which can be opened once."""
    complain(f"open {url}; Ctrl-C ends")


def _announce(tap: Tap, arguments: argparse.Namespace) -> None:
    """Print the URL for clients, without its query, which may be a credential."""
    shown, mark, _ = tap.url.partition("?")
    if mark and arguments.secrets:
        shown = tap.url
    note = " (with the query of the broker's URL)" if mark and not arguments.secrets else ""
    complain(f"point a client at {shown}{note}; Ctrl-C ends")
