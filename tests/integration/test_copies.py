"""Trackers that other processes get by pickle: what they record there arrives."""

from __future__ import annotations

import pytest

from agentscope.server.receiver import Receiver
from tests.support.program import run_program
from tests.support.stored import stored_steps

SPAWNED = """
    import json, logging, multiprocessing, os
    from agentscope import create_tracker
    from tests.support.patient import be_patient
    be_patient()

    class Agent:
        def __init__(self, tracker):
            self.tracker = tracker
        def work(self, number):
            with self.tracker.track_run("there"):
                self.tracker.track_step(f"step {{number}}")
            return self.tracker._config.enabled

    if __name__ == "__main__":
        agent = Agent(create_tracker("ask_origin", {url!r}, timeout=10.0))
        os.environ["AGENTSCOPE_API_KEY"] = "ask_there"
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            enabled = pool.map(agent.work, range(4), chunksize=1)
            pool.close()
            pool.join()
        print(json.dumps(enabled))
"""


def test_what_spawned_processes_record_by_a_pickled_tracker_arrives(receiver: Receiver) -> None:
    result = run_program(SPAWNED.format(url=receiver.url), timeout=120)
    assert result.last_line_json == [True] * 4
    assert sorted(stored_steps(receiver.url)) == [f"step {number}" for number in range(4)]


def test_a_function_that_is_pickled_by_value_records_where_it_is_called(receiver: Receiver) -> None:
    pytest.importorskip("cloudpickle")
    source = """
        import base64, json, subprocess, sys
        import cloudpickle
        from agentscope import create_tracker
        from tests.support.patient import be_patient
        be_patient()
        tracker = create_tracker("ask_origin", {url!r})

        @tracker.observe(name="double")
        def double(x):
            tracker.track_step("inside")
            return 2 * x

        code = "import base64, pickle, sys; print(pickle.loads(base64.b64decode(sys.argv[1]))(4))"
        data = base64.b64encode(cloudpickle.dumps(double)).decode()
        print(json.dumps(subprocess.run([sys.executable, "-c", code, data], capture_output=True, text=True).stdout))
    """
    result = run_program(source.format(url=receiver.url), timeout=120)
    assert result.last_line_json == "8\n"
    assert stored_steps(receiver.url) == ["inside"]
