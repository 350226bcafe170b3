"""A broker for tests that records published messages, and the pytest plugin with its fixture.

    def test_reading_is_published(mqtt_broker):
        device.run_once(mqtt_broker.url)
        mqtt_broker.messages.assert_published("sensors/1", {"celsius": 21.5}, qos=1)

`RecordingBroker` can be used without pytest, too; see `docs/guide/pytest.md`. Names are loaded on first use, because
pytest loads the plugin in every run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pubsub.testing.broker import RecordingBroker
    from pubsub.testing.messages import Recorded, Recorder

_WHERE = {"Recorded": "messages", "Recorder": "messages", "RecordingBroker": "broker"}

__all__ = ["Recorded", "Recorder", "RecordingBroker"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'pubsub.testing' has no attribute {name!r}")
    return getattr(import_module(f"pubsub.testing.{_WHERE[name]}"), name)
