"""Faults of delivery that the explorer must find: in machines, sessions, router, registry and stores.

Each is an edit of the source, as in `tests/conformance/faults.py`. Most are visible only after a loss or a crash at a
certain time.
"""

# ruff: noqa: E501  (a table with one fault in each line)
# fmt: off

from __future__ import annotations

from planting import Edit, Fault

FAULTS: list[Fault] = []


def fault(title: str, *edits: Edit) -> None:
    """Add a fault."""
    FAULTS.append(Fault("", title, edits))


MACHINE = "mqttws.protocol.machine:Machine."
CLIENT = "mqttws.protocol.client:ClientMachine."
SESSION = "mqttws.protocol.session:Session."
SENDER = "mqttws.protocol.sending:Sender."
RECEIVER = "mqttws.protocol.receiving:Receiver."
JOURNAL = "mqttws.protocol.journal:Journal."
IDENTIFIERS = "mqttws.protocol.outgoing:Identifiers."
STORE = "mqttws.protocol.store:MemoryStore."
CORE = "mqttws.client.core:Core."
PENDING = "mqttws.client.pending:Pending."
ROUTER = "mqttws.broker.router:Router."
REGISTRY = "mqttws.broker.registry:Registry."
HANDLER = "mqttws.broker.handler:Handler."
PERSISTENCE = "mqttws.broker.persistence:Persistence."
RETAINED = "mqttws.broker.retained:Retained."

# Sending.
fault("a resumed session does not send a PUBREL again", (SENDER + "resume", "in self._released]", "in ()]"))
fault("a resumed session does not send a PUBLISH again", (SENDER + "resume", "in self._published.items():", "in ():"))
fault("packets are sent again in the reverse order", (SENDER + "resume", "return packets, done", "return packets[::-1], done"))
fault("an identifier is released at the PUBREC", (SENDER + "pubrec", "self._released[packet_id] = outgoing", "self._released[packet_id] = outgoing; self._identifiers.release(packet_id)"))
fault("an identifier is never released", (SENDER + "_done", "self._identifiers.release(packet_id)", "pass"))
fault("a message with a PUBREC is published again in a new session", (SENDER + "resume", "if not session_present:", "if False:"), (SENDER + "pubrec", "del self._published[packet_id]", "pass"))
fault("a PUBREC changes nothing", (SENDER + "pubrec", "self._released[packet_id] = outgoing", "self._published[packet_id] = outgoing"))
fault("a PUBREC is not stored", (SENDER + "pubrec", "self.journal.keep(outgoing, RELEASED, packet_id)", "pass"))
fault("a sent message is not stored", (SENDER + "take_ready", "self.journal.keep(entry, PUBLISHED, packet_id)", "pass"))
fault("a waiting message is not stored", (SENDER + "enqueue", "self.journal.keep(outgoing, WAITING)", "pass"))
fault("a record is deleted at the PUBREC", (SENDER + "pubrec", "self.journal.keep(outgoing, RELEASED, packet_id)", "self.journal.drop(outgoing[0])"))
fault("a record of a completed message is not deleted", (SENDER + "_done", "self.journal.drop(outgoing[TOKEN])", "pass"))
fault("the window is one too wide", (SENDER + "take_ready", "self._max_in_flight - len(published)", "self._max_in_flight + 1 - len(published)"))
fault("messages with a PUBREC do not count for the window", (SENDER + "take_ready", " - len(self._released)", ""))
fault("a recovered identifier is not marked as in use", (SENDER + "recover", "self._identifiers.take(packet_id)", "pass"))
fault("a recovered message loses its PUBREC", (SENDER + "recover", "(self._released if phase == RELEASED else self._published)", "self._published"))
fault("a recovered message that was sent waits again", (SENDER + "recover", "if not packet_id:", "if phase != RELEASED:"))
fault("an identifier in use is allocated again", (IDENTIFIERS + "allocate", "while packet_id in in_use", "while False"))
fault("identifier 1 is allocated when all are in use", (IDENTIFIERS + "allocate", "return None", "return 1"))

