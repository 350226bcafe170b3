"""The optional compiled build: `MQTTWS_COMPILE=1 pip install .` puts the same sources through mypyc.

Without that variable this file adds nothing: the package is pure Python, and pure Python is the reference. mypy and a C
compiler are needed for the compiled build only, so that mypy is asked for only then.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from setuptools import setup

#: What stays as it is: the framing and the handshake hold the objects of wsproto and h11, and gain nothing; the framing
#: is the base of the handshake, and that of the lenient one, with `__slots__`, which no compiled class takes. A store
#: is there for others to write their own, and compiled classes take no subclasses.
INTERPRETED = {f"mqttws/protocol/{room}.py" for room in ("framing", "handshake", "lenient", "store")}


def compiled_build() -> dict[str, Any]:
    """Tell setuptools what the compiled build needs and is made of."""
    requires = {"setup_requires": ["mypy>=1.18"]}
    try:
        from mypyc.build import mypycify
    except ModuleNotFoundError:  # so far only the requirements are asked for
        return requires
    sources = sorted(
        path.as_posix()
        for room in ("mqttws/codec", "mqttws/protocol")
        for path in Path(room).glob("*.py")
        if path.as_posix() not in INTERPRETED
    )
    # wsproto is not there at build time, and the strict settings of the project are for its own checks.
    options = ["--config-file=", "--ignore-missing-imports"]
    return requires | {"ext_modules": mypycify([*options, *sources], group_name="mqttws", opt_level="3")}


setup(**(compiled_build() if os.environ.get("MQTTWS_COMPILE") == "1" else {}))
