"""Tuning: fewer and larger requests, a bound on memory, a callback for dropped events, and an end that is checked.

python examples/tuned.py
"""

import sys

from agentscope import create_tracker

tracker = create_tracker(
    batch_size=1000,  # events a request carries at most
    flush_interval=5.0,  # seconds an event may wait for company
    max_queue_bytes=16 << 20,  # memory for events that wait; beyond it they are dropped, and counted
    on_drop=lambda reason, count: print(f"gave up {count} events: {reason}", file=sys.stderr),
)

with tracker.track_run("collatz", input_data={"up_to": 500}) as run:
    longest = 0
    for start in range(1, 501):
        number, length = start, 0
        while number != 1:
            number, length = (number // 2 if number % 2 == 0 else 3 * number + 1), length + 1
        longest = max(longest, length)
        tracker.track_step("walk", step_type="tool_call", input_data={"from": start}, output_data={"length": length})
    run.output = {"longest": longest}

# Before a pause (a serverless function, a worker between two jobs): wait until all is acknowledged.
result = tracker.flush(timeout=30)
if not result:
    print(f"{result.pending} events wait, {result.dropped} were given up: {result.problem}", file=sys.stderr)

# At the end of a program this happens by itself; called here, its answer becomes the exit status.
result = tracker.shutdown(timeout=10)
stats = tracker.stats()
print(f"accepted {stats.accepted}, delivered {stats.delivered}, in {stats.attempts} requests")
sys.exit(0 if result else 1)
