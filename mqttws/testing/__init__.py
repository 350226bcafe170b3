"""Helpers for testing an application that uses this package. Names are loaded on first use.

::

    FakeClock, Pair                        a clock that the test controls; a client and a server connected in memory
    MemoryStore                            a store in memory, which ends with the process
    Authority, Identity, mint_authority    certificates for development (the extra `certs`)
    Faults, Rules                          a tap that injects faults by rules; rules as TOML
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mqttws.protocol.store import MemoryStore
    from mqttws.testing.certificates import Authority, Identity, mint_authority
    from mqttws.testing.faults.faults import Faults
    from mqttws.testing.faults.rules import Rules
    from mqttws.testing.pair import FakeClock, Pair

_WHERE = {
    "Authority": "mqttws.testing.certificates",
    "FakeClock": "mqttws.testing.pair",
    "Faults": "mqttws.testing.faults.faults",
    "Identity": "mqttws.testing.certificates",
    "MemoryStore": "mqttws.protocol.store",
    "Pair": "mqttws.testing.pair",
    "Rules": "mqttws.testing.faults.rules",
    "mint_authority": "mqttws.testing.certificates",
}

__all__ = ["Authority", "FakeClock", "Faults", "Identity", "MemoryStore", "Pair", "Rules", "mint_authority"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'mqttws.testing' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
