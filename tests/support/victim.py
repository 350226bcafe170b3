"""Run brokers in separate processes, so that their memory and descriptors can be measured from outside.

    python victim.py '{"limits": {"max_connections": 50}, "files": 64, "pem": "/tmp/both.pem"}'

A broker prints its URLs in one line of JSON, prints its metrics for each line of input, and ends at the end of its
input.

    python victim.py 5

This process forks a broker for each request, which takes a tenth of the time of a new interpreter. A request is a
message on the socket with that descriptor: either options as above, with two descriptors, one for the input and output
of the broker and one for its log, answered by the number of its process; or such a number, answered by the exit code of
that process after its end.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import socket
import ssl
import sys
from typing import Any

from mqttws.broker import Broker, Limits


def serve(options: dict[str, Any]) -> None:
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
        host=options.get("host", "127.0.0.1"),
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


def fork(requests: socket.socket) -> None:
    """Fork a broker for each request, until the other end of the socket is closed."""
    with Broker(sys_interval=None):
        pass  # it has imported what a broker needs
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 65536, 2)
        if not message:
            return
        request = json.loads(message)
        if isinstance(request, int):
            answer = os.waitstatus_to_exitcode(os.waitpid(request, 0)[1])
        else:
            words, log = descriptors
            answer = os.fork()
            if answer == 0:
                for old, new in ((words, 0), (words, 1), (log, 2)):
                    os.dup2(old, new)
                requests.close()
            os.close(words)
            os.close(log)
            if answer == 0:
                return serve(request)
        requests.send(b"%d" % answer)


if __name__ == "__main__":
    argument = json.loads(sys.argv[1])
    if isinstance(argument, int):
        with socket.socket(fileno=argument) as requests:
            fork(requests)
    else:
        serve(argument)
