"""Hypothesis strategies for the arguments of the codec: strings, topics, filters, messages, packets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

from mqttws import (
    ConnAck,
    Connect,
    Disconnect,
    Message,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)

# The characters allowed in a UTF-8 string of MQTT: no surrogates, no U+0000.
_CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
#: Few letters, so that topics often match filters; the special ones make levels differ from file names.
_LEVEL = st.text(st.sampled_from("abc é$\ufeff"), max_size=3)

text = st.text(_CHARACTERS, max_size=20)
packet_ids = st.integers(1, 65_535)
qos = st.integers(0, 2)
topics = st.one_of(
    st.lists(_LEVEL, min_size=1, max_size=5).map("/".join),
    st.text(_CHARACTERS.filter(lambda character: character not in "+#"), min_size=1, max_size=20),
).filter(bool)
topic_filters = st.builds(
    lambda levels, tail: "/".join(levels + tail),
    st.lists(st.one_of(_LEVEL, st.just("+")), min_size=0, max_size=5),
    st.sampled_from([[], ["#"]]),
).filter(bool)
payloads = st.one_of(st.binary(max_size=40), st.binary(min_size=120, max_size=140))
messages = st.builds(Message, topics, payloads, qos, st.booleans())


@st.composite
def connects(draw: st.DrawFn) -> Connect:
    client_id = draw(text)
    username = draw(st.none() | text)
    return Connect(
        client_id,
        draw(st.booleans()) if client_id else True,
        draw(st.integers(0, 65_535)),
        draw(st.none() | messages),
        username,
        None if username is None else draw(st.none() | st.binary(max_size=20)),
        draw(st.sampled_from([3, 4])),
    )


@st.composite
def publishes(draw: st.DrawFn) -> Publish:
    level = draw(qos)
    return Publish(
        draw(topics),
        draw(payloads),
        level,
        draw(st.booleans()),
        draw(st.booleans()) if level else False,
        draw(packet_ids) if level else None,
    )


packets = st.one_of(
    connects(),
    st.builds(ConnAck, st.integers(0, 5)) | st.builds(ConnAck, st.just(0), st.booleans()),
    publishes(),
    *(st.builds(cls, packet_ids) for cls in (PubAck, PubRec, PubRel, PubComp, UnsubAck)),
    st.builds(Subscribe, packet_ids, st.lists(st.tuples(topic_filters, qos), min_size=1, max_size=5)),
    st.builds(SubAck, packet_ids, st.lists(st.sampled_from([0, 1, 2, 0x80]), min_size=1, max_size=5)),
    st.builds(Unsubscribe, packet_ids, st.lists(topic_filters, min_size=1, max_size=5)),
    st.builds(PingReq),
    st.builds(PingResp),
    st.builds(Disconnect),
)


def cuts(size: int) -> st.SearchStrategy[list[int]]:
    """Return ascending offsets at which to cut `size` bytes; pieces may be empty."""
    return st.lists(st.integers(0, size), max_size=8).map(sorted)


def pieces(data: bytes, offsets: list[int]) -> list[bytes]:
    """Cut data at the offsets."""
    ends = [0, *offsets, len(data)]
    return [data[start:end] for start, end in pairwise(ends)]