# Receiving.
fault("copies are delivered", (RECEIVER + "receive", "return False", "return True"))
fault("a copy is not acknowledged", (RECEIVER + "receive", "repeated.copies += 1", "repeated.copies += 0"))
fault("an identifier is stored before its message is taken", (RECEIVER + "receive", "self._received[packet_id] = known\n        return True", "self._received[packet_id] = known\n        self.journal and self.journal.taken(packet_id)\n        return True"))
fault("the identifier of a taken message is not stored", (RECEIVER + "acknowledge", "self.journal.taken(incoming.packet_id)", "pass"))
fault("a released identifier is not deleted from the store", (RECEIVER + "pubrel", "self.journal.released(packet_id)", "pass"))
fault("a PUBREL does not release the identifier", (RECEIVER + "pubrel", "self._received.pop(packet_id, None)", "self._received.get(packet_id, None)"))
fault("a resumed session forgets which identifiers it has received", (RECEIVER + "begin", "if not session_present:", "if True:"))
fault("a new connection acknowledges the packets of the old one", (RECEIVER + "begin", "incoming.copies = 0", "incoming.copies += 0"), (RECEIVER + "begin", "unanswered.clear()", "pass"))
fault("a PUBREL with an unknown identifier is not answered", (MACHINE + "_on_pubrel", "self._send(self.session.receiver.pubrel(packet.packet_id))", "packet.packet_id in self.session.receiver.received and self._send(self.session.receiver.pubrel(packet.packet_id))"))
fault("QoS 2 is acknowledged before the program has taken it", (RECEIVER + "receive", "known = _Incoming(publish, packet_id)\n", "known = _Incoming(publish, packet_id)\n        known.taken = True\n"))
fault("QoS 1 is acknowledged before the program has taken it", (RECEIVER + "receive", "self._unanswered[0].append(incoming)", "self._unanswered[0].append(incoming); incoming.taken = True"))

# Storing.
fault("bytes are sent before the commit", (MACHINE + "data_to_send", "not self._commit(self._session.store)", "False"))
fault("a message with a PUBREC is recovered without it", (JOURNAL + "_read", "message.retain), state,", "message.retain), _PHASES[min(phase, 1)],"))
fault("a subscription is not stored", (JOURNAL + "subscribed", "self.store.put(", "self.store.load("), (JOURNAL + "subscribed", "topic_filter.encode(), bytes((qos,)))", "topic_filter.encode())"))
fault("the removal of a subscription is not stored", (SESSION + "discard_subscription", "self._journal.unsubscribed(topic_filter)", "pass"))
fault("a delete is undone by a crash", (STORE + "commit", "self._safe.pop(key, None)", "pass"))

# Connecting.
fault("unanswered requests are not sent again", (SESSION + "restore", "[*self.requests_sent.values(), *self.requests]", "[*self.requests]"))
fault("the identifiers of unanswered requests are never released", (SESSION + "restore", "self.identifiers.release(packet_id)", "pass"))
fault("the subscriptions of a lost session are not restored", (SESSION + "restore", "requests = batches + requests", "requests = requests"))
fault("a subscription is kept after its UNSUBACK", (SESSION + "_conclude", "if return_code != FAILURE:", "if False:"))

# The client core.
fault("a client that gives up does not resolve its futures", (CORE + "give_up", "self.pending.fail_all(", "str("))
fault("a client gives up after a lost connection", (CORE + "lost", "if patience is None:", "if patience is not None:"))
fault("close does not wait for messages in flight", (CORE + "_drains", "return now < self._close_at and", "return now > self._close_at and"))
fault("the future of a delivered message is resolved twice", (PENDING + "delivered", "pop", "get"))

# The broker.
fault("a message is acknowledged before it is routed", (HANDLER + "_on_publish", "taken = router.publish_from(self.peer, publish)", "taken = True; self._connection.acknowledge(publish); self.subscriber.session.store and self.subscriber.session.store.commit(); router.publish_from(self.peer, publish)"))
fault("messages for a disconnected client are not queued", (ROUTER + "publish", "if effective:", "if effective and subscriber.outlet is not None:"))
fault("a kept session is not resumed", (REGISTRY + "attach", "known is not None and connect.clean_session", "known is not None"))
fault("a kept session is not stored", (REGISTRY + "attach", "persistence.keep(known)", "pass"))
fault("an old connection is not ended", (REGISTRY + "take_over", "known.outlet.end(", "str("))
fault("recovered subscriptions are not added to the router", (ROUTER + "recover", "self._grow(subscriber, topic_filter, qos)", "pass"))
fault("UNSUBSCRIBE does not remove the subscription from the router", (ROUTER + "unsubscribe", "self._subscriptions.discard(topic_filter, subscriber)", "pass"))
fault("a retained message is not stored", (PERSISTENCE + "retain", "self.store.put(key, bytes((message.qos,)) + message.payload)", "pass"))
fault("a retained message is not replaced", (RETAINED + "set", "if message.payload and fits:", "if message.payload and fits and old is None:"))
fault("a new subscription does not get the retained message", (ROUTER + "_subscribe", "subscriber.due[topic_filter] = (", "_ = ("))
