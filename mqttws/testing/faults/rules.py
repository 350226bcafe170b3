"""The rules of fault injection: their conditions, their faults, and their TOML form.

Each rule counts its own matches, over all connections: `nth=3` is the third unit that meets the other conditions.
Random choices come from a generator for each connection and direction, made from the seed, so other connections do not
affect them. The applied faults are again a list of rules, each for one unit and without randomness.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mqttws.codec.packet import Packet
from mqttws.codec.publishing import Publish
from mqttws.codec.topics import topic_matches
from mqttws.tap.record import CLIENT, SERVER, Record
from mqttws.testing.faults.checking import check_chance, check_name, check_parameters, check_topic
from mqttws.testing.faults.kinds import KINDS
from mqttws.testing.faults.toxics import TOXICS


@dataclass
class Rule:
    """A rule for units.

    Attributes:
        kind: The fault; one of `KINDS`.
        parameters: Its parameters.
        on: The name of the units: "PUBACK", "GET", "101", "ping", "binary"; "" for every packet.
        sender: "client" or "server"; "" for either.
        nth: The number of the matching unit, from 1; 0 for each.
        every: Apply the rule to every `every`-th matching unit; 0 for each.
        topic: A Topic Filter that the topic of a PUBLISH must match; "" for any.
        packet_id: The packet identifier; 0 for any.
        client_id: The client identifier of the connection; "" for any.
        connection: The number of the connection, from 1; 0 for any.
        place: The number of the unit in its direction, from 1; 0 for any. For replays.
        times: The maximum number of times; 0 for no limit.
        within: Seconds after the first match during which the rule applies; 0 for no limit.
        chance: The probability, 0 to 1.
    """

    kind: str
    parameters: dict[str, Any] = field(default_factory=dict)
    on: str = ""
    sender: str = ""
    nth: int = 0
    every: int = 0
    topic: str = ""
    packet_id: int = 0
    client_id: str = ""
    connection: int = 0
    place: int = 0
    times: int = 0
    within: float = 0.0
    chance: float = 1.0
    _seen: int = field(default=0, repr=False, compare=False)
    _done: int = field(default=0, repr=False, compare=False)
    _since: float | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_parameters(self.kind, self.parameters, KINDS)
        check_name(self.on)
        check_topic(self.topic)
        if self.sender not in ("", CLIENT, SERVER):
            raise ValueError(f"the sender is {self.sender!r}; it must be 'client' or 'server'")
        check_chance(self.chance)
        for name in ("nth", "every", "packet_id", "connection", "place", "times", "within"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")

    def matches(self, record: Record, place: int, client_id: str, now: float, chance: random.Random) -> bool:
        """Return whether to apply this rule to a unit; count the unit."""
        if not self._fits(record, place, client_id):
            return False
        self._seen += 1
        if self._since is None:
            self._since = now
        if (
            (self.nth and self._seen != self.nth)
            or (self.every and self._seen % self.every)
            or (self.times and self._done >= self.times)
            or (self.within and now - self._since > self.within)
            or (self.chance < 1 and chance.random() >= self.chance)
        ):
            return False
        self._done += 1
        return True

    def _fits(self, record: Record, place: int, client_id: str) -> bool:
        if self.on != record.name if self.on else record.layer != "mqtt":
            return False
        packet = record.packet
        return (
            self.sender in ("", record.sender)
            and self.connection in (0, record.connection)
            and self.place in (0, place)
            and self.client_id in ("", client_id)
            and self.packet_id in (0, getattr(packet, "packet_id", None))
            and (not self.topic or (isinstance(packet, Publish) and topic_matches(self.topic, packet.topic)))
        )


@dataclass
class Toxic:
    """A rule for the bytes of a direction.

    Attributes:
        kind: The fault; one of `TOXICS`.
        parameters: Its parameters.
        sender: The end that sends the bytes: "client" or "server".
        connection: The number of the connection, from 1; 0 for any.
        chance: The probability, 0 to 1, that it applies to a connection.
    """

    kind: str
    parameters: dict[str, Any] = field(default_factory=dict)
    sender: str = SERVER
    connection: int = 0
    chance: float = 1.0

    def __post_init__(self) -> None:
        check_parameters(self.kind, self.parameters, TOXICS)
        TOXICS[self.kind](random.Random(0), **self.parameters)  # raise an error for invalid values now
        if self.sender not in (CLIENT, SERVER):
            raise ValueError(f"the sender is {self.sender!r}; it must be 'client' or 'server'")
        check_chance(self.chance)


@dataclass
class Rules:
    """The rules of a run.

    Attributes:
        seed: The seed of all random choices.
        rules: The rules for units; the first that matches is applied.
        toxics: The rules for bytes; all are applied, in this order.
    """

    seed: int = 0
    rules: list[Rule] = field(default_factory=list)
    toxics: list[Toxic] = field(default_factory=list)

    def to_toml(self) -> str:
        """Return the rules as TOML, which `Rules.from_toml` reads."""
        lines = [f"seed = {self.seed}"]
        for rule in self.rules:
            lines += ["", "[[rule]]", f"do = {_toml(rule.kind)}"]
            lines += [f"{name} = {_toml(value)}" for name, value in _set(rule, _CONDITIONS)]
            lines += [f"{name} = {_toml(value)}" for name, value in rule.parameters.items()]
        for toxic in self.toxics:
            lines += ["", "[[stream]]", f"do = {_toml(toxic.kind)}", f"sender = {_toml(toxic.sender)}"]
            lines += [f"{name} = {_toml(value)}" for name, value in _set(toxic, ("connection", "chance"))]
            lines += [f"{name} = {_toml(value)}" for name, value in toxic.parameters.items()]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> Rules:
        """Read rules from TOML.

        Args:
            text: The TOML document.

        Returns:
            The rules.

        Raises:
            ValueError: A rule is not valid; the message names it and the reason.

        Examples:
            >>> from mqttws.testing import Rules
            >>> rules = Rules.from_toml('''
            ... [[rule]]
            ... on = "PUBACK"
            ... nth = 3
            ... do = "drop"
            ... ''')
            >>> rules.rules[0].kind
            'drop'
        """
        try:
            made = tomllib.loads(text)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        unknown = made.keys() - {"seed", "rule", "stream"}
        if unknown:
            raise ValueError(f"{sorted(unknown)[0]!r} is unknown; there are seed, [[rule]] and [[stream]]")
        if type(made.get("seed", 0)) is not int:
            raise ValueError("the seed must be a whole number")
        rules = cls(made.get("seed", 0))
        for number, entry in enumerate(_tables(made, "rule"), 1):
            rules.rules.append(_read(f"rule {number}", entry, Rule, _CONDITIONS))
        for number, entry in enumerate(_tables(made, "stream"), 1):
            rules.toxics.append(_read(f"stream {number}", entry, Toxic, ("sender", "connection", "chance")))
        return rules


_CONDITIONS = (
    "on", "sender", "nth", "every", "topic", "packet_id", "client_id", "connection", "place", "times", "within",
    "chance",
)  # fmt: skip


def _set(made: Rule | Toxic, names: Iterable[str]) -> list[tuple[str, Any]]:
    """Return the fields that do not have their default values."""
    defaults = type(made).__dataclass_fields__
    return [(name, getattr(made, name)) for name in names if getattr(made, name) != defaults[name].default]


def _toml(value: Any) -> str:
    if isinstance(value, Packet):
        return _toml(value.encode())
    if isinstance(value, bytes):
        return f'"{value.hex()}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(_toml_character(character) for character in value) + '"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(name)} = {_toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


def _toml_character(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08x}"


def _tables(made: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    tables = made.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError(f"{name} must be [[{name}]]")
    return tables


def _read(what: str, entry: dict[str, Any], kind: Callable[..., Any], names: tuple[str, ...]) -> Any:
    if not isinstance(entry.get("do"), str):
        raise ValueError(f"{what} has no `do`")
    conditions = {name: value for name, value in entry.items() if name in names}
    for name, value in conditions.items():
        wanted = (int, float) if name in ("within", "chance") else str if name in _TEXTS else int
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise ValueError(f"{what}: {name} is {value!r}")
    parameters = {name: value for name, value in entry.items() if name not in names and name != "do"}
    try:
        return kind(entry["do"], parameters, **conditions)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


_TEXTS = frozenset({"on", "sender", "topic", "client_id"})
