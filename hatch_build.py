"""Build hooks: the compiled core, the SBOM, and the metadata that depends on the project's address.

`MQTTWS_COMPILE=1 pip install .` puts the same sources through mypyc, and compiles the one module that is also in C.
Without that variable the package is pure Python, which is the reference; mypy and a C compiler are required only with
it.

`PROJECT_URL=https://host/owner/name` is the address at which the sources are published. It adds the project's URLs and
changes the README's links to files into links that work on an index page. Without it there are no URLs, and such links
become plain text.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

#: Not compiled: framing and handshake mostly call wsproto and h11, and gain nothing; the plain framing is their base,
#: and they are the base of the lenient one, with `__slots__`, which compiled classes do not support. Users subclass the
#: store, which compiled classes do not allow, and claims are referred to weakly. For masking there is a module in C.
INTERPRETED = {
    f"mqttws/protocol/{name}.py"
    for name in ("plain", "framing", "handshake", "client_handshake", "lenient", "store", "claims", "masking")
}
#: The modules in C. Python prefers each to the `.py` file beside it, which is its reference.
IN_C = ("mqttws/protocol/masking.c",)

#: Compiled as well: the hot half of the client and of the broker.
COMPILED = {
    "mqttws/client": ("callbacks", "core", "inbox", "layers", "pending", "posted", "routes", "sent"),
    "mqttws/sync": ("delivering", "owner", "publishing"),
    "mqttws/aio": ("delivering", "owner", "publishing"),
    "mqttws/broker": ("handler", "memory", "metrics", "router", "subscriber", "subscriptions", "turns"),
}


class BuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds compiled modules and the SBOM to a wheel."""

    @property
    def _compiles(self) -> bool:
        return os.environ.get("MQTTWS_COMPILE") == "1" and self.target_name == "wheel"

    def dependencies(self) -> list[str]:
        """Return the requirements of this build in addition to hatchling."""
        return ["mypy>=1.18", "setuptools"] if self._compiles else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add files to a wheel."""
        if self.target_name != "wheel" or version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory()
        sbom = Path(self._folder.name, "mqttws-pubsub.cdx.json")
        metadata = self.metadata.core
        sbom.write_text(bill_of_materials(metadata.name, metadata.version, metadata.description, metadata.dependencies))
        build_data["sbom_files"].append(os.path.relpath(sbom, self.root))
        if self._compiles:
            built = compile_modules(Path(self._folder.name, "compiled"))
            build_data["force_include"] |= {str(path): name for name, path in built.items()}
            build_data |= {"pure_python": False, "infer_tag": True}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the files created for the wheel."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()


class MetadataHook(MetadataHookInterface):
    """Adds the project's URLs and the README of the index page."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Extend the metadata of pyproject.toml."""
        url = os.environ.get("PROJECT_URL", "").rstrip("/")
        text = Path(self.root, "README.md").read_text("utf-8")
        at = f"{url}/blob/v{metadata['version']}"
        metadata["readme"] = {"content-type": "text/markdown", "text": with_links(text, at if url else "")}
        if url:
            metadata["urls"] = {
                "Documentation": f"{at}/docs/index.md",
                "Source": url,
                "Changelog": f"{at}/CHANGELOG.md",
                "Issues": f"{url}/issues",
            }


def with_links(text: str, at: str) -> str:
    """Return a README with its links to files resolved against an address, or as plain text if that is empty.

    Pictures refer to raw files at the address; without an address they are removed.
    """
    pictures = rf"![\1]({at.replace('/blob/', '/raw/')}/\2)" if at else ""
    replacement = rf"[\1]({at}/\2)" if at else r"\1"
    text = re.sub(r"!\[([^]]*)\]\((?![a-z]+:)([^)]+)\)", pictures, text)
    return re.sub(r"(?<!!)\[([^]]+)\]\((?![a-z]+:|#)([^)]+)\)", replacement, text)


def bill_of_materials(name: str, version: str, description: str, dependencies: list[str]) -> str:
    """Return the SBOM of a wheel, in CycloneDX 1.6: the wheel and its requirements at run time.

    The output is deterministic: it has no timestamp, and its serial number is derived from the version.
    """
    requirements = {re.split(r"[<>=!~ ]", each)[0]: each for each in dependencies}
    root = f"pkg:pypi/{name}@{version}"
    components = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{each}",
            "name": each,
            "purl": f"pkg:pypi/{each}",
            "scope": "required",
            "properties": [{"name": "python:requirement", "value": requirement}],
        }
        for each, requirement in sorted(requirements.items())
    ]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, root)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": root,
                "name": name,
                "version": version,
                "description": description,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "purl": root,
            }
        },
        "components": components,
        "dependencies": [
            {"ref": root, "dependsOn": [component["bom-ref"] for component in components]},
            *({"ref": component["bom-ref"]} for component in components),
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def compile_modules(folder: Path) -> dict[str, Path]:
    """Compile the core into a folder. Return the name of each extension module in the wheel, and its file."""
    from mypyc.build import mypycify
    from setuptools import Distribution, Extension

    sources = sorted(
        path.as_posix()
        for package in ("mqttws/codec", "mqttws/protocol")
        for path in Path(package).glob("*.py")
        if path.as_posix() not in INTERPRETED
    )
    sources += [f"{package}/{name}.py" for package, names in COMPILED.items() for name in names]
    # wsproto is not installed at build time, and the strict settings of the project are for its own checks.
    options = ["--config-file=", "--ignore-missing-imports"]
    modules = mypycify([*options, *sources], group_name="mqttws", opt_level="3", target_dir=str(folder / "c"))
    optimized = [] if sys.platform == "win32" else ["-O3"]  # so that gcc and clang make vector instructions of loops
    for path in map(Path, IN_C):
        name = ".".join(path.with_suffix("").parts)
        modules.append(Extension(name, [path.as_posix()], extra_compile_args=optimized))
    distribution = Distribution({"ext_modules": modules})
    command: Any = distribution.get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "temp")
    command.ensure_finalized()
    command.run()
    return {path.relative_to(folder / "lib").as_posix(): path for path in (folder / "lib").rglob("*") if path.is_file()}
