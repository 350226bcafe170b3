"""The broker's log: for each kind and client a bounded number of bounded lines, and a count of suppressed lines."""

from __future__ import annotations

import logging
import threading
import traceback

import pytest
from drivers import wait_until

from mqttws import Connect, Message, Publish
from mqttws.broker import Refused
from mqttws.broker.notices import (
    _BURST,
    _BURST_OF_KIND,
    _INTERVAL,
    _MAX_KNOWN,
    _QUIET,
    _QUOTED,
    _TRACEBACK,
    Notices,
    bounded,
)
from mqttws.errors import StoreError
from mqttws.protocol.store import MemoryStore

#: The longest line: three texts that are quoted, and our own words.
LONGEST = 3 * _QUOTED + 500


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
    assert lines(caplog) == ["client 'a': 5 more lines were suppressed: faults"]
    notices.now[0] += _BURST * _INTERVAL
    notices.sweep()
    assert not notices._clients


def test_many_clients_are_bounded_together(notices, caplog):
    for number in range(3 * _MAX_KNOWN):
        notices.log("faults", f"client {number}", "fault")
        assert len(notices._clients) <= _MAX_KNOWN
    assert lines(caplog) == ["fault"] * _BURST_OF_KIND
    caplog.clear()
    omitted = 0
    for _ in range(2):  # first those that were forgotten, to make space, then the others, which have been quiet
        notices.sweep()
        (line,) = lines(caplog)
        assert line.endswith(" more lines were suppressed: faults")
        omitted += int(line.split()[0])
        caplog.clear()
        notices.now[0] += _QUIET
    assert omitted == 3 * _MAX_KNOWN - _BURST_OF_KIND
    notices.sweep()
    assert lines(caplog) == []


def test_suppressed_lines_of_many_clients_are_one_line_for_each_kind(notices, caplog):
    for number in range(_BURST_OF_KIND + 30):
        for kind in ("faults", "refusals"):
            notices.log(kind, f"client {number}", "a line")
    caplog.clear()
    for _ in range(3):
        notices.now[0] += _QUIET
        notices.sweep()
    assert lines(caplog) == [f"30 more lines were suppressed: {kind}" for kind in ("faults", "refusals")]


def test_suppressed_lines_about_no_client_name_none(notices, caplog):
    for _ in range(_BURST + 5):
        notices.log("housekeeping failed", "", "a line")
    caplog.clear()
    notices.now[0] += _QUIET
    notices.sweep()
    notices.log("housekeeping failed", "", "a line")
    notices.now[0] += _INTERVAL
    notices.log("housekeeping failed", "", "a line")
    assert lines(caplog) == [
        "5 more lines were suppressed: housekeeping failed",
        "a line (1 earlier lines of this kind were suppressed)",
    ]


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("", 4, ""),
        ("abcd", 4, "abcd"),
        ("abXcd", 4, "ab...1 characters...cd"),
        ("a" * 5_000 + "b", 2, "a...4,999 characters...b"),
    ],
)
def test_the_middle_of_a_long_text_is_left_out(text, most, expected):
    assert bounded(text, most) == expected


def test_arguments_are_shortened_and_numbers_are_not(notices, caplog):
    topic = "$" + "\u200b" * 20_000
    notices.log("refusals", "a", "%r denied: %s (%d)", topic, ValueError("why " * 9_000), 10**300)
    (line,) = lines(caplog)
    assert line.startswith("'$\\u200b")
    assert "why ...35,000 characters...why " in line
    assert line.endswith(f"({10**300})")
    assert len(line) < LONGEST


def test_a_long_client_identifier_takes_little_memory_and_space(notices, caplog):
    name = "\n" + "a" * 60_000
    for _ in range(_BURST + 1):
        notices.log("faults", name, "fault")
    ((_, kept),) = notices._clients
    assert len(kept) < _QUOTED + 50
    caplog.clear()
    notices.now[0] += _QUIET
    notices.sweep()
    (line,) = lines(caplog)
    assert line.startswith("client '\\naaa")
    assert len(line) < LONGEST


