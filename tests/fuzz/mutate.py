"""Run a target with a given number of mutated bytes, which depend only on the seed.

    python tests/fuzz/mutate.py decoder 100000000 [seed]

Each input is a few seeds of the corpus, joined, cut, repeated and changed: bytes are replaced by others or by boundary
values of the format, swapped, removed and inserted. Prints the number of bytes and inputs; a violated invariant is
raised, and its input printed.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from targets import TARGETS

CORPUS = Path(__file__).with_name("corpus")
#: Boundary bytes of the format: lengths, flags, types, wildcards, UTF-8.
EDGES = (
    b"\x00\x01\x02\x03\x04\x7f\x80\x81\xc0\xc1\xe0\xed\xf0\xff\x10\x20\x30\x32\x34\x3f\x40\x50\x62\x70\x82\x90\xa2\xb0"
)


def inputs(seeds: list[bytes], seed: int) -> Iterator[bytes]:
    """Yield mutated inputs without end."""
    chance = random.Random(seed)
    while True:
        data = bytearray(b"".join(chance.choices(seeds, k=chance.randint(1, 3))))
        for _ in range(chance.choice((0, 1, 1, 2, 3, 8, 30))):
            position = chance.randrange(len(data) + 1)
            other = chance.randrange(len(data) + 1)
            kind = chance.randrange(6)
            if kind == 0:
                data[position : position + 1] = bytes((chance.randrange(256),))
            elif kind == 1:
                data[position : position + 1] = bytes((chance.choice(EDGES),))
            elif kind == 2:
                del data[position : position + chance.randint(1, 8)]
            elif kind == 3:
                data[position:position] = chance.randbytes(chance.randint(1, 8))
            elif kind == 4:
                data[position:position] = data[min(position, other) : max(position, other)][:200]
            else:
                del data[max(position, 1) :]
        if data:
            yield bytes(data)


def seeds_of(target: str) -> list[bytes]:
    """Read the corpus of a target."""
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


def run(target: str, total: int, seed: int = 0) -> tuple[int, int]:
    """Run a target with at least `total` bytes. Return the number of bytes and of inputs."""
    check = TARGETS[target]
    thrown = count = 0
    for data in inputs(seeds_of(target), seed):
        try:
            check(data)
        except BaseException as error:
            error.add_note(f"target {target}, input {data!r}")
            raise
        thrown += len(data)
        count += 1
        if thrown >= total:
            break
    return thrown, count


if __name__ == "__main__":
    began = time.perf_counter()
    thrown, count = run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    seconds = time.perf_counter() - began
    print(f"{sys.argv[1]}: {thrown:,} mutated bytes in {count:,} inputs, nothing found, {seconds:,.0f} s")
