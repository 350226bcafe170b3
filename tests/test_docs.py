"""The documentation: each example runs as a reader would paste it, and each link is valid.

A Python block is a program: it runs alone, in a new interpreter with warnings as errors, in an empty folder. One with
prompts (`>>>`) is a session: all sessions of a page are one, and their output is compared. A block marked `sh` is run
by the shell, with the commands of this environment; `console` marks commands that cannot run here, or never end.
Examples in docstrings are sessions, too, one for each docstring.
"""

from __future__ import annotations

import ast
import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mqttws
import pubsub
import sigv4
from mqttws.client.options import Options

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Module -> its page of the reference.
REFERENCE = {
    "mqttws": "mqttws", "mqttws.aio": "aio", "mqttws.broker": "broker", "mqttws.tap": "tap",
    "mqttws.testing": "testing", "pubsub": "pubsub", "pubsub.aio": "pubsub-aio", "sigv4": "sigv4",
}  # fmt: skip

#: The entry points of each public module: their docstrings have an example.
ENTRY_POINTS = {
    "mqttws/sync/client.py": "connect Client.publish Client.subscribe Client.messages",
    "mqttws/aio/client.py": "connect Client.publish Client.subscribe Client.messages",
    "pubsub/sync/api.py": "PubSub PubSub.publish",
    "pubsub/aio/api.py": "PubSub PubSub.publish",
    "pubsub/core.py": "PubSubCore.subscribe",
    "pubsub/testing/broker.py": "RecordingBroker",
    "mqttws/broker/broker.py": "Broker",
    "mqttws/testing/faults/faults.py": "Faults",
    "sigv4/iot.py": "presign_iot_url",
    "sigv4/presigning.py": "presign",
    "sigv4/verifying.py": "verify",
}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Return the blocks of one language: line number, text."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in found]


def cases(language: str) -> list[object]:
    marked = []
    for page in PAGES:
        for line, block in blocks(page, language):
            if ">>>" not in block:
                marked.append(pytest.param(block, id=f"{name_of(page)}:{line}"))
    return marked


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=60, check=False
    )


@pytest.mark.parametrize("block", cases("python"))
def test_each_program_runs(block: str, tmp_path: Path) -> None:
    done = run([sys.executable, "-X", "dev", "-X", "utf8", "-W", "error", "-c", block], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr  # of another thread, or of a finaliser


@pytest.mark.parametrize("block", cases("sh"))
def test_each_command_runs(block: str, tmp_path: Path) -> None:
    done = run(["bash", "-euo", "pipefail", "-c", block], tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if ">>>" in page.read_text(encoding="utf-8")], ids=name_of)
def test_each_session_prints_the_output_on_the_page(page: Path) -> None:
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.attempted
    assert result.failed == 0


def docstrings_in(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Yield the docstrings that contain an example: the qualified name, the text."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        text = ast.get_docstring(node) or ""
        if ">>>" in text:
            yield name, text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from docstrings_in(child, f"{name}.{child.name}".lstrip("."))


#: File -> qualified name -> docstring. Found in the sources: the docstrings of a compiled build are not complete.
DOCSTRINGS = {
    name_of(file): dict(docstrings_in(ast.parse(text), ""))
    for package in ("mqttws", "pubsub", "sigv4")
    for file in sorted((ROOT / package).rglob("*.py"))
    if ">>>" in (text := file.read_text(encoding="utf-8"))
}


@pytest.mark.parametrize(
    "docstring",
    [pytest.param(text, id=f"{file}:{name}") for file, found in DOCSTRINGS.items() for name, text in found.items()],
)
def test_each_example_of_a_docstring_prints_its_output(docstring: str) -> None:
    session = doctest.DocTestParser().get_doctest(docstring, {}, "the docstring", None, 0)
    result = doctest.DocTestRunner(verbose=False).run(session)
    assert result.attempted
    assert result.failed == 0


def test_each_entry_point_has_an_example() -> None:
    missing = {
        f"{file}: {name}"
        for file, names in ENTRY_POINTS.items()
        for name in names.split()
        if name not in DOCSTRINGS.get(file, {})
    }
    assert not missing


def test_the_readme_has_an_example() -> None:
    assert blocks(ROOT / "README.md", "python")


def test_each_named_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:`|^    )make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_each_link_is_valid(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if ":" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("module", REFERENCE)
def test_the_reference_has_each_public_name(module: str) -> None:
    """By the source: an attribute such as `connection_state` is not looked up."""
    base = ROOT.joinpath(*module.split("."))
    tree = ast.parse((base / "__init__.py").read_text("utf-8"))
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    page = (ROOT / "docs" / "reference" / f"{REFERENCE[module]}.md").read_text(encoding="utf-8")
    shown = set(re.findall(rf"^::: {re.escape(module)}\.(\w+)$", page, re.MULTILINE))
    missing = {name for name in names if name not in shown and f"`{name}`" not in page}
    assert not missing, f"name them in docs/reference/{REFERENCE[module]}.md: {sorted(missing)}"
    assert shown <= set(names)


def test_the_reference_has_the_default_of_each_option() -> None:
    page = (ROOT / "docs" / "reference" / "mqttws.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", page, re.MULTILINE)
    shown = {name: eval(text, {"SessionTakenOver": mqttws.SessionTakenOver}) for name, text in rows}
    defaults = {name: getattr(Options, name) for name in Options.__annotations__}
    assert shown == {name: value for name, value in defaults.items() if value not in (None, False, ())}


def test_the_errors_page_has_each_error() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    errors = {
        name
        for package in (mqttws, pubsub, sigv4)
        for name in package.__all__
        if isinstance(getattr(package, name), type) and issubclass(getattr(package, name), Exception)
    }
    missing = {name for name in errors if not re.search(rf"\b{name}\b", page)}
    assert not missing, f"say in docs/errors.md when they are raised, why and what to do: {sorted(missing)}"
