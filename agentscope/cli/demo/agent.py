"""The sample agent: a librarian that answers questions about the files of a directory, without a model.

It is recorded as any agent would be: functions by `observe`, blocks with steps inside by `track_step_context`.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections import Counter, deque
from contextlib import suppress
from itertools import islice
from math import log
from pathlib import Path
from typing import Any

from agentscope.tracker.tracker import Tracker

MAX_FILES, MAX_SECONDS, MAX_FILE_BYTES = 300, 0.4, 32 * 1024
_LEFT_OUT = re.compile(
    r"\..*|id_.*|.*\.(pem|key|p12|pfx|kdbx|keystore)|node_modules|site-packages|__pycache__|v?env|build|dist|target",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]{5,20}")
_SENTENCE = re.compile(r"[A-Z][\w\s,;:'()-]{30,200}[.!?](?=\s)")


def work(tracker: Tracker, notebook: Path) -> list[str]:
    """Answer two questions about the files of the current directory, in one run each, and return the runs' ids."""
    texts: dict[str, str] = {}  # by path

    @tracker.observe(name="read_notebook", step_type="memory")
    def read_notebook() -> Any:
        return json.loads(notebook.read_text("utf-8"))

    @tracker.observe(name="write_notebook", step_type="memory")
    def write_notebook(**notes: Any) -> None:
        notebook.write_text(json.dumps(notes), "utf-8")

    @tracker.observe(name="read_file", step_type="tool_call")
    def read_file(path: str) -> dict[str, Any]:
        texts[path] = read_text(path)
        return {"path": path, "lines": texts[path].count("\n") + 1, "text": texts[path][:2000]}

    @tracker.observe(name="find_topic", step_type="reasoning")
    def find_topic() -> dict[str, str]:
        words = [Counter(_WORD.findall(text.lower())) for text in texts.values()]
        total, spread = sum(words, Counter[str]()), Counter(word for counts in words for word in counts)
        # A topic is frequent in some of the files and rare in the others (TF-IDF).
        weights = {word: total[word] * log((1 + len(words)) / spread[word]) for word in sorted(total)}
        return {"topic": max(weights, key=weights.__getitem__, default="anything")}

    @tracker.observe(name="search_files", step_type="retrieval")
    def search_files(word: str) -> dict[str, int]:
        counts = Counter({path: count for path, text in texts.items() if (count := text.lower().count(word))})
        return dict(counts.most_common(3))

    @tracker.observe(name="read_source", step_type="tool_call")
    def read_source(path: str, word: str) -> dict[str, Any]:
        sentences = (" ".join(sentence.split()) for sentence in _SENTENCE.findall(texts[path]))
        return {"path": path, "sentences": [sentence for sentence in sentences if word in sentence.lower()]}

    with tracker.track_run("librarian", input_data={"question": "What is in this directory?"}) as survey:
        with tracker.track_step_context("list_files", step_type="tool_call") as step:
            paths = list_files(".")
            step.output = {"found": len(paths), "nearest": ", ".join(paths[:20])}
        with suppress(FileNotFoundError):  # there is none the first time: a step that fails
            read_notebook()
        with tracker.track_step_context("reader", step_type="agent", input_data={"files": len(paths)}) as step:
            for path in paths[:8]:
                with suppress(OSError, ValueError):
                    read_file(path)
            topic = find_topic()["topic"]
            step.output = {"read": len(texts), "topic": topic}
        write_notebook(topic=topic)
        answer = f"{len(paths)} files. The word that says most about the {len(texts)} that I read is: {topic}."
        survey.output = {"answer": answer if texts else "There is nothing here to read."}

    with tracker.track_run("librarian", input_data={"question": f"What do they say about {topic}?"}) as reply:
        found = search_files(read_notebook()["topic"])
        with tracker.track_step_context("summarizer", step_type="agent", input_data={"files": len(found)}) as step:
            first = [sentence for path in found for sentence in read_source(path, topic)["sentences"][:1]]
            step.output = {"summary": " ".join(first)}
        reply.output = {"answer": " ".join(first) or "Nothing in whole sentences.", "sources": list(found)}
        write_notebook(topic=topic, **reply.output)
    return [str(survey), str(reply)]


def list_files(root: str) -> list[str]:
    """List the files below `root`, nearest first, within bounds of number and time.

    Hidden and generated entries, key files, links, empty files and other file systems are left out.
    """
    deadline, device = time.monotonic() + MAX_SECONDS, os.stat(root).st_dev
    folders, found = deque([""]), list[str]()
    while folders and len(found) < MAX_FILES and time.monotonic() < deadline:
        folder = folders.popleft()
        with suppress(OSError), os.scandir(os.path.join(root, folder)) as entries:
            for entry in islice(entries, 5000):
                with suppress(OSError):  # it may vanish meanwhile
                    path, status = os.path.join(folder, entry.name), os.lstat(entry.path)
                    if _LEFT_OUT.fullmatch(entry.name) or status.st_dev != device:
                        continue
                    if stat.S_ISDIR(status.st_mode):
                        folders.append(path)
                    elif stat.S_ISREG(status.st_mode) and status.st_size:
                        found.append(path)
    return sorted(found, key=lambda path: (path.count(os.sep), path))[:MAX_FILES]


def read_text(path: str) -> str:
    """Read the beginning of a text file. Raises `OSError`, and `ValueError` for a file that is not text."""
    with open(path, "rb") as file:
        text = file.read(MAX_FILE_BYTES).decode("utf-8", "replace")
    if "\0" in text or text.count("�") > len(text) // 10:
        raise ValueError("not a text file")
    return text
