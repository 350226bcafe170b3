"""examples/webapp with the broker of the pytest plugin."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import ModuleType

import pytest

from pubsub.testing import RecordingBroker

APP = Path(__file__).resolve().parents[1] / "examples" / "webapp" / "app.py"
PATIENCE = 30.0


@pytest.fixture
def testclient() -> ModuleType:
    """Return fastapi's test client. It is not imported before, because it takes long, in each process of a run."""
    return pytest.importorskip("fastapi.testclient")  # type: ignore[no-any-return]


@pytest.fixture
def module(testclient: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("webapp_app", APP)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "webapp_app", module)
    spec.loader.exec_module(module)
    return module


def test_readings_come_in_and_commands_go_out(
    module: ModuleType, testclient: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RecordingBroker() as broker:
        monkeypatch.setenv("BROKER", broker.url)
        with testclient.TestClient(module.app) as web:
            broker.wait_for_clients(1)
            assert web.post("/commands/lamp1", json={"on": True}).json() == {"sent": "lamp1"}
            broker.messages.assert_published("commands/lamp1", {"on": True}, qos=1)
            assert web.post("/commands/a+b", json={}).status_code == 422
            broker.publish("readings/t1", b'{"celsius": 21.5}', qos=1, retain=True)
            deadline = time.monotonic() + PATIENCE
            while not (readings := web.get("/readings").json()) and time.monotonic() < deadline:
                pass
            assert readings == {"readings/t1": {"celsius": 21.5}}
            assert web.get("/health").json() == {"broker": "Connected"}
        broker.wait_for_clients(0)


def test_it_starts_without_a_broker(
    module: ModuleType, testclient: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER", "ws://127.0.0.1:1/mqtt")
    with testclient.TestClient(module.app) as web:
        assert web.get("/readings").json() == {}
        assert web.get("/health").json() != {"broker": "Connected"}
