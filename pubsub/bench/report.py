"""The document of a run, for programs: all that `text` shows to people is in it."""

from __future__ import annotations

from typing import Any

from pubsub.bench.fleet import MOST_FAILURES
from pubsub.bench.histogram import RELATIVE_ERROR, Histogram
from pubsub.bench.plan import SECOND, Plan
from pubsub.bench.returns import busiest
from pubsub.bench.run import Run
from pubsub.bench.system import peak_memory

#: The version of the document. It stays the same if a key is added, not if one is renamed, removed or redefined.
FORMAT = 1
MILLISECOND = 1_000_000
QUANTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p99_9_ms": 0.999}
#: The share of one core from which on this process, not the server, is likely to be the bottleneck.
BUSY = 0.9


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
            "asked": plan.clients - plan.churn,
            "made": connections.made,
            "failed": connections.failed,
            "refused": connections.refused,
            "untried": _untried(run),
            "lost": connections.lost,
            "reconnected": connections.reconnected,
            "given_up": connections.ended,
            "subscriptions_rejected": connections.rejected,
            "subscriptions_lowered": connections.lowered,
            "churned": tally.connects,
            "connecting": _durations(tally.connecting),
            "phases": {name: _durations(phase) for name, phase in tally.phases.items()},
        },
        "returning": _returning(run),
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
        "churn storm processes run"
    )
    return {name: getattr(plan, name) for name in names.split()}


def _untried(run: Run) -> int:
    """Return the number of connections for which no attempt was made."""
    connections = run.connections
    return 0 if run.interrupts else run.plan.clients - run.plan.churn - connections.made - connections.failed


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


def _returning(run: Run) -> dict[str, Any]:
    """Return how lost connections came back."""
    returns = run.tally.returns
    complete = bool(returns.times.count) and not run.connections.missing and not run.connections.ended
    return _durations(returns.times) | {
        "all_back_seconds": returns.all_back / SECOND if complete else None,
        "missing": run.connections.missing,
        "busiest_second": busiest(returns.returns),
        "attempts": sum(returns.attempts.values()),
        "attempts_busiest_second": busiest(returns.attempts),
    }


def _throughput(run: Run) -> dict[str, float]:
    counts = {
        "published": "published",
        "acknowledged": "acknowledged",
        "delivered": "delivered",
        "connected": "connects",
    }
    return {f"{name}_per_second": run.rate_of(count) for name, count in counts.items()}


def _process(run: Run) -> dict[str, Any]:
    """Return how much of the measured time is that of this tool: its CPU time, and its delays."""
    spans = run.spans
    shares = [span.rate("cpu") for span in spans]
    cpu = run.own_cpu + sum(span.change("cpu") for span in spans)
    count = sum(span.change("published") + span.change("delivered") for span in spans)
    connects = sum(span.change("connects") for span in spans)
    seconds = run.measured_seconds
    peak = sum(result.peak_memory for result in run.results) + (peak_memory() if run.plan.processes > 1 else 0)
    return {
        "cpu_share": sum(shares) + run.own_cpu / seconds if seconds else None,
        "cpu_us_per_message": cpu * 1e6 / count if count else None,
        "cpu_us_per_connection": cpu * 1e6 / connects if connects else None,
        "peak_rss_bytes": peak or peak_memory(),
        "processes": run.plan.processes,
        "busiest_share": max(shares, default=None),
        "waited_share": max((span.rate("waited") for span in spans if span.first.waited is not None), default=None),
        "delay": _durations(run.delay),
    }


def problems(run: Run) -> list[str]:
    """Return the problems that make the run a failure."""
    tally, connections = run.tally, run.connections
    found = {
        "{} of the connections could not be made": connections.failed,
        f"{{}} were not tried, after {MOST_FAILURES:,} failures in a row": _untried(run),
        "{} subscribers had a subscription rejected": connections.rejected,
        "{} clients gave up": connections.ended,
        "{} of the lost connections were not back": connections.missing if run.plan.storm else 0,
    }
    if run.plan.qos:
        found |= {
            "{} messages failed": tally.failed,
            "{} messages were not acknowledged": tally.published - tally.acknowledged - tally.failed,
            "{} deliveries were lost": 0 if run.plan.storm else max(0, run.progress.expected - tally.delivered),
        }
    elif not run.plan.storm and not tally.delivered:  # QoS 0 permits losses, but this is no result
        found["all of the {} deliveries were lost"] = run.progress.expected
    sentences = [sentence.format(f"{count:,}") for sentence, count in found.items() if count > 0]
    if not run.spans:
        sentences.append("nothing was measured")
    elif run.plan.storm and not connections.lost:
        sentences.append("no connection was lost")
    return sentences
