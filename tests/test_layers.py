"""The rules of who may import whom, read from the source: see `docs/design.md`.

mqttws knows nothing of AWS, sigv4 nothing of MQTT, and the codec, the machines and the client without waiting know
nothing of sockets, clocks, threads, event loops, logs or randomness. A rule that only a review keeps is broken by the
third change.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mqttws
import sigv4

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for package in ("mqttws", "sigv4", "pubsub") for path in (ROOT / package).rglob("*.py"))
#: From the lowest to the highest: a room imports from itself and from those in front of it.
LAYERS = {
    "errors": 0, "codec": 1, "protocol": 2, "client": 3, "sockets": 3, "resolver": 3, "log": 3, "stores": 3,
    "budget": 3,
    "sync": 4, "aio": 4, "broker": 5,
    "tap": 6, "testing": 7,
}  # fmt: skip
#: What the outside world is made of; only the rooms at the edge may touch it.
WORLD = {
    "asyncio", "concurrent", "logging", "multiprocessing", "queue", "random", "sched", "secrets", "select", "selectors",
    "socket", "socketserver", "ssl", "subprocess", "threading", "time", "uuid",
}  # fmt: skip
#: Who speaks WebSocket and HTTP, and by what: its frames, its upgrade, and the CONNECT that a proxy is asked with.
HTTP = {
    "mqttws.protocol.framing": {"wsproto"},
    "mqttws.protocol.handshake": {"wsproto", "h11"},
    "mqttws.protocol.client_handshake": {"h11"},
    "mqttws.client.proxy": {"h11"},
}
#: Import paths of 0.1 that lead to `pubsub.aws.local`.
KEPT_PATHS = {"pubsub.aws.endpoint", "pubsub.aws.identities", "pubsub.aws.policy"}
#: What of mqttws is public beside `mqttws` itself.
PUBLIC_ROOMS = {"mqttws.aio", "mqttws.broker", "mqttws.tap", "mqttws.testing"}


def name_of(path: Path) -> str:
    """Module name: mqttws.codec.wire."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Every import of a module, wherever it stands in it: (module, the name taken from it)."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            for alias in node.names:
                yield base, alias.name


def parametrize(*packages: str) -> pytest.MarkDecorator:
    chosen = [path for path in MODULES if name_of(path).split(".")[0] in packages]
    assert chosen
    return pytest.mark.parametrize("path", chosen, ids=name_of)


def room_of(module: str) -> str:
    """The room of a module of mqttws: codec, protocol and so on."""
    return module.split(".")[1] if "." in module else "__init__"


@parametrize("mqttws")
def test_inside_mqttws_a_lower_room_imports_no_higher_one(path: Path) -> None:
    room = room_of(name_of(path))
    for module, name in imports(path):
        if module.split(".")[0] != "mqttws" or room == "__init__":
            continue
        target = room_of(module) if module != "mqttws" else name
        assert target in LAYERS, f"{name_of(path)} imports {name} from the public namespace, which lies above it"
        assert target == room or LAYERS[target] < LAYERS[room], f"{name_of(path)} imports {module}: not below it"


@parametrize("mqttws")
def test_mqttws_knows_neither_aws_nor_what_is_built_on_it(path: Path) -> None:
    for module, _ in imports(path):
        assert module.split(".")[0] not in {"sigv4", "pubsub", "boto3", "botocore", "awscrt"}


@parametrize("mqttws")
def test_who_knows_wsproto_and_h11(path: Path) -> None:
    used = {module.split(".")[0] for module, _ in imports(path)} & {"wsproto", "h11"}
    assert used <= HTTP.get(name_of(path), set())


@parametrize("mqttws")
def test_nothing_else_is_needed_but_the_standard_library(path: Path) -> None:
    allowed = sys.stdlib_module_names | {"mqttws", "wsproto", "h11"}
    if name_of(path).startswith("mqttws.testing."):
        allowed |= {"cryptography"}  # the extra `certs`
    assert {module.split(".")[0] for module, _ in imports(path)} <= allowed


@parametrize("mqttws")
def test_the_core_touches_nothing_of_the_world(path: Path) -> None:
    name = name_of(path)
    if room_of(name) in ("errors", "codec", "protocol", "client"):
        touched = {module.split(".")[0] for module, _ in imports(path)} & WORLD
        if name == "mqttws.client.tls":  # an SSLContext, and a TLS object over bytes in memory
            touched -= {"ssl"}
        assert not touched, f"{name} imports {touched}"


