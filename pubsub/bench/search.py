"""The search for the highest rate at which a broker meets a latency objective: doubling the rate, then bisection.

`Search` determines the next rate; it does no I/O. A rate that fails is tried once more, and only a second failure
counts, so that one pause of the machine does not decide the search. `verdict` evaluates a run by its document.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import sqrt
from typing import Any, Self

from pubsub.bench.plan import MAX_RATE

#: The first rate, unless the plan has one.
FIRST_RATE = 1_000.0
#: The lowest rate that is tried.
LEAST_RATE = 1.0
#: The search ends when the difference of the highest rate that passes and the lowest that fails is below this part.
PRECISION = 0.05
#: The accepted part of messages that were due, but not sent.
UNSENT = 0.01

_OBJECTIVE = re.compile(r"(p50|p90|p99|p99\.9)\s*<\s*(\d+(?:\.\d+)?)\s*(us|ms|s)")
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1_000.0}


@dataclass(frozen=True)
class Objective:
    """A latency objective: a quantile of the latency must be below a limit.

    Attributes:
        quantile: "p50", "p90", "p99" or "p99.9".
        bound: The limit in milliseconds, above 0.
    """

    quantile: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an objective, such as "p99<10ms".

        Raises:
            ValueError: The text is not an objective.
        """
        found = _OBJECTIVE.fullmatch(text.strip())
        if found is None or not float(found[2]):
            raise ValueError(
                f"{text!r} is not an objective; write p50, p90, p99 or p99.9, '<', and us, ms or s: p99<10ms"
            )
        return cls(found[1], float(found[2]) * _MILLISECONDS[found[3]])

    def __str__(self) -> str:
        return f"{self.quantile}<{self.bound:g}ms"

    def figure(self, document: dict[str, Any]) -> float | None:
        """Return the quantile of a run in milliseconds: of deliveries; without subscribers, of acknowledgements."""
        durations = document["latency" if document["plan"]["subscribers"] else "acknowledgement"]
        value: float | None = durations[f"{self.quantile.replace('.', '_')}_ms"]
        return value


def verdict(document: dict[str, Any], objective: Objective) -> str:
    """Return why a run does not meet the objective; "" if it does."""
    messages, figure = document["messages"], objective.figure(document)
    if document["problems"]:
        return str(document["problems"][0])
    if messages["unsent"] > UNSENT * messages["due"]:
        return f"{messages['unsent']:,} of {messages['due']:,} messages were not sent in time"
    if messages["lost"]:
        return f"{messages['lost']:,} deliveries were lost"
    if figure is None:
        return "nothing arrived"
    return "" if figure < objective.bound else f"{objective.quantile} is {figure:.3g} ms"


class Search:
    """The search for the highest rate.

    Args:
        first: The initial rate in messages per second.

    Attributes:
        best: The highest rate that has passed; 0 if none has.
    """

    def __init__(self, first: float) -> None:
        self.best = 0.0
        self._next: float | None = min(max(first, LEAST_RATE), MAX_RATE)
        self._worst: float | None = None  # the lowest rate that has failed
        self._failed_once = False

    @property
    def rate(self) -> float | None:
        """The next rate; None if the search is over."""
        return self._next

    def note(self, passed: bool) -> None:
        """Record the result for that rate."""
        rate = self._next
        if rate is None:
            return
        if not passed and not self._failed_once:
            self._failed_once = True
            return
        self._failed_once = False
        if passed:
            self.best = rate
        else:
            self._worst = rate
        self._next = self._following()

    def _following(self) -> float | None:
        if self._worst is None:
            return min(self.best * 2, MAX_RATE) if self.best < MAX_RATE else None
        if not self.best:
            return self._worst / 2 if self._worst / 2 >= LEAST_RATE else None
        return sqrt(self.best * self._worst) if self._worst / self.best > 1 + PRECISION else None


def as_text(document: dict[str, Any]) -> str:
    """Return a search as text."""
    lines = [f"{document['url']}: the highest rate with {document['objective']}", ""]
    for step in document["steps"]:
        figure = "–" if step["figure_ms"] is None else f"{step['figure_ms']:.3g} ms"
        lines.append(f"{step['rate']:>12,.0f}/s  {figure:>10}  {step['failure'] or 'passed'}")
    found = document["found_per_second"]
    lines += ["", "no rate passed" if found is None else f"found: {found:,.0f} messages per second"]
    if document["busy"]:
        lines.append("this command was busy when the objective was missed: it may be the bottleneck, not the server")
    return "\n".join(lines) + "\n"
