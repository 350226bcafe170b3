"""The environments of the libraries: one for each below `.venv-peers/`, Node packages, and Mosquitto.

Missing ones are installed: Python packages by pip, Node packages by npm, Mosquitto and Node by apt-get, as root on
Debian. A library that cannot be installed is recorded with the reason, and not measured.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import workloads as work
from cases import NODE_PEERS, PYTHON_PEERS

HERE = Path(__file__).parent
ROOT = HERE.parent
SCRIPTS = HERE / "peers"

#: Writes ca.crt, server.crt and server.key. Mosquitto reads the key as another user.
CERTIFY = """
import sys
from pathlib import Path
from mqttws.testing import mint_authority
authority = mint_authority()
_, key = authority.issue("127.0.0.1", "localhost").write(sys.argv[1], "server")
key.chmod(0o644)
(Path(sys.argv[1]) / "ca.crt").write_bytes(authority.certificate)
"""


class Environments:
    """The environments of all libraries.

    Args:
        directory: where they are created.

    Attributes:
        missing: library -> why it cannot be measured.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.missing: dict[str, str] = {}
        self.variables = os.environ | {
            "PYTHONPATH": os.pathsep.join((str(HERE), str(SCRIPTS))),
            "PYTHONSAFEPATH": "1",
            "BENCH_CERTIFICATES": str(directory / "certificates"),
            "NODE_PATH": str(directory / "node" / "node_modules"),
            "BENCH_STREAM": str(directory / "stream.bin"),
            "BENCH_STREAM_PACKETS": str(len(work.mixed())),
        }

    def python(self, library: str) -> str:
        """Return the interpreter of a library's environment."""
        return str(self.directory / library / "bin" / "python")

    def interpreter(self, library: str) -> str:
        """Return the interpreter of a library, Python or Node."""
        return "node" if library in ("mqttjs", "mqttpacket", "aedes") else self.python(library)

    def command(self, library: str, kind: str) -> list[str]:
        """Return the start of a command line: the interpreter and a library's script of a kind."""
        name = "mqttws" if library.startswith("mqttws") else library
        found = [path for path in SCRIPTS.glob(f"{kind}_{name}.*") if path.suffix in (".py", ".js")]
        if not found:
            raise RuntimeError(f"there is no script {kind}_{name}")
        return [self.interpreter(library), str(found[0])]

    def install(self) -> None:
        """Create missing environments, and that of this project each time."""
        self.directory.mkdir(exist_ok=True)
        (self.directory / "stream.bin").write_bytes(b"".join(map(work.encode, work.mixed())))
        for name, packages in PYTHON_PEERS.items():
            self._install_python(name, packages)
        if "mqttproto" not in self.missing:
            self.missing["mqttproto"] = "no script here drives it yet"
        if shutil.which("npm") is None and not apt_get("nodejs", "npm"):
            self.missing |= dict.fromkeys(("mqttjs", "mqttpacket", "aedes"), "there is no npm here")
        else:
            self._install_node()
        if mosquitto() is None and not apt_get("mosquitto"):
            self.missing["mosquitto"] = "there is no mosquitto here"

        self._certify()

    def install_only(self, *names: str) -> None:
        """Create the environments of some Python libraries."""
        self.directory.mkdir(exist_ok=True)
        for name in names:
            self._install_python(name, PYTHON_PEERS[name])

    def _install_python(self, name: str, packages: list[str]) -> None:
        ours = name.startswith("mqttws")
        marker = self.directory / name / "installed"
        if marker.exists() and not ours:
            return
        print(f"installing {name}", file=sys.stderr)
        if not Path(self.python(name)).exists():
            # With the newest pip: up to pip 24 the start script of a command imports `re`.
            subprocess.run([sys.executable, "-m", "venv", "--upgrade-deps", self.directory / name], check=True)
        if ours:
            packages = [str(self._copy_sources()), *packages[1:]]
        if packages:
            pip = [self.python(name), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *packages]
            variables = os.environ | ({"MQTTWS_COMPILE": "1"} if name == "mqttws-compiled" else {})
            done = subprocess.run(pip, env=variables, capture_output=True, text=True)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or [""])[-1][:200]
                self.missing[name] = f"pip could not install it ({reason.removeprefix('ERROR: ')})"
                return
        marker.touch()

    def _certify(self) -> None:
        """Create the certificates of the servers, and that of their authority."""
        directory = self.directory / "certificates"
        directory.mkdir(exist_ok=True)
        subprocess.run([self.python("mqttws"), "-c", CERTIFY, directory], check=True)

    def _install_node(self) -> None:
        node = self.directory / "node"
        if not (node / "node_modules" / "aedes").exists():
            print("installing the peers under Node", file=sys.stderr)
            node.mkdir(exist_ok=True)
            npm = ["npm", "install", "--silent", "--no-package-lock", "--no-audit", "--no-fund", *NODE_PEERS]
            subprocess.run(npm, cwd=node, check=True)

    def _copy_sources(self) -> Path:
        """Copy the sources of this project, so that the build neither leaves files nor uses old ones."""
        sources = self.directory / "sources"
        shutil.rmtree(sources, ignore_errors=True)
        sources.mkdir()
        for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, sources)
        for name in ("mqttws", "sigv4", "pubsub"):
            shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
        return sources

    def versions(self) -> dict[str, str]:
        """Return the version of everything measured."""
        versions = {}
        for name, packages in PYTHON_PEERS.items():
            if name in self.missing or not packages:
                continue
            package = (packages[-1] if name == "mqttws-uvloop" else packages[0]).split(">")[0]
            code = f"from importlib.metadata import version; print(version({package!r}))"
            asked = subprocess.run([self.python(name), "-c", code], capture_output=True, text=True)
            versions["uvloop" if package == "uvloop" else name] = asked.stdout.strip()
        for name in NODE_PEERS:
            manifest = self.directory / "node" / "node_modules" / name / "package.json"
            if manifest.exists():
                versions[name] = json.loads(manifest.read_text())["version"]
        path = mosquitto()
        if path is not None:
            shown = subprocess.run([path, "-h"], capture_output=True, text=True).stdout
            versions["mosquitto"] = shown.split()[2]
        return versions


def mosquitto() -> str | None:
    """Return the path of Mosquitto, or None."""
    return shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")


def apt_get(*packages: str) -> bool:
    """Install Debian packages if possible. Return whether they are installed."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    print(f"installing {', '.join(packages)} with apt-get", file=sys.stderr)
    variables = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    return all(
        subprocess.run(command, env=variables, stdout=subprocess.DEVNULL).returncode == 0
        for command in (["apt-get", "update", "-qq"], install)
    )
