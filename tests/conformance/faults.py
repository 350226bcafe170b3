"""The faults that `mutants.py` plants: for each statement, one for each place that implements it or role it binds.

An edit is (where, old text, new text); the old text must occur exactly once. The faults are typical mistakes: a missing
check, a forgotten flag, the wrong order.
"""

# ruff: noqa: E501  (a fault to a line reads as the table that it is)
# fmt: off

from __future__ import annotations

from collections.abc import Callable

from planting import Edit, Fault

from mqttws import Connect, PingReq, PingResp, Publish
from mqttws.protocol.client import ClientMachine
from mqttws.protocol.machine import CONNECTED, CONNECTING, NEW
from mqttws.protocol.server import REFUSALS, ServerMachine

FAULTS: list[Fault] = []


def fault(statement: str, title: str, *changes: Edit | Callable[[], object]) -> None:
    """Add a fault."""
    FAULTS.append(
        Fault(
            statement if statement.startswith("U-") else f"MQTT-{statement}",
            title,
            tuple(change for change in changes if isinstance(change, tuple)),
            tuple(change for change in changes if not isinstance(change, tuple)),
        )
    )


CONNECT_MODULE = "mqttws.codec.connecting:"
PUBLISHING = "mqttws.codec.publishing:"
SUBSCRIBING = "mqttws.codec.subscribing:"
WIRE = "mqttws.codec.wire:"
TOPICS = "mqttws.codec.topics:"
FIRST_BYTE = "mqttws.codec.packets:check_first_byte"
MACHINE = "mqttws.protocol.machine:Machine."
CLIENT = "mqttws.protocol.client:ClientMachine."
SERVER = "mqttws.protocol.server:ServerMachine."
SENDER = "mqttws.protocol.sending:Sender."
RECEIVER = "mqttws.protocol.receiving:Receiver."
FRAMING = "mqttws.protocol.framing:"
PLAIN = "mqttws.protocol.plain:"
HANDSHAKE = "mqttws.protocol.handshake:"
CLIENT_HANDSHAKE = "mqttws.protocol.client_handshake:"
ROUTER = "mqttws.broker.router:Router."
REGISTRY = "mqttws.broker.registry:Registry."
HANDLER = "mqttws.broker.handler:Handler."
RETAINED = "mqttws.broker.retained:Retained."
LIMITS = "mqttws.broker.limits:Limits."

ENCODE_CONNECT = CONNECT_MODULE + "Connect.encode"
DECODE_CONNECT = CONNECT_MODULE + "Connect.decode"
CONNECT_FLAGS = CONNECT_MODULE + "_check_connect_flags"
LENIENT = '.decode("utf-8", "replace")'

# §1.5, §2: bytes

fault("1.5.3-1", "invalid UTF-8 is replaced", (WIRE + "decode_text", 'str(data, "utf-8")', 'str(data, "utf-8", "replace")'))
fault("1.5.3-1", "surrogates are sent", (WIRE + "encode_string", "text.encode()", 'text.encode("utf-8", "surrogatepass")'))
fault("1.5.3-2", "U+0000 is accepted", (WIRE + "decode_text", r'if "\0" in text', "if False"))
fault("1.5.3-2", "U+0000 is sent", (WIRE + "encode_string", r'if "\0" in text', "if False"))
fault("1.5.3-3", "a BOM is stripped on reading", (WIRE + "decode_text", "return text", r'return text.removeprefix("\ufeff")'))
fault(
    "1.5.3-3",
    "a BOM is stripped on writing",
    (WIRE + "encode_string", "encode_binary(data, what)", r'encode_binary(data.removeprefix(b"\xef\xbb\xbf"), what)'),
)
fault("2.2.2-1", "flags of SUBSCRIBE are 0", (SUBSCRIBING + "Subscribe.encode", r'b"\x82"', r'b"\x80"'))
fault("2.2.2-1", "flags of PUBREL are 0", (PUBLISHING + "PacketIdOnly.encode", "self.header", r'self.header.replace(b"\x62", b"\x60")'))
fault("2.2.2-2", "flags are not checked", (FIRST_BYTE, "first & 0x0F != cls.flags", "False"))
for number, name in (("3.6.1-1", "PubRel"), ("3.8.1-1", "Subscribe"), ("3.10.1-1", "Unsubscribe"), ("3.14.1-1", "Disconnect")):
    fault(
        number,
        f"flags of {name} are not checked",
        (FIRST_BYTE, "first & 0x0F != cls.flags", f"first & 0x0F != cls.flags and cls.__name__ != {name!r}"),
    )
