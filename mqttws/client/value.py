"""The base class of small classes with named fields. `mqttws.codec.packet.Value` explains why they are not dataclasses.

It is separate from that class because an interpreted class cannot inherit from a class of the compiled codec.
"""

from __future__ import annotations

from mqttws.hints import Any, ClassVar, Self


class Value:
    """An object with named fields, on which equality, hash, copies and repr are based. Do not change the fields."""

    __slots__ = ()

    #: The names of the fields, in the order of the constructor.
    __match_args__: ClassVar[tuple[str, ...]]
    #: Fields that the repr omits.
    secret_fields: ClassVar[frozenset[str]] = frozenset()

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__match_args__}

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        # A client compares its states, which nearly always differ in the first field.
        for name in self.__match_args__:
            mine, others = getattr(self, name), getattr(other, name)
            if mine is not others and mine != others:
                return False
        return True

    def __hash__(self) -> int:
        return hash((type(self), *self._values().values()))

    def __repr__(self) -> str:
        shown = [f"{name}={value!r}" for name, value in self._values().items() if name not in self.secret_fields]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __replace__(self, **changes: Any) -> Self:
        """Return a copy with some fields changed. `copy.replace` of Python 3.13 calls this."""
        return type(self)(**self._values() | changes)
