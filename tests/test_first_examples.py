"""The first example of each page works for a new user: in an empty folder, with only the wheel and its requirements.

One environment is used for all pages. Additional packages that a page names above its first example are installed after
the pages without any have been tested.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INSTALL = re.compile(r"`pip install ([^`]+)`")
PATIENCE = 60.0


class Example(NamedTuple):
    """The first example of a page.

    Attributes:
        language: "python" or "sh".
        text: its text.
        needs: the additional packages that the page names before it.
    """

    language: str
    text: str
    needs: tuple[str, ...]


def first_example(page: Path) -> Example | None:
    """Return the first example of a page, or None."""
    text = page.read_text(encoding="utf-8")
    found = BLOCK.search(text)
    if found is None:
        return None
    said = [shlex.split(words) for words in INSTALL.findall(text[: found.start()])]
    return Example(found[1], found[2], tuple(sorted({word for words in said for word in words if word != "."})))


EXAMPLES = {page.relative_to(ROOT).as_posix(): example for page in PAGES if (example := first_example(page))}
#: Examples without additional packages come first, while the environment contains none.
NAMES = sorted(EXAMPLES, key=lambda name: (EXAMPLES[name].needs, name))


class Environment:
    """A virtual environment with the wheel.

    Args:
        folder: its directory.
    """

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "env" / "bin"
        self._installed: set[str] = set()
        self._run(sys.executable, "-m", "venv", "--without-pip", folder / "env")
        self._run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
        (self._wheel,) = folder.glob("mqttws_pubsub-*.whl")
        self._pip(str(self._wheel))

    def install(self, needs: tuple[str, ...]) -> None:
        """Install the packages that a page names; for this package, its extra."""
        missing = [need.replace("mqttws-pubsub", str(self._wheel)) for need in needs if need not in self._installed]
        if missing:
            self._pip(*missing)
            self._installed.update(needs)

    def _pip(self, *what: str) -> None:
        self._run(sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "--quiet", *what)

    @staticmethod
    def _run(*command: str | Path) -> None:
        done = subprocess.run(
            [*command], cwd=ROOT, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}, capture_output=True,
            text=True, timeout=300, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{command[1:4]}: {done.stderr[-1000:]}")

    def command(self, example: Example, folder: Path) -> list[str | Path]:
        """Write the example to a file, and return the command that a user would run."""
        python = self.bin / "python"
        if example.language == "sh":
            return ["bash", "-euo", "pipefail", "-c", example.text]
        if ">>>" in example.text:
            (folder / "session.txt").write_text(example.text, encoding="utf-8")
            return [python, "-m", "doctest", "session.txt"]
        if re.search(r"^(async )?def test_", example.text, re.MULTILINE):
            (folder / "test_example.py").write_text(example.text, encoding="utf-8")
            return [python, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_example.py"]
        (folder / "example.py").write_text(example.text, encoding="utf-8")
        return [python, "-I", "-W", "error", "example.py"]

    def try_out(self, example: Example, folder: Path) -> str:
        """Run an example in an empty folder, without access to the source tree. Return its output."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST", "PUBSUB"))}
        done = subprocess.run(
            self.command(example, folder), cwd=folder, env={**kept, "PATH": f"{self.bin}:/usr/bin:/bin"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert "Traceback" not in done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    try:
        return Environment(tmp_path_factory.mktemp("first"))
    except RuntimeError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no environment can be created here: {error}")


@pytest.mark.parametrize("name", NAMES)
def test_the_first_example_works_with_the_wheel_alone(name: str, environment: Environment, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    environment.install(example.needs)
    environment.try_out(example, tmp_path)


def test_the_fixtures_for_asyncio_with_pytest_asyncio(environment: Environment, tmp_path: Path) -> None:
    """In a separate environment, because a plugin affects the whole run."""
    environment.install(("pytest", "pytest-asyncio"))
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    text = """\
import pytest

@pytest.mark.asyncio
async def test_it(mqtt_broker, mqtt_client_async, pubsub_client_async):
    async with mqtt_client_async as client, pubsub_client_async as ps:
        await client.publish("a", b"1", qos=1)
        await ps.publish("b", 2, qos=1)
    assert [message.value for message in mqtt_broker.messages] == [1, 2]

def test_without(mqtt_broker, mqtt_client):
    mqtt_client.publish("a", b"1", qos=1)
"""
    assert "2 passed" in environment.try_out(Example("python", text, ()), tmp_path)


def test_each_page_that_a_user_reads_has_an_example() -> None:
    """A page whose example this test no longer recognises would be skipped silently."""
    guides = {page.relative_to(ROOT).as_posix() for page in PAGES if page.parent.name in ("guide", "migrating")}
    without = {"docs/guide/shell.md"}  # its commands require a server
    assert guides - without <= EXAMPLES.keys()
    assert {"README.md", "docs/tutorial.md", "docs/pubsub.md", "docs/aws.md", "docs/tap.md"} <= EXAMPLES.keys()