fault("2.3.1-1", "identifier 0 is accepted", ("mqttws.codec.packet:check_packet_id", "1 <= packet_id", "0 <= packet_id"))
for number, role in (("2.3.1-2", "client"), ("2.3.1-4", "server")):
    fault(
        number,
        f"an identifier in use is allocated again ({role})",
        ("mqttws.protocol.outgoing:Identifiers.allocate", "while packet_id in in_use", "while False"),
    )
fault(
    "2.3.1-2",
    "requests have their own identifiers",
    ("mqttws.protocol.session:Session.next_request", "self.identifiers.allocate()", "len(self.requests_sent) + 1"),
)
fault(
    "2.3.1-3",
    "an identifier is released at the PUBREC",
    (SENDER + "pubrec", "self._released[packet_id] = outgoing", "self._released[packet_id] = outgoing; self._identifiers.release(packet_id)"),
)
fault(
    "2.3.1-5",
    "an identifier is read with QoS 0",
    (
        PUBLISHING + "Publish.decode",
        'packet_id = reader.uint16("the packet identifier") if qos else None',
        'packet_id = reader.uint16("the packet identifier") if qos or reader else None\n'
        "    packet_id = packet_id if qos else None",
    ),
)
fault(
    "2.3.1-5",
    "an identifier is sent with QoS 0",
    (PUBLISHING + "encode_publish", "[length] + name + payload", r'[length + 2] + name + b"\0\1" + payload'),
)
fault(
    "2.3.1-6",
    "a PUBACK repeats another identifier",
    ("mqttws.protocol.receiving:_answer", "incoming.packet_id.to_bytes", "(incoming.packet_id % 65_535 + 1).to_bytes"),
)
fault("2.3.1-6", "a PUBREL repeats another identifier", (SENDER + "pubrec", "PubRel(packet_id)", "PubRel(packet_id % 65_535 + 1)"))
fault("2.3.1-7", "SUBACK always has identifier 1", (HANDLER + "_on_subscribe", "suback(subscribe.packet_id", "suback(1"))
fault("2.3.1-7", "UNSUBACK always has identifier 1", (HANDLER + "_on_unsubscribe", "(event.unsubscribe.packet_id)", "(1)"))

# §3.1: CONNECT

fault("3.1.0-1", "a ping is sent first", (CLIENT + "start", "self._out.append(", r'self._out.append(b"\xc0\0" + '))
fault(
    "3.1.0-1",
    "messages do not wait for the CONNACK",
    (MACHINE + "data_to_send", "self.state is CONNECTED", "self._session is not None and self.state is not CLOSED"),
)
fault("3.1.0-1", "a ping is accepted first", lambda: ServerMachine.HANDLERS.update({(NEW, PingReq): "_on_pingreq"}))
fault("3.1.0-2", "a second CONNECT is ignored", lambda: ServerMachine.HANDLERS.update({(CONNECTED, Connect): "_send"}),
      (MACHINE + "_receive_packet", "handler(packet, now)", 'handler(packet, now) if name != "_send" else None'))
