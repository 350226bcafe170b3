"""The conditions of a state at rest: everything has arrived and nothing is left over.

`parts.py` checks at each step what is visible in one process: no identifier in flight is used for another message,
nothing is sent before it is stored, QoS 2 arrives once, first copies arrive in order, and neither side reports a
protocol error of the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from exploration.clients_core import CorePart, check_settled
from exploration.parts import BrokerPart, ClientPart, Violation
from mqttws.protocol.session import Session

if TYPE_CHECKING:
    from exploration.world import State, World


def check(world: World, state: State) -> None:
    """Check a state in which only faults are possible.

    Raises:
        Violation: a condition does not hold.
    """
    broker: BrokerPart = world.part(state[1])
    clients: list[ClientPart] = [world.part(state[2 + 3 * index]) for index in range(world.clients)]
    for client in clients:
        check_done(client)
        if isinstance(client, CorePart):
            check_settled(client)
            if state[0] == world.root[0] and len(client.accepted) < len(client.published):
                raise Violation(f"nothing was lost, and {len(client.accepted)} of {len(client.published)} are accepted")
    promise = PROMISES[world.scenario.promise]
    if promise is listed and any(session.receiver.received for session in broker.sessions()):
        note(world, "identifier stays taken")  # of a publisher that has forgotten its session
        promise(world, broker, clients)
        return
    closed = {client.program.client_id for client in clients if isinstance(client, CorePart) and client.over}
    for client in clients:
        if client.program.client_id in closed:
            continue  # what was not done when closing timed out waits for the next process
        check_nothing_left(f"client {client.index}", client.session)
        records = len(client.session.subscriptions)
        known = broker.registry.find(client.program.client_id)
        theirs = {} if known is None else known.session.subscriptions
        if client.store is not None and client.session.subscriptions != theirs:
            raise Violation(f"client {client.index} has {client.session.subscriptions}, the broker has {theirs}")
        if client.store is not None and len(client.store) != records:
            raise Violation(
                f"client {client.index}'s store holds {len(client.store)} records, {records} would be right"
            )
    kept = retained = 0
    for name, subscriber in broker.registry._subscribers.items():
        if name not in closed:
            check_nothing_left(f"the broker for {name}", subscriber.session)
        if not subscriber.clean_session:
            kept += 1 + len(subscriber.session.subscriptions)
    retained = len(broker.router.retained)
    if broker.store is not None and not closed and len(broker.store) != kept + retained:
        raise Violation(f"the broker's store holds {len(broker.store)} records, {kept + retained} would be right")
    connected = sum(subscriber.outlet is not None for subscriber in broker.registry._subscribers.values())
    if broker.registry.connected != connected or len(broker.ends) != connected:
        raise Violation(f"{connected} clients are connected, the registry counts {broker.registry.connected}")
    promise(world, broker, clients)


def check_done(client: ClientPart) -> None:
    """Check that a program has finished, and that every future is settled."""
    if client.position < len(client.program.steps) or client.inbox or client.open or client.sent:
        waits = [payload.decode() for payload in (*client.open.values(), *client.sent.values())]
        raise Violation(f"the program of client {client.index} waits for ever for {waits or 'its next step'}")
    if not client.over and not (client.connection is not None and client.connection.connected):
        raise Violation(f"client {client.index} is not connected, and nothing will change that")


def check_nothing_left(where: str, session: Session) -> None:
    """Check that a session holds no message and no identifier."""
    if len(session.sender) or session.receiver.received or session.requests or session.requests_sent:
        raise Violation(
            f"{where}: {len(session.sender)} messages and {sorted(session.receiver.received)} are left over"
        )
    if len(session.identifiers):
        raise Violation(f"{where}: the identifiers {sorted(session.identifiers.in_use)} are never free again")


def exact(world: World, broker: BrokerPart, clients: list[ClientPart]) -> None:
    """Check, with sessions kept at both ends, that accepted QoS 1 arrives at least once, and QoS 2 exactly once."""
    at_least_once(world, broker, clients)
    for publisher, subscriber in pairs(clients):
        counts = Counter(payload for payload, _, _ in subscriber.seen)
        for payload, qos in publisher.published:
            if qos != 1 and counts[payload] > 1:
                raise Violation(f"message {payload.decode()} of QoS {qos} is seen {counts[payload]} times")


def at_least_once(world: World, broker: BrokerPart, clients: list[ClientPart]) -> None:
    """Check that every accepted message of QoS 1 and 2 arrives."""
    for publisher, subscriber in pairs(clients):
        seen = {payload for payload, _, _ in subscriber.seen}
        for payload, qos in publisher.published:
            if qos and payload in publisher.accepted and payload not in seen:
                raise Violation(f"message {payload.decode()} of QoS {qos} was accepted and is lost")


def listed(world: World, broker: BrokerPart, clients: list[ClientPart]) -> None:
    """Count accepted messages that are lost or duplicated, where the standard guarantees nothing end to end."""
    for publisher, subscriber in pairs(clients):
        counts = Counter(payload for payload, _, _ in subscriber.seen)
        for payload, qos in publisher.published:
            if qos == 2 and counts[payload] > 1:
                note(world, "QoS 2 twice")
            elif qos and payload in publisher.accepted and not counts[payload]:
                note(world, f"QoS {qos} lost")


def note(world: World, what: str) -> None:
    """Count an event that is permitted."""
    world.found[what] = world.found.get(what, 0) + 1


def nothing(world: World, broker: BrokerPart, clients: list[ClientPart]) -> None:
    """Check that nothing arrives after the last UNSUBACK."""
    for client in clients:
        if client.seen:
            raise Violation(f"client {client.index} sees {client.seen}, and has unsubscribed")


def one_of_them(world: World, broker: BrokerPart, clients: list[ClientPart]) -> None:
    """Check that each accepted message arrives at one of the processes that share a client identifier."""
    seen = {payload for client in clients for payload, _, _ in client.seen}
    for client in clients:
        lost = client.accepted - seen
        if lost:
            raise Violation(f"{sorted(lost)} was accepted and is lost")


def current(world: World, broker: BrokerPart, clients: list[ClientPart]) -> None:
    """Check that the last message of a topic is retained, and that each subscribed client has seen it."""
    publisher, subscriber = clients
    accepted = [payload for payload, _ in publisher.published if payload in publisher.accepted]
    if not accepted:
        return  # the process ended before the message was stored, and was never acknowledged to the program
    last = accepted[-1]
    message = broker.router.retained.get("t")
    if (b"" if message is None else message.payload) != last:
        raise Violation(f"{message!r} is retained, and {last!r} was published after it")
    if last and subscriber.session.subscriptions and last not in [payload for payload, _, _ in subscriber.seen]:
        raise Violation(f"client 1 has not seen {last.decode()}, which is retained")


def pairs(clients: list[ClientPart]) -> list[tuple[ClientPart, ClientPart]]:
    """Return the pairs of a publisher and a client that was subscribed from the start."""
    return [
        (publisher, subscriber)
        for publisher in clients
        for subscriber in clients
        if publisher is not subscriber
        and subscriber.program.steps[:1]
        and subscriber.program.steps[0][0] == "subscribe"
    ]


PROMISES: dict[str, Callable[[World, BrokerPart, list[ClientPart]], None]] = {
    "exact": exact,
    "at least once": at_least_once,
    "listed": listed,
    "current": current,
    "nothing": nothing,
    "one of them": one_of_them,
}
