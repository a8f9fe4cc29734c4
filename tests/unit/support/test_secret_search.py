"""The search for secrets finds every leak, and reports nothing else."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.support.command import ROOT, Result, run

# Most run pytest anew.
pytestmark = pytest.mark.long

LEAKS = """
import http.client, logging, os, pickle, subprocess, sys, warnings
from agentscope import AgentScopeClient, APIError, FlushResult, Stats, create_tracker
from tests.support.secret_search import SECRET
from tests.support.recording import recorded

KEY = "ask_8c1f0d_" + "planted"

def test_in_a_debug_line_that_no_level_lets_through():
    with recorded(api_key=KEY):
        logging.getLogger("urllib3.connectionpool").debug("Starting with %s", KEY)

def test_in_an_exception_that_is_logged():
    with recorded(api_key=KEY):
        logging.getLogger("any").error("failed", exc_info=ValueError(KEY))

def test_in_a_url():
    with recorded(api_key=KEY):
        connection = http.client.HTTPConnection("127.0.0.1", 9)
        connection.putrequest("GET", "/?key=" + KEY)

def test_in_an_exception_of_ours():
    client = AgentScopeClient(KEY, "http://127.0.0.1:9")
    client.close()
    APIError(f"refused: {KEY}", 400)

def test_in_a_result():
    with recorded(api_key=KEY):
        FlushResult(problem=KEY)

def test_in_the_statistics():
    with recorded(api_key=KEY):
        Stats(dropped={KEY: 1})

def test_on_standard_output(capsys):
    with recorded(api_key=KEY):
        print(KEY)
        capsys.readouterr()

def test_on_standard_error():
    with recorded(api_key=KEY):
        print(KEY, file=sys.stderr)

def test_in_the_output_of_a_program():
    with recorded(api_key=KEY):
        subprocess.run([sys.executable, "-c", f"print({KEY!r})"], capture_output=True)

def test_in_a_warning():
    with recorded(api_key=KEY):
        warnings.warn(KEY)

def test_in_a_pickle():
    with recorded(api_key=KEY):
        pickle.dumps({"headers": [KEY]})

def test_in_a_file(tmp_path):
    with recorded(api_key=KEY):
        (tmp_path / "a.db-wal").write_bytes(b"0" + b"." + KEY.encode() + b".")

def test_of_a_password_in_a_file(tmp_path):
    (tmp_path / "a.db").write_text(SECRET)

def test_of_a_payload_in_a_log_line():
    with recorded() as recording, recording.tracker.track_run("agent"):
        recording.tracker.track_step("step", input_data={"question": ["what is the answer to it?"]})
        logging.getLogger("agentscope").info("sent %s", {"x": "..."} and "what is the answer to it?")

def test_of_a_payload_in_a_result():
    with recorded() as recording, recording.tracker.track_run("agent", "what is the answer to it?"):
        FlushResult(problem="cannot send what is the answer to it?")
"""

NO_LEAKS = """
import logging, pickle
from tests.support.recording import recorded

def test_of_a_payload_where_it_belongs(tmp_path, capsys):
    with recorded(api_key="ask_8c1f0d_planted") as recording, recording.tracker.track_run("agent"):
        recording.tracker.track_step("step", input_data="what is the answer to it?")
        print("what is the answer to it?")
        (tmp_path / "receiver.db").write_text("what is the answer to it?")

def test_of_a_payload_of_another_test():
    logging.getLogger("agentscope").info("what is the answer to it?")

def test_of_the_key_of_another_test():
    pickle.dumps("ask_8c1f0d_planted")

def test_of_a_part_of_a_word():
    logging.getLogger("agentscope").info("the key is no part of task_tests, ask_testing")

def test_of_a_log_call_that_is_not_fit_to_be_one():
    logging.getLogger("agentscope").debug(object(), object(), 7)
"""

LATE = """
def pytest_sessionfinish(session):
    import logging
    if hasattr(session.config, "workerinput") is {in_worker}:
        logging.getLogger("any").info("the key is ask_test")
"""
"""A part of conftest.py that leaks after the last test, as threads and exit functions may."""


def session(source: str, folder: Path, late: str = "", workers: int = 0) -> Result:
    """Run a session of pytest with these tests and the search."""
    (folder / "test_planted.py").write_text(source)
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8") + late)
    options = ("-q", "-p", "no:cacheprovider", "-c", "/dev/null", "-n", str(workers))
    return run("-m", "pytest", *options, str(folder), cwd=folder, timeout=60)


def test_every_planted_leak_fails_its_test(tmp_path: Path) -> None:
    ended = session(LEAKS, tmp_path)
    lines = ended.stdout.splitlines()
    assert ended.returncode == 1
    planted = {line.removeprefix("def ").partition("(")[0] for line in LEAKS.splitlines() if line.startswith("def ")}
    told = {line.partition(":")[0] for line in lines if ": in " in line}
    assert told == planted, "\n".join(lines)
    failed = [line for line in lines if line.startswith("ERROR test_planted.py::")]
    assert len(failed) >= len(planted) - 1  # a warning is reported with the next test
    assert not any("ask_8c1f0d_planted" in line for line in lines if ": in " in line)


def test_output_without_a_leak_fails_no_test(tmp_path: Path) -> None:
    ended = session(NO_LEAKS, tmp_path)
    assert ended.returncode == 0, ended.stdout
    assert "5 passed" in ended.stdout


@pytest.mark.parametrize("workers", [0, 2])
def test_a_leak_after_the_last_test_fails_the_session(tmp_path: Path, workers: int) -> None:
    ended = session("def test_nothing(): pass", tmp_path, LATE.format(in_worker=workers > 0), workers)
    assert ended.returncode == 1
    assert "after the last test: A secret got out." in ended.stdout
    assert "1 passed" in ended.stdout


@pytest.mark.parametrize("name", ["debug", "info", "warning", "error", "critical", "exception"])
def test_a_log_record_still_names_its_caller(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    getattr(logging.getLogger("any"), name)("said")
    assert caplog.records[0].funcName == "test_a_log_record_still_names_its_caller"
