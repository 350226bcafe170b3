"""The stress programs of `storms`, for some seconds each. `make stress` runs them for T seconds."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import storms

from mqttws.broker import Broker
from mqttws.testing import mint_authority

ROOT = Path(__file__).parents[2]
#: Seconds for each storm with each transport.
SECONDS = float(os.environ.get("STORM_SECONDS", "2.5"))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[str]]]:
    """Transport -> the URL of a broker in this process, and for TLS the CA file."""
    authority = mint_authority()
    ca_file = tmp_path_factory.mktemp("storms") / "ca.pem"
    ca_file.write_bytes(authority.certificate)
    tls = authority.issue("127.0.0.1").server_context()
    with Broker(wss_port=0, tls=tls) as broker:
        yield {
            "mqtt": [broker.url_of("mqtt")],
            "ws": [broker.url_of("ws")],
            "wss": [broker.url_of("wss"), str(ca_file)],
        }


@pytest.mark.parametrize("transport", ["plain", "wss"])
@pytest.mark.parametrize("name", list(storms.names()))
def test_a_storm(servers: dict[str, list[str]], name: str, transport: str) -> None:
    scheme = random.choice(["mqtt", "ws"]) if transport == "plain" else transport
    if name in ("collector", "forks") and scheme == "mqtt":
        scheme = "ws"  # as the provider uses
    command = [sys.executable, storms.__file__, name, str(SECONDS), *servers[scheme]]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS + 4 * storms.STILL, check=False
    )
    assert done.returncode == 0, f"{scheme}: {done.stdout[-2_000:]}\n{done.stderr[-6_000:]}"
    assert name in done.stdout
