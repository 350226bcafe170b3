"""A program that forks while it runs a broker: the broker stays with the parent, and nothing of it with the child."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from urllib.parse import urlsplit

import pytest

from mqttws import Connect

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

START = """
    import os, signal, sys, warnings
    import mqttws
    from mqttws.broker import Broker

    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads

    def fork(child):
        if pid := os.fork():
            return pid
        signal.alarm(60)  # later than every timeout below, so that the end of the child is never the reason
        try:
            child()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        finally:
            os._exit(0)
"""


def printed(script: str) -> list[str]:
    """Run a program. Return what it prints."""
    program = textwrap.dedent(START) + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "call", ["broker.publish('a')", "broker.sessions()", "broker.metrics()", "broker.disconnect('c')", "broker.start()"]
)
def test_a_call_in_the_child_is_an_error(call: str) -> None:
    lines = printed(
        f"""
        with Broker() as broker:
            os.waitpid(fork(lambda: {call}), 0)
        """
    )
    assert lines == [
        "RuntimeError: the broker was started before a fork and belongs to the parent process; make a new one"
    ]


def test_the_child_can_leave_the_broker_and_run_another() -> None:
    lines = printed(
        """
        def child():
            broker.stop()
            with Broker() as other, mqttws.connect(other.url) as client:
                client.publish("a", b"1", qos=1)
                print("child", flush=True)

        with Broker() as broker:
            os.waitpid(fork(child), 0)
            with mqttws.connect(broker.url) as client:
                client.publish("a", b"1", qos=1)
                print("parent")
        """
    )
    assert lines == ["child", "parent"]


def test_the_child_keeps_no_connection_and_no_port_open() -> None:
    script = """
        broker = Broker(ws_port=None)
        broker.start()
        print(broker.url, flush=True)
        sys.stdin.readline()
        print(fork(signal.pause), flush=True)
        signal.pause()
    """
    program = textwrap.dedent(START) + textwrap.dedent(script)
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        address = urlsplit(parent.stdout.readline().decode().strip())
        with socket.create_connection((address.hostname, address.port), timeout=20) as client:
            client.sendall(Connect("c").encode())
            assert client.recv(4).hex() == "20020000"
            parent.stdin.write(b"\n")
            parent.stdin.flush()
            child = int(parent.stdout.readline())
            try:
                client.sendall(b"\xc0\x00")  # PINGREQ: the parent goes on
                assert client.recv(2).hex() == "d000"
                parent.kill()
                parent.wait()
                assert client.recv(1) == b""
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((address.hostname, address.port), timeout=20)
            finally:
                os.kill(child, signal.SIGKILL)