fault(
    "3.1.2-1",
    "the protocol name is not checked",
    (DECODE_CONNECT, 'name = reader.binary("the protocol name")', 'name = (reader.binary("the protocol name"), b"MQTT")[1]'),
)
fault("3.1.2-2", "another level closes the connection without a CONNACK", lambda: REFUSALS.pop("MQTT-3.1.2-2"))
fault("3.1.2-3", "the reserved flag is not checked", (CONNECT_FLAGS, "if flags & _RESERVED:", "if False:"))
fault("3.1.2-4", "a server never resumes a session", (REGISTRY + "attach", "known is not None and connect.clean_session", "known is not None"))
fault("3.1.2-4", "a client drops messages in flight", (SENDER + "resume", "in self._published.items()", "in ()"))
fault("3.1.2-5", "nothing is queued for disconnected clients", (ROUTER + "publish", "if effective:", "if effective and subscriber.outlet is not None:"))
fault("3.1.2-6", "a clean session is kept", (REGISTRY + "detach", "if subscriber.clean_session or subscriber.expiry == 0:", "if False:"))
fault("3.1.2-6", "a client keeps received identifiers", (RECEIVER + "begin", "if not session_present:", "if False:"))
fault(
    "3.1.2-7",
    "retained messages are removed with a session",
    (REGISTRY + "_forget", "self._router.forget(subscriber)", "self._router.forget(subscriber); self._router.retained.__init__()"),
)
fault("3.1.2-8", "no will is published", (REGISTRY + "detach", "return message if will else None", "return None"))
fault(
    "3.1.2-9",
    "a will without a message is accepted",
    (DECODE_CONNECT, 'reader.binary("the will message"),', 'reader.binary("the will message") if reader else b"",'),
)
fault("3.1.2-9", "the will's QoS is not sent", (ENCODE_CONNECT, "_WILL | self.will.qos << 3 |", "_WILL |"))
fault(
    "3.1.2-10",
    "a will is kept after it was published",
    (REGISTRY + "detach", "message, subscriber.will = subscriber.will, None", "message = subscriber.will"),
    (REGISTRY + "attach", "known.will = connect.will", "known.will = connect.will or known.will"),
)
fault("3.1.2-11", "will QoS and retain without a will", (CONNECT_FLAGS, "if not flags & _WILL:", "if False:"))
fault("3.1.2-11", "will retain is always sent", (ENCODE_CONNECT, "flags = _CLEAN_SESSION", "flags = 0x20 | _CLEAN_SESSION"))
fault(
    "3.1.2-12",
    "a will that was not requested",
    (REGISTRY + "detach", "return message if will else None", 'return message or Message("phantom") if will else None'),
)
fault("3.1.2-13", "will QoS without a will", (CONNECT_FLAGS, "if flags & _WILL_QOS:", "if False:"))
fault(
    "3.1.2-14",
    "will QoS 3",
    (CONNECT_FLAGS, "check_qos((flags & _WILL_QOS) >> 3,", "check_qos(0,"),
    (PUBLISHING + "Message.__init__", "check_qos(qos)", "pass"),
)
fault("3.1.2-15", "will retain without a will", (CONNECT_FLAGS, "if flags & _WILL_RETAIN:", "if False:"))
fault("3.1.2-16", "every will is retained", ("mqttws.broker.endings:Endings._publish_will", "will.payload, will.qos, will.retain)", "will.payload, will.qos, True)"))
fault("3.1.2-17", "no will is retained", ("mqttws.broker.endings:Endings._publish_will", "will.payload, will.qos, will.retain)", "will.payload, will.qos, False)"))
fault("3.1.2-18", "surplus bytes are ignored", (DECODE_CONNECT, "reader.end()", "pass"))
fault(
    "3.1.2-18",
    "an empty user name is always sent",
    (ENCODE_CONNECT, "if self.username is not None:", 'if self.username is None:\n        payload += b"\\0\\0"\n    else:'),
)
fault(
    "3.1.2-19",
    "an empty user name is not sent",
    (ENCODE_CONNECT, "payload += encode_string(self.username)", "payload += encode_string(self.username) if self.username else b''"),
)
fault(
    "3.1.2-20",
    "an empty password is always sent",
    (ENCODE_CONNECT, "if self.password is not None:", 'if self.password is None:\n        payload += b"\\0\\0"\n    else:'),
)
fault(
    "3.1.2-21",
    "an empty password is not sent",
    (ENCODE_CONNECT, "payload += encode_binary(self.password)", "payload += encode_binary(self.password) if self.password else b''"),
)
fault(
    "3.1.2-22",
    "a password without a user name",
    (CONNECT_MODULE + "Connect.__init__", "if password is not None and username is None:", "if False:"),
    (CONNECT_FLAGS, "if flags & _PASSWORD and not flags & _USERNAME:", "if False:"),
)
fault(
    "3.1.2-23",
    "received packets delay the ping",
    (CLIENT + "_keep_alive_at", "self._last_sent + self._interval", "max(self._last_sent, self._last_received) + self._interval"),
)
fault("3.1.2-24", "the keep alive timeout is not checked", (SERVER + "_silent_at", "self.keep_alive * 1.5", "self.keep_alive * 15"))
fault("3.1.3-1", "the payload is in the reverse order", (ENCODE_CONNECT, "payload += encode_string(self.username)", "payload = encode_string(self.username) + payload"))
fault(
    "3.1.3-2",
    "a session for each transport",
    (REGISTRY + "attach", "client_id = peer.client_id", "client_id = peer.scheme + peer.client_id"),
)
fault(
    "3.1.3-3",
    "an empty client identifier is not sent",
    (ENCODE_CONNECT, "encode_string(self.client_id)", "encode_string(self.client_id) if self.client_id else b''"),
)
fault("3.1.3-3", "a missing client identifier counts as empty", (DECODE_CONNECT, 'reader.string("the client identifier")', 'reader.string("") if reader else ""'))
fault("3.1.3-4", "an invalid client identifier is corrected", (DECODE_CONNECT, 'reader.string("the client identifier")', f'reader.binary(""){LENIENT}'))
fault("3.1.3-5", "23 bytes are refused", (LIMITS + "objection_to_client_id", "size > self.max_client_id_bytes", "size > 22"))
fault("3.1.3-6", "all empty identifiers get the same one", (HANDLER + "_answer_connect", 'f"auto-{secrets.token_hex(12)}"', '"auto"'))
fault("3.1.3-7", "an empty identifier with a persistent session", (CONNECT_MODULE + "Connect.__init__", "if not client_id and not clean_session:", "if False:"))
fault("3.1.3-8", "the connection is closed without a CONNACK", lambda: REFUSALS.pop("MQTT-3.1.3-8"))
fault("3.1.3-9", "a rejected identifier gets another code", (REGISTRY + "objection_to", "return Refused(2, objection)", "return Refused(5, objection)"))
fault("3.1.3-10", "an invalid will topic is corrected", (DECODE_CONNECT, 'reader.string("the will topic")', f'reader.binary(""){LENIENT}'))
fault("3.1.3-11", "an invalid user name is corrected", (DECODE_CONNECT, 'reader.string("the user name")', f'reader.binary(""){LENIENT}'))
fault(
    "3.1.4-1",
    "a malformed CONNECT is answered",
    (SERVER + "_remote_fault", "self.state is NEW and error.statement in REFUSALS", "self.state is NEW"),
    (SERVER + "_remote_fault", "REFUSALS[error.statement]", "REFUSALS.get(error.statement, 5)"),
)
fault("3.1.4-2", "both clients stay connected", (REGISTRY + "take_over", "known is not None and known.outlet is not None", "False"))
fault("3.1.4-3", "the session is not looked up", (REGISTRY + "attach", "present = known is not None", "present = False"))
fault("3.1.4-4", "there is no CONNACK", (SERVER + "accept", "self._out.append(ConnAck(0, session_present and self._connect.protocol_level > 3).encode())", "pass"))
fault(
    "3.1.4-5",
    "packets after a refused CONNECT are processed",
    (
        SERVER + "refuse",
        "self._ahead = None\n    self.close(ConnectionRefused(return_code))",
        "self.state, self._session = CONNECTED, Session()\n    self.receive_data(bytes(self._ahead), 0.0)",
    ),
)

