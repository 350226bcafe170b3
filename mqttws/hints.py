"""The names for type hints that a client needs, without the import of `typing`.

Importing `typing`, which imports `re`, would delay a client's first message. Type checkers take these names from it. At
run time they are stand-ins: annotations are not evaluated, and a generic class or a protocol is an ordinary class.
Modules that a client does not load import `typing` itself, as do those that need more of it, such as `NamedTuple`.

`inf` is here for the same reason: `math`, a shared library in many builds of Python, takes half a millisecond.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from math import inf as inf
    from typing import Any as Any
    from typing import ClassVar as ClassVar
    from typing import Final as Final
    from typing import Generic as Generic
    from typing import NoReturn as NoReturn
    from typing import Protocol as Protocol
    from typing import Self as Self
    from typing import TypeVar as TypeVar
    from typing import Unpack as Unpack
    from typing import final as final
    from typing import overload as overload

    from mypy_extensions import i64 as i64
    from mypy_extensions import mypyc_attr as mypyc_attr
else:
    inf = float("inf")
    i64 = int  # for mypyc, an integer without the check for more than 64 bits
    Any = ClassVar = Final = NoReturn = Self = Unpack = object  # only annotations contain them

    class Generic:
        """A base class that ignores its type parameters."""

        __slots__ = ()

        def __class_getitem__(cls, parameters):
            """Return the class itself."""
            return cls

    class Protocol(Generic):
        """The base class of an interface."""

        __slots__ = ()

    def TypeVar(name, **limits):
        """Return a placeholder."""
        return name

    def final(item):
        """Return the class or method itself."""
        return item

    overload = final

    def mypyc_attr(**attributes):
        """Return a decorator without an effect. mypyc, which compiles the class, reads its arguments."""
        return final
