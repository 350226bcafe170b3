"""`publish_nowait` of the asyncio client, the method that programs call most often.

It has its own class, because the compiled build compiles that. `Client` inherits from it and stays interpreted.
"""

from __future__ import annotations

import asyncio
import time
from threading import get_ident

from mqttws.aio.owner import Owner
from mqttws.client.options import Options
from mqttws.codec.publishing import AT_MOST_ONCE, Message, as_payload, encode_publish
from mqttws.hints import TYPE_CHECKING, mypyc_attr

if TYPE_CHECKING:
    from mqttws.protocol.ages import Age


@mypyc_attr(allow_interpreted_subclasses=True)
class Publisher:
    """The publishing half of a client.

    Args:
        options: The options of the client.
        network: The owner of the client's core.
    """

    def __init__(self, options: Options, network: Owner) -> None:
        self._options = options
        self._network = network
        self._has_ages = options.expire_after is not None or options.store is not None

    def publish_nowait(
        self,
        topic: str,
        payload: bytes | str = b"",
        qos: int = 0,
        retain: bool = False,
        expire_after: float | None = None,  # not keyword-only: Python 3.11 calls such functions slower, by 3 %
    ) -> asyncio.Future[None]:
        """Queue a message for publishing; also before `open` and while disconnected.

        Args:
            topic: A Topic Name: 1 to 65,535 bytes of UTF-8, without wildcards.
            payload: Bytes, or a str, which is encoded as UTF-8; at most 256 MiB with the topic.
            qos: 0, 1 or 2.
            retain: Whether the server keeps the message for later subscribers.
            expire_after: Seconds, above 0, that the message may wait to be sent; infinity for no limit; None: the
                `expire_after` of the options.

        Returns:
            A future that is done when `publish` would return.

        Raises:
            LocalProtocolError: The topic or the QoS is not valid.
            QueueFull: Too many messages are already waiting; nothing has changed.
            StoreError: The message cannot be stored; nothing has changed.
            RuntimeError: No event loop runs, and the client was not used in one before; nothing has changed.

        Spec: §3.3, §4.3
        """
        network, pending = self._network, self._network.core.pending
        if self._has_ages or expire_after is not None:
            message, age = Message(topic, payload, qos, retain), self._age(expire_after)
            future = network.request(pending.publish_safe, message, age)
            network.await_expiry()
            return future
        # A later message of the same turn of the loop is published as by `request`, inlined for speed.
        inlined = network.flushing and network.flusher == get_ident() and not network.busy and not network.posted
        if qos is not AT_MOST_ONCE:
            message = Message(topic, payload, qos, retain)
            if not inlined:
                return network.request(pending.publish_safe, message)
            network.busy = network.unflushed = True
            try:
                return pending.publish(message)[1]
            finally:
                network.busy = False
        packet = encode_publish(topic, payload if type(payload) is bytes else as_payload(payload), 0, retain)
        if not inlined:
            return network.request(pending.publish_packet, packet)
        network.busy = network.unflushed = True
        try:
            if pending.queues_directly:
                return network.make_receipt(pending.sent, pending.sender.enqueue_packet(packet))
            return pending.publish_packet(packet)
        finally:
            network.busy = False

    def _age(self, expire_after: float | None) -> Age | None:
        """Return the age of a message that is published now."""
        return self._options.age(expire_after, time.monotonic(), time.time())