# §3.2: CONNACK

fault(
    "3.2.0-1",
    "waiting packets are sent before the CONNACK",
    (
        SERVER + "accept",
        "self._out.append(ConnAck(0, session_present and self._connect.protocol_level > 3).encode())\n    self._resume(session, session_present)",
        "self._resume(session, session_present)\n    self._send_ready()\n    self._out.append(ConnAck(0, session_present and self._connect.protocol_level > 3).encode())",
    ),
)
fault(
    "3.2.0-1",
    "a client accepts other packets first",
    lambda: ClientMachine.HANDLERS.update({(CONNECTING, PingResp): "_on_pingresp", (CONNECTING, Publish): "_on_publish"}),
)
fault(
    "3.2.2-1",
    "a clean session is reported as present",
    (REGISTRY + "attach", "present = known is not None", "present = True"),
    (SERVER + "accept", "if session_present and self._connect.clean_session:", "if False:"),
)
fault("3.2.2-2", "an existing session is not reported", (REGISTRY + "attach", "present = known is not None", "present = False"))
fault("3.2.2-3", "a missing session is reported as present", (REGISTRY + "attach", "present = known is not None", "present = not connect.clean_session"))
fault("3.2.2-4", "a refusal reports a session", (SERVER + "refuse", "ConnAck(return_code).encode()", "bytes((0x20, 2, 1, return_code))"))
fault("3.2.2-5", "a refusal leaves the connection open", (SERVER + "refuse", "self.close(ConnectionRefused(return_code))", "pass"))
fault(
    "3.2.2-6",
    "an error in a hook is answered by a CONNACK",
    (
        HANDLER + "fail",
        'self.cut(ConnectionClosed("an error in the broker or in a hook"), now)',
        'self._connection.refuse(3, now) if self._connection.machine.state == "connecting" '
        'else self.cut(ConnectionClosed(""), now)',
    ),
)

# §3.3: PUBLISH

