"""nginx as a proxy that closes idle connections, as load balancers of cloud providers do."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from cluster_nodes import Node, free_ports

PROGRAM = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")

CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://{server};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_read_timeout {idle}s;
            proxy_send_timeout {idle}s;
        }}
    }}
}}
"""


class Nginx:
    """nginx as the proxy of one server, which runs during a `with` block.

    Args:
        url: the URL of the server, ws://.
        idle: seconds without data from the server after which nginx closes a connection.

    Attributes:
        url: the URL for clients.
    """

    def __init__(self, url: str, idle: int) -> None:
        assert PROGRAM is not None
        self._folder = Path(tempfile.mkdtemp(prefix="nginx-"))
        (port,) = free_ports(1)
        server = urlsplit(url)
        path = self._folder / "nginx.conf"
        path.write_text(CONFIGURATION.format(folder=self._folder, port=port, server=server.netloc, idle=idle))
        self.url = f"ws://127.0.0.1:{port}{server.path}"
        self._node = Node("nginx", self.url, [PROGRAM, "-p", str(self._folder), "-c", str(path)], self._folder)

    def __enter__(self) -> Nginx:
        self._node.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._node.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def log(self) -> str:
        """Return the end of its output."""
        return self._node.log
