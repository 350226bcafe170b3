"""`Faults`: a tap that injects faults by rules, for use with any broker.

::

    with Faults(broker.url, seed=7) as faults:
        faults.on(PubAck, nth=3).drop()
        faults.on(Connect, within=5.0).answer(packet=ConnAck(3))
        faults.stream("server").latency(seconds=0.1, jitter=0.05)
        client = mqttws.connect(faults.url)
        ...
        Path("again.toml").write_text(faults.decided.to_toml())
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any, Final, Self

from mqttws.codec.packet import Packet
from mqttws.codec.wire import MAX_REMAINING_LENGTH
from mqttws.tap.pump import Tap
from mqttws.tap.reader import SessionReader
from mqttws.tap.record import SERVER, Record
from mqttws.testing.faults.kinds import KINDS
from mqttws.testing.faults.line import FaultyLine
from mqttws.testing.faults.rules import Rule, Rules, Toxic
from mqttws.testing.faults.toxics import TOXICS


class _Doing:
    """The object that `Faults.on` returns: each kind of fault is a method, with the parameters of its function.

    Args:
        add: A function that adds a rule with a kind and its parameters.
        known: The kinds of faults.
    """

    def __init__(self, add: Callable[[str, dict[str, Any]], None], known: dict[str, Callable[..., Any]]) -> None:
        self._add = add
        self._known = known

    def __getattr__(self, kind: str) -> Callable[..., None]:
        if kind not in self._known:
            raise AttributeError(f"there is no fault {kind!r}; there are {', '.join(sorted(self._known))}")

        def do(**parameters: Any) -> None:
            self._add(kind, parameters)

        do.__doc__ = self._known[kind].__doc__
        return do

    def __dir__(self) -> list[str]:
        return sorted(self._known)


def on_name(what: type[Packet] | str) -> str:
    """Return the name of units in records, for a class of packets or for the name itself."""
    return what if isinstance(what, str) else what.__name__.upper()


class Faults:
    """A tap with rules, in a thread: `with Faults(url) as faults`.

    Args:
        url: The URL of the server.
        rules: The initial rules, for example from a file; None for none.
        seed: The seed of all random choices; None uses that of the rules, or 0.
        near_tls: See `Tap`.
        far_tls: See `Tap`.

    Attributes:
        decided: The applied faults as rules without randomness, which repeat the same run.

    Examples:
        The first PUBACK is lost. The client sends the message again when it has reconnected:

        >>> import mqttws
        >>> from mqttws.broker import Broker
        >>> from mqttws.testing import Faults
        >>> with Broker() as broker, Faults(broker.url) as faults:
        ...     faults.on(mqttws.PubAck, times=1).reset()
        ...     with mqttws.connect(faults.url, reconnect=mqttws.Reconnect(initial=0.01)) as client:
        ...         client.publish("greenhouse/temperature", "21.5", qos=1)
        ...     print([rule.kind for rule in faults.decided.rules])
        ['reset']
    """

    #: The tap keeps whole packets, because a fault can need all of one.
    LIMIT: Final = MAX_REMAINING_LENGTH + 5

    def __init__(
        self,
        url: str,
        rules: Rules | None = None,
        *,
        seed: int | None = None,
        near_tls: ssl.SSLContext | None = None,
        far_tls: ssl.SSLContext | None = None,
    ) -> None:
        self._rules = rules if rules is not None else Rules()
        if seed is not None:
            self._rules.seed = seed
        self.decided = Rules(self._rules.seed)
        self._tap = Tap(url, near_tls=near_tls, far_tls=far_tls, limit=self.LIMIT, make_line=self.make_line)

    @property
    def url(self) -> str:
        """The URL for clients."""
        return self._tap.url

    def on(self, what: type[Packet] | str = "", **conditions: Any) -> Any:
        """Add a rule: `faults.on(PubAck, nth=3).drop()`.

        Args:
            what: The packet's class; or a name: "PUBACK", "GET", "101", "ping"; "" for every packet.
            **conditions: See `Rule`: sender, nth, every, topic, packet_id, client_id, connection, times, within and
                chance.

        Returns:
            An object with a method for each kind of fault; see `mqttws.testing.faults.kinds`.
        """

        def add(kind: str, parameters: dict[str, Any]) -> None:
            self._rules.rules.append(Rule(kind, parameters, on=on_name(what), **conditions))

        return _Doing(add, KINDS)

    def stream(self, sender: str = SERVER, **conditions: Any) -> Any:
        """Add a rule for all bytes of an end, for connections that start from now on.

        Args:
            sender: "client" or "server".
            **conditions: See `Toxic`: connection, chance.

        Returns:
            An object with a method for each toxic; see `mqttws.testing.faults.toxics`.
        """

        def add(kind: str, parameters: dict[str, Any]) -> None:
            self._rules.toxics.append(Toxic(kind, parameters, sender, **conditions))

        return _Doing(add, TOXICS)

    def clear(self) -> None:
        """Remove every rule. Open connections keep their toxics."""
        self._rules.rules.clear()
        self._rules.toxics.clear()

    def taken(self) -> list[Record]:
        """Return the records of the tap. `notes["fault"]` of a record names the fault that was applied to it."""
        return self._tap.taken()

    def make_line(self, connection: int, reader: SessionReader) -> FaultyLine:
        """Return the `Line` of a connection, for use with another `Tap`.

        Args:
            connection: The number of the connection, from 1.
            reader: The decoder of the connection.
        """
        return FaultyLine(self._rules, reader, self.decided, time.time())

    def __enter__(self) -> Self:
        self._tap.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._tap.__exit__(*exception)
