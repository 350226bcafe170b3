"""The report of a run for people, made of its document, and the line about its progress."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pubsub.bench.plan import ALL
from pubsub.bench.report import BUSY, MILLISECOND, QUANTILES
from pubsub.bench.run import CONNECTING, MEASURING, Run

#: The part of a latency from which on the tool's delay is noted.
OWN = 0.25
#: Characters of the longest bar.
BAR = 40


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
    elif messages["lost"] and document["plan"]["storm"]:
        yield f"{messages['lost']:,} deliveries were lost: the sessions are clean, and subscribers were not connected"
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
    if plan["churn"]:
        row("churn", f"{connections['churned']:,} connections, {rates['connected_per_second']:,.1f}/s")
    if connections["connecting"]["count"]:
        row("connecting", _quantiles(connections["connecting"]))
        lines += _phases(connections["phases"])
    lines += _storm(document["returning"])
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


def _phases(phases: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each phase of connecting."""
    for name, figures in phases.items():
        if figures["count"]:
            shown = ", ".join(f"{each} {_ms(figures[f'{each}_ms'])}" for each in ("p50", "p99", "max"))
            yield f"  {name:<15}{shown}"


def _storm(returning: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about lost connections."""
    if returning["count"] or returning["missing"]:
        whole = returning["all_back_seconds"]
        yield f"{'back':<17}" + (
            f"{returning['count']:,}, " + (f"all within {whole:,.2f} s" if whole is not None else "not all")
            + f"; busiest second {returning['busiest_second']:,}, of {returning['attempts']:,} attempts "
            f"{returning['attempts_busiest_second']:,}"
        )  # fmt: skip
    if returning["count"]:
        yield f"{'back after':<17}{_quantiles(returning)}"


def _own(process: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about the share of this tool in the figures."""
    if process["cpu_share"] is None:
        return
    cost, waited, count = process["cpu_us_per_message"], process["waited_share"], process["processes"]
    each = process["cpu_us_per_connection"]
    several = "" if count == 1 else f", the busiest of {count} processes {process['busiest_share']:.0%}"
    yield f"{'this command':<17}{process['cpu_share']:.0%} of one core{several}; " + (
        f"{process['peak_rss_bytes'] / 2**20:,.0f} MiB"
        + ("" if cost is None else f"; {cost:.1f} µs of CPU time per message")
        + ("" if each is None else f"; {each:,.0f} µs per connection")
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
