"""A spool: the next process on the same directory sends what a killed one left.

python examples/spool.py
"""

import os
import signal
import subprocess
import sys
import tempfile
import time

from agentscope import create_tracker


def doomed(directory: str) -> None:
    """Track, and be killed before anything is sent."""
    tracker = create_tracker(spool_dir=directory, flush_interval=60)
    run_id = tracker.start_run("doomed")
    tracker.track_step("think", step_type="reasoning", output_data={"conclusion": "it will be fine"}, run_id=run_id)
    while tracker.stats().pending:  # in memory only, for a quarter of a second at most
        time.sleep(0.01)  # between two looks
    os.kill(os.getpid(), signal.SIGKILL)


def heir(directory: str) -> int:
    """Track something of its own, which starts the worker, and wait for what was left."""
    tracker = create_tracker(spool_dir=directory)
    with tracker.track_run("heir"):
        tracker.track_step("inherit")
    deadline = time.monotonic() + 20
    while tracker.stats().recovered < 2 and time.monotonic() < deadline:
        time.sleep(0.05)  # between two looks
    tracker.flush()
    stats = tracker.stats()
    print(f"delivered {stats.delivered} events of its own, and {stats.recovered} of the process that was killed")
    return 0 if tracker.shutdown() and stats.recovered == 2 else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        doomed(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        killed = subprocess.run([sys.executable, __file__, folder], check=False)
        print(f"the first process ended with {signal.Signals(-killed.returncode).name}")
        sys.exit(heir(folder))
