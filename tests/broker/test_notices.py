"""The broker's log: a bounded number of lines for each kind and client, and a count of suppressed lines."""

from __future__ import annotations

import logging

import pytest

from mqttws.broker.notices import _BURST, _BURST_OF_KIND, _INTERVAL, _MAX_KNOWN, _QUIET, Notices


@pytest.fixture
def notices(caplog):
    """Return a log with a clock that the test sets."""
    caplog.set_level(logging.INFO, "mqttws.broker")
    now = [100.0]
    made = Notices(lambda: now[0])
    made.now = now  # type: ignore[attr-defined]
    return made


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


def test_lines_beyond_the_burst_are_counted(notices, caplog):
    for number in range(100):
        notices.log("faults", "a", "fault %d", number)
        notices.log("others", "a", "other %d", number)
    assert lines(caplog) == [f"{kind} {n}" for n in range(_BURST) for kind in ("fault", "other")]
    notices.log("faults", "b", "of b")
    assert lines(caplog)[-1] == "of b"
    notices.now[0] += _INTERVAL
    caplog.clear()
    notices.log("faults", "a", "again")
    notices.log("faults", "a", "and again")
    assert lines(caplog) == ["again (80 earlier lines of this kind about this client were suppressed)"]


def test_suppressed_lines_are_reported_without_another_line(notices, caplog):
    for number in range(_BURST + 5):
        notices.log("faults", "a", "fault %d", number)
    caplog.clear()
    notices.sweep()
    assert lines(caplog) == []
    notices.now[0] += _QUIET
    notices.sweep()
    notices.sweep()
    assert lines(caplog) == ["client a: 5 more lines were suppressed: faults"]
    notices.now[0] += _BURST * _INTERVAL
    notices.sweep()
    assert not notices._clients


def test_many_clients_are_bounded_together(notices, caplog):
    for number in range(3 * _MAX_KNOWN):
        notices.log("faults", f"client {number}", "fault")
        assert len(notices._clients) <= _MAX_KNOWN
    said = lines(caplog)
    assert said.count("fault") == _BURST_OF_KIND
    assert [line for line in said if line != "fault"] == [
        f"{_MAX_KNOWN - _BURST_OF_KIND} lines about several clients were suppressed",
        f"{_MAX_KNOWN} lines about several clients were suppressed",
    ]


def test_lines_below_the_log_level_are_not_counted(notices, caplog):
    caplog.set_level(logging.WARNING, "mqttws.broker")
    for _ in range(100):
        notices.log("connected", "a", "hello", level=logging.INFO)
    assert lines(caplog) == []
    assert not notices._clients
