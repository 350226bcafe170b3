"""The payload of a long message while it arrives, collected without a second copy."""

from __future__ import annotations

from io import BytesIO

from mqttws.hints import Final

#: The ratio of the sizes of two buffers. It is a bound on the space for bytes that have not arrived.
_AHEAD: Final = 16


class Payload:
    """A buffer for a payload whose size is known.

    A `BytesIO` that was made from bytes writes into them if nothing else refers to them, and returns them. So a payload
    is copied once, from the data, or not at all if the data is read into `space`. A peer can announce a long message
    and not send it. Therefore the buffer has space for less than 16 times what has arrived. When it is full, one of 16
    times its size replaces it, so that the last one has the size of the payload.

    Args:
        size: The size of the payload in bytes.

    Attributes:
        size: The same.
    """

    __slots__ = ("_buffer", "_end", "_space", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._buffer = BytesIO()
        self._end = 0
        self._space = 0

    def add(self, data: bytes | memoryview) -> None:
        """Append data, at most as much as is missing."""
        end = self._end + len(data)
        if end > self._space:
            self._grow(end)
        self._buffer.getbuffer()[self._end : end] = data
        self._end = end

    def space(self) -> memoryview:
        """Return the memory for the next bytes, at least one. Call this only while some are missing.

        The caller releases it; see `Decoder.payload_buffer`.
        """
        if self._end == self._space:
            self._grow(self._end + 1)
        return self._buffer.getbuffer()[self._end : self._space]

    def fill(self, count: int) -> None:
        """Record that a number of bytes was written into the `space`."""
        self._end += count

    def _grow(self, end: int) -> None:
        """Replace the buffer by one with space for `end` bytes in all."""
        space = self.size
        while space // _AHEAD >= end:
            space //= _AHEAD
        buffer = BytesIO(bytes(space))
        if self._end:
            buffer.getbuffer()[: self._end] = self._buffer.getbuffer()[: self._end]
        self._buffer, self._space = buffer, space

    def take(self) -> bytes:
        """Return the payload. Call this once it is complete."""
        return self._buffer.getvalue()
