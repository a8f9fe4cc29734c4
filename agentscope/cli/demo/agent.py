"""The sample agent: a librarian of the current directory. It is real (real files, real answers, one real failure), has no
model, and records what it does through the public interface only: this is what an instrumented agent looks like.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import MAX_BYTES, list_files, read_text, shown
from .text import Index, Match, key_sentences, split

if TYPE_CHECKING:
    from agentscope.tracker.tracker import Tracker

READ_ALOUD = 4
"""How many files get a step of their own; the others are read as one."""


class Librarian:
    """Surveys a directory, keeps notes, and answers questions about what it holds. One run a question."""

    def __init__(self, tracker: Tracker, root: str, notebook: Path) -> None:
        self.tracker = tracker
        self.root = root
        self.notebook = notebook
        self.texts: dict[str, str] = {}
        self.unreadable = 0
        self.index = Index([])
        self._read_files_step = tracker.observe(self._read_files, name="read_files", step_type="tool_call")

    def survey(self) -> tuple[str, list[str]]:
        """The first run: what is here? Returns the run id and the topics it found, which may be none."""
        question = {
            "question": "What is in this directory?",
            "directory": shown(os.path.basename(self.root) or self.root),
        }
        with self.tracker.track_run("librarian", input_data=question) as run:
            self._plan("list the files", "look into my notes", "read what is text", "note the topics")
            listing = self._list_files()
            self._open_notebook()
            self._read_all(listing)
            topics = self.index.topics()
            self._remember("survey", {"files": len(listing), "read": len(self.texts), "topics": topics})
            answer = "There is nothing here to read."
            if self.texts:
                about = ", ".join(topics) or "too little to say"
                answer = f"{len(listing)} files, {len(self.texts)} of them read. They are about: {about}."
            run.output = {"answer": answer}
        return str(run), topics

    def answer(self, question: str) -> str:
        """A further run: what do the files say? Returns the run id."""
        with self.tracker.track_run("librarian", input_data={"question": question}) as run:
            self._plan("recall the survey", "search", "let a summarizer read the best files", "note the answer")
            self._recall("survey")
            matches = self._search(question)
            summary = self._summarize(question, matches)
            answer = " ".join(summary) or "They say nothing about it in whole sentences."
            self._remember(question, {"answer": answer})
            run.output = {"answer": answer, "sources": [shown(match.path) for match in matches]}
        return str(run)

    def _plan(self, *steps: str) -> None:
        self.tracker.track_step("plan", step_type="reasoning", output_data={"steps": list(steps)})

    def _list_files(self) -> list[str]:
        with self.tracker.track_step_context("list_files", step_type="tool_call", input_data={"path": "."}) as step:
            listing = list_files(self.root)
            step.output = {
                "found": len(listing.files),
                "bytes": listing.bytes,
                "complete": listing.complete,
                "skipped": dict(listing.skipped),
                "files": [shown(path) for path in listing.files[:50]],
            }
        return listing.files

    def _open_notebook(self) -> None:
        """Read the notes of the last session. There are none the first time: the tool fails, and is called again."""
        try:
            self._read_notebook(attempt=1)
        except FileNotFoundError:
            with self.tracker.track_step_context("start_notebook", step_type="memory") as step:
                self.notebook.write_text("{}", encoding="utf-8")
                step.output = {"notes": 0}
            self._read_notebook(attempt=2)

    def _read_notebook(self, attempt: int) -> dict[str, Any]:
        with self.tracker.track_step_context(
            "read_notebook",
            step_type="tool_call",
            input_data={"file": self.notebook.name},
            meta_data={"attempt": attempt},
        ) as step:
            notes: dict[str, Any] = json.loads(self.notebook.read_text(encoding="utf-8"))
            step.output = {"notes": len(notes)}
        return notes

    def _read_all(self, paths: list[str]) -> None:
        """A sub-agent reads: the first files one by one, the rest together, and builds the index to search."""
        with self.tracker.track_step_context("reader", step_type="agent", input_data={"files": len(paths)}) as step:
            for path in paths[:READ_ALOUD]:
                self._read(path)
            if paths[READ_ALOUD:]:
                self._read_files_step(paths[READ_ALOUD:])
            self.index = Index(chunk for path, text in self.texts.items() for chunk in split(path, text))
            step.output = {
                "read": len(self.texts),
                "not_text": self.unreadable,
                "passages": len(self.index.chunks),
            }

    def _read(self, path: str) -> str:
        with self.tracker.track_step_context(
            "read_file", step_type="tool_call", input_data={"path": shown(path)}
        ) as step:
            try:
                text = read_text(self.root, path)
            except (OSError, ValueError) as error:
                self.unreadable += 1
                step.output = {"path": shown(path), "readable": False, "why": str(error)[:200]}
                return ""
            self.texts[path] = text
            step.output = {"path": shown(path), "lines": text.count("\n") + 1, "text": text[:2000]}
        return text

    def _read_files(self, paths: list[str]) -> dict[str, int]:
        left = MAX_BYTES
        for path in paths:
            try:
                text = read_text(self.root, path)
            except (OSError, ValueError):
                self.unreadable += 1
                continue
            self.texts[path] = text
            left -= len(text)
            if left <= 0:
                break
        return {"files": len(paths), "characters": MAX_BYTES - left}

    def _search(self, question: str) -> list[Match]:
        with self.tracker.track_step_context(
            "search_files", step_type="retrieval", input_data={"query": question, "top": 3}
        ) as step:
            matches = self.index.search(question, top=3)
            step.output = {"documents": [{**match._asdict(), "path": shown(match.path)} for match in matches]}
        return matches

    def _summarize(self, question: str, matches: list[Match]) -> list[str]:
        """A sub-agent of its own, so its steps hang below its own step."""
        with self.tracker.track_step_context(
            "summarizer", step_type="agent", input_data={"question": question, "documents": len(matches)}
        ) as step:
            texts = [self._read_source(match) for match in matches]
            with self.tracker.track_step_context("pick_sentences", step_type="reasoning") as pick:
                chosen = key_sentences(texts, question)
                pick.output = {"sentences": len(chosen)}
            step.output = {"summary": chosen}
        return chosen

    def _read_source(self, match: Match) -> str:
        path = shown(match.path)
        with self.tracker.track_step_context("read_source", step_type="tool_call", input_data={"path": path}) as step:
            text = self.texts[match.path]
            step.output = {"path": path, "score": match.score, "text": text[:2000]}
        return text

    def _recall(self, topic: str) -> Any:
        with self.tracker.track_step_context("recall", step_type="memory", input_data={"topic": topic}) as step:
            note = json.loads(self.notebook.read_text(encoding="utf-8")).get(topic)
            step.output = {"found": note is not None, "note": note}
        return note

    def _remember(self, topic: str, note: dict[str, Any]) -> None:
        with self.tracker.track_step_context(
            "remember", step_type="memory", input_data={"topic": topic, "note": note}
        ) as step:
            notes = json.loads(self.notebook.read_text(encoding="utf-8"))
            notes[topic] = note
            self.notebook.write_text(json.dumps(notes), encoding="utf-8")
            step.output = {"notes": len(notes)}
