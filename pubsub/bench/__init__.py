"""The load generator of `pubsub bench`.

Bottom up: `histogram`, `plan` (the parameters of a run, and the time at which each message is due), `returns` (of lost
connections), `workers` (publishers and subscribers without sockets and clocks), `system` (requirements on the operating
system), `fleet` (the connections of a process), `scenarios` (storm and churn), `part` (what a process does of a run),
`processes` (a part in another process), `run` (the stages: connect, measure, drain, close), `report`, `text`, `plot`
and `exports` (the results), `search` and `compare` (several runs). The options are in `pubsub.cli.bench`, which alone
imports this package.
"""

from __future__ import annotations
