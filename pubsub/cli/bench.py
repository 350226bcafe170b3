"""`pubsub bench URL`: put load on a broker, and measure its throughput and latency.

This module parses the options and prints the results; `pubsub.bench` does the work. The report goes to standard output,
everything else to standard error. Ctrl-C ends the run early, with a report; a second Ctrl-C ends the wait for messages
in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mqttws
from pubsub.bench import compare, exports, plot, report, search, text
from pubsub.bench.plan import ALL, CUT, HEADER, NUMBER, RESTART, RUN, SHARE, Plan
from pubsub.bench.processes import ProcessFailed
from pubsub.bench.run import Run
from pubsub.bench.system import ask_for_descriptors, make_loop
from pubsub.cli import FAILED, INTERRUPTED, OK, USAGE, Failure
from pubsub.cli.bench_clients import make_clients, part_of
from pubsub.cli.options import add_aws_link_arguments, add_link_arguments, ask_for_secrets, positive, whole
from pubsub.cli.streams import complain, show

#: The default of the longest time to wait for the end of a storm, in seconds.
STORM = 120.0
#: The default window of a publisher at QoS 2: that of Mosquitto, which loses messages beyond it.
WINDOW_QOS2 = 20
#: The attribute of a plan -> its option, the type, the metavar and the help.
_LOAD: dict[str, tuple[str, Callable[[str], Any], str, str]] = {
    "publishers": ("--publishers", whole, "N", "clients that publish"),
    "subscribers": ("--subscribers", whole, "N", "clients that subscribe"),
    "idle": ("--connections", whole, "N", "additional clients, which are connected and do nothing"),
    "size": ("--size", whole, "BYTES", f"bytes of a payload, at least {HEADER.size}"),
    "rate": ("--rate", positive(float), "R", "messages per second of all publishers together"),
    "window": ("--window", whole, "N", "maximum messages in flight of one publisher"),
    "duration": ("--duration", positive(float), "S", "seconds to measure"),
    "warmup": ("--warmup", positive(float), "S", "seconds of the same load before the measurement"),
    "drain": ("--drain", positive(float), "S", "seconds without a message that end the wait for messages in flight"),
    "churn": ("--churn", whole, "N", "additional clients, which connect and disconnect again and again"),
    "processes": ("--processes", whole, "N", "processes over which the clients are distributed"),
    "connect_rate": ("--connect-rate", positive(float), "R", "connections to make per second"),
    "topic": ("--topic", str, "TOPIC", f"Topic Name; {NUMBER}: the publisher's number, {RUN}: the id of the run"),
}


#: What differs in other runs.
_OTHERWISE = {
    "publishers": "; 0 with --storm or --churn",
    "subscribers": "; 0 with --storm or --churn",
    "duration": "; at most 120 with --storm",
    "window": f"; {WINDOW_QOS2} at QoS 2",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `bench`."""
    parser.add_argument("url", metavar="URL", help="ws://, wss://, mqtt:// or mqtts://HOST[:PORT][/PATH]")
    add_link_arguments(parser)
    add_aws_link_arguments(parser)
    load = parser.add_argument_group("load")
    for name, (option, kind, value, says) in _LOAD.items():
        default = getattr(Plan, name)
        shown = "as fast as possible" if default is None else default if isinstance(default, str) else f"{default:g}"
        shown += _OTHERWISE.get(name, "")
        load.add_argument(option, dest=name, type=kind, metavar=value, help=f"{says} (default: {shown})")
    load.add_argument("--storm", choices=(CUT, RESTART), help="measure until all lost connections are back: cut them, "
                      "or wait until you restart the broker")  # fmt: skip
    load.add_argument("--spread", type=positive(float), metavar="S",
                      help="seconds over which the first attempts after a loss are spread (default: 0)")  # fmt: skip
    load.add_argument("--connect-budget", type=positive(float), metavar="R",
                      help="attempts to connect per second of all clients together (default: no limit)")  # fmt: skip
    load.add_argument("--share", dest="shares", action="store_const", const=SHARE, default=ALL,
                      help="the subscribers share the topics (default: each gets all messages)")  # fmt: skip
    load.add_argument("--retain", action="store_true",
                      help="publish retained messages; they are removed at the end")  # fmt: skip
    load.add_argument("--find-max", action="store_true",
                      help="find the highest rate at which --slo holds, in runs of --duration each")  # fmt: skip
    load.add_argument("--slo", metavar="SLO", help="latency objective, p50 to p99.9 (default: p99<10ms)")
    load.add_argument("--compare", metavar="URL", help="another broker: alternate runs, and show the ratios")
    load.add_argument("--rounds", type=whole, metavar="N",
                      help=f"runs of each broker to compare (default: {compare.ROUNDS})")  # fmt: skip
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print the report as one JSON document")
    output.add_argument("--plot", metavar="PNG", help="draw latency and throughput; needs the extra 'bench'")
    output.add_argument("--hdr", metavar="FILE", help="write the latencies as a log of HdrHistogram")
    output.add_argument("--openmetrics", metavar="FILE", help="write the results as OpenMetrics, for Prometheus")
    shown_live = output.add_mutually_exclusive_group()
    shown_live.add_argument("--progress", action="store_true", help="print a line per second on standard error, even "
                            "to a file")  # fmt: skip
    shown_live.add_argument("--quiet", action="store_true", help="print only errors on standard error")


