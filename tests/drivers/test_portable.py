"""Import and use on systems other than POSIX: the POSIX-only names are removed before the packages are imported.

Windows has no `os.fork`, `os.register_at_fork`, `resource` or epoll, its event loop no `add_signal_handler`, and a
non-blocking connect returns EWOULDBLOCK there. macOS has no TCP_QUICKACK and no epoll.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from drivers import PATIENCE

from mqttws.broker import Broker

ROOT = Path(__file__).parents[2]

WITHOUT = """
    import _socket, asyncio, errno, os, select, selectors, signal, socket, sys

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name in {"resource", "fcntl", "termios", "pwd", "grp", "tty", "pty"}:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Refuse())
    for name in ("resource", "fcntl", "termios", "pwd", "grp"):
        sys.modules.pop(name, None)
    for module, names in {
        os: ("fork", "register_at_fork", "forkpty", "getuid", "geteuid", "uname"),
        socket: ("TCP_QUICKACK", "SO_REUSEPORT", "MSG_NOSIGNAL"),
        _socket: ("TCP_QUICKACK", "SO_REUSEPORT", "MSG_NOSIGNAL"),
        select: ("poll", "epoll", "kqueue", "POLLIN", "POLLOUT"),
        signal: ("SIGALRM", "SIGHUP", "SIGUSR1", "SIGKILL", "setitimer", "alarm", "pthread_kill"),
        selectors: ("EpollSelector", "PollSelector", "KqueueSelector"),
    }.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    selectors.DefaultSelector = selectors.SelectSelector

    def refuse(self, *arguments):
        raise NotImplementedError

    asyncio.SelectorEventLoop.add_signal_handler = refuse
    connect_ex = socket.socket.connect_ex

    class Windows(socket.socket):
        def connect_ex(self, address):
            code = super().connect_ex(address)
            return errno.EWOULDBLOCK if code == errno.EINPROGRESS else code

    socket.socket = Windows
"""

USE = """
    import mqttws, mqttws.aio, mqttws.broker, mqttws.testing, pubsub, pubsub.aio

    url = sys.argv[1]
    with mqttws.connect(url) as client:
        client.subscribe("a", 1)
        client.publish("a", b"x", 1)
        assert next(client.messages(30)).payload == b"x"

    async def main():
        async with mqttws.aio.connect(url.replace("127.0.0.1", "localhost")) as client:
            await client.subscribe("a", 1)
            await client.publish("a", b"y", 1)
            assert (await anext(client.messages(30))).payload == b"y"

    asyncio.run(main())
    with pubsub.PubSub(pubsub.MqttOverWSProvider(url)) as ps:
        ps.publish("a", 1, qos=1)
    print("done")
"""

IMPORT_ALL = """
    import importlib, pathlib
    for package in ("mqttws", "sigv4", "pubsub"):
        for path in sorted(pathlib.Path(package).rglob("*.py")):
            name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
            if not name.endswith("__main__"):
                importlib.import_module(name)
    print("done")
"""


@pytest.mark.parametrize("what", [USE, IMPORT_ALL], ids=["use", "import"])
def test_import_and_use_without_posix(what: str) -> None:
    with Broker() as broker:
        script = textwrap.dedent(WITHOUT) + textwrap.dedent(what)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script, broker.url],
            cwd=ROOT, capture_output=True, text=True, timeout=4 * PATIENCE, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