fault("3.3.1-1", "no DUP on a re-delivery", (SENDER + "resume", "packet_id not in self._unsent, packet_id", "False, packet_id"))
fault(
    "3.3.1-2",
    "DUP with QoS 0",
    (PUBLISHING + "Publish.__init__", "if qos or dup:", "if qos:"),
    (PUBLISHING + "encode_publish", "if qos or dup:", "if qos:"),
)
fault("3.3.1-3", "DUP is passed on", (SENDER + "take_ready", "retain, False, packet_id", "retain, True, packet_id"))
fault(
    "3.3.1-4",
    "QoS 3 is accepted",
    (PUBLISHING + "Publish.decode", "if qos == 3:", "if False:"),
    (PUBLISHING + "check_qos", "(0, 1, 2)", "(0, 1, 2, 3)"),
    (PUBLISHING + "_refuse", "check_qos(qos)", "check_qos(qos)"),
)
fault("3.3.1-5", "the QoS of a retained message is lost", (ROUTER + "publish", "Message(topic, payload, qos, True)", "Message(topic, payload, 0, True)"))
fault("3.3.1-6", "some retained messages are not delivered", (ROUTER + "next_retained", "if walk.done:", "if walk.done or (message is not None and message.topic.endswith('9')):"))
fault("3.3.1-7", "QoS 0 does not replace", (ROUTER + "publish", "if retain:", "if retain and (qos or self.retained.get(topic) is None):"))
fault(
    "3.3.1-8",
    "RETAIN is 0 for a new subscription, QoS 0",
    ("mqttws.broker.link:Link.send_retained", "message.payload, 0, True)", "message.payload, 0, False)"),
)
fault("3.3.1-8", "RETAIN is 0 for a new subscription, QoS 1", (ROUTER + "next_retained", "message.payload, qos, True)", "message.payload, qos, False)"))
fault("3.3.1-9", "RETAIN is passed on, QoS 0", (ROUTER + "publish", "encode_publish(topic, payload)", "encode_publish(topic, payload, 0, retain)"))
fault("3.3.1-9", "RETAIN is passed on, QoS 1", (ROUTER + "publish", "Message(topic, payload, effective)", "Message(topic, payload, effective, retain)"))
fault("3.3.1-10", "an empty message removes nothing", (ROUTER + "publish", "if retain:", "if retain and payload:"))
fault("3.3.1-11", "an empty message is stored", (RETAINED + "set", "if message.payload and fits:", "if fits:"))
fault("3.3.1-12", "a message without RETAIN replaces", (ROUTER + "publish", "if retain:", "if retain or self.retained.get(topic) is not None:"))
fault("3.3.1-12", "the last of a run replaces",
      (ROUTER + "publish_run", "count = len(payloads)", "count = len(payloads)\n    if self.retained.get(topic) is not None:\n        self._retain(Message(topic, payloads[-1], 0, True))"))
fault("3.3.2-1", "an invalid topic is corrected", (PUBLISHING + "Publish.decode", 'reader.string("the Topic Name")', f'reader.binary(""){LENIENT}'))
fault("3.3.2-2", "wildcards in a topic", (TOPICS + "check_topic", 'if "+" in topic or "#" in topic:', "if False:"))
fault(
    "3.3.2-3",
    "'+' matches deeper levels",
    (TOPICS + "_visit", 'branches.append((children["+"], depth))', 'branches.append((children["+"], depth))\n                found.append(children["+"].values)'),
    (TOPICS + "_visit", 'depth += 1\n            node = children["+"]', 'depth += 1\n            node = children["+"]\n            found.append(node.values)'),
)
fault("3.3.4-1", "QoS 2 is answered by PUBACK", (RECEIVER + "answers", "PubRec.header", "PubAck.header"))
fault("3.3.5-1", "the first filter decides the QoS", ("mqttws.broker.subscriptions:Subscriptions._collect", "granted.get(key, -1) < qos", "key not in granted"))
fault("3.3.5-2", "a denied message is never answered", (ROUTER + "publish_from", "return verdict.acknowledge", "return False"))
fault("3.3.5-2", "a denied message is delivered", (ROUTER + "publish_from", "if not verdict.allowed:", "if False:"))

# §3.8 to §3.14

fault("3.8.3-1", "an invalid filter is corrected", (SUBSCRIBING + "Subscribe.decode", 'reader.string("a Topic Filter")', f'reader.binary(""){LENIENT}'))
fault("3.8.3-3", "no filter at all", (SUBSCRIBING + "Subscribe.__init__", "if not self.topic_filters:", "if False:"))
fault("3.8.3-3", "a caller's empty list", ("mqttws.protocol.session:Session.subscribe", "if not topic_filters:", "if False:"),
      ("mqttws.client.pending:Pending.subscribe", "Subscribe(1, tuple(wanted))", "pass"),
      (SUBSCRIBING + "Unsubscribe.__init__", "if not self.topic_filters:", "if False:"))
fault("3.8.3-4", "any QoS may be requested", (SUBSCRIBING + "Subscribe.__init__", "check_qos(qos,", "check_qos(0,"))
fault(
    "3.8.4-1",
    "no SUBACK if all filters are refused",
    (HANDLER + "_on_subscribe", "self._connection.suback(", "min(return_codes) < 3 and self._connection.suback("),
)
fault("3.8.4-2", "SUBACK has another identifier", (HANDLER + "_on_subscribe", "suback(subscribe.packet_id", "suback(subscribe.packet_id % 7 + 1"))
fault("3.8.4-3", "the first subscription is kept", (TOPICS + "TopicTree.set", "node.values[key] = value", "node.values.setdefault(key, value)"))
fault("3.8.4-3", "no retained messages for a repeated subscription",
      (ROUTER + "_subscribe", "subscriptions = subscriber.session.subscriptions", "subscriptions = subscriber.session.subscriptions\n    known = topic_filter in subscriptions"),
      (ROUTER + "_subscribe", "if wanted and not shared:", "if wanted and not shared and not known:"))
