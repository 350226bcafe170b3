"""Pure functions for WebSocket frames: encoding and parsing binary messages of a single frame.

Nearly all traffic consists of such frames. One loop parses complete ones: `take_plain` for a client and `take_masked`
for a server. `framing` handles all others. If frames of one size follow each other, as acknowledgements and messages of
many sensors do, their headers are at equal distances. A client then compares and removes all of them with a few
extended slices (about 30 ns per frame instead of 166).

Masking (`masking`) has a cost per call and one per byte. So short payloads that arrive together are unmasked together:
their bytes and their keys are joined, and one XOR is enough. A long payload is masked in pieces, when they are sent.

Spec: RFC 6455 §5.2, §5.3
"""

from __future__ import annotations

from mqttws.hints import Final
from mqttws.protocol.masking import mask, xor
from mqttws.protocol.outgoing import LONG

#: FIN set, no reserved bits, opcode 2: a whole binary message.
BINARY_FRAME: Final = 0x82

_NOTHING: Final = memoryview(b"")
_FIRST: Final = bytes((BINARY_FRAME,))
#: The first two bytes of a binary frame, indexed by the second.
_SHORT_HEADERS: Final = tuple(bytes((BINARY_FRAME, second)) for second in range(256))

#: The maximum number of short payloads to unmask together, so that the integers fit into the processor's cache.
_TOGETHER: Final = 64

#: After `_ALIKE` further frames of one size a run is expected, and `_RUN` frames are compared first.
_ALIKE: Final = 4
_RUN: Final = 8


def binary_frame(payload: bytes, key: bytes | None) -> bytes:
    """Return a binary message that consists of one frame.

    Args:
        payload: Any number of bytes.
        key: The masking key of 4 bytes, for a client; None for a server.
    """
    size = len(payload)
    bit = 0 if key is None else 0x80
    if size < 126:
        header = _SHORT_HEADERS[bit | size]
    elif size < 65_536:
        header = bytes((BINARY_FRAME, bit | 126)) + size.to_bytes(2, "big")
    else:
        header = bytes((BINARY_FRAME, bit | 127)) + size.to_bytes(8, "big")
    if key is None:
        return header + payload
    return mask(payload, key, header + key)


def close_frame(key: bytes | None) -> bytes:
    """Return a close frame with the code 1000 (normal closure) and without a reason.

    Args:
        key: See `binary_frame`.

    Spec: RFC 6455 §5.5.1
    """
    return b"\x88" + binary_frame(b"\x03\xe8", key)[1:]


class LongFrame:
    """A masked binary message that consists of one frame, sent in pieces. Each piece is masked when it is due.

    A piece has at least `LONG` bytes: a remainder is part of the last one.

    Args:
        before: Bytes to send first.
        payload: At least twice `LONG` bytes.
        key: The masking key, 4 bytes.
    """

    __slots__ = ("_before", "_key", "_rest")

    def __init__(self, before: bytes, payload: bytes, key: bytes) -> None:
        self._before = before + _FIRST + b"\xff" + len(payload).to_bytes(8, "big") + key
        self._rest = memoryview(payload)
        self._key = key

    @property
    def complete(self) -> bool:
        """Whether all pieces have been returned."""
        return not self._rest

    def next_piece(self) -> bytes:
        """Return the next piece. Call this only before it is `complete`."""
        rest = self._rest
        size = LONG if len(rest) >= 2 * LONG else len(rest)
        self._rest = rest[size:] or _NOTHING  # an empty view of the payload would keep it
        before, self._before = self._before, b""
        return mask(rest[:size], self._key, before)


def parse_header(data: bytes, start: int) -> tuple[int, int] | None:
    """Return the sizes of the header and the payload of the frame at an offset, without checking them.

    Return None if the header is incomplete.
    """
    if len(data) - start < 2:
        return None
    second = data[start + 1]
    size = second & 0x7F
    extended = 2 if size == 126 else 8 if size == 127 else 0
    header = 2 + extended + (4 if second & 0x80 else 0)
    if len(data) - start < header:
        return None
    if extended:
        size = int.from_bytes(data[start + 2 : start + 2 + extended], "big")
    return header, size


