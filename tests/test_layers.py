"""The import rules, checked in the source: see `docs/design.md`.

mqttws does not depend on AWS, sigv4 does not depend on MQTT, and the codec, the machines and the client core do not use
sockets, clocks, threads, event loops, logs or random numbers.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import mqttws
import sigv4

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path for package in ("mqttws", "sigv4", "pubsub") for path in (ROOT / package).rglob("*.py"))
#: Layer -> its level: a layer imports only from itself and from lower levels.
LAYERS = {
    "hints": -1, "errors": 0, "locks": 0, "codec": 1, "protocol": 2, "client": 3, "sockets": 3, "poll": 3,
    "stores": 3, "budget": 3, "resolver": 4, "log": 4,
    "sync": 5, "aio": 5, "broker": 6,
    "tap": 7, "testing": 8,
}  # fmt: skip
#: Modules for I/O, time and concurrency, which only the outer layers may import.
WORLD = {
    "_socket", "asyncio", "concurrent", "logging", "multiprocessing", "queue", "random", "sched", "secrets", "select",
    "selectors", "socket", "socketserver", "ssl", "subprocess", "threading", "time", "uuid",
}  # fmt: skip
#: The modules that import wsproto and h11: for frames, for the upgrade, and for CONNECT to a proxy.
HTTP = {
    "mqttws.protocol.framing": {"wsproto"},
    "mqttws.protocol.handshake": {"h11"},
    "mqttws.protocol.client_handshake": {"h11"},
    "mqttws.client.proxy": {"h11"},
}
#: Import paths of 0.1 that lead to `pubsub.aws.local`.
KEPT_PATHS = {"pubsub.aws.endpoint", "pubsub.aws.identities", "pubsub.aws.policy"}
#: The public packages of mqttws besides `mqttws` itself.
PUBLIC_PACKAGES = {"mqttws.aio", "mqttws.broker", "mqttws.tap", "mqttws.testing"}


def name_of(path: Path) -> str:
    """Return the module name of a file, such as mqttws.codec.wire."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """Return the nodes of a file's syntax tree."""
    return list(ast.walk(ast.parse(path.read_text("utf-8"))))


@cache
def imports(path: Path) -> list[tuple[str, str | None]]:
    """Return every import of a file, in any place: (module, the imported name)."""
    return list(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, str | None]]:
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in nodes_of(path):
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


def modules(package: str) -> list[Path]:
    """Return the modules of a package."""
    chosen = [path for path in MODULES if name_of(path).split(".")[0] == package]
    assert chosen
    return chosen


def layer_of(module: str) -> str:
    """Return the layer of a module of mqttws: codec, protocol and so on."""
    return module.split(".")[1] if "." in module else "__init__"


def test_in_mqttws_a_lower_layer_imports_no_higher_one() -> None:
    for path in modules("mqttws"):
        layer = layer_of(name_of(path))
        for module, name in imports(path):
            if module.split(".")[0] != "mqttws" or layer == "__init__":
                continue
            target = layer_of(module) if module != "mqttws" else name
            assert target in LAYERS, f"{name_of(path)} imports {name} from the public namespace, which lies above it"
            assert target == layer or LAYERS[target] < LAYERS[layer], f"{name_of(path)} imports {module}: not below it"


def test_mqttws_imports_neither_sigv4_nor_pubsub() -> None:
    for path in modules("mqttws"):
        for module, _ in imports(path):
            assert module.split(".")[0] not in {"sigv4", "pubsub", "boto3", "botocore", "awscrt"}, name_of(path)


def test_which_modules_import_wsproto_and_h11() -> None:
    for path in modules("mqttws"):
        used = {module.split(".")[0] for module, _ in imports(path)} & {"wsproto", "h11"}
        assert used <= HTTP.get(name_of(path), set()), name_of(path)


def test_everything_else_imports_only_the_standard_library() -> None:
    for path in modules("mqttws"):
        allowed = sys.stdlib_module_names | {"mqttws", "wsproto", "h11"}
        if name_of(path).startswith("mqttws.testing."):
            allowed |= {"cryptography"}  # the extra `certs`
        if name_of(path) == "mqttws.hints":
            allowed |= {"mypy_extensions"}  # for type checkers and mypyc, which bring it
        assert {module.split(".")[0] for module, _ in imports(path)} <= allowed, name_of(path)


