"""Compare parts of the world by meaning, and serialise them.

`meaning` turns real machines, sessions, routers and stores into one hashable value that is equal for two objects
exactly if no further input can distinguish them. Mere names are left out or renumbered: times, counters, caches,
tokens (any growing numbers work) and the numbers of records in a store. Everything else is visited slot by slot, so a
new attribute of the product counts unless it is listed here as meaningless.

`freeze` and `thaw` use pickle, with two additions: constants of the product's modules keep their identity (the code
compares some by identity), and dictionaries keyed by identity are rekeyed.
"""

from __future__ import annotations

import io
import marshal
import pickle
import sys
from collections import deque
from collections.abc import Callable, Hashable
from hashlib import blake2b
from typing import Any

from mqttws.broker.limits import Departures, Limits
from mqttws.broker.metrics import Metrics
from mqttws.broker.subscriber import Subscriber
from mqttws.codec.connecting import Connect
from mqttws.codec.decoder import Decoder
from mqttws.codec.packet import Packet
from mqttws.protocol.outgoing import Identifiers, Run
from mqttws.protocol.receiving import Receiver
from mqttws.protocol.sending import Sender
from mqttws.protocol.session import Request, Session
from mqttws.protocol.store import MemoryStore

#: Attributes without meaning, by the class that declares them: the effect of no input depends on their values, or
#: they follow from others.
MEANINGLESS: dict[str, frozenset[str]] = {
    name: frozenset(attributes.split())
    for name, attributes in {
        "Machine": "_last_received _last_sent",  # the clock advances only for time-outs, which end a connection
        "ClientMachine": "_ping_sent",
        "Connection": "_close_deadline _open_deadline",
        "Sender": "_last_token",  # the next token is higher than every known one
        "Journal": "_releases store",
        "Claim": "_holder _journal",
        "MemoryStore": "commits",
        "Router": "metrics _answers limits hooks departures sys notices memory subscribers",
        "Subscriptions": "answers _answers _results _named _finished",
        "Retained": "number",
        "_Node": "number order",
        "Handler": "_allowance _allowance_at _hub",
        "Publish": "_name",
        "Registry": "_router _subscribers _kept holder _claim",  # the subscribers are visited by name
        "End": "broker",
    }.items()
}
_ATOMS = frozenset({int, str, bytes, bool, float, type(None)})
_FIELDS: dict[type, tuple[str, ...]] = {}
_MISSING = object()


def _fields(kind: type) -> tuple[str, ...]:
    """Return the slots of a class that have a meaning."""
    fields = []
    for each in kind.__mro__:
        skipped = MEANINGLESS.get(each.__name__, frozenset())
        slots = each.__dict__.get("__slots__", ())
        fields += [slot for slot in ((slots,) if isinstance(slots, str) else slots) if slot not in skipped]
    return tuple(fields)


def digest(meaning: Hashable) -> bytes:
    """Return 16 bytes for a meaning: the same for equal ones, and for others with a chance of 2 ** -128 each."""
    return blake2b(marshal.dumps(meaning, 2), digest_size=16).digest()  # version 2 writes what is equal alike


