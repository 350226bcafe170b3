"""The fuzzer's targets with the corpus, with mutated bytes, and with hypothesis."""

from __future__ import annotations

from pathlib import Path

import packet_strategies as some
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from targets import TARGETS

from mqttws.protocol.frames import binary_frame

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    "path", sorted((HERE / "corpus").glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_the_corpus_keeps_the_invariants(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_mutated_bytes_keep_the_invariants(target: str, mutate) -> None:
    thrown, count = mutate.run(target, 200_000, seed=1)
    assert thrown >= 200_000
    assert count > 100


def test_the_same_seed_gives_the_same_inputs(mutate) -> None:
    def some_inputs(seed: int) -> list[bytes]:
        generator = mutate.inputs(mutate.seeds_of("decoder"), seed)
        return [next(generator) for _ in range(50)]

    assert some_inputs(7) == some_inputs(7)
    assert some_inputs(7) != some_inputs(8)


def test_a_violated_invariant_is_reported_with_its_input(mutate, monkeypatch) -> None:
    def broken(data: bytes) -> None:
        assert b"\xff" not in data

    monkeypatch.setitem(TARGETS, "decoder", broken)
    with pytest.raises(AssertionError) as caught:
        mutate.run("decoder", 100_000)
    assert "target decoder, input b'" in caught.value.__notes__[0]


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.binary(max_size=200))
def test_any_bytes(target: str, data: bytes) -> None:
    TARGETS[target](data)


_PACKETS = st.lists(some.packets.map(lambda packet: packet.encode()), max_size=6).map(b"".join)


@pytest.mark.parametrize("target", ["decoder", "server", "client"])
@given(stream=_PACKETS, rest=st.binary(max_size=10))
@example(stream=b"", rest=bytes.fromhex("38862f1b0000"))  # a topic longer than its packet, which is too large itself
def test_any_packets(target: str, stream: bytes, rest: bytes) -> None:
    TARGETS[target](stream + rest)


@given(st.lists(st.tuples(_PACKETS, st.booleans()), max_size=4), st.binary(max_size=10))
def test_any_frames(messages: list[tuple[bytes, bool]], rest: bytes) -> None:
    stream = b"".join(binary_frame(payload, b"abcd" if masked else None) for payload, masked in messages)
    TARGETS["frames"](stream + rest)


@given(st.lists(st.one_of(some.topics, some.topic_filters), max_size=12))
def test_any_topics(lines: list[str]) -> None:
    TARGETS["topics"]("\n".join(lines).encode())