def test_the_core_draws_no_random_number_and_reads_no_clock() -> None:
    """What the modules of WORLD are not needed for: `os.urandom`, and a clock by another way."""
    for path in MODULES:
        if name_of(path).split(".")[:2] == ["mqttws", "client"]:
            names = {
                node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)
            }
            assert not names & {"urandom", "getrandom", "monotonic", "perf_counter", "times", "fork"}, name_of(path)


@pytest.mark.parametrize(("one", "other"), [("sync", "aio"), ("aio", "sync")])
def test_the_drivers_do_not_know_each_other(one: str, other: str) -> None:
    for path in MODULES:
        if name_of(path).split(".")[:2] == ["mqttws", one]:
            assert not any(module.split(".")[:2] == ["mqttws", other] for module, _ in imports(path)), name_of(path)


def test_the_drivers_have_the_same_files_for_the_same_things() -> None:
    sync, aio = ({path.name for path in (ROOT / "mqttws" / driver).glob("*.py")} for driver in ("sync", "aio"))
    assert sync <= aio
    # The event loop calls the pump; a thread's turns are part of its network.py. A thread's wait has no timer to share.
    assert aio - sync == {"pump.py", "waits.py"}


#: Circles of files that are still to be cut, each as the set of its files.
KNOWN_CIRCLES: set[frozenset[str]] = {
    frozenset({"pubsub.cli", "pubsub.cli.streams", "pubsub.cli.words"}),
}


def graph_of(package: str) -> dict[str, set[str]]:
    """Module -> the modules of the same package that it imports, for types alone or inside a function too.

    Without the public namespace, which loads each name when it is asked for.
    """
    known = {name_of(path): path for path in MODULES if name_of(path).startswith(f"{package}.")}
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        targets = {each if (each := f"{module}.{taken}") in known else module for module, taken in imports(path)}
        graph[name] = {target for target in targets if target in known and target != name}
    return graph


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The sets of modules each of which leads to all others of its set."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for following in graph[waiting.pop()] - seen:
                seen.add(following)
                waiting.append(following)
        return seen

    reached = {name: reach(name) for name in graph}
    return {
        frozenset(other for other in graph if other in reached[name] and name in reached[other])
        for name in graph
        if name in reached[name]
    }


@pytest.mark.parametrize("package", ["mqttws", "sigv4", "pubsub"])
def test_no_file_imports_itself_by_way_of_others(package: str) -> None:
    assert circles(graph_of(package)) - KNOWN_CIRCLES == set()


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {frozenset("bc")}


@parametrize("sigv4")
def test_sigv4_needs_the_standard_library_alone(path: Path) -> None:
    for module, _ in imports(path):
        assert module.split(".")[0] in sys.stdlib_module_names | {"sigv4"}, module


@parametrize("pubsub")
def test_pubsub_uses_what_is_public(path: Path) -> None:
    for module, name in imports(path):
        package = module.split(".")[0]
        if package == "mqttws":
            assert module == "mqttws" or module in PUBLIC_ROOMS, f"{name_of(path)} reaches into {module}"
            if module == "mqttws" and name is not None:
                assert name in mqttws.__all__ or f"mqttws.{name}" in PUBLIC_ROOMS, name
        elif package == "sigv4":
            assert module == "sigv4", f"{name_of(path)} reaches into {module}"
            assert name is None or name in sigv4.__all__, name


@parametrize("pubsub")
def test_an_application_loads_nothing_that_stands_in_for_aws(path: Path) -> None:
    module = name_of(path)
    if module.startswith(("pubsub.aws.local", "pubsub.cli.serve", "pubsub.testing")) or module in KEPT_PATHS:
        return
    for imported, _ in imports(path):
        assert not imported.startswith("pubsub.aws.local"), f"{module} imports {imported}"
        assert imported not in KEPT_PATHS, f"{module} imports {imported}, which is kept for programs of 0.1"


@parametrize("pubsub")
def test_pubsub_takes_what_is_public_from_the_modules_too(path: Path) -> None:
    public = {
        "mqttws": {*mqttws.__all__, *(room.partition(".")[2] for room in PUBLIC_ROOMS)},
        "sigv4": {*sigv4.__all__},
    }
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in public:
            assert node.attr in public[node.value.id], f"{name_of(path)} uses {node.value.id}.{node.attr}"


def test_the_reader_of_imports_reads(tmp_path: Path) -> None:
    """What the tests above rest on finds every form of import, and where a relative one leads."""
    assert ("h11", None) in list(imports(ROOT / "mqttws" / "protocol" / "handshake.py"))
    assert ("mqttws.codec.packet", "Packet") in list(imports(ROOT / "mqttws" / "codec" / "packets.py"))
    relative = [entry for path in MODULES for entry in imports(path) if entry[0].startswith("sigv4.")]
    assert ("sigv4.errors", "SigningError") in relative