def test_the_core_imports_no_io_time_or_concurrency() -> None:
    for path in modules("mqttws"):
        name = name_of(path)
        if layer_of(name) in ("errors", "codec", "protocol", "client"):
            touched = {module.split(".")[0] for module, _ in imports(path)} & WORLD
            if name == "mqttws.client.tls":  # an SSLContext, and a TLS object over bytes in memory
                touched -= {"ssl"}
            assert not touched, f"{name} imports {touched}"


def test_the_core_uses_no_random_numbers_and_no_clock() -> None:
    """Random numbers and clocks without the modules of WORLD, such as `os.urandom`."""
    for path in MODULES:
        if name_of(path).split(".")[:2] == ["mqttws", "client"]:
            names = {node.attr for node in nodes_of(path) if isinstance(node, ast.Attribute)}
            assert not names & {"urandom", "getrandom", "monotonic", "perf_counter", "times", "fork"}, name_of(path)


@pytest.mark.parametrize(("one", "other"), [("sync", "aio"), ("aio", "sync")])
def test_the_drivers_do_not_import_each_other(one: str, other: str) -> None:
    for path in MODULES:
        if name_of(path).split(".")[:2] == ["mqttws", one]:
            assert not any(module.split(".")[:2] == ["mqttws", other] for module, _ in imports(path)), name_of(path)


def test_the_drivers_have_the_same_files_for_the_same_things() -> None:
    sync, aio = ({path.name for path in (ROOT / "mqttws" / driver).glob("*.py")} for driver in ("sync", "aio"))
    assert sync <= aio
    # The event loop calls the pump; a thread's turns are in network.py. Waits of threads share no timer.
    assert aio - sync == {"pump.py", "waits.py"}


#: Import cycles that remain, each as a set of modules.
KNOWN_CIRCLES: set[frozenset[str]] = {
    frozenset({"pubsub.cli", "pubsub.cli.parsers", "pubsub.cli.streams", "pubsub.cli.words"}),
}


def graph_of(package: str) -> dict[str, set[str]]:
    """Return the imports within a package by module, including those for types only or inside functions.

    The public namespace is omitted, since it loads names on demand.
    """
    known = {name_of(path): path for path in MODULES if name_of(path).startswith(f"{package}.")}
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        targets = {each if (each := f"{module}.{taken}") in known else module for module, taken in imports(path)}
        graph[name] = {target for target in targets if target in known and target != name}
    return graph


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Return the strongly connected components of more than one module."""

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
def test_there_are_no_import_cycles(package: str) -> None:
    assert circles(graph_of(package)) - KNOWN_CIRCLES == set()


def test_an_import_cycle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {frozenset("bc")}


def test_sigv4_imports_only_the_standard_library() -> None:
    for path in modules("sigv4"):
        for module, _ in imports(path):
            assert module.split(".")[0] in sys.stdlib_module_names | {"sigv4"}, (name_of(path), module)


def test_pubsub_imports_only_public_names() -> None:
    for path in modules("pubsub"):
        for module, name in imports(path):
            package = module.split(".")[0]
            if package == "mqttws":
                assert module == "mqttws" or module in PUBLIC_PACKAGES, f"{name_of(path)} reaches into {module}"
                if module == "mqttws" and name is not None:
                    assert name in mqttws.__all__ or f"mqttws.{name}" in PUBLIC_PACKAGES, (name_of(path), name)
            elif package == "sigv4":
                assert module == "sigv4", f"{name_of(path)} reaches into {module}"
                assert name is None or name in sigv4.__all__, (name_of(path), name)


def test_applications_do_not_import_the_local_aws() -> None:
    for path in modules("pubsub"):
        module = name_of(path)
        if module.startswith(("pubsub.aws.local", "pubsub.cli.serve", "pubsub.testing")) or module in KEPT_PATHS:
            continue
        for imported, _ in imports(path):
            assert not imported.startswith("pubsub.aws.local"), f"{module} imports {imported}"
            assert imported not in KEPT_PATHS, f"{module} imports {imported}, which is kept for programs of 0.1"


def test_pubsub_uses_only_public_names_of_modules() -> None:
    public = {
        "mqttws": {*mqttws.__all__, *(layer.partition(".")[2] for layer in PUBLIC_PACKAGES)},
        "sigv4": {*sigv4.__all__},
    }
    for path in modules("pubsub"):
        for node in nodes_of(path):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in public:
                assert node.attr in public[node.value.id], f"{name_of(path)} uses {node.value.id}.{node.attr}"


def test_every_form_of_import_is_found(tmp_path: Path) -> None:
    """`imports` finds every form of import, and resolves relative ones."""
    assert ("h11", None) in imports(ROOT / "mqttws" / "protocol" / "handshake.py")
    assert ("mqttws.codec.packet", "Packet") in imports(ROOT / "mqttws" / "codec" / "packets.py")
    relative = [entry for path in MODULES for entry in imports(path) if entry[0].startswith("sigv4.")]
    assert ("sigv4.errors", "SigningError") in relative


#: Modules with locks, conditions or events of the standard library, and why no signal handler leaves them acquired.
PLAIN_LOCKS = {
    "mqttws.sync.owner": "a lock that is used as an event: any thread may release it",
    "pubsub.sync.iteration": "used only in threads of the package, which run no signal handlers",
}


def test_locks_are_those_that_no_exception_of_a_signal_handler_leaves_acquired() -> None:
    plain = {"Lock", "Condition", "Event", "Semaphore", "BoundedSemaphore", "Barrier", "Future", "wait", "as_completed"}
    made = set()
    for path in MODULES:
        taken = {name for module, name in imports(path) if module in ("threading", "concurrent.futures")}
        for node in nodes_of(path):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name):
                found = node.func.id in taken & plain
            elif isinstance(node.func, ast.Attribute) and node.func.attr in plain:
                found = ast.unparse(node.func.value) in ("threading", "futures", "concurrent.futures")
            else:
                found = False
            if found:
                made.add(name_of(path))
    assert made == set(PLAIN_LOCKS)


def ends_with_a_condition(statements: list[ast.stmt]) -> bool:
    """Return whether the last statement jumps back to the loop around it from a condition."""
    last = statements[-1]
    if not isinstance(last, ast.If):
        return False
    return not last.orelse or ends_with_a_condition(last.body) or ends_with_a_condition(last.orelse)


def has_gap(node: ast.AST) -> bool:
    """Return whether CPython 3.12 and later leave the jump back of this loop out of the `with` around it."""
    if isinstance(node, ast.While) and not isinstance(node.test, ast.Constant):
        return True
    if isinstance(node, (ast.For, ast.While)):
        return ends_with_a_condition(node.body)
    return isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp)) and any(each.ifs for each in node.generators)


def in_the_same_frame(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield the nodes and those in them, without the bodies of functions."""
    for node in nodes:
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.GeneratorExp)):
            yield from in_the_same_frame(ast.iter_child_nodes(node))