fault("3.8.4-4", "the same filter twice counts once", (ROUTER + "subscribe", "topic_filters = list(topic_filters)", "topic_filters = list(dict(topic_filters).items())"))
fault("3.8.4-5", "SUBACK has the requested QoS, not the granted one", (ROUTER + "_grant", "return min(qos, verdict.max_qos)", "return qos"))
fault("3.8.4-6", "the granted QoS is ignored", (ROUTER + "publish", "effective = min(qos, maximum)", "effective = qos"))
fault("3.8.4-6", "the QoS is raised to the granted one", (ROUTER + "publish", "effective = min(qos, maximum)", "effective = maximum"))
fault("3.9.3-1", "the codes are in another order", (HANDLER + "_on_subscribe", "subscribe.packet_id, return_codes)", "subscribe.packet_id, sorted(return_codes))"))
fault("3.9.3-2", "any return code is accepted", (SUBSCRIBING + "SubAck.__init__", "if code not in (0, 1, 2, FAILURE):", "if False:"))
fault("3.10.3-1", "an invalid filter is corrected", (SUBSCRIBING + "Unsubscribe.decode", 'reader.string("a Topic Filter")', f'reader.binary(""){LENIENT}'))
fault("3.10.3-2", "no filter at all", (SUBSCRIBING + "Unsubscribe.__init__", "if not self.topic_filters:", "if False:"))
fault(
    "3.10.4-1",
    "filters are compared without case",
    (
        ROUTER + "unsubscribe",
        "for topic_filter in topic_filters:",
        "for topic_filter in [known for known in list(subscriber.session.subscriptions)\n"
        "                         if known.lower() in {one.lower() for one in topic_filters}]:",
    ),
)
fault("3.10.4-2", "the subscription is kept", (ROUTER + "unsubscribe", "self._subscriptions.discard(topic_filter, subscriber)", "pass"))
fault(
    "3.10.4-3",
    "started deliveries are dropped",
    (ROUTER + "unsubscribe", "self._subscriptions.discard(topic_filter, subscriber)", "self._subscriptions.discard(topic_filter, subscriber); subscriber.session.sender.clear()"),
)
fault("3.10.4-4", "UNSUBACK has another identifier", (HANDLER + "_on_unsubscribe", "(event.unsubscribe.packet_id)", "(event.unsubscribe.packet_id % 7 + 1)"))
fault(
    "3.10.4-5",
    "no UNSUBACK if nothing was deleted",
    (HANDLER + "_on_unsubscribe", "assert self.subscriber is not None", "known = set(self.subscriber.session.subscriptions) & set(event.unsubscribe.topic_filters)"),
    (HANDLER + "_on_unsubscribe", "self._connection.unsuback(", "known and self._connection.unsuback("),
)
fault("3.10.4-6", "only the first filter is removed", (ROUTER + "unsubscribe", "for topic_filter in topic_filters:", "for topic_filter in list(topic_filters)[:1]:"))
fault(
    "3.12.4-1",
    "several pings are answered once",
    (SERVER + "_on_pingreq", "self._out.append(_PINGRESP)", "self._out[-1:] == [_PINGRESP] or self._out.append(_PINGRESP)"),
)
fault("3.14.4-1", "the client does not close", (CLIENT + "disconnect", "self.close()", "pass"))
fault("3.14.4-2", "a ping after DISCONNECT", (CLIENT + "disconnect", "self._send(Disconnect())", "self._send(Disconnect()); self._send(PingReq())"))
fault("3.14.4-3", "the will is published after DISCONNECT", (HANDLER + "_on_closed", "event.error is not None and", ""))

# §4: operational behaviour

fault("4.1.0-1", "a server drops the session at the end of the connection", (REGISTRY + "detach", "if subscriber.clean_session or subscriber.expiry == 0:", "if True:"))
fault("4.1.0-1", "a client drops received identifiers", (RECEIVER + "begin", "if not session_present:", "if True:"))
fault("4.1.0-2", "a session expires while it is connected", (REGISTRY + "attach", "self._away.pop(known, None)", "pass"))
fault("4.3.1-1", "DUP with QoS 0", (PUBLISHING + "encode_publish", "return (_RETAINED if retain else _PLAIN)[length]", "return bytes((0x39 if retain else 0x38, length))"))
fault("4.3.2-1", "DUP at the first sending", (SENDER + "take_ready", "retain, False, packet_id", "retain, qos == 1, packet_id"))
fault("4.3.2-2", "a copy after the PUBACK is ignored",
      (RECEIVER + "receive", "self._unanswered[0].append(incoming)\n        return True", "self._unanswered[0].append(incoming)\n        incoming.taken = publish.dup\n        return not publish.dup"))
