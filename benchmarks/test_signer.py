"""Our signers of AWS IoT's URLs: `make bench`. Beside those of others: `python benchmarks/bench_signer.py`."""

from __future__ import annotations

import itertools

import bench_signer
import pytest


@pytest.mark.parametrize("name", ["sigv4.presign", "sigv4.IotUrlSigner"])
def test_sign(benchmark, name):
    bench_signer.check()  # every signer, ours and others', makes the same signature
    sign, times = bench_signer.SIGNERS[name](), itertools.cycle(bench_signer.TIMES)
    benchmark(lambda: sign(next(times)))