class Meaning:
    """One traversal of one part.

    Args:
        tokens: client identifier -> the tokens in use, in order; only the position of a token has a meaning.
    """

    def __init__(self, tokens: dict[str, list[int]]) -> None:
        self._ranks = {name: {token: rank for rank, token in enumerate(known)} for name, known in tokens.items()}
        self._client = ""
        self._seen: dict[int, int] = {}

    def of(self, value: Any) -> Hashable:
        """Return the meaning of a value."""
        kind = type(value)
        if kind in _ATOMS:
            return value
        if kind is tuple or kind is list or kind is deque:
            return tuple([item if type(item) in _ATOMS else self.of(item) for item in value])
        if kind is dict:
            return tuple([(self.of(key), self.of(item)) for key, item in value.items()])
        if kind is set or kind is frozenset:
            return tuple(sorted(value))
        if kind is bytearray:
            return bytes(value)
        place = self._seen.get(id(value))
        if place is not None:
            return "again", place
        self._seen[id(value)] = len(self._seen)
        return (_WALKS.get(kind) or _walk_of(kind))(self, value)

    def fields_of(self, value: Any) -> Hashable:
        """Return the meaning of an object, field by field."""
        kind = type(value)
        fields = _FIELDS.get(kind)
        if fields is None:
            fields = _FIELDS[kind] = _fields(kind)
        found: list[Hashable] = [kind.__name__]
        for field in fields:
            item = getattr(value, field, _MISSING)
            if item is not _MISSING:
                found.append(item if type(item) in _ATOMS else self.of(item))
        attributes = getattr(value, "__dict__", None)
        if attributes:
            skipped = frozenset[str]().union(*(MEANINGLESS.get(each.__name__, frozenset()) for each in kind.__mro__))
            found += [(name, self.of(item)) for name, item in attributes.items() if name not in skipped]
        return tuple(found)

    def token(self, token: int | None) -> int | None:
        """Return the position of a token among those of its session."""
        return None if token is None else self._ranks.get(self._client, {}).get(token, token)

    def of_session_of(self, client_id: str, value: Any) -> Hashable:
        """Return the meaning of a value that belongs to one session, which owns its tokens."""
        outer, self._client = self._client, client_id
        found = self.fields_of(value)
        self._client = outer
        return found

    def _packet(self, packet: Packet) -> Hashable:
        return packet.encode()

    def _decoder(self, decoder: Decoder) -> Hashable:
        return bytes(decoder._partial), repr(decoder.fault)

    def _identifiers(self, identifiers: Identifiers) -> Hashable:
        return identifiers.last, tuple(sorted(identifiers.in_use))

    def _outgoing(self, value: Any) -> Hashable:
        if type(value) is tuple and value and type(value[0]) is int:
            return (self.token(value[0]), *value[1:])
        return self.of(value)

    def _run(self, run: Run) -> Hashable:
        return "Run", tuple(run.packets)

    def _sender(self, sender: Sender) -> Hashable:
        found: list[Hashable] = []
        for field in _FIELDS.setdefault(Sender, _fields(Sender)):
            value = getattr(sender, field)
            if type(value) is dict:
                found.append(tuple([(key, self._outgoing(item)) for key, item in value.items()]))
            elif type(value) is deque:
                found.append(tuple([self._outgoing(item) for item in value]))
            else:
                found.append(self.of(value))
        return tuple(found)

    def _receiver(self, receiver: Receiver) -> Hashable:
        """A queued message is the object that the receiver holds, or it is stale: see `of`."""
        untaken = tuple([self.of(incoming) for incoming in receiver._untaken.values()])
        return self.of(receiver._received), untaken, self.of(receiver._unanswered), receiver.journal is not None

    def _request(self, request: Request) -> Hashable:
        return self.token(request.token), request.subscribe, request.unsubscribe

    def _subscriber(self, subscriber: Any) -> Hashable:
        return self.of_session_of(subscriber.client_id, subscriber)

    def _store(self, store: MemoryStore) -> Hashable:
        """What a process read from a store when it started, and what it would read if it ended now."""
        return self._records(store._safe), self._records(store._pending)

    def _records(self, records: dict[bytes, bytes | None]) -> Hashable:
        found: list[Hashable] = []
        orders = sorted(
            value[4:12] for key, value in records.items() if key[:1] == b"o" and value is not None and any(value[4:12])
        )
        for key, value in sorted(records.items()):
            if key[:1] != b"o":
                found.append((key, value))
                continue
            length = int.from_bytes(key[1:3], "big")
            client_id, token = key[3 : 3 + length].decode(), int.from_bytes(key[3 + length :], "big")
            rank = self._ranks.get(client_id, {}).get(token, token)
            if value is None:
                found.append((client_id, rank, None))
            else:  # phase, flags, identifier; the position among the PUBRELs; topic and payload
                order = 1 + orders.index(value[4:12]) if any(value[4:12]) else 0
                found.append((client_id, rank, value[:4], order, value[12:]))
        return tuple(found)


