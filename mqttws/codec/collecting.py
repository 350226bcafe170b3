"""The payload of a long message while it arrives, collected without a second copy."""

from __future__ import annotations

from io import BytesIO

from mqttws.hints import Final

#: The ratio of the sizes of two buffers. It is a bound on the space for bytes that have not arrived.
_AHEAD: Final = 16


class Payload:
    """A buffer for a payload whose size is known.

    A `BytesIO` that was made from bytes writes into them if nothing else refers to them, and returns them. So a payload
    is copied once, from the data. A peer can announce a long message and not send it. Therefore the buffer has space
    for less than 16 times what has arrived. When it is full, one of 16 times its size replaces it, so that the last one
    has the size of the payload.

    Args:
        size: The size of the payload in bytes.
    """

    __slots__ = ("_buffer", "_end", "_size", "_space")

    def __init__(self, size: int) -> None:
        self._size = size
        self._buffer = BytesIO()
        self._end = 0
        self._space = 0

    def add(self, data: bytes | memoryview) -> None:
        """Append data, at most as much as is missing."""
        end = self._end + len(data)
        if end > self._space:
            space = self._size
            while space // _AHEAD >= end:
                space //= _AHEAD
            self._space = space
            before = self._buffer.getbuffer()[: self._end]
            if space - end < end:  # most of it is there: adding zeros is faster than clearing the whole space first
                self._buffer = BytesIO(b"".join((before, data, bytes(space - end))))
                self._buffer.seek(end)
            else:
                self._buffer = BytesIO(bytes(space))
                self._buffer.write(before)
                self._buffer.write(data)
        else:
            self._buffer.write(data)
        self._end = end

    def take(self) -> bytes:
        """Return the payload. Call this once it is complete."""
        return self._buffer.getvalue()