fault("4.3.3-1", "PUBLISH again after PUBREC", (SENDER + "resume", "in self._published.items()", "in (*self._released.items(), *self._published.items())"))
fault("4.3.3-2", "every copy is delivered", (RECEIVER + "receive", "packet_id not in self._received", "True"))
fault("4.3.3-2", "copies are answered once", (RECEIVER + "receive", "repeated.copies += 1", "repeated.copies = 1"))
fault("4.4.0-1", "no PUBREL on reconnecting", (SENDER + "resume", "= [(0, PubRel(packet_id)) for packet_id in self._released]", "= []"))
fault("4.5.0-1", "the last subscriber is skipped", (ROUTER + "publish", "for subscriber, maximum in recipients:", "for subscriber, maximum in list(recipients)[:19]:"))
fault(
    "4.5.0-2",
    "messages without a subscription are not answered",
    (MACHINE + "_on_publish", "packet_id = publish.packet_id", 'if type(self).__name__ == "ClientMachine" and not self.session.subscriptions:\n        return\n    packet_id = publish.packet_id'),
)
fault("4.6.0-1", "retransmission in another order", (SENDER + "resume", "in self._published.items()", "in reversed(self._published.items())"))
fault("4.6.0-2", "PUBACKs by identifier", (RECEIVER + "answers", "while qos_2 and", "answers.sort()\n    while qos_2 and"))
fault("4.6.0-3", "PUBRECs by identifier", (RECEIVER + "answers", "return answers", "return [each for each in answers if each[:1] == PubAck.header[:1]] + sorted(each for each in answers if each[:1] != PubAck.header[:1])"))
fault("4.6.0-4", "PUBRELs by identifier", (SENDER + "resume", "for packet_id in self._released]", "for packet_id in sorted(self._released)]"))
for number in ("4.6.0-5", "4.6.0-6"):
    fault(number, "the newest first", (SENDER + "enqueue", "self.queue.append(", "self.queue.appendleft("))
fault("4.7.1-1", "'+' in a topic", (TOPICS + "check_topic", 'if "+" in topic or "#" in topic:', 'if "#" in topic:'))
fault("4.7.1-2", "'#' anywhere", (TOPICS + "check_topic_filter", 'if "#" in topic_filter and', "if False and"))
fault("4.7.1-3", "'+' within a level", (TOPICS + "check_topic_filter", 'if "+" in topic_filter and', "if False and"))
fault("4.7.2-1", "'#' matches $SYS", (TOPICS + "_branches", 'topic[:1] != "$"', "True"))
fault("4.7.2-1", "'#' delivers retained $ topics", ("mqttws.broker.retained:_Node.after", "if skip_dollar and", "if False and"))
fault("4.7.2-1", "'#' matches $SYS for a client", (TOPICS + "topic_matches", 'if topic_filter[0] in "+#" and', "if False and"))
fault("4.7.3-1", "an empty topic", (TOPICS + "check_topic", "if not topic:", "if False:"))
fault("4.7.3-1", "an empty filter", (TOPICS + "check_topic_filter", "if not topic_filter:", "if False:"))
fault(  # either check would be enough
    "4.7.3-2",
    "U+0000 in a topic or a filter",
    (WIRE + "decode_text", r'if "\0" in text', "if False"),
    (WIRE + "encode_string", r'if "\0" in text', "if False"),
)
fault("4.7.3-2", "U+0000 in a caller's filter", (WIRE + "encode_string", r'if "\0" in text', "if False"))
fault("4.7.3-3", "a long topic is truncated", (WIRE + "encode_binary", "if length > MAX_UINT16:", "data, length = data[:MAX_UINT16], min(length, MAX_UINT16)\n    if False:"))
fault("4.7.3-4", "filters without case", (TOPICS + "TopicTree.set", 'in topic_filter.split("/")', 'in topic_filter.lower().split("/")'))
fault("4.7.3-4", "an empty level is dropped", (TOPICS + "Search.__init__", 'topic.split("/")', '[level for level in topic.split("/") if level]'))
fault("4.8.0-1", "a server continues after a violation", (SERVER + "_remote_fault", "self.close(error)", "pass"))
fault("4.8.0-1", "a client continues after a violation", (CLIENT + "_remote_fault", "self.close(error)", "pass"))
fault("4.8.0-2", "a broker continues after an error", (HANDLER + "fail", 'self.cut(ConnectionClosed("an error in the broker or in a hook"), now)', "pass"))

