"""A store on a full disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_disk import small_disk

from mqttws import SQLiteStore, StoreError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def test_deleted_records_do_not_fill_a_small_disk(folder: Path) -> None:
    """Each commit appends to the write-ahead log, which would otherwise be truncated only every 4 MB."""
    with small_disk(folder, "128k"), SQLiteStore(folder / "s.db") as store:
        for number in range(200):
            store.put(b"key", b"%d" % number)
            store.commit()
            store.delete(b"key")
            store.commit()
        assert store.load(b"") == []


def test_a_full_disk_is_an_error_and_stored_records_stay(folder: Path) -> None:
    with small_disk(folder, "256k"):
        with SQLiteStore(folder / "s.db") as store:
            store.put(b"kept", b"x")
            store.commit()
            store.put(b"large", os.urandom(500_000))
            with pytest.raises(StoreError, match="full"):
                store.commit()
            store.delete(b"large")
            store.put(b"small", b"y")
            store.commit()
        with SQLiteStore(folder / "s.db") as store:
            assert store.load(b"") == [(b"kept", b"x"), (b"small", b"y")]
