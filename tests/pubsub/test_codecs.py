"""The codecs: JSON, text and bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub import BYTES, JSON, TEXT, Codec
from pubsub.testing.messages import Recorded

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES.filter(lambda value: "\\ud" not in ascii(value)))
def test_json_reads_what_it_wrote(value: Any) -> None:
    assert JSON.decode(JSON.encode(value)) == value


@given(st.binary())
def test_json_drops_nothing(payload: bytes) -> None:
    value = JSON.decode(payload)
    if isinstance(value, bytes):
        assert value == payload
    assert JSON.encode(payload) == payload, "bytes are a payload already"


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", '{"celsius":NaN}', "[1,-Infinity]"])
def test_numbers_that_json_does_not_have_are_text(text: str) -> None:
    """RFC 8259, section 6. What was received can be published again, unchanged."""
    assert JSON.decode(text.encode()) == text
    assert Recorded("a", text.encode()).value == text


@pytest.mark.parametrize("value", [{1, 2}, object(), float("inf"), {"a": float("nan")}, 1j])
def test_json_names_the_type_that_it_cannot_encode(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"a {type(value).__name__} cannot be published as JSON"):
        JSON.encode(value)


def test_json_refuses_a_circular_value() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ValueError, match="JSON"):
        JSON.encode(value)


def test_text_codec() -> None:
    assert TEXT.encode("grüße") == "grüße".encode()
    assert TEXT.decode(b"21.5") == "21.5"
    with pytest.raises(UnicodeDecodeError):
        TEXT.decode(b"\xff")
    with pytest.raises(TypeError, match="int"):
        TEXT.encode(1)


def test_bytes_codec() -> None:
    assert BYTES.encode(bytearray(b"\xff")) == b"\xff"
    assert BYTES.encode(memoryview(b"ab")) == JSON.encode(memoryview(b"ab")) == b"ab"
    assert BYTES.decode(b"\xff") == b"\xff"
    with pytest.raises(TypeError, match="str"):
        BYTES.encode("text")


def test_codecs_have_a_readable_repr() -> None:
    assert [repr(codec) for codec in (JSON, TEXT, BYTES)] == ["pubsub.JSON", "pubsub.TEXT", "pubsub.BYTES"]


@pytest.mark.parametrize("codec", [JSON, TEXT])
def test_a_lone_surrogate_is_a_clear_error(codec: Codec) -> None:
    with pytest.raises(ValueError, match=r"surrogate U\+D800, which UTF-8 cannot encode") as raised:
        codec.encode("a\ud800")
    assert type(raised.value) is ValueError
    if codec is JSON:
        with pytest.raises(ValueError, match=r"a dict cannot be published: it contains the surrogate U\+DFFF"):
            codec.encode({"a": ["\udfff"]})
