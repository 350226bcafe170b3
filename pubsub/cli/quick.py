"""Plain command lines, parsed without argparse, whose import and parsers take longer than all else that `pub` does.

The functions that define the arguments of a command take a `QuickParser` as well as an `argparse.ArgumentParser`. It
parses only command lines of positional arguments, and of whole options each followed by a valid value, as
`ArgumentParser.parse_intermixed_args` does. All others are left to argparse: those with an error, `--help`,
`--option=value` and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

TYPE_CHECKING = False  # importing `typing` for it would delay the first message
if TYPE_CHECKING:
    from typing import Any


class _Option:
    """The definition of an option.

    Attributes:
        name: The name of its attribute.
        settings: The arguments of `add_argument`.
        rivals: The names of the options of its mutually exclusive group, if it is in one.
    """

    def __init__(self, name: str, settings: dict[str, Any], rivals: set[str]) -> None:
        self.name = name
        self.settings = settings
        self.rivals = rivals


class QuickParser:
    """A parser with the methods of `argparse.ArgumentParser` by which the commands define their arguments."""

    def __init__(self) -> None:
        self._options: dict[str, _Option] = {}
        self._defaults: dict[str, Any] = {}
        self._positional = ""

    def add_argument(self, *names: str, **settings: Any) -> None:
        """Define an option; or the positional arguments, all of which are one list."""
        self.define(names, settings, set())

    def add_argument_group(self, *texts: str) -> QuickParser:
        """Return this parser: groups matter only for the help."""
        return self

    def add_mutually_exclusive_group(self) -> _Exclusive:
        """Return a group of options of which only one may be given."""
        return _Exclusive(self)

    def define(self, names: Sequence[str], settings: dict[str, Any], rivals: set[str]) -> None:
        """Store a definition."""
        if not names[0].startswith("-"):
            self._positional = names[0]
            return
        name = next((name for name in names if name.startswith("--")), names[0]).lstrip("-").replace("-", "_")
        option = _Option(name, settings, rivals)
        rivals.add(name)
        self._options.update(dict.fromkeys(names, option))
        self._defaults[name] = settings.get("default", False if settings.get("action") == "store_true" else None)

    def parse(self, words: Sequence[str]) -> SimpleNamespace | None:
        """Parse a command line.

        Returns:
            The arguments, as attributes. None: argparse must parse this command line.
        """
        values, given, positional = dict(self._defaults), set(), []
        remaining = iter(words)
        for word in remaining:
            if not word.startswith("-"):
                positional.append(word)
                continue
            option = self._options.get(word)
            if option is None:
                return None
            name, action = option.name, option.settings.get("action", "store")
            given.add(name)
            if len(option.rivals & given) > 1:
                return None
            if action == "store_true":
                values[name] = True
                continue
            text = next(remaining, "-")
            if text.startswith("-") or action not in ("store", "append"):
                return None
            try:
                value = option.settings.get("type", str)(text)
            except Exception:  # argparse reports it
                return None
            if value not in option.settings.get("choices", (value,)):
                return None
            values[name] = value if action == "store" else [*values[name], value]
        return SimpleNamespace(**values, **{self._positional: positional})


class _Exclusive:
    """A group of options of which only one may be given."""

    def __init__(self, parser: QuickParser) -> None:
        self._parser = parser
        self._rivals: set[str] = set()

    def add_argument(self, *names: str, **settings: Any) -> None:
        self._parser.define(names, settings, self._rivals)
