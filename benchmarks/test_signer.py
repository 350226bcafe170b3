"""Benchmarks of our signers of AWS IoT URLs. `benchmarks/bench_signer.py` compares them with others."""

from __future__ import annotations

import itertools

import bench_signer
import pytest


@pytest.mark.parametrize("name", ["sigv4.presign", "sigv4.IotUrlSigner"])
def test_sign(benchmark, name):
    bench_signer.check()  # every signer creates the same signature
    sign, times = bench_signer.SIGNERS[name](), itertools.cycle(bench_signer.TIMES)
    benchmark(lambda: sign(next(times)))
