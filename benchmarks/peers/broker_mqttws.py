"""Run the embedded broker: print its port, and end at the end of standard input."""

from __future__ import annotations

import sys

from timing import raise_open_files

from mqttws.broker import Broker, Limits

raise_open_files()
# One address may have every connection here; all other limits are the defaults.
with Broker(limits=Limits(max_connections=20_000, max_connections_per_address=20_000, max_sessions=20_000)) as broker:
    print(broker.url.rpartition(":")[2].partition("/")[0], flush=True)
    sys.stdin.read()
