"""Imports are cheap: heavy modules are loaded on demand, and every public name resolves."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from mqttws import compiled
from mqttws.broker import Broker

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"asyncio", "ssl", "wsproto", "h11"}


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a statement loads in a new interpreter."""
    program = (
        "import json, sys; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("package", ["mqttws", "pubsub", "sigv4"])
def test_importing_loads_nothing_heavy(package: str) -> None:
    loaded = loaded_by(f"import {package}")
    assert package in loaded
    assert not loaded & HEAVY
    assert not any(module.split(".")[0] in HEAVY for module in loaded)
    assert not any(module.startswith(("mqttws.tap", "pubsub.look")) for module in loaded)


def test_packets_alone_load_nothing_heavy() -> None:
    loaded = loaded_by("import mqttws; mqttws.Publish, mqttws.Decoder, mqttws.Session, mqttws.ClientMachine")
    assert "mqttws.codec.publishing" in loaded
    assert not loaded & HEAVY


#: Slow modules for special cases: a callback, a random delay, user information in a URL.
SPECIAL = {"dataclasses", "inspect", "ast", "random", "hashlib", "urllib.parse", "ipaddress", "base64", "uuid", "json"}
#: Modules that a blocking client does not load; a program may have loaded them itself.
LEFT = {"logging", "concurrent.futures", "traceback", "encodings.idna"}
#: Modules of the standard library for type hints and regular expressions that a blocking client does without.
HINTS = {"typing", "re", "contextlib"}
#: Modules of which a blocking client uses only the part in C, or that it replaces.
LEAN = {"socket", "enum", "selectors", "signal"}
#: Modules of this project that a client over TCP without a proxy does not use.
UNUSED = {
    "mqttws.client.packet_log", "mqttws.client.proxy", "mqttws.client.socks", "mqttws.client.tls",
    "mqttws.protocol.client_handshake", "mqttws.protocol.framing", "mqttws.protocol.frames",
    "mqttws.protocol.handshake", "mqttws.protocol.lenient", "mqttws.protocol.server",
    "mqttws.protocol.server_connection", "mqttws.stores.sqlite", "mqttws.broker", "mqttws.client.option_types",
    "mqttws.client.waiting", "mqttws.client.driver", "mqttws.protocol.journal",
    "mqttws.protocol.pacing", "mqttws.protocol.probing", "mqttws.protocol.stalling",
}  # fmt: skip
#: Modules for names of servers, and for iterations over messages.
LATER = {"mqttws.resolver", "mqttws.sync.iteration"}
#: Import statement -> the modules that it must not load.
FACES = {
    "from mqttws import connect": HEAVY | SPECIAL | UNUSED | LATER | LEFT | HINTS | LEAN,
    "from mqttws import Client, Message, Reconnect, State": HEAVY | SPECIAL | UNUSED | HINTS,
    "from mqttws import ClientConnection, ClientMachine, Framing":
        HEAVY | SPECIAL | UNUSED | HINTS | {"socket", "threading"},
    "from mqttws import ClientWebSocket": HEAVY | SPECIAL | {"socket", "threading", "mqttws.client"},
    "from mqttws import ServerConnection": {"asyncio", "ssl", "socket", "threading", "mqttws.client"},
    "from sigv4 import CredentialsUnavailable": HEAVY | SPECIAL | {"sigv4.verifying", "sigv4.iot", "sigv4.signing"},
    "from pubsub import PubSub, MqttOverWSProvider":
        {"ssl", "wsproto", "h11", "asyncio", "random", "hashlib", "pubsub.pool.core", "pubsub.sync.pool", "pubsub.aws"},
    "from mqttws.aio import connect":
        {"wsproto", "h11", "hashlib", "urllib.parse", "mqttws.sync"}
        | (UNUSED - {"mqttws.client.option_types", "mqttws.client.waiting"}),
}  # fmt: skip


@pytest.mark.parametrize("statement", FACES)
def test_modules_not_loaded_by_each_face(statement: str) -> None:
    loaded = loaded_by(statement)
    assert any(module.startswith(("mqttws.", "sigv4.", "pubsub.")) for module in loaded)
    assert not loaded & FACES[statement]


#: URL scheme -> the modules that a client has not loaded when its first message is acknowledged.
FIRST_MESSAGE = {
    "mqtt": HEAVY | SPECIAL | UNUSED | LATER | LEFT | HINTS | LEAN,
    "ws": (HEAVY | SPECIAL | UNUSED | LATER | LEFT | HINTS | LEAN)
    - {"mqttws.protocol.framing", "mqttws.protocol.frames", "mqttws.protocol.client_handshake"},
}


@pytest.mark.parametrize("callback", ["None", "lambda message: None", "[].append", "functools.partial(print, 1)"])
@pytest.mark.parametrize("scheme", FIRST_MESSAGE)
def test_modules_not_loaded_by_a_first_message(scheme: str, callback: str) -> None:
    with Broker() as broker:
        url = broker.url_of(scheme)
        loaded = loaded_by(
            f"import functools, mqttws; mqttws.connect({url!r}, on_message={callback}).publish('t', b'x', 1)"
        )
    assert not loaded & FIRST_MESSAGE[scheme]
    assert (scheme == "ws") == ("mqttws.protocol.client_handshake" in loaded)


#: What a signal handler may do with a client, in the middle of an import of the thread that it interrupts.
HANDLED = """
for qos in (0, 1, 2):
    receipts.append(client.publish_nowait("t", b"x", qos))
    receipts.append(client.publish_nowait("t", b"x", qos, expire_after=9.0))
"""
IN_HANDLER = {
    "sync": f"""
import mqttws
from mqttws import MQTTError
receipts, client = [], mqttws.Client("mqtt://127.0.0.1:1", reconnect=False)
before = set(sys.modules)
{HANDLED}
client.close()
for receipt in receipts:
    try:
        receipt.result()
    except MQTTError as error:
        assert receipt.exception() is error
""",
    "aio": f"""
import asyncio
import mqttws.aio
async def main():
    global before
    receipts, client = [], mqttws.aio.Client("mqtt://127.0.0.1:1", reconnect=False)
    before = set(sys.modules)
    {HANDLED.replace(chr(10), chr(10) + "    ")}
asyncio.run(main())
""",
}


@pytest.mark.parametrize("driver", IN_HANDLER)
def test_publishing_loads_no_module(driver: str) -> None:
    """A module that is being imported lacks its names, so a signal handler could not publish meanwhile."""
    assert loaded_by(IN_HANDLER[driver]) == set()


def test_modules_not_loaded_by_pub() -> None:
    with Broker() as broker:
        words = ["pub", broker.url_of("mqtt"), "t", "x", "-q", "1"]
        loaded = loaded_by(f"from pubsub.cli import main; assert main({words!r}) == 0")
    assert "mqttws.sync.client" in loaded
    assert not loaded & (
        HEAVY
        | SPECIAL
        | UNUSED
        | LATER
        | LEFT
        | HINTS
        | LEAN
        | {
            "argparse",
            "gettext",
            "locale",
            "copy",
            "weakref",
            "shutil",
            "getpass",
            "pathlib",
            "shlex",
            "sigv4",
            "pubsub.cli.aws_link",
            "pubsub.cli.tls",
        }
    )
    assert compiled or "importlib" not in loaded  # compiled modules import it


@pytest.mark.parametrize(
    "module", ["mqttws", "mqttws.aio", "mqttws.broker", "mqttws.tap", "mqttws.testing", "sigv4", "pubsub", "pubsub.aio"]
)
def test_every_public_name_resolves(module: str) -> None:
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", [])
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(loaded, name) is not None
        assert name in dir(loaded)


def test_no_module_replaces_a_public_name() -> None:
    """Importing a module sets the attribute of that name of its package, whatever was there."""
    packages = [*pkgutil.walk_packages([str(ROOT)], onerror=lambda name: None)]
    names = [
        each.name for each in packages if each.ispkg and each.name.partition(".")[0] in ("mqttws", "pubsub", "sigv4")
    ]
    assert "mqttws.tap" in names
    for name in names:
        package = importlib.import_module(name)
        modules = {each.name for each in pkgutil.iter_modules(package.__path__)}
        # The module `pubsub.PubSub` puts the class in its own place.
        assert modules.intersection(getattr(package, "__all__", ())) <= ({"PubSub"} if name == "pubsub" else set())


def test_an_unknown_name_is_an_attribute_error() -> None:
    import mqttws

    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = mqttws.Nonsense
    assert not hasattr(mqttws, "nonsense")


def test_names_for_type_checkers_equal_those_at_run_time() -> None:
    """The names under TYPE_CHECKING, those of `__getattr__` and those of `__all__` are the same."""
    import mqttws

    seen: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / "mqttws" / "__init__.py").read_text("utf-8"))):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for inner in ast.walk(node):
                if isinstance(inner, (ast.ImportFrom, ast.Import)):
                    for alias in inner.names:
                        name = alias.asname or alias.name
                        seen.add(name)
                        module = getattr(inner, "module", None)
                        if module and name in mqttws.__all__:
                            assert getattr(importlib.import_module(module), name) is getattr(mqttws, name)
    assert set(mqttws.__all__) <= seen


def test_each_package_has_the_version_of_the_distribution() -> None:
    from importlib.metadata import version

    import mqttws
    import pubsub
    import sigv4

    assert mqttws.__version__ == pubsub.__version__ == sigv4.__version__ == version("mqttws-pubsub")
