"""The load generator of `pubsub bench`.

From the inside out: `histogram`, `plan` (what is asked for, and when each message is due), `workers` (publishers and
subscribers without sockets and clocks), `system` (requirements on the operating system), `run` (the
event loop: connect, measure, drain, close), `report` and `plot` (what is informed of it). The options are in
`pubsub.cli.bench`; nothing else of this package loads any of it.
"""

from __future__ import annotations
