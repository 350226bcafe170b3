"""Run the tests on each Python of this machine: `make matrix`.

    matrix.py [--list] [--only VERSION]... [pytest's arguments...]

Interpreters are searched on PATH, in the usual folders, among those of pyenv and uv, and in a root file system of
Debian sid if `tools/sid.sh` has created one. One per version is used. Each gets a virtual environment below .matrix,
with the package and the requirements of its tests; a free-threaded build without wheels for all of them gets those of
the core's tests. The last lines list the results, and the supported versions that were not found.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / ".matrix"
SID = (str(ROOT / "tools" / "sid.sh"),)
#: Run by each interpreter, to print its version and build.
QUESTION = (
    "import json, platform, sys, sysconfig; print(json.dumps([platform.python_implementation(), "
    "list(sys.version_info[:3]), sys.version_info.releaselevel, bool(sysconfig.get_config_var('Py_GIL_DISABLED'))]))"
)
#: The requirements of the core's tests, if the extra `test` cannot be installed completely.
CORE = ["pytest", "pytest-xdist", "pytest-benchmark", "hypothesis"]
CORE_TESTS = [
    *("tests/codec", "tests/protocol", "tests/broker", "--ignore=tests/broker/test_foreign_clients.py"),
    *("tests/drivers/test_contract.py", "tests/drivers/test_ends.py", "tests/drivers/test_callbacks.py"),
    "tests/drivers/test_sending.py",
]


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A Python interpreter.

    Attributes:
        path: the path of its executable.
        enter: the prefix of commands that run in its file system.
        version: for example (3, 14, 1).
        free_threaded: whether it was built without the global interpreter lock.
    """

    path: str
    enter: tuple[str, ...]
    version: tuple[int, ...]
    free_threaded: bool

    @property
    def name(self) -> str:
        """Return its version as users write it: 3.14.1, or 3.14.1t without the lock."""
        return ".".join(map(str, self.version)) + ("t" if self.free_threaded else "")


def supported() -> list[str]:
    """Return the versions that the package's classifiers name."""
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text("utf-8"))


def candidates() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the path of each executable that could be a Python, and the prefix of commands in its file system."""
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT", home / ".pyenv"))
    folders = [Path("/usr/bin"), Path("/usr/local/bin"), *map(Path, os.environ.get("PATH", "").split(os.pathsep))]
    folders += [*Path("/opt").glob("*/bin"), *pyenv.glob("versions/*/bin"), *home.glob(".local/share/uv/python/*/bin")]
    for folder in folders:
        if folder.name == "shims":  # those of pyenv run the version chosen for the folder
            continue
        for path in sorted(folder.glob("python3*")):
            if re.fullmatch(r"python3(\.\d+t?)?", path.name):
                yield str(path), ()
    if (HERE / "sid" / "made").exists():
        yield "/usr/bin/python3", SID


def found() -> list[Interpreter]:
    """Return one interpreter per version, the oldest first."""
    oldest = tuple(map(int, supported()[0].split(".")))
    interpreters: dict[str, Interpreter] = {}
    for path, enter in candidates():
        done = subprocess.run([*enter, path, "-I", "-c", QUESTION], capture_output=True, text=True, check=False)
        if done.returncode:
            continue
        implementation, version, level, free_threaded = json.loads(done.stdout)
        if implementation == "CPython" and level == "final" and tuple(version) >= oldest:
            one = Interpreter(path=path, enter=enter, version=tuple(version), free_threaded=free_threaded)
            interpreters.setdefault(one.name, one)
    return sorted(interpreters.values(), key=lambda one: (one.version, one.free_threaded))


def install(one: Interpreter) -> tuple[Path, bool]:
    """Return the virtual environment of an interpreter, and whether it has all requirements of the tests."""
    environment = HERE / one.name
    stamps = {True: environment / "whole", False: environment / "core"}
    for whole, stamp in stamps.items():
        if stamp.exists() and stamp.stat().st_mtime > (ROOT / "pyproject.toml").stat().st_mtime:
            return environment, whole
    subprocess.run([*one.enter, one.path, "-m", "venv", "--clear", environment], check=True)
    pip = [*one.enter, str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    log = HERE / f"{one.name}.install.log"
    with log.open("w") as output:
        if subprocess.run([*pip, "-e", ".[test]"], cwd=ROOT, stdout=output, stderr=output, check=False).returncode == 0:
            stamps[True].touch()
            return environment, True
        if not one.free_threaded:
            sys.exit(f"{one.name}: what the tests need cannot be installed; see {log.relative_to(ROOT)}")
        subprocess.run([*pip, "--prefer-binary", "-e", ".", *CORE], cwd=ROOT, stdout=output, stderr=output, check=True)
    stamps[False].touch()
    return environment, False


def run(one: Interpreter, arguments: list[str]) -> tuple[bool, str]:
    """Run the tests on one interpreter. Return whether they passed, and a line with the result."""
    environment, whole = install(one)
    chosen = arguments if whole else CORE_TESTS
    command = [str(environment / "bin" / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    began = time.monotonic()
    process = subprocess.Popen(
        [
            *one.enter,
            *command,
            "-n",
            os.environ.get("JOBS", "6"),
            "--dist",
            "loadfile",
            "--no-loadscope-reorder",
            *chosen,
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    last = ""
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        last = line.strip(" =\n") or last
    passed = process.wait() == 0
    outcome = re.sub(r" in [\d.]+s.*", "", last)
    rest = "" if whole else "; the core alone: not all that the tests need has wheels for it"
    verdict = f"{'passed' if passed else 'FAILED'} in {time.monotonic() - began:.0f} s"
    return passed, f"{one.name:9} {verdict}: {outcome}{rest}"


def choose(name: str, interpreters: list[Interpreter]) -> list[Interpreter]:
    """Return the interpreters that match a name of the command line."""
    if name in ("oldest", "newest"):
        ordered = [one for one in interpreters if not one.free_threaded]
        return ordered[:1] if name == "oldest" else ordered[-1:]
    return [one for one in interpreters if one.name == name or one.name.startswith(f"{name}.")]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="list the interpreters, and run nothing")
    parser.add_argument("--only", action="append", default=[], help="only this one: 3.12, 3.13.0t, oldest or newest")
    options, arguments = parser.parse_known_args()
    interpreters = found()
    missing = [name for name in supported() if not any(one.name.startswith(f"{name}.") for one in interpreters)]
    if not any(one.free_threaded for one in interpreters):
        missing.append("a free-threaded build")
    wanted = {name: choose(name, interpreters) for name in options.only}
    chosen = [one for one in interpreters if not wanted or any(one in some for some in wanted.values())]
    if options.list:
        for one in interpreters:
            print(f"{one.name:9} {' '.join([*one.enter, one.path])}")
    else:
        HERE.mkdir(exist_ok=True)
        results: list[tuple[bool, str]] = []
        for one in chosen:
            print(f"--- Python {one.name}: {one.path}", flush=True)
            results.append(run(one, arguments))
        print("--- The matrix", *(line for _, line in results), sep="\n")
        for name, some in wanted.items():
            if not some:
                results.append((False, ""))
                print(f"{name:9} is not found")
    print(f"not found: {', '.join(missing) or 'none'}")
    if not options.list and not (results and all(passed for passed, _ in results)):
        sys.exit(1)


if __name__ == "__main__":
    main()
