"""The report of a run: a JSON document for programs, and text for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pubsub.bench.fleet import MOST_FAILURES
from pubsub.bench.histogram import RELATIVE_ERROR, Histogram
from pubsub.bench.plan import ALL, Plan
from pubsub.bench.run import CONNECTING, MEASURING, Run
from pubsub.bench.system import peak_memory

#: The version of the document. It stays the same if a key is added, not if one is renamed, removed or redefined.
FORMAT = 1
MILLISECOND = 1_000_000
QUANTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p99_9_ms": 0.999}
#: The share of one core from which on this process, not the server, is likely to be the bottleneck.
BUSY = 0.9
#: The part of a latency from which on the tool's delay is noted.
OWN = 0.25
#: Characters of the longest bar.
BAR = 40


def as_json(run: Run, url: str) -> dict[str, Any]:
    """Return the document of a run; `docs/bench.md` explains its keys.

    Args:
        run: The run, which has ended.
        url: The URL, without secrets.
    """
    plan, tally, connections = run.plan, run.tally, run.connections
    return {
        "format": FORMAT,
        "url": url,
        "plan": _plan(plan),
        "open_loop": plan.rate is not None,
        "interrupted": bool(run.interrupts),
        "measured_seconds": run.measured_seconds,
        "connections": {
            "asked": plan.clients,
            "made": connections.made,
            "failed": connections.failed,
            "refused": connections.refused,
            "untried": _untried(run),
            "lost": connections.lost,
            "reconnected": connections.reconnected,
            "given_up": connections.ended,
            "subscriptions_rejected": connections.rejected,
            "subscriptions_lowered": connections.lowered,
            "connecting": _durations(tally.connecting),
        },
        "messages": {
            "due": run.due,
            "unsent": None if run.due is None else max(0, run.due - tally.published),
            "published": tally.published,
            "acknowledged": tally.acknowledged,
            "failed": tally.failed,
            "unacknowledged": tally.published - tally.acknowledged - tally.failed,
            "expected": run.progress.expected,
            "delivered": tally.delivered,
            "lost": max(0, run.progress.expected - tally.delivered),
            "duplicated": tally.duplicated,
            "out_of_order": tally.out_of_order,
            "foreign": tally.foreign,
        },
        "throughput": _throughput(run),
        "latency": _durations(tally.latency) | {"buckets_ms": _buckets(tally.latency)},
        "acknowledgement": _durations(tally.acknowledgement),
        "lag": _durations(tally.lag),
        "relative_error": RELATIVE_ERROR,
        "process": _process(run),
        "reasons": dict(tally.reasons),
        "seconds": [
            {
                "at": round(second.at, 3),
                "published_per_second": round(second.published, 1),
                "acknowledged_per_second": round(second.acknowledged, 1),
                "delivered_per_second": round(second.delivered, 1),
                "p50_ms": second.p50 / MILLISECOND,
                "p99_ms": second.p99 / MILLISECOND,
                "max_ms": second.greatest / MILLISECOND,
                "under_way": second.under_way,
            }
            for second in run.seconds
        ],
        "problems": problems(run),
    }


def _plan(plan: Plan) -> dict[str, Any]:
    names = (
        "publishers subscribers idle qos size rate window duration warmup drain topic spread retain connect_rate "
        "processes run"
    )
    return {name: getattr(plan, name) for name in names.split()}


def _untried(run: Run) -> int:
    """Return the number of connections for which no attempt was made."""
    connections = run.connections
    return 0 if run.interrupts else run.plan.clients - connections.made - connections.failed


def _durations(histogram: Histogram) -> dict[str, Any]:
    """Return the durations in milliseconds; null if there are none."""
    figures = {
        "mean_ms": histogram.mean(),
        "min_ms": histogram.least,
        **{name: histogram.quantile(part) for name, part in QUANTILES.items()},
        "max_ms": histogram.greatest,
    }
    return {"count": histogram.count} | {
        name: value / MILLISECOND if histogram.count else None for name, value in figures.items()
    }


def _buckets(histogram: Histogram) -> list[list[float]]:
    return [[least / MILLISECOND, greatest / MILLISECOND, count] for least, greatest, count in histogram.buckets()]


def _throughput(run: Run) -> dict[str, float]:
    return {f"{name}_per_second": run.rate_of(name) for name in ("published", "acknowledged", "delivered")}


def _process(run: Run) -> dict[str, Any]:
    """Return how much of the measured time is that of this tool: its CPU time, and its delays."""
    spans = run.spans
    shares = [span.rate("cpu") for span in spans]
    cpu = run.own_cpu + sum(span.change("cpu") for span in spans)
    count = sum(span.change("published") + span.change("delivered") for span in spans)
    seconds, delay = run.measured_seconds, Histogram()
    for result in run.results:
        delay.merge(result.delay)
    peak = sum(result.peak_memory for result in run.results) + (peak_memory() if run.plan.processes > 1 else 0)
    return {
        "cpu_share": sum(shares) + run.own_cpu / seconds if seconds else None,
        "cpu_us_per_message": cpu * 1e6 / count if count else None,
        "peak_rss_bytes": peak or peak_memory(),
        "processes": run.plan.processes,
        "busiest_share": max(shares, default=None),
        "waited_share": max((span.rate("waited") for span in spans if span.first.waited is not None), default=None),
        "delay": _durations(delay),
    }


def problems(run: Run) -> list[str]:
    """Return the problems that make the run a failure."""
    tally, connections = run.tally, run.connections
    found = {
        "{} of the connections could not be made": connections.failed,
        f"{{}} were not tried, after {MOST_FAILURES:,} failures in a row": _untried(run),
        "{} subscribers had a subscription rejected": connections.rejected,
        "{} clients gave up": connections.ended,
    }
    if run.plan.qos:
        found |= {
            "{} messages failed": tally.failed,
            "{} messages were not acknowledged": tally.published - tally.acknowledged - tally.failed,
            "{} deliveries were lost": max(0, run.progress.expected - tally.delivered),
        }
    sentences = [sentence.format(f"{count:,}") for sentence, count in found.items() if count > 0]
    if not run.spans:
        sentences.append("nothing was measured")
    return sentences


def notes(document: dict[str, Any]) -> Iterator[str]:
    """Yield warnings for a reader of the results, although nothing failed."""
    messages, connections = document["messages"], document["connections"]
    if document["interrupted"]:
        yield "the run was interrupted"
    if messages["unsent"]:
        yield (
            f"{messages['unsent']:,} messages were due, but never published: the rate was not reached, and the "
            "latencies do not include them"
        )
    if messages["lost"] and not document["plan"]["qos"]:
        yield f"{messages['lost']:,} deliveries were lost, as QoS 0 permits; the latencies do not include them"
    if connections["subscriptions_lowered"]:
        yield f"{connections['subscriptions_lowered']:,} subscribers were granted a lower QoS than requested"
    process = document["process"]
    share = process["busiest_share"]
    if share is not None and share >= BUSY:
        whose = "this process" if process["processes"] == 1 else "a process of this command"
        yield (
            f"{whose} used {share:.0%} of one core: it may be the bottleneck, not the server. Spread the load over "
            "several with --processes"
        )
    own, latency = process["delay"]["p99_ms"], document["latency"]["p99_ms"]
    if own is not None and latency is not None and own >= OWN * latency:
        yield (f"up to {_ms(own)} of the p99 of {_ms(latency)} may be the delay of this command, not of the server")


def as_text(document: dict[str, Any]) -> str:
    """Return the document as text."""
    plan, connections, messages = document["plan"], document["connections"], document["messages"]
    rates, process = document["throughput"], document["process"]
    lines = [_headline(document), ""]

    def row(name: str, text: str) -> None:
        lines.append(f"{name:<17}{text}")

    row("connections", f"{connections['made']:,} of {connections['asked']:,} made; {connections['failed']:,} failed, "
        f"{connections['refused']:,} of them refused; {connections['lost']:,} lost, "
        f"{connections['reconnected']:,} made again")  # fmt: skip
    if connections["connecting"]["count"]:
        row("connecting", _quantiles(connections["connecting"]))
    if plan["publishers"]:
        row("published", f"{messages['published']:,}, {rates['published_per_second']:,.1f}/s"
            + ("" if messages["due"] is None else f"; {messages['due']:,} were due"))  # fmt: skip
        if plan["qos"]:
            row("acknowledged", f"{messages['acknowledged']:,}, {rates['acknowledged_per_second']:,.1f}/s")
    if plan["subscribers"]:
        row("delivered", f"{messages['delivered']:,} of {messages['expected']:,}, "
            f"{rates['delivered_per_second']:,.1f}/s")  # fmt: skip
        row("", f"{messages['lost']:,} lost, {messages['duplicated']:,} duplicated, "
            f"{messages['out_of_order']:,} out of order")  # fmt: skip
    lines += _own(process)
    lines += ["", *_latencies(document)]
    for note in notes(document):
        row("note", note)
    for reason, count in document["reasons"].items():
        row("reason", f"{count:,} × {reason}")
    for problem in document["problems"]:
        row("FAILED", problem)
    return "\n".join(lines).rstrip() + "\n"


def _own(process: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about the share of this tool in the figures."""
    if process["cpu_share"] is None:
        return
    cost, waited, count = process["cpu_us_per_message"], process["waited_share"], process["processes"]
    several = "" if count == 1 else f", the busiest of {count} processes {process['busiest_share']:.0%}"
    yield f"{'this command':<17}{process['cpu_share']:.0%} of one core{several}; " + (
        f"{process['peak_rss_bytes'] / 2**20:,.0f} MiB"
        + ("" if cost is None else f"; {cost:.1f} µs of CPU time per message")
    )
    if process["delay"]["count"]:
        yield f"{'its own delay':<17}{_quantiles(process['delay'])}" + (
            "" if waited is None else f"; without a processor {waited:.1%} of the time"
        )