# §6, §7, and the rules without a number

fault(
    "6.0.0-1",
    "a text frame is accepted",
    (
        FRAMING + "WebSocketFraming._receive_unusual",
        "if isinstance(event, BytesMessage):\n            payloads.append(bytes(event.data))",
        "if isinstance(event, (BytesMessage, TextMessage)):\n"
        "            payloads.append(event.data.encode() if isinstance(event.data, str) else bytes(event.data))",
    ),
)
fault(
    "6.0.0-2",
    "only the last fragment is processed",
    (FRAMING + "WebSocketFraming._receive_unusual", "payloads.append(bytes(event.data))", 'payloads.append(bytes(event.data) if event.message_finished else b"")'),
)
fault("6.0.0-2", "only one packet of a message is processed", ("mqttws.codec.decoder:Decoder._cut", "while position < last:", "while position < last and not packets:"))
fault("6.0.0-3", "another subprotocol is offered", (CLIENT_HANDSHAKE + "ClientWebSocket._upgrade_lines", 'self._subprotocol.encode("ascii")', 'b"mqttv3.1"'))
fault("6.0.0-4", "a client accepts any answer", (CLIENT_HANDSHAKE + "ClientWebSocket._accepted", "if subprotocol == self._subprotocol:", "if True:"))
fault("6.0.0-4", "a server selects no subprotocol", (HANDSHAKE + "ServerWebSocket.accept_upgrade", 'b"Sec-WebSocket-Protocol", subprotocol.encode()', 'b"X-Protocol", subprotocol.encode()'))
fault(
    "7.0.0-2",
    "an extension is required",
    (HANDLER + "_on_connect", "authenticator = self._hub.hooks.authenticator", 'authenticator = self._hub.hooks.authenticator or (lambda peer, connect: connect.username == "extension")'),
)
fault("7.1.1-1", "a broker truncates long writes", ("mqttws.broker.link:Link._write", "self._transport.write(data)", "self._transport.write(data[:1_000_000])"))
fault("7.1.2-1", "a client truncates long writes", (PLAIN + "Framing.send", "self._out.append(data)", "self._out.append(data[:1_000_000])"))
fault("U-1", "a client that sends nothing is not closed", ("mqttws.protocol.server_connection:ServerConnection._time_out", "self.machine.close(", "print("))
fault("U-2", "a server that sends nothing does not time out", ("mqttws.protocol.connection:ClientConnection._time_out", "self.machine.close(", "print("))
fault("U-3", "a missing PINGRESP is not detected", (CLIENT + "handle_timeout", "if self._reading and self._ping_sent is not None and", "if False and"))
fault("U-4", "a refusal without a CONNACK", (HANDLER + "_answer_connect", "connection.refuse(answer.return_code, now)", 'connection.close(ConnectionClosed(""), now)'))
fault("U-5", "control characters in topics", (LIMITS + "check_topic", "if not self.control_characters and", "if False and"))
fault("U-5", "control characters in client identifiers", (LIMITS + "objection_to_client_id", "if not self.control_characters and", "if False and"))
fault("U-6", "clients exchange messages over $ topics", (ROUTER + "is_reserved", 'return topic.startswith("$") and', "return False and"))
fault("U-7", "one client's error ends the others", (HANDLER + "fail", "self.cut(", "[link.abort() for link in self._hub.admission.all]; self.cut("))
fault("U-8", "a fifth byte of the remaining length", (WIRE + "decode_remaining_length", "min(start + 4, len(data))", "min(start + 5, len(data))"),
      (WIRE + "decode_remaining_length", "len(data) - start >= 4", "len(data) - start >= 5"))
fault("U-9", "the bound is not checked", ("mqttws.codec.decoder:Decoder._keep", "if size > self.max_packet_size:", "if False:"))
fault("U-9", "the maximum is less than 268,435,455 bytes", (WIRE + "encode_remaining_length", "if length > MAX_REMAINING_LENGTH:", "if length > 2_097_151:"))
fault("U-10", "retransmission without a reconnect", (MACHINE + "_send_ready", "assert session is not None", "assert session is not None\n    self._out += [one.packet(dup=True).encode() for one in session.sender._published.values()]"))
fault("U-11", "lost subscriptions are not restored", ("mqttws.protocol.session:Session.restore", "if not session_present:", "if False:"))
fault("U-12", "an unrequested session is accepted", (CLIENT + "_on_connack", "if packet.session_present and self._connect.clean_session:", "if False:"))
