"""Blocks: runs and steps that nest and measure their time; failures are recorded.

python examples/context_manager.py [FILE]
"""

import sys
from collections import Counter
from pathlib import Path

from agentscope import create_tracker

tracker = create_tracker()


def read(path: Path) -> str:
    # An exception in a block is recorded with its type, message and traceback, and goes on unchanged.
    with tracker.track_step_context("read_file", step_type="tool_call", input_data={"path": path.name}) as step:
        text = path.read_text(encoding="utf-8")
        step.output = {"characters": len(text)}
        return text


with tracker.track_run("word_counter", input_data={"question": "Which long words are frequent?"}) as run:
    try:
        text = read(Path("no such file.txt"))
    except FileNotFoundError:
        text = read(Path(sys.argv[1] if len(sys.argv) > 1 else __file__))

    with tracker.track_step_context("analyst", step_type="agent") as agent:
        with tracker.track_step_context("count", step_type="tool_call") as step:  # a child of "analyst"
            words = Counter(word for word in text.split() if len(word) > 6)
            step.output = {"different": len(words)}
        agent.output = dict(words.most_common(3))

    run.output = {"answer": [word for word, _ in words.most_common(3)]}

print(f"run {run}: {', '.join(run.output['answer'])}")
