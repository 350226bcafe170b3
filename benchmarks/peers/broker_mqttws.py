"""The embedded broker, on its own: prints its port, ends when its standard input does."""

from __future__ import annotations

import sys

from timing import raise_open_files

from mqttws.broker import Broker, Limits

raise_open_files()
# One address and one process may hold every connection here; no other bound is touched.
with Broker(limits=Limits(max_connections=20_000, max_connections_per_address=20_000, max_sessions=20_000)) as broker:
    print(broker.url.rpartition(":")[2].partition("/")[0], flush=True)
    sys.stdin.read()
