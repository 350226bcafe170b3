"""Codecs: the conversion of published values to payloads, and of payloads to received values.

A codec is any object with the methods `encode(value) -> bytes` and `decode(payload) -> value`. `JSON` is the default.
Its decoding never fails: a payload that is not JSON is returned as text, and a payload that is not text as bytes. So no
message of another publisher is dropped.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn, Protocol

__all__ = ["BYTES", "JSON", "TEXT", "Codec"]


class Codec(Protocol):
    """The interface of a codec."""

    def encode(self, value: Any) -> bytes:
        """Return the payload of a value.

        Args:
            value: The published value.

        Raises:
            ValueError, TypeError: The value cannot be encoded.
        """

    def decode(self, payload: bytes) -> Any:
        """Return the value of a payload. Any exception is reported to the observer as `DecodeFailed`.

        Args:
            payload: The received bytes.
        """


def check_codec(codec: Any) -> Any:
    """Return a codec, after a check that it is one.

    Raises:
        TypeError: It has no methods `encode` and `decode`; or it is text, whose methods of those names are others.
    """
    if isinstance(codec, (str, bytes, bytearray)) or not all(hasattr(codec, name) for name in ("encode", "decode")):
        raise TypeError(f"codec must be an object with the methods encode and decode, not {type(codec).__name__}")
    return codec


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")  # RFC 8259, section 6


_DECODER = json.JSONDecoder(parse_constant=_refuse)  # NaN, Infinity, -Infinity
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class _JSON:
    """JSON in UTF-8, without spaces. Bytes are published unchanged."""

    def encode(self, value: Any) -> bytes:
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        try:
            text = _ENCODER.encode(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise type(error)(f"a {type(value).__name__} cannot be published as JSON: {error}") from None
        return _encode(text, value)

    def decode(self, payload: bytes) -> Any:
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            return payload
        try:
            return _DECODER.decode(text)
        except (ValueError, RecursionError):
            return text

    def __repr__(self) -> str:
        return "pubsub.JSON"


def _encode(text: str, value: object) -> bytes:
    """Encode a text in UTF-8.

    Raises:
        ValueError: The text contains a lone surrogate.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        surrogate = ord(text[error.start])
        raise ValueError(
            f"a {type(value).__name__} cannot be published: it contains the surrogate U+{surrogate:04X}, which UTF-8 "
            "cannot encode"
        ) from None


class _Text:
    """Text in UTF-8. Decoding fails for other payloads."""

    def encode(self, value: Any) -> bytes:
        if not isinstance(value, str):
            raise TypeError(f"the text codec publishes a str, not a {type(value).__name__}")
        return _encode(value, value)

    def decode(self, payload: bytes) -> str:
        return payload.decode()

    def __repr__(self) -> str:
        return "pubsub.TEXT"


class _Bytes:
    """Payloads as bytes, unchanged."""

    def encode(self, value: Any) -> bytes:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise TypeError(f"the bytes codec publishes bytes, not a {type(value).__name__}")
        return bytes(value)

    def decode(self, payload: bytes) -> bytes:
        return payload

    def __repr__(self) -> str:
        return "pubsub.BYTES"


JSON: Codec = _JSON()
TEXT: Codec = _Text()
BYTES: Codec = _Bytes()