def header_size(size: int, masked: bool) -> int:
    """Return the size of the header with the payload length in its shortest form. Spec: RFC 6455 §5.2."""
    return (2 if size < 126 else 4 if size < 65_536 else 10) + 4 * masked


def take_short(data: bytes) -> bytes | None:
    """Return the payload of a masked binary message of 1 to 125 bytes; None if `data` is anything else.

    Args:
        data: Received bytes.
    """
    size = len(data) - 6
    if not 0 < size < 126 or data[0] != BINARY_FRAME or data[1] != size + 128:
        return None
    keys = (data[2:6] * 32)[:size]
    return xor(data[6:], keys)


def take_plain(data: bytes, position: int, payloads: list[bytes]) -> int:
    """Parse unmasked binary messages of one frame and at most 65,535 bytes, as a client receives them.

    Args:
        data: Received bytes.
        position: The offset at which a frame begins.
        payloads: The list to which payload bytes are appended, in order. Its items are not aligned with messages.

    Returns:
        The offset of the first frame that is of another kind, is incomplete, or has a length not in its shortest form.
    """
    end = len(data)
    size_before = alike = 0
    while position + 1 < end and data[position] == BINARY_FRAME:
        size = data[position + 1]
        start = position + 2
        if size > 125:
            # 126: the length is in the next two bytes. 127: a length of eight bytes. From 128 on: masked, an error.
            if size != 126 or start + 2 > end:
                break
            size = data[start] * 256 + data[start + 1]
            start += 2
            if size < 126:
                break
        elif size != size_before:
            size_before = size
            alike = 0
        else:
            alike += 1
            if alike == _ALIKE:
                position = _take_run(data, position, size, payloads)
                continue
        following = start + size
        if following > end:
            break
        payloads.append(data[start:following])
        position = following
    return position


def _take_run(data: bytes, position: int, size: int, payloads: list[bytes]) -> int:
    """Parse consecutive frames with payloads of one size, at most 125 bytes.

    The number of frames to compare doubles each time. So the frames that are compared without success are at most as
    many as those parsed, and `_RUN` more. Arguments and result are otherwise those of `take_plain`.
    """
    step = size + 2
    count = _RUN
    while True:
        frames = bytearray(data[position : position + count * step])
        whole = len(frames) // step
        # Every `step` bytes there should be the same two header bytes. `lstrip` removes those that match from the left,
        # so what remains begins with the first frame that differs.
        firsts, seconds = frames[: whole * step : step], frames[1 : whole * step : step]
        taken = min(whole - len(firsts.lstrip(_FIRST)), whole - len(seconds.lstrip(bytes((size,)))))
        # Remove the frames after the run, then the first header byte of each frame, then the second one.
        del frames[taken * step :]
        del frames[::step]
        del frames[:: step - 1]
        payloads.append(bytes(frames))
        position += taken * step
        if taken < count:
            return position
        count *= 2


def take_masked(data: bytes, position: int, payloads: list[bytes]) -> int:
    """Parse masked binary messages of one frame and at most 65,535 bytes, as a server receives them.

    Arguments and result are those of `take_plain`.
    """
    end = len(data)
    pieces: list[bytes] = []
    keys: list[bytes] = []
    while position + 5 < end and data[position] == BINARY_FRAME:
        size = data[position + 1] - 128
        start = position + 6
        if size > 125:
            if size != 126 or start + 2 > end:
                break
            size = data[position + 2] * 256 + data[position + 3]
            start += 2
            if size < 126:
                break
        elif size < 0:
            break
        following = start + size
        if following > end:
            break
        # Short payloads are collected and unmasked together. A long one is unmasked alone, after those before it.
        if pieces and (size > 125 or len(pieces) == _TOGETHER):
            payloads.append(xor(b"".join(pieces), b"".join(keys)))
            pieces.clear()
            keys.clear()
        key = data[start - 4 : start]
        if size > 125:
            payloads.append(mask(data[start:following], key))
        else:
            pieces.append(data[start:following])
            keys.append((key * 32)[:size])
        position = following
    if pieces:
        payloads.append(xor(b"".join(pieces), b"".join(keys)))
    return position
