"""`publish_nowait` of the blocking client, the method that programs call most often.

It has its own class, because the compiled build compiles that. `Client` inherits from it and stays interpreted.
"""

from __future__ import annotations

import time
from _thread import RLock
from collections.abc import Callable

from mqttws.client.options import Options
from mqttws.codec.publishing import AT_MOST_ONCE, Message, as_payload, encode_publish
from mqttws.hints import TYPE_CHECKING, Any, Final, mypyc_attr
from mqttws.sync.future import LightFuture, Receipt
from mqttws.sync.owner import Owner

if TYPE_CHECKING:
    from concurrent.futures import Future  # which imports `logging`

    from mqttws.protocol.ages import Age

#: Calls that are at most this many seconds apart belong to one burst.
BURST = 20e-6
# The methods of the lock as functions of it. Compiled code looks methods of an `RLock` up by their names for each call.
_acquire: Final = RLock.acquire
_release: Final = RLock.release
_is_owned: Final[Callable[[Any], bool]] = RLock._is_owned  # type: ignore[attr-defined]


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
    ) -> Future[None]:
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

        Spec: §3.3, §4.3
        """
        network = self._network
        pending = network.core.pending
        future: LightFuture
        if self._has_ages or expire_after is not None:
            message, age = Message(topic, payload, qos, retain), self._age(expire_after)
            core = network.core
            if not core.running:  # there is no thread that would expire old messages
                network.call(core.pass_time, time.monotonic())
            future = network.request(pending.publish_safe, message, age)
            if not core.running and not network.owned():
                core.callbacks.run()
            return future
        # The same as `request`, inlined for speed. Python calls `_is_owned` fastest by the class of the lock.
        if qos is not AT_MOST_ONCE:
            message = Message(topic, payload, qos, retain)
            if _is_owned(network.rlock):
                return network.request(pending.publish_safe, message)
            try:
                with network.lock:
                    if network.posted:
                        network.take_posted()
                    sent = None if network.woken else network.publish_at_once(message, BURST)
                    if sent is not None:
                        future = sent[1]
                    else:
                        future = pending.publish(message)[1]
                        if not network.woken:
                            network.wake()
            except BaseException:
                network.wake_after_failure()
                raise
        else:
            if type(payload) is not bytes:
                payload = as_payload(payload)
            packet = encode_publish(topic, payload, 0, retain)
            rlock = network.rlock
            if _is_owned(rlock):
                return network.request(pending.publish_packet, packet)
            # This releases the lock as certainly as `with` does, and takes a tenth less of the whole call. No signal
            # handler runs between an exception in the `try` clause and the call of `release` in its handler: Python
            # runs handlers after a call, not before.
            try:
                _acquire(rlock)
                if network.posted:
                    network.take_posted()
                if network.woken and pending.queues_directly:
                    # What `publish_packet` does then, without two calls.
                    receipt: Receipt = Receipt()
                    receipt.sent = pending.sent
                    receipt.token = pending.sender.enqueue_packet(packet)
                    _release(rlock)
                    return receipt
                if not network.woken and network.send_at_once(packet, BURST):
                    future = Receipt.make(pending.sent, 0)
                else:
                    future = pending.publish_packet(packet)
                    network.wake()
                _release(rlock)
            except BaseException:
                try:
                    _release(rlock)
                except RuntimeError:  # interrupted before the lock was acquired, or after it was released
                    pass
                network.wake_after_failure()
                raise
        if not network.core.running:  # no thread would settle the future of a message that was dropped for this one
            network.core.callbacks.run()
        return future

    def _age(self, expire_after: float | None) -> Age | None:
        """Return the age of a message that is published now."""
        return self._options.age(expire_after, time.monotonic(), time.time())