def _headline(document: dict[str, Any]) -> str:
    plan = document["plan"]
    rate = "as fast as possible" if plan["rate"] is None else f"{plan['rate']:,g} messages/s"
    audience = "each gets all messages" if plan["spread"] == ALL else "they share the messages"
    return (
        f"{document['url']}, {document['measured_seconds']:.1f} s measured\n"
        f"publishers {plan['publishers']:,}, subscribers {plan['subscribers']:,}"
        f"{f' ({audience})' if plan['subscribers'] else ''}, idle {plan['idle']:,}; "
        f"QoS {plan['qos']}, {plan['size']:,} bytes, {rate}"
    )


def _latencies(document: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about the latencies and the method of measurement."""
    latency, acknowledgement = document["latency"], document["acknowledgement"]
    if document["open_loop"]:
        yield "Open loop: latency counts from the time at which a message was due, even if it was published later."
        if document["lag"]["count"]:
            yield f"{'late by':<17}{_quantiles(document['lag'])}"
    elif document["plan"]["publishers"]:
        yield (
            f"Closed loop: latency counts from the call of publish, with up to {document['plan']['window']:,} messages "
            "of each publisher in flight."
        )
        yield "A stall delays later calls, and that delay is not included. With --rate it is."
    if acknowledgement["count"]:
        yield f"{'acknowledged in':<17}{_quantiles(acknowledgement)}"
    if latency["count"]:
        yield f"{'delivered in':<17}{_quantiles(latency)}"
        yield ""
        yield from _bars(latency["buckets_ms"])
        yield ""


def _quantiles(figures: dict[str, Any]) -> str:
    shown = [f"{name.removesuffix('_ms').replace('_', '.')} {_ms(figures[name])}" for name in (*QUANTILES, "max_ms")]
    return ", ".join(shown) + f", mean {_ms(figures['mean_ms'])}"


def _ms(value: float) -> str:
    return f"{value:,.3f} ms" if value < 10 else f"{value:,.1f} ms"


def _bars(buckets: list[list[float]]) -> Iterator[str]:
    """Yield the lines of a histogram, with a bar for each power of two."""
    counts: dict[float, int] = {}
    for least, _, count in buckets:
        edge = 2.0**-10
        while edge <= least:
            edge *= 2
        counts[edge] = counts.get(edge, 0) + int(count)
    total, most, below = sum(counts.values()), max(counts.values()), 0
    edge = min(counts)
    while edge <= max(counts):
        count = counts.get(edge, 0)
        below += count
        bar = "█" * round(BAR * count / most)
        yield f"  < {edge:>10,.3f} ms  {count:>12,}  {below / total:>8.3%}  {bar}".rstrip()
        edge *= 2


def live(run: Run) -> str:
    """Return one line about the progress of a run."""
    progress = run.progress
    if run.stage == CONNECTING:
        return f"connecting: {progress.made:,} of {run.plan.clients:,}, {progress.failed:,} failed"
    if run.stage == MEASURING and run.seconds:
        second = run.seconds[-1]
        return (
            f"{second.at:5.0f} s  published {second.published:,.0f}/s  acknowledged {second.acknowledged:,.0f}/s  "
            f"delivered {second.delivered:,.0f}/s  p50 {_ms(second.p50 / MILLISECOND)}  "
            f"p99 {_ms(second.p99 / MILLISECOND)}  in flight {second.under_way:,}  "
            f"failed {progress.given_up:,}  connections {progress.standing:,}"
        )
    return f"{run.stage}: {max(0, progress.expected - progress.delivered):,} deliveries still to come"
