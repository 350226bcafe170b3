"""Masking: the reference in Python compared with a naive loop, and the module in C compared with the reference."""

from __future__ import annotations

import gc
import importlib.util
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import mqttws
from mqttws.protocol import masking

KEY = b"\x37\xfa\x21\x3d"  # RFC 6455 §5.7
KEYS = st.binary(min_size=4, max_size=4)

in_c = pytest.mark.skipif(not mqttws.compiled, reason="the module in C is part of the compiled build")


def naive(payload: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[n % 4] for n, byte in enumerate(payload))


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """Return the module in Python, also in the compiled build."""
    assert masking.__file__ is not None
    path = Path(masking.__file__).with_name("masking.py")
    spec = importlib.util.spec_from_file_location("masking_in_python", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_module_in_c_is_in_the_compiled_build_only() -> None:
    assert masking.__file__ is not None
    assert masking.__file__.endswith(".py") is not mqttws.compiled


class TestMask:
    @given(st.binary(max_size=5_000), KEYS)
    @example(b"", KEY)
    @example(b"x" * 511, KEY)
    @example(b"x" * 512, KEY)
    @example(b"x" * 515, KEY)
    def test_it_is_the_naive_xor(self, reference: ModuleType, payload: bytes, key: bytes) -> None:
        assert masking.mask(payload, key) == reference.mask(payload, key) == naive(payload, key)
        assert masking.mask(memoryview(payload)[1:], key) == naive(payload[1:], key)

    @given(st.binary(max_size=1_000), KEYS, st.binary(max_size=20))
    @example(b"x" * 511, KEY, b"header")
    @example(b"x" * 512, KEY, b"header")
    def test_bytes_before_it_are_not_masked(
        self, reference: ModuleType, payload: bytes, key: bytes, before: bytes
    ) -> None:
        expected = before + naive(payload, key)
        for module in (masking, reference):
            masked = module.mask(memoryview(payload), key, before)
            assert masked == expected
            assert type(masked) is bytes

    def test_the_example_of_the_rfc(self) -> None:
        assert masking.mask(b"Hello", KEY) == bytes.fromhex("7f 9f 4d 51 58")

    def test_the_tables_are_built_when_first_needed_and_kept(
        self, reference: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reference, "_xor_tables", ())
        assert reference.mask(b"\0" * 511, KEY)[:4] == KEY
        assert reference._xor_tables == ()
        assert reference.mask(b"\0" * 512, KEY)[:4] == KEY
        tables = reference._xor_tables
        assert len(tables) == 256
        assert reference.mask(b"\0" * 512, KEY)[:4] == KEY
        assert reference._xor_tables is tables

    def test_concurrent_threads_see_complete_tables(
        self, reference: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each thread sees either no table or complete ones, which are filled only once."""
        payload = bytes(range(256)) * 4
        right = naive(payload, KEY)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for _ in range(10):
                monkeypatch.setattr(reference, "_xor_tables", ())
                with ThreadPoolExecutor(4) as pool:
                    assert set(pool.map(lambda _: reference.mask(payload, KEY), range(8))) == {right}
        finally:
            sys.setswitchinterval(interval)


class TestXor:
    @given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), max_size=200))
    def test_it_combines_each_pair(self, reference: ModuleType, pairs: list[tuple[int, int]]) -> None:
        data, keys = bytes(one for one, _ in pairs), bytes(other for _, other in pairs)
        expected = bytes(one ^ other for one, other in pairs)
        assert masking.xor(data, keys) == reference.xor(data, keys) == expected


@in_c
class TestInC:
    @given(st.binary(max_size=300), KEYS, st.integers(0, 20), st.integers(0, 20))
    def test_every_kind_of_bytes_at_every_alignment(
        self, reference: ModuleType, payload: bytes, key: bytes, start: int, cut: int
    ) -> None:
        expected = reference.mask(payload[start : len(payload) - cut], key)
        for kind in (bytes, bytearray, memoryview):
            given_payload = kind(payload)
            masked = masking.mask(memoryview(given_payload)[start : len(payload) - cut], kind(key))
            assert type(masked) is bytes
            assert masked == expected
            assert bytes(given_payload) == payload  # unchanged

    @pytest.mark.parametrize("size", [65_536, 65_543, 1_000_003])
    def test_long_payloads(self, reference: ModuleType, size: int) -> None:
        payload = bytes(range(256)) * (size // 256 + 1)
        assert masking.mask(memoryview(payload)[3 : 3 + size], KEY) == reference.mask(payload[3 : 3 + size], KEY)

    @pytest.mark.parametrize("size", [0, 1, 3, 5, 8])
    def test_a_key_of_another_size_is_refused(self, size: int) -> None:
        with pytest.raises(ValueError, match=f"a masking key has 4 bytes, not {size}"):
            masking.mask(b"payload", bytes(size))

    def test_bytes_of_two_lengths_are_refused(self) -> None:
        with pytest.raises(ValueError, match="5 bytes cannot be combined with 4"):
            masking.xor(b"12345", b"1234")

    @pytest.mark.parametrize(
        "arguments",
        [(), (b"",), (b"", KEY, 0), (b"", KEY, b"", b""), ("text", KEY), (b"", "text"), (None, KEY), (1, 2)],
    )
    @pytest.mark.parametrize("name", ["mask", "xor"])
    def test_other_arguments_are_refused(self, name: str, arguments: tuple[object, ...]) -> None:
        with pytest.raises(TypeError):
            getattr(masking, name)(*arguments)

    def test_a_view_with_gaps_is_refused(self) -> None:
        with pytest.raises(BufferError):
            masking.mask(memoryview(bytes(10))[::2], KEY)
        with pytest.raises(BufferError):
            masking.mask(bytes(10), memoryview(bytes(8))[::2])

    def test_no_buffer_is_kept(self) -> None:
        """A `bytearray` cannot be resized while something has its buffer."""
        payload, key, before = bytearray(100), bytearray(KEY), bytearray(b"header")
        masking.mask(payload, key)
        masking.mask(payload, key, before)
        masking.xor(payload, payload)
        gaps = memoryview(bytes(8))[::2]
        refused = ((payload, b"123"), (payload, None), (payload, gaps), (b"", key, 0), (payload, b"123", before))
        for arguments in refused:
            with pytest.raises((ValueError, TypeError, BufferError)):
                masking.mask(*arguments)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="cannot be combined"):
            masking.xor(payload, key)
        payload += b"!"
        key += b"!"
        before += b"!"

    def test_nothing_leaks(self) -> None:
        payload, wrong = bytes(10_000), b"123"

        def repeat(count: int) -> None:
            for _ in range(count):
                masking.mask(payload, KEY)
                masking.mask(payload, KEY, payload)
                masking.xor(payload, payload)
                for call in (masking.mask, masking.xor):
                    try:
                        call(payload, wrong)
                    except ValueError:
                        pass

        repeat(10)
        gc.collect()
        before = [sys.getrefcount(each) for each in (payload, wrong, KEY)]
        tracemalloc.start()
        try:
            repeat(10)
            kept, _ = tracemalloc.get_traced_memory()
            repeat(1_000)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - kept < len(payload)
        assert [sys.getrefcount(each) for each in (payload, wrong, KEY)] == before
