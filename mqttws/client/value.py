"""The base of small classes with named fields. `mqttws.codec.packet.Value` explains why they are not dataclasses.

This is a class beside that one because a class of the compiled codec cannot have interpreted subclasses.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self


class Value:
    """Named fields, which equality, hash, copies and repr use. Do not change them once the object is made."""

    __slots__ = ()

    #: The names of the fields, in the order of the constructor.
    __match_args__: ClassVar[tuple[str, ...]]
    #: Fields that a repr leaves out.
    secret_fields: ClassVar[frozenset[str]] = frozenset()

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__match_args__}

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), *self._values().values()))

    def __repr__(self) -> str:
        shown = [f"{name}={value!r}" for name, value in self._values().items() if name not in self.secret_fields]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __replace__(self, **changes: Any) -> Self:
        """Return another one, with some fields changed: `copy.replace` calls this from Python 3.13 on."""
        return type(self)(**self._values() | changes)