def gaps(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the lock and the line of each loop under a lock that a signal handler can leave with the lock taken."""
    for block in ast.walk(tree):
        locks = [ast.unparse(item.context_expr) for item in block.items] if isinstance(block, ast.With) else []
        for lock in locks:
            if re.search(r"(lock|_writing|_changed|_condition)$", lock):
                for node in in_the_same_frame(block.body):
                    if has_gap(node):
                        yield lock, node.lineno


@pytest.mark.parametrize("package", ["mqttws", "sigv4", "pubsub"])
def test_no_loop_under_a_lock_jumps_back_from_a_condition(package: str) -> None:
    """See docs/concurrency.md: an exception of a signal handler would leave the lock taken."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {lock}"
        for path in MODULES
        if path.relative_to(ROOT).parts[0] == package
        for lock, line in gaps(ast.parse(path.read_text("utf-8")))
    ]
    assert not found, found


@pytest.mark.parametrize(
    "loop",
    [
        "for a in b:\n  if a: c()",
        "for a in b:\n  if a: c()\n  else:\n   if d: c()",
        "while a: c()",
        "d = [a for a in b if a]",
        "d = {a for a in b if a}",
    ],
)
def test_a_loop_that_jumps_back_from_a_condition_is_found(loop: str) -> None:
    assert list(gaps(ast.parse(f"with self._lock:\n {loop}"))) == [("self._lock", 2)]


@pytest.mark.parametrize(
    "loop",
    [
        "for a in filter(c, b): c()",
        "for a in b:\n  if a: c()\n  else: d()",
        "for a in b:\n  if a: continue\n  c()",
        "while True:\n  if a: break\n  c()",
        "d = [a for a in b]",
        "d = list(a for a in b if a)",
    ],
)
def test_other_loops_under_a_lock_are_permitted(loop: str) -> None:
    assert not list(gaps(ast.parse(f"with self._lock:\n {loop}")))