#: Classes, with their subclasses, whose meaning is not simply that of their fields.
_SPECIAL: dict[type, Callable[[Meaning, Any], Hashable]] = {
    Decoder: Meaning._decoder,
    Identifiers: Meaning._identifiers,
    MemoryStore: Meaning._store,
    Packet: Meaning._packet,
    Receiver: Meaning._receiver,
    Request: Meaning._request,
    Run: Meaning._run,
    Sender: Meaning._sender,
    Subscriber: Meaning._subscriber,
}
_WALKS: dict[type, Callable[[Meaning, Any], Hashable]] = {}


def _walk_of(kind: type) -> Callable[[Meaning, Any], Hashable]:
    """Return the method that visits objects of a class; cached."""
    walk = _WALKS[kind] = next((_SPECIAL[each] for each in kind.__mro__ if each in _SPECIAL), Meaning.fields_of)
    return walk


def tokens_of(session: Session, store: MemoryStore | None, client_id: str, others: list[int]) -> list[int]:
    """Return all tokens of one session that occur anywhere, in order."""
    tokens = {*others, *session.sender.tokens}
    tokens |= {each.token for each in (*session.requests, *session.requests_sent.values()) if each.token is not None}
    if store is not None:
        prefix = b"o" + len(client_id.encode()).to_bytes(2, "big") + client_id.encode()
        for records in (store._safe, store._pending):
            tokens |= {int.from_bytes(key[-8:], "big") for key in records if key.startswith(prefix)}
    return sorted(tokens)


# Serialising.


def _constants() -> tuple[dict[int, tuple[str, str]], dict[tuple[str, str], Any]]:
    names: dict[int, tuple[str, str]] = {}
    values: dict[tuple[str, str], Any] = {}
    for module_name, module in sorted(sys.modules.items()):
        if module_name.startswith("mqttws."):
            for name, value in vars(module).items():
                if isinstance(value, (str, deque, Packet)) and not name.startswith("__"):
                    names[id(value)] = (module_name, name)
                    values[module_name, name] = value
    return names, values


#: Classes of objects that never change; equal ones are the same object in all parts.
_SHARED = frozenset({Departures, Limits, Metrics})
_SHARED_NAMES: dict[Hashable, tuple[str, str]] = {}
_NAMES: dict[int, tuple[str, str]] = {}
_VALUES: dict[tuple[str, str], Any] = {}


def _reduce_connect(connect: Connect) -> tuple[object, ...]:
    """Reduce a Connect, which refuses to be pickled because of its password; here it has none."""
    return Connect, connect._values()


class _Pickler(pickle.Pickler):
    dispatch_table = {Connect: _reduce_connect}  # noqa: RUF012  (of the class, as pickle has it)

    def persistent_id(self, value: Any) -> Any:
        kind = type(value)
        if kind in _SHARED:
            key = kind if kind is Metrics else value  # what a broker counts has no effect
            name = _SHARED_NAMES.setdefault(key, ("shared", str(len(_SHARED_NAMES))))
            _VALUES.setdefault(name, value)
            return name
        return _NAMES.get(id(value))


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, name: Any) -> Any:
        return _VALUES[name]


def freeze(part: Any) -> bytes:
    """Serialise a part."""
    if not _NAMES:
        names, values = _constants()
        _NAMES.update(names)
        _VALUES.update(values)
    out = io.BytesIO()
    _Pickler(out, pickle.HIGHEST_PROTOCOL).dump(part)
    return out.getvalue()


def thaw(frozen: bytes) -> Any:
    """Restore a part."""
    part = _Unpickler(io.BytesIO(frozen)).load()
    for session in part.sessions():
        rekey(session.receiver)
    return part


def rekey(receiver: Receiver) -> None:
    """Rebuild the dictionaries that are keyed by identity, since the objects are new."""
    untaken = receiver._untaken
    if untaken:
        receiver._untaken = {id(incoming.publish): incoming for incoming in untaken.values()}
