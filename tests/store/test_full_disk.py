"""A store on a disk that is full."""

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


def test_records_that_come_and_go_do_not_fill_a_small_disk(folder: Path) -> None:
    """Each commit adds to the log beside the file, which is otherwise emptied only every 4 MB."""
    with small_disk(folder, "128k"), SQLiteStore(folder / "s.db") as store:
        for number in range(200):
            store.put(b"key", b"%d" % number)
            store.commit()
            store.delete(b"key")
            store.commit()
        assert store.load(b"") == []


def test_what_cannot_be_kept_is_said_and_the_rest_stays(folder: Path) -> None:
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
