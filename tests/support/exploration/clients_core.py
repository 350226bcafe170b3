"""The publisher of the scenarios (f): the complete client without I/O, with its queues, futures and reconnecting.

Time and randomness are choices. The explorer chooses when the next attempt is made, so the core's delay and its
random number have no effect; when the time-out of closing expires is a choice, too.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from exploration.meaning import Meaning, tokens_of
from exploration.parts import LATE, NOW, ClientPart, Disk, Owners, Pieces, Program, Violation, check_out, split
from mqttws.client.core import Core
from mqttws.client.endpoints import Endpoints
from mqttws.client.options import Options
from mqttws.client.reconnect import END_ON
from mqttws.codec.publishing import Message
from mqttws.errors import ConnectError, ProtocolError
from mqttws.protocol.session import Session

#: Time-out of closing, in seconds.
CLOSING = 1000.0


def ends_on(error: Exception) -> bool:
    """Return whether no other attempt follows. The client's default, as a function that can be pickled."""
    return isinstance(error, END_ON)


class Future:
    """A future: the call it belongs to, and its outcome."""

    def __init__(self) -> None:
        self.payload = b""
        self.outcome: str | None = None


class Driver:
    """The driver of the core, without a clock or random numbers."""

    endpoints = Endpoints("mqtt://explored", "given", lambda: 0.0)

    def make_future(self) -> Future:
        """See `Driver`."""
        return Future()

    def make_receipt(self, sent: Any, token: int) -> Future:
        """See `Driver`. Its mark settles it."""
        future = Future()
        sent.watch(token, future)
        return future

    def settle(self, futures: list[Future], outcome: object) -> None:
        """See `Driver`."""
        for future in futures:
            if future.payload and future.outcome is not None:
                raise Violation(f"the future of {future.payload.decode()} is resolved twice")
            future.outcome = type(outcome).__name__ if isinstance(outcome, Exception) else "done"

    def call_back(self, callback: Any, argument: object) -> None:
        """See `Driver`."""

    def ask(self, question: Any, error: Exception) -> bool:
        """See `Driver`."""
        return bool(question(error))

    def log(self, level: int, message: tuple[Any, ...]) -> None:
        """See `Driver`."""

    def packet_log(self) -> None:
        """See `Driver`."""

    def random(self) -> float:
        """See `Driver`."""
        return 0.0

    def random_bytes(self, size: int) -> bytes:
        """See `Driver`."""
        return bytes(size)


