"""Threads: `propagate` carries the current run and step into a pool, so that steps find their parent.

python examples/threads.py
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agentscope import create_tracker

tracker = create_tracker()


def digest(path: Path) -> str:
    with tracker.track_step_context("digest", step_type="tool_call", input_data={"file": path.name}) as step:
        value = hashlib.sha256(path.read_bytes()).hexdigest()
        step.output = {"sha256": value[:12]}
        return value


files = sorted(Path(__file__).parent.glob("*.py"))
with tracker.track_run("checksums", input_data={"files": len(files)}) as run:
    with tracker.track_step_context("workers", step_type="agent"), ThreadPoolExecutor(max_workers=4) as pool:
        digests = list(pool.map(tracker.propagate(digest), files))
    run.output = {"different": len(set(digests))}

print(f"{len(digests)} files, {len(set(digests))} different")