def run(arguments: argparse.Namespace) -> int:
    """Run `bench`."""
    plan = _plan(arguments)
    _check_plot(arguments.plot)
    for path in (arguments.hdr, arguments.openmetrics):
        _check_writable(path)
    try:
        ask_for_descriptors(-(-plan.clients // plan.processes))
    except OSError as error:
        raise Failure(str(error)) from None
    ask_for_secrets(arguments)
    if arguments.find_max and arguments.compare is not None:
        raise Failure("--find-max and --compare exclude each other", USAGE)
    if arguments.find_max:
        return _find_max(arguments, plan)
    if arguments.slo is not None:
        raise Failure("--slo requires --find-max", USAGE)
    if arguments.compare is not None:
        return _compare(arguments, plan)
    if arguments.rounds is not None:
        raise Failure("--rounds requires --compare", USAGE)
    started = time.time()
    run, document = _measure(arguments, plan)
    show(json.dumps(document) if arguments.json else text.as_text(document).removesuffix("\n"))
    if arguments.plot:
        try:
            plot.draw(document, arguments.plot)
        except OSError as error:
            raise Failure(f"the plot cannot be written: {error}") from None
    try:
        if arguments.hdr and run.spans:
            Path(arguments.hdr).write_text(exports.as_hdr_log(run, started))
        if arguments.openmetrics:
            Path(arguments.openmetrics).write_text(exports.as_openmetrics(run, document))
    except OSError as error:
        raise Failure(f"the results cannot be written: {error}") from None
    return _code(run, document, arguments)


def _measure(arguments: argparse.Namespace, plan: Plan) -> tuple[Run, dict[str, Any]]:
    """Do one run. Return it, and its document.

    Raises:
        Failure: The options cannot be used, or a process of the run has ended.
    """
    make_clients(arguments, plan)  # check the options before anything is started
    update, wipe = _progress(arguments)
    run = Run(plan, partial(part_of, arguments), update)
    try:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(_go(run))
    except ProcessFailed as error:
        raise Failure(str(error)) from None
    finally:
        wipe()
    return run, report.as_json(run, shown_url(arguments.url))


def _check_one_run(arguments: argparse.Namespace, option: str) -> None:
    """Check that there is no output option for a single run.

    Raises:
        Failure: There is one.
    """
    if arguments.plot or arguments.hdr or arguments.openmetrics:
        raise Failure(f"--plot, --hdr and --openmetrics are for a single run; {option} makes several", USAGE)


def _compare(arguments: argparse.Namespace, plan: Plan) -> int:
    """Put the same load on two brokers in alternate runs, and print the ratios."""
    _check_one_run(arguments, "--compare")
    if arguments.aws:
        raise Failure("--compare and --aws exclude each other", USAGE)
    brokers = [argparse.Namespace(**vars(arguments) | {"url": url}) for url in (arguments.url, arguments.compare)]
    for each in brokers:
        make_clients(each, plan)  # check both before the first run
    runs: tuple[list[dict[str, float]], list[dict[str, float]]] = [], []
    problems: tuple[dict[str, None], dict[str, None]] = {}, {}  # each once
    for turn in compare.order(arguments.rounds or compare.ROUNDS):
        run, document = _measure(brokers[turn], replace(plan, run=os.urandom(4).hex()))
        if not _connected(document):
            return _code(run, document, brokers[turn])
        if run.interrupts:
            break
        runs[turn].append(compare.figures(document))
        problems[turn].update(dict.fromkeys(document["problems"]))
    found = {
        "format": report.FORMAT,
        "url": shown_url(brokers[0].url),
        "other_url": shown_url(brokers[1].url),
        "figures": compare.compared(runs),
        "problems": {letter: list(said) for letter, said in zip("AB", problems, strict=True)},
    }
    show(json.dumps(found) if arguments.json else compare.as_text(found).removesuffix("\n"))
    if not found["figures"]:
        return INTERRUPTED
    return FAILED if any(problems) else OK


def _find_max(arguments: argparse.Namespace, plan: Plan) -> int:
    """Find the highest rate at which an objective holds, and print it."""
    try:
        objective = search.Objective.parse(arguments.slo or "p99<10ms")
    except ValueError as error:
        raise Failure(f"--slo: {error}", USAGE) from None
    _check_one_run(arguments, "--find-max")
    if not plan.publishers:
        raise Failure("--find-max needs a publisher", USAGE)
    if not plan.subscribers and not plan.qos:
        raise Failure("--find-max needs a subscriber, or QoS 1 or 2: there is no latency otherwise", USAGE)
    looking, steps, busy = search.Search(plan.rate or search.FIRST_RATE), list[dict[str, Any]](), False
    while (rate := looking.rate) is not None:
        run, document = _measure(arguments, replace(plan, rate=rate, run=os.urandom(4).hex()))
        if not _connected(document):
            return _code(run, document, arguments)
        if run.interrupts:
            break
        failure = search.verdict(document, objective)
        busy = (document["process"]["busiest_share"] or 0.0) >= report.BUSY if failure else busy
        steps.append({"rate": rate, "failure": failure, "figure_ms": objective.figure(document)})
        steps[-1] |= {name: document[name] for name in ("throughput", "process")}
        looking.note(not failure)
    found = {
        "format": report.FORMAT,
        "url": shown_url(arguments.url),
        "objective": str(objective),
        "found_per_second": looking.best or None,
        "interrupted": looking.rate is not None,
        "busy": busy,
        "steps": steps,
    }
    show(json.dumps(found) if arguments.json else search.as_text(found).removesuffix("\n"))
    if found["interrupted"]:
        return INTERRUPTED
    return OK if looking.best else FAILED


def _plan(arguments: argparse.Namespace) -> Plan:
    """Return the plan for the options.

    Raises:
        Failure: The options contradict each other.
    """
    given = {name: value for name in (*_LOAD, "storm") if (value := getattr(arguments, name)) is not None}
    defaults: dict[str, Any] = {"window": WINDOW_QOS2} if arguments.qos == 2 else {}
    if arguments.storm or arguments.churn:
        defaults |= {"publishers": 0, "subscribers": 0}
    if arguments.storm:
        defaults["duration"] = STORM
    if arguments.find_max and (arguments.storm or arguments.churn):
        raise Failure("--find-max is for messages; omit --storm and --churn", USAGE)
    try:
        return Plan(qos=arguments.qos, spread=arguments.shares, retain=arguments.retain, **(defaults | given))
    except (ValueError, mqttws.LocalProtocolError) as error:
        raise Failure(str(error), USAGE) from None


def _check_plot(path: str | None) -> None:
    """Check before the run that a plot can be drawn.

    Raises:
        Failure: It cannot be drawn.
    """
    if path is None:
        return
    if not plot.available():
        raise Failure("--plot needs matplotlib: pip install 'mqttws-pubsub[bench]'", USAGE)
    _check_writable(path, "the plot")


def _check_writable(path: str | None, what: str = "the results") -> None:
    """Check before the run that a file can be written.

    Raises:
        Failure: It cannot be written.
    """
    if path is None:
        return
    if Path(path).is_dir() or not os.access(Path(path) if Path(path).exists() else Path(path).parent, os.W_OK):
        raise Failure(f"{what} cannot be written to {path!r}", USAGE)


async def _go(run: Run) -> None:
    """Do a run. The first two signals interrupt its stages; a third one has its usual effect."""
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        run.interrupt()
        if run.interrupts >= 2:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt instead
            loop.add_signal_handler(number, interrupt)
    await run.go()


def _progress(arguments: argparse.Namespace) -> tuple[Callable[[Run], None], Callable[[], None]]:
    """Return a function that shows the progress of a run, and one that erases it."""
    if arguments.progress:
        return lambda run: complain(text.live(run)), lambda: None
    if arguments.quiet or sys.stderr is None or not sys.stderr.isatty():
        return lambda run: None, lambda: None

    def update(run: Run) -> None:
        line = text.live(run)[: shutil.get_terminal_size().columns - 1]
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    return update, lambda: print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _code(run: Run, document: dict[str, Any], arguments: argparse.Namespace) -> int:
    """Return the exit code; if there was no connection at all, that of the first error."""
    failure = run.connections.first_error
    if isinstance(failure, Failure) and not _connected(document):
        if arguments.aws:  # the report contains the error of the client; this is its explanation
            complain(f"pubsub bench: {failure}")
        return failure.code
    if not run.spans and run.interrupts:
        return INTERRUPTED
    return FAILED if document["problems"] else OK


def _connected(document: dict[str, Any]) -> bool:
    """Return whether there was any connection."""
    return bool(document["connections"]["made"] or document["connections"]["churned"])


def shown_url(url: str) -> str:
    """Return a URL without its possibly secret parts: user name, password and query."""
    scheme, _, rest = url.partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