class CorePart(ClientPart):
    """A process whose program publishes through the core. Its steps may also be ("close",).

    Attributes:
        futures: the futures that the program holds, in order.
    """

    def boot(self) -> None:
        """See `ClientPart.boot`."""
        program = self.program
        options = Options(
            client_id=program.client_id,
            clean_session=program.clean_session,
            max_in_flight=program.window,
            store=self.store,
            end_on=ends_on,
        )
        self.core: Core[Any] = Core(options, Driver())
        self.core.begin(retries=True)
        self.session: Session = self.core.session
        self.futures: list[Future] = []
        self.inbox = []
        self.owners, self.pieces = Owners(), Pieces()
        self.open, self.sent, self.asked = {}, {}, {}
        self.connection = None

    def sessions(self) -> Sequence[Session]:
        """See `Part.sessions`."""
        return (self.core.session,)

    def meaning(self) -> Hashable:
        """See `Part.meaning`."""
        client_id = self.program.client_id
        tokens = tokens_of(self.session, self.store, client_id, list(self.core.pending._futures))
        walk = Meaning({client_id: tokens})
        walk._client = client_id
        rank = {token: place for place, token in enumerate(tokens)}
        core = self.core
        names = tuple((rank[token], payload) for token, payload in self.names.items() if token in rank)
        return (
            self.index,
            walk.of(self.session),
            walk.of(None if core.link is None else core.link.connection),
            walk.of(self.store),
            (core.running, core.stopping, core.state.name, core._attempts, core._short_lived, core._opening),
            (core._expects_session, core.dropped, repr(core.error), repr(core.pending.ended)),
            tuple(rank[token] for token in core.pending._futures),
            tuple((future.payload, future.outcome) for future in self.futures),
            (self.position, tuple(self.published), tuple(sorted(self.accepted)), names),
            tuple(sorted(self.owners.of.items())),
        )

    @property
    def over(self) -> bool:
        """See `ClientPart.over`."""
        return not self.core.running

    # The inputs.

    def connect(self) -> None:
        """See `ClientPart.connect`."""
        core = self.core
        core.begin_attempt(NOW)
        made = core.make_attempt("mqtt://localhost", NOW)
        core.establish(made, NOW)
        self.connection, self.pieces = made.link.connection, Pieces()
        self._act()

    def refuse(self) -> None:
        """Fail to make a TCP connection."""
        self.core.begin_attempt(NOW)
        self.core.make_attempt("mqtt://localhost", NOW)
        self._lost(ConnectError("refused"))

    def deliver(self, data: bytes) -> None:
        """See `ClientPart.deliver`."""
        assert self.core.link is not None
        self.owners.received(self.pieces.add(data))
        self.core.link.receive_data(data, NOW)
        self._act()

    def end(self) -> None:
        """See `ClientPart.end`."""
        assert self.core.link is not None
        self.core.link.receive_eof(NOW)
        self._act()

    def time_out(self) -> None:
        """See `ClientPart.time_out`."""
        link, late = self.core.link, LATE
        assert link is not None
        while self.core.link is link:
            link.handle_timeout(late)
            self._act()
            late += LATE
            if late > 9 * LATE:
                raise Violation("the client does not notice that its peer is silent")

    def step(self) -> None:
        """See `ClientPart.step`."""
        verb, *arguments = self.program.steps[self.position]
        self.position += 1
        if verb == "publish":
            topic, qos, retain = arguments
            payload = b"%d-%d" % (self.index, self.position)
            token, future = self.core.pending.publish(Message(topic, payload, qos, retain))
            future.payload = payload
            self.names[token] = payload
            self.futures.append(future)
            self.published.append((payload, qos))
        else:
            self.core.stop(NOW, CLOSING)
            if self.core.link is None and self.core.ending(NOW):
                self._lost(None)
        self._act()

    def hasten(self) -> None:
        """Let the time-out of closing expire."""
        core = self.core
        if core.link is None:
            self._lost(None, LATE)
        else:
            core.disconnect(LATE)
            self._act(LATE)

    def take(self) -> None:
        """Do nothing: this client subscribes to nothing."""

    def crash(self) -> None:
        """See `ClientPart.crash`."""
        if self.core.link is not None:
            self.out.append((self.index, 0, (), True))
        if self.store is not None:
            self.store.crash()
            self.store.crash_after = 0
        self.core.give_up(None)  # with the process its claim on the store ends
        self.boot()

    def _act(self, now: float = NOW) -> None:
        """Handle the events and send, as a driver does."""
        core, link = self.core, self.core.link
        if link is None:
            return
        packets: list[bytes] = []
        while True:
            core.advance(NOW)
            self._call_back()
            core.disconnect(NOW)
            data = link.data_to_send(NOW)
            if not data:
                break
            check_out(self.store, data)
            for packet in split(data):
                self.owners.sent(packet)
                packets.append(packet)
        core.advance(NOW)
        error = link.connection.error
        if isinstance(error, ProtocolError):
            raise Violation(f"client {self.index} found a fault in its peer: {error}")
        finished = link.connection.closed
        if packets or finished:
            self.out.append((self.index, 0, tuple(packets), finished))
        if finished:
            self._lost(core.error, now if core.stopping and now == LATE else NOW)
        self._call_back()

    def _lost(self, error: Exception | None, now: float = NOW) -> None:
        self.core.lost(self.core.judge(error, now), now)
        self.connection = None
        self._call_back()

    def _call_back(self) -> None:
        self.core.callbacks.run()
        for future in self.futures:
            if future.outcome == "done" and future.payload not in self.accepted:
                self.accepted.add(future.payload)
                self.owners.done(future.payload)


def check_settled(part: CorePart) -> None:
    """Check that at rest every future is settled, and that what was not delivered in time is in the store."""
    store, sender = part.store, part.session.sender
    if store is not None and len(store) != len(sender):
        raise Violation(f"the store holds {len(store)} records, the session {len(sender)} messages")
    if store is not None and part.over:
        safe = {future.payload for future in part.futures if future.outcome != "done"}
        kept = {part.names[token] for token in sender.tokens}
        if not kept <= safe:
            raise Violation(f"{sorted(kept - safe)} is delivered, and in the store")
    if part.over and ("close",) not in part.program.steps:
        raise Violation(f"the client has given up over {part.core.error!r}")
    for future in part.futures:
        if future.outcome is None:
            raise Violation(f"the future of {future.payload.decode()} is never resolved")
    if part.core.callbacks.due:
        raise Violation("callbacks are due and never run")


__all__ = ["CorePart", "Disk", "Driver", "Future", "Program", "check_settled"]
