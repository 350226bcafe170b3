"""websockets: only its masking, which is in C, is measured."""

from __future__ import annotations

import itertools
import random

import workloads as work
from timing import main, nanoseconds
from websockets.speedups import apply_mask


def mask(size: int) -> float:
    """Mask a payload of `size` bytes."""
    payload = random.Random(size).randbytes(size)

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            masked = apply_mask(payload, work.MASKING_KEY)
        return masked

    assert run(1) == work.mask(payload, work.MASKING_KEY)
    return nanoseconds(run)


main({"mask": mask})