@pytest.mark.parametrize("length", [10, 60_000])
def test_a_traceback_is_whole_unless_it_quotes_too_much(notices, caplog, length):
    try:
        raise KeyError("\u200b" * length)
    except KeyError as error:
        whole = "".join(traceback.format_exception(error))
        notices.log("errors", "a", "failed", error=error)
    text = logging.Formatter("%(message)s").format(caplog.records[0])
    head = whole[: _TRACEBACK // 2].removesuffix("\n")
    assert text.startswith(f"failed\n{head}")
    assert len(text) < _TRACEBACK + 100


def test_lines_below_the_log_level_are_not_counted(notices, caplog):
    caplog.set_level(logging.WARNING, "mqttws.broker")
    for _ in range(100):
        notices.log("connected", "a", "hello", level=logging.INFO)
    assert lines(caplog) == []
    assert not notices._clients


# What a client can cause, at a running broker.

LONG = "\u200b" * 20_000


def refuse(peer, connect):
    return Refused(4, f"nobody knows {connect.username}")


@pytest.mark.parametrize(
    ("options", "packets"),
    [
        ({}, [Connect("c"), Publish("$" + LONG)]),
        ({}, [Connect("c", will=Message("$" + LONG))]),
        ({}, [Connect(LONG)]),
        ({"authenticator": refuse}, [Connect("c", username=LONG)]),
        ({"authorizer": lambda peer, access: False}, [Connect("c"), Publish(LONG)]),
    ],
    ids=["a topic", "a will", "a client identifier", "a user name", "a topic, denied"],
)
def test_lines_quote_a_client_at_bounded_length(start, wire, caplog, options, packets):
    peer = wire(broker := start(**options))
    peer.send(*packets)
    peer.socket.shutdown(1)
    peer.rest()
    broker.stop()
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings
    assert all(len(record.getMessage()) < LONGEST for record in warnings)


def test_a_traceback_quotes_a_client_at_bounded_length(start, wire, caplog):
    broker = start(authenticator=lambda peer, connect: {}[connect.username])
    assert wire(broker).send(Connect("c", username=LONG)).rest() == b""
    broker.stop()
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    text = logging.Formatter("%(message)s").format(record)
    assert "KeyError: '\\u200b" in text
    assert len(text) < _TRACEBACK + LONGEST


def test_a_line_quotes_an_origin_at_bounded_length(start, wire, caplog):
    answer = wire(broker := start(), "ws", upgrade=False).upgrade("/mqtt", "x", (f"Origin: http://{'a' * 15_000}",))
    assert answer.startswith(b"HTTP/1.1 403 ")
    broker.stop()
    (line,) = [line for line in lines(caplog) if "upgrade rejected" in line]
    assert "add it to allowed_origins" in line
    assert len(line) < LONGEST


def stop_clock(broker):
    """Stop the clock of a broker's log, so that no slow machine gets further lines. Return it as a list."""
    now = [100.0]
    broker._router.notices._clock = lambda: now[0]
    return now


def fail(*arguments):
    raise LookupError("no such thing")


@pytest.mark.parametrize(
    "hook", ["on_upgrade", "authenticator", "authorizer", "on_connected", "on_published", "on_disconnected"]
)
def test_a_failing_hook_shows_its_first_tracebacks_in_full(start, wire, caplog, hook):
    """The others are counted: a client must not fill the log by what makes a hook fail."""
    broker = start(**{hook: fail})
    stop_clock(broker)
    for _ in range(_BURST + 10):
        peer = wire(broker, "ws", upgrade=False)
        answer = peer.head = peer.upgrade("/mqtt", "127.0.0.1")
        if hook == "on_upgrade":
            assert answer.startswith(b"HTTP/1.1 500 ")
        else:
            peer.send(Connect("c"), Publish("a"), "e0 00").rest()
    broker.stop()
    shown = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(shown) == _BURST
    for record in shown:
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], LookupError)


def test_a_store_that_cannot_be_written_does_not_fill_the_log(start, wire, caplog):
    """A full disk often has the log, too. No client gets a CONNACK, so clients try again and again."""
    store = MemoryStore()
    broker = start(store=store)
    stop_clock(broker)
    full = threading.Event()

    def commit(whole=store.commit):
        if full.is_set():
            raise StoreError("the disk is full")
        whole()

    store.commit = commit
    full.set()
    for _ in range(3 * _BURST):
        assert wire(broker).send(Connect("c", clean_session=False)).rest() == b""
    full.clear()
    broker.stop()
    said = lines(caplog)
    assert said.count("messages are no longer acknowledged: the disk is full") == _BURST
    assert len(said) < 3 * _BURST


def test_many_client_identifiers_of_one_client_do_not_fill_the_log(broker, wire, caplog):
    """Neither lines nor their summaries. Their number must not grow with the number of names."""
    now, notices = stop_clock(broker), broker._router.notices
    for number in range(_BURST_OF_KIND + 50):
        wire().connect(f"n{number}").send("f0 00").rest()
    wait_until(lambda: broker._call(lambda: sum(each.omitted for each in notices._clients.values()) == 50))
    now[0] += _QUIET
    wait_until(lambda: broker._call(lambda: not any(each.omitted for each in notices._clients.values())))
    broker.stop()
    assert len(lines(caplog)) == _BURST_OF_KIND + 1
    assert lines(caplog)[-1] == "50 more lines were suppressed: faults"
