"""The payload of a long message while it arrives, collected without a second copy."""

from __future__ import annotations

from io import BytesIO

from mqttws.hints import Final

#: How many times the bytes that have arrived a buffer may have space for.
_AHEAD: Final = 16


class Payload:
    """A buffer for a payload whose size is known.

    A `BytesIO` that was made from bytes writes into them if nothing else refers to them, and returns them. So a payload
    is copied once, from the data. A peer can announce a long message and not send it; therefore the buffer is not made
    at once: it has space for 16 times what has arrived, and is replaced when it is full, once or twice for a message.

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
            self._space = min(self._size, _AHEAD * end)
            buffer = BytesIO(bytes(self._space))
            buffer.write(self._buffer.getbuffer()[: self._end])
            self._buffer = buffer
        self._buffer.write(data)
        self._end = end

    def take(self) -> bytes:
        """Return the payload. Call this once it is complete."""
        return self._buffer.getvalue()
