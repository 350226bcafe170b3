"""PyPubSub installs a package of the same name: of both in one folder, never a half of each is imported."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mqttws
import pubsub

#: The names of PyPubSub's files, and its `__init__`.
THEIRS = {
    "__init__.py": "__all__ = ['pub', 'utils', '__version__']\n__version__ = '4.0.7'\n",
    "pub.py": "sendMessage = subscribe = print\n",
    "core/__init__.py": "",
    "utils/__init__.py": "",
}


def in_one_folder(folder: Path, *, last: str) -> None:
    """Install both packages as pip does: the files of the later one replace those of the earlier one.

    Args:
        folder: the target of both.
        last: the package installed last: "ours", "theirs", "removed" if PyPubSub was then uninstalled, which removes
            the files that both have, or "" for only ours.
    """
    for package in (mqttws, pubsub):
        assert package.__file__ is not None
        name = package.__name__
        shutil.copytree(Path(package.__file__).parent, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in folder.parent.glob("*__mypyc*.so"):
        shutil.copy(path, folder)
    for name, text in THEIRS.items():
        if last == "theirs" or (last and name != "__init__.py"):
            (folder / "pubsub" / name).parent.mkdir(exist_ok=True)
            (folder / "pubsub" / name).write_text(text)
    if last == "removed":
        for name in THEIRS:
            (folder / "pubsub" / name).unlink()


def run(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    # Without site-packages, whose editable installation of this package comes before a folder without `__init__.py`.
    command = [sys.executable, "-W", "error", "-P", "-S", "-c", program]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("last", "program"),
    [
        ("ours", "import pubsub"),
        ("ours", "import pubsub.aio"),
        ("ours", "from pubsub import pub"),
        ("theirs", "from pubsub import PubSub"),
        ("theirs", "from pubsub import MqttOverWSProvider, PubSub"),
        ("theirs", "import pubsub.aio"),
        ("theirs", "import pubsub.providers.websocket"),
        ("theirs", "import pubsub.providers.aws_iot"),
        ("theirs", "from pubsub.cli import main; main(['demo'])"),
        ("removed", "from pubsub import PubSub"),
        ("removed", "import pubsub.aio"),
        ("removed", "from pubsub.cli import main; main(['demo'])"),
    ],
)
def test_a_mixture_of_both_is_never_imported(tmp_path: Path, last: str, program: str) -> None:
    in_one_folder(tmp_path, last=last)
    done = run(tmp_path, program)
    assert done.returncode == 1
    assert "ImportError: the distributions mqttws-pubsub and PyPubSub are installed" in done.stderr
    assert done.stdout == ""


def test_without_pypubsub_it_is_imported(tmp_path: Path) -> None:
    in_one_folder(tmp_path, last="")
    done = run(tmp_path, "import pubsub.aio; print(pubsub.__file__)")
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "pubsub" / "__init__.py"))


def test_the_module_for_that_error_never_takes_the_place_of_the_class() -> None:
    module: object = importlib.import_module("pubsub.PubSub")
    assert module is pubsub.PubSub is pubsub.sync.PubSub


def test_pypubsub_alone_is_whole_when_it_was_installed_last(tmp_path: Path) -> None:
    in_one_folder(tmp_path, last="theirs")
    done = run(tmp_path, "from pubsub import pub; pub.sendMessage('a')")
    assert (done.returncode, done.stdout.strip()) == (0, "a")
