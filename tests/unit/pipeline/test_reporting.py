"""Log lines about the pipeline: at most once a minute, and without payloads."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest

from agentscope.pipeline import reporting as module
from agentscope.pipeline.reporting import INTERVAL, Notices, say, spelled
from agentscope.protocols.base import BUSY, UNAUTHORIZED

CANARY = "ask_canary payload"


@pytest.fixture
def lines(caplog):
    """Return the level and the sentence of each log line so far."""
    caplog.set_level(logging.DEBUG, logger="agentscope")
    return lambda: [(record.levelname, record.getMessage()) for record in caplog.records]


def test_drops_are_logged_at_most_once_a_minute_and_all_of_them(lines):
    notices = Notices(None)
    notices.drops({"queue_full": 3}, now=0.0)
    notices.drops({"queue_full": 5}, now=1.0)
    notices.drops({"queue_full": 9, "rejected": 1}, now=INTERVAL - 0.1)
    notices.drops({"queue_full": 9, "rejected": 1}, now=INTERVAL)
    notices.drops({"queue_full": 9, "rejected": 1}, now=3 * INTERVAL)
    assert lines() == [
        ("WARNING", "dropped events: 3 queue_full"),
        ("WARNING", "dropped events: 6 queue_full, 1 rejected"),
    ]


def test_drops_at_the_end_are_reported_in_the_last_line(lines):
    notices = Notices(None)
    notices.drops({"shutdown": 3}, now=0.0)
    notices.end(3, {"shutdown": 3}, None)
    assert lines() == [("WARNING", "3 events were left undelivered at the end and are lost")]


def test_without_drops_there_is_no_line(lines):
    Notices(None).drops({}, now=0.0)
    Notices(None).drops({"queue_full": 0}, now=0.0)
    assert lines() == []


def test_on_drop_is_called_once_for_each_drop(lines):
    heard = []
    notices = Notices(lambda reason, number: heard.append((reason, number)))
    notices.drops({"queue_full": 3}, now=0.0)
    notices.drops({"queue_full": 3}, now=1.0)
    notices.tell({"queue_full": 4, "rejected": 2})
    notices.end(0, {"queue_full": 4, "rejected": 2, "shutdown": 1}, None)
    assert heard == [("queue_full", 3), ("queue_full", 1), ("rejected", 2), ("shutdown", 1)]


def test_an_on_drop_that_raises_is_reported_once(lines):
    heard = []

    def fail(reason, number):
        heard.append((reason, number))
        raise ValueError(CANARY)

    notices = Notices(fail)
    for now in range(5):
        notices.drops({"queue_full": now + 1, "rejected": now + 1}, now=float(now))
    assert heard == [("queue_full", 1), ("rejected", 1)] * 5
    blame = [line for line in lines() if "on_drop" in line[1]]
    assert blame == [("WARNING", "on_drop raised ValueError; this is said once")]
    assert CANARY not in str(lines())


def test_the_second_failure_in_a_row_is_reported(lines):
    notices = Notices(None)
    notices.failure("r:80: refused", BUSY, 1, 5, now=0.0)
    assert lines() == []
    notices.failure("r:80: refused", BUSY, 2, 5, now=1.0)
    assert lines() == [("WARNING", "r:80: refused; 5 events are kept and tried again")]


def test_a_failure_that_needs_a_person_is_reported_at_once(lines):
    Notices(None).failure("check api_key", UNAUTHORIZED, 1, 7, now=0.0)
    assert lines() == [("WARNING", "check api_key; 7 events are kept and tried again")]


def test_failures_are_reported_once_a_minute_even_if_they_differ(lines):
    notices = Notices(None)
    for second in range(0, 121, 10):
        notices.failure(f"problem {second}", BUSY, 5, second, now=float(second))
        notices.failure(f"problem {second}", BUSY, 6, second, now=float(second))
    assert [sentence.split(";")[0] for _, sentence in lines()] == ["problem 0", "problem 60", "problem 120"]


def test_recovery_is_logged_as_info_after_a_reported_failure_only(lines):
    notices = Notices(None)
    notices.recovery()
    notices.failure("problem", BUSY, 1, 1, now=0.0)
    notices.recovery()
    assert lines() == []
    notices.failure("problem", BUSY, 2, 1, now=0.0)
    notices.recovery()
    notices.recovery()
    assert lines()[1:] == [("INFO", "delivery works again")]


def test_a_crash_is_reported_by_its_type_once_a_minute(lines):
    notices = Notices(None)
    for second in (0, 30, 60):
        notices.crash(ValueError(CANARY), now=float(second))
    assert lines() == [("WARNING", "the worker stopped on ValueError and is started again")] * 2


@pytest.mark.parametrize(
    ("left", "totals", "problem", "line"),
    [
        (0, {}, None, None),
        (0, {}, "no", None),
        (0, {"rejected": 2}, "no", "dropped before: 2 rejected"),
        (3, {"shutdown": 3}, None, "3 events were left undelivered at the end and are lost"),
        (3, {"shutdown": 3}, "no", "3 events were left undelivered at the end and are lost (no)"),
        (
            3,
            {"shutdown": 3, "rejected": 2, "queue_full": 1},
            "no",
            "3 events were left undelivered at the end and are lost; dropped before: 1 queue_full, 2 rejected (no)",
        ),
    ],
)
def test_the_end_is_one_line_if_events_are_left_or_unreported(lines, left, totals, problem, line):
    Notices(None).end(left, totals, problem)
    assert lines() == ([] if line is None else [("WARNING", line)])


def test_drops_that_were_logged_before_are_not_in_the_last_line(lines):
    notices = Notices(None)
    notices.drops({"rejected": 2}, now=0.0)
    notices.end(0, {"rejected": 2}, None)
    assert len(lines()) == 1


def test_counts_are_spelled_in_the_order_of_their_names():
    assert spelled({"b": 2, "a": 1}) == "1 a, 2 b"
    assert spelled({}) == ""


@pytest.mark.parametrize("threads_to_be_had", [True, False])
def test_a_warning_for_a_caller_is_logged_from_another_thread_if_there_is_one(lines, monkeypatch, threads_to_be_had):
    asked = []

    def start(target, name):
        asked.append(name)
        if threads_to_be_had:
            target()
        return threads_to_be_had

    monkeypatch.setattr(module.threads, "start", start)
    say("100 % odd: %s")
    assert lines() == [("WARNING", "100 % odd: %s")]
    assert asked == ["agentscope-notice"]


def test_one_event_is_written_in_the_singular(lines):
    notices = Notices(None)
    notices.end(1, {}, None, spooled=1)
    notices.failure("no answer", None, failures=2, pending=1, now=0.0)
    (_, farewell), (_, trouble) = lines()
    assert farewell.startswith("1 event was left undelivered at the end and is lost; 1 event is kept in the spool, ")
    assert trouble == "no answer; 1 event is kept and tried again"


@pytest.mark.parametrize(("set_up", "signed"), [("pass", True), ("logging.basicConfig(format='%(message)s')", False)])
def test_without_a_set_up_of_logging_a_line_begins_with_the_packages_name(set_up, signed):
    warn = "from agentscope.pipeline.reporting import logger; logger.warning('%s are told', 'things')"
    program = f"import logging; {set_up}; {warn}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ("agentscope: " if signed else "") + "things are told\n"


def use(monkeypatch, *handlers: logging.Handler) -> None:
    """Have the application use these handlers. Called in the test, as pytest adds its own before that."""
    monkeypatch.setattr(logging.getLogger(), "handlers", list(handlers))


def closed_handler() -> logging.Handler:
    stream = io.StringIO()
    stream.close()
    return logging.StreamHandler(stream)


def test_a_handler_whose_stream_is_closed_is_passed_over_and_the_others_are_not(monkeypatch, capsys):
    stream = io.StringIO()
    use(monkeypatch, closed_handler(), logging.StreamHandler(stream))
    module.logger.warning("dropped events: %s", 3)
    assert (stream.getvalue(), capsys.readouterr().err) == ("dropped events: 3\n", "")


def test_where_all_streams_are_closed_the_line_is_printed(monkeypatch, capsys):
    use(monkeypatch, closed_handler())
    module.logger.warning("dropped events: %s", 3)
    module.logger.info("delivery gets on again")
    assert capsys.readouterr().err == "agentscope: dropped events: 3\n"


def test_a_handler_beside_a_closed_one_gets_no_record_below_its_level(monkeypatch):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setLevel(logging.ERROR)
    use(monkeypatch, closed_handler(), handler)
    module.logger.warning("dropped events")
    assert stream.getvalue() == ""


def test_tools_that_collect_the_logs_of_all_loggers_get_the_record(monkeypatch):
    seen = []
    monkeypatch.setattr(logging.Logger, "callHandlers", lambda logger, record: seen.append(record.getMessage()))
    module.logger.warning("dropped events")
    assert seen == ["dropped events"]
