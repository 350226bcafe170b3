"""What asyncio's transports are asked beyond their interface; those of other event loops need none of it."""

from __future__ import annotations

import asyncio

from mqttws.transport.dial import READ_SIZE


def read_less(transport: asyncio.BaseTransport) -> None:
    """Have a transport ask for no more than `READ_SIZE` at once.

    Asyncio's ask for 256 KiB. However little a read brings, so much is set aside for it, and where the allocator has to
    fetch it from the system and give it back, that takes 13 us. A TLS transport has one buffer of that size, which
    it keeps; it is left as it is.
    """
    if hasattr(transport, "max_size"):
        transport.max_size = READ_SIZE


def free(transport: asyncio.BaseTransport) -> None:
    """Let a transport that is over be freed at once: asyncio's hold a method of themselves.

    The garbage collector comes the more seldom the less garbage there is: it would let them gather for an hour.
    """
    getattr(transport, "__dict__", {}).pop("_read_ready_cb", None)
