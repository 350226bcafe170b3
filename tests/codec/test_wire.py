"""Integers, strings and the remaining length, from the tables of §1.5 and §2.2.3."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttws import LocalProtocolError, MalformedPacket
from mqttws.codec.wire import (
    MAX_REMAINING_LENGTH,
    Reader,
    decode_remaining_length,
    decode_text,
    encode_binary,
    encode_remaining_length,
    encode_string,
    encode_uint16,
)

#: §2.2.3, table 2.4: the ends of each range.
LENGTHS = [
    (0, "00"),
    (127, "7f"),
    (128, "80 01"),
    (16_383, "ff 7f"),
    (16_384, "80 80 01"),
    (2_097_151, "ff ff 7f"),
    (2_097_152, "80 80 80 01"),
    (268_435_455, "ff ff ff 7f"),
]


@pytest.mark.parametrize(("length", "form"), LENGTHS)
def test_remaining_length_both_ways(length: int, form: str) -> None:
    data = bytes.fromhex(form)
    assert encode_remaining_length(length) == data
    assert decode_remaining_length(b"\x30" + data + b"rest", 1) == (length, 1 + len(data))
    for size in range(len(data)):
        assert decode_remaining_length(data[:size], 0) is None


@given(st.integers(0, MAX_REMAINING_LENGTH))
def test_remaining_length_round_trip(length: int) -> None:
    data = encode_remaining_length(length)
    assert decode_remaining_length(data, 0) == (length, len(data))
    assert 1 <= len(data) <= 4


@pytest.mark.parametrize(("form", "length"), [("80 00", 0), ("ff 00", 127), ("80 80 80 00", 0), ("81 80 00", 1)])
def test_a_longer_form_than_necessary_is_read_but_never_written(form: str, length: int) -> None:
    data = bytes.fromhex(form)
    assert decode_remaining_length(data, 0) == (length, len(data))
    assert len(encode_remaining_length(length)) < len(data)


@pytest.mark.parametrize("form", ["80 80 80 80", "ff ff ff ff", "80 80 80 80 01", "ff ff ff ff 7f"])
def test_five_bytes_of_remaining_length_are_malformed(form: str) -> None:
    with pytest.raises(MalformedPacket, match="after four bytes") as caught:
        decode_remaining_length(bytes.fromhex(form), 0)
    assert caught.value.statement == "§2.2.3"


def test_a_length_of_five_bytes_is_not_written() -> None:
    with pytest.raises(LocalProtocolError, match="268,435,456"):
        encode_remaining_length(MAX_REMAINING_LENGTH + 1)


@pytest.mark.statement("MQTT-1.5.3-1")
@pytest.mark.parametrize(
    ("text", "form"),
    [("", "0000"), ("A", "0001 41"), ("A\U0002a6d4", "0005 41 f0aa9b94"), ("\uffff", "0003 efbfbf")],
)
def test_strings_both_ways(text: str, form: str) -> None:
    data = bytes.fromhex(form)
    assert encode_string(text) == data
    reader = Reader(data + b"!", "Packet")
    assert reader.string("it") == text
    assert reader.rest("the rest") == b"!"
    assert not reader
    reader.end()


@pytest.mark.statement("MQTT-1.5.3-3")
def test_a_byte_order_mark_is_an_ordinary_character() -> None:
    assert encode_string("\ufeffa") == b"\x00\x04\xef\xbb\xbfa"
    assert decode_text(b"\xef\xbb\xbfa", "it") == "\ufeffa"


@given(st.binary(max_size=30))
def test_text_is_utf_8_as_python_decodes_it_without_u0000(data: bytes) -> None:
    try:
        expected = data.decode("utf-8")
    except UnicodeDecodeError:
        with pytest.raises(MalformedPacket, match=r"MQTT-1\.5\.3-1"):
            decode_text(data, "it")
        return
    if "\0" in expected:
        with pytest.raises(MalformedPacket, match=r"MQTT-1\.5\.3-2"):
            decode_text(memoryview(data), "it")
    else:
        assert decode_text(memoryview(data), "it") == expected


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_the_fault_names_the_surrogate(text: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"the name contains the surrogate U\+D[8F]") as caught:
        encode_string(text, "the name")
    assert caught.value.statement == "MQTT-1.5.3-1"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("text", ["\0", "\0a", "a\0b", "a\0"])
@pytest.mark.statement("MQTT-1.5.3-2")
def test_u0000_is_refused_both_ways(text: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"MQTT-1\.5\.3-2"):
        encode_string(text)
    with pytest.raises(MalformedPacket, match=r"MQTT-1\.5\.3-2"):
        decode_text(text.encode(), "it")


def test_the_longest_string() -> None:
    assert encode_string("a" * 65_535)[:3] == b"\xff\xffa"
    with pytest.raises(LocalProtocolError, match="65,536 bytes; the maximum is 65,535"):
        encode_string("a" * 65_536)
    with pytest.raises(LocalProtocolError, match="has 65,536 bytes"):
        encode_string("é" * 32_768)
    with pytest.raises(LocalProtocolError, match="binary data"):
        encode_binary(bytes(65_536))


def test_a_reader_never_reads_past_its_end() -> None:
    for read in (
        lambda reader: reader.uint16("x"),
        lambda reader: (reader.uint8("x"), reader.uint16("x")),
        lambda reader: reader.binary("x"),
        lambda reader: reader.string("x"),
    ):
        for body in (b"", b"\0"):
            with pytest.raises(MalformedPacket, match=r"Packet ends inside .*x"):
                read(Reader(body, "Packet"))
    with pytest.raises(MalformedPacket, match="expected 2 bytes, found 1"):
        Reader(b"\0\2a", "Packet").binary("x")
    with pytest.raises(MalformedPacket, match="3 surplus bytes"):
        Reader(b"abc", "Packet").end()


def test_integers() -> None:
    assert encode_uint16(0x1234) == b"\x12\x34"
    reader = Reader(b"\x12\x34\x56", "Packet")
    assert (reader.uint16("x"), reader.uint8("x")) == (0x1234, 0x56)
