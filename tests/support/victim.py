"""Run a broker in a separate process, so that its memory and descriptors can be measured from outside.

    python victim.py '{"limits": {"max_connections": 50}, "files": 64, "pem": "/tmp/both.pem", "authenticate": true}'

It prints its URLs in one line of JSON, prints its metrics for each line of input, and ends at the end of its input.
"""

from __future__ import annotations

import gc
import json
import logging
import resource
import ssl
import sys

from mqttws.broker import Broker, Limits

options = json.loads(sys.argv[1])
logging.basicConfig(
    level=logging.ERROR if options.get("quiet") else logging.DEBUG, format="%(levelname)s %(name)s: %(message)s"
)
logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1 if "files" in options else logging.WARNING)
if "files" in options:
    resource.setrlimit(resource.RLIMIT_NOFILE, (options["files"], options["files"]))
tls = None
if "pem" in options:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(options["pem"])
with Broker(
    limits=Limits(**options.get("limits", {})),
    tls=tls,
    wss_port=0 if tls else None,
    mqtts_port=0 if tls else None,
    sys_interval=None,
) as broker:
    print(json.dumps(broker.urls), flush=True)
    for _ in sys.stdin:
        gc.collect()
        print(json.dumps(broker.metrics()), flush=True)
