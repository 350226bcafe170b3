"""Run the embedded broker: print its ports, without and with TLS, and end at the end of standard input."""

from __future__ import annotations

import os
import ssl
import sys

from timing import raise_open_files

from mqttws.broker import Broker, Limits

raise_open_files()
# One address may have every connection here; all other limits are the defaults.
limits = Limits(max_connections=20_000, max_connections_per_address=20_000, max_sessions=20_000)
schemes, tls, port = ["ws"], None, None
certificates = os.environ.get("BENCH_CERTIFICATES")
if certificates:
    schemes, port = ["ws", "wss"], 0
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(f"{certificates}/server.crt", f"{certificates}/server.key")
with Broker(limits=limits, wss_port=port, tls=tls) as broker:
    print(*(broker.url_of(scheme).rpartition(":")[2].partition("/")[0] for scheme in schemes), flush=True)
    sys.stdin.read()
