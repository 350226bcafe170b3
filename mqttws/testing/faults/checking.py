"""The checks of a rule when it is made. A misspelt rule would never apply, and a test would pass without a fault."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from math import inf, isfinite
from typing import Any, Final

from mqttws.codec.packets import PACKETS
from mqttws.codec.topics import is_topic_filter
from mqttws.tap.frame import OPCODES
from mqttws.testing.faults.kinds import as_bytes

_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
#: The names of units, except the status codes of HTTP.
NAMES: Final = frozenset(
    (*(packet.__name__.upper() for packet in PACKETS.values()), *OPCODES.values(), *_METHODS, "body", "not MQTT")
)
#: The range of a parameter: of one fault, or of all that have it.
_RANGES: Final[dict[str, tuple[float, float]]] = {
    "split.size": (1, inf),
    "fragment.size": (1, inf),
    "size": (0, 1 << 28),
    "count": (0, 1_000_000),
    "copies": (0, 1_000_000),
    "return_code": (0, 255),
    "flags": (0, 15),
    "bits": (0, 7),
    "opcode": (0, 15),
    "code": (0, 65_535),
    "status": (100, 999),
}
_ENDS = ("rst", "fin", "silence")


def check_name(name: str) -> None:
    """Check the name of units.

    Raises:
        ValueError: No unit has this name.
    """
    if name and name not in NAMES and not (len(name) == 3 and name.isdigit()):
        close = get_close_matches(name.upper(), NAMES, 1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no unit is named {name!r}{meant}")


def check_topic(topic: str) -> None:
    """Check the Topic Filter of a condition.

    Raises:
        ValueError: It is not a Topic Filter.
    """
    if topic and not is_topic_filter(topic):
        raise ValueError(f"the topic is {topic!r}; it must be a Topic Filter")


def check_chance(chance: float) -> None:
    """Check a probability.

    Raises:
        ValueError: It is not from 0 to 1.
    """
    if not 0 <= chance <= 1:
        raise ValueError(f"the chance is {chance}; it must be from 0 to 1")


def check_parameters(kind: str, parameters: Mapping[str, Any], known: Mapping[str, Callable[..., Any]]) -> None:
    """Check that a kind of fault exists and accepts these parameters.

    Raises:
        ValueError: It does not.
    """
    if kind not in known:
        raise ValueError(f"there is no fault {kind!r}; there are {', '.join(sorted(known))}")
    signature = inspect.signature(known[kind])
    try:
        signature.bind(None, **parameters)
    except TypeError:
        takes = [
            parameter.name if parameter.default is parameter.empty else f"[{parameter.name}]"
            for parameter in list(signature.parameters.values())[1:]
        ]
        given = ", ".join(parameters)
        raise ValueError(
            f"the fault {kind!r} takes {', '.join(takes) or 'no parameters'}; given: {given or 'none'}"
        ) from None
    for name, value in parameters.items():
        wanted = _objection(kind, name, signature.parameters[name].annotation, value)
        if wanted is not None:
            raise ValueError(f"{name} of the fault {kind!r} is {value!r}; it must be {wanted}")


def _objection(kind: str, name: str, annotation: str, value: Any) -> str | None:
    """Return what a parameter must be, if it is something else."""
    if annotation == "float":
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value) and value >= 0
        return None if good else "a number, 0 or more"
    if annotation == "int":
        least, most = _RANGES.get(f"{kind}.{name}") or _RANGES.get(name, (-inf, inf))
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return None
        return "a whole number" if least == -inf else f"a whole number from {least:,}" + f" to {most:,}" * (most < inf)
    if annotation == "bool":
        return None if isinstance(value, bool) else "true or false"
    if name == "end":
        return None if value in _ENDS else f"one of {', '.join(_ENDS)}"
    if annotation == "str":
        return None if isinstance(value, str) else "a text"
    if name == "packet":
        try:
            as_bytes(value)
        except (TypeError, ValueError):
            return "a packet: an object, bytes, or hexadecimal digits"
    return None
