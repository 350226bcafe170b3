"""The examples of docs/aws.md, each run separately, and the example of the local endpoint."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "aws.md"


TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = list(re.finditer(r"```python\n(.*?)```", TEXT, re.DOTALL))
#: The output of some of the blocks.
SHOWN = {1: "{'msg': 'Hello to all subscribers!'}", 2: "1 users, 1 pools", 3: "eu-west-1:", 4: "Done"}


@pytest.mark.parametrize("number", range(1, len(BLOCKS) + 1))
def test_a_block_runs_as_it_is(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run one block as a new program, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    block = BLOCKS[number - 1]
    line = TEXT.count("\n", 0, block.start(1))
    exec(compile("\n" * line + block[1], str(PAGE), "exec"), {"__name__": "__main__"})
    assert SHOWN.get(number, "") in capsys.readouterr().out


def test_the_page_has_its_blocks() -> None:
    assert len(BLOCKS) == 8


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(PAGE.parents[1] / "examples" / "aws_local.py"), run_name="__main__")
    assert capsys.readouterr().out == "chat/hello {'msg': 'Hello from a guest'}\n"
