"""`benchmarks.structure` reads a checkout: names, import levels, circles, functions used once, docstrings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.structure import ROOT, Source, circles, levels, main, rows

FILES = {
    "__init__.py": "",
    "__main__.py": "from agentscope.cli import main\n",
    "cli.py": '''"""What the command does."""
from agentscope.pipeline import worker
from agentscope.errors import Wrong

def main():
    return worker.work()
''',
    "pipeline/__init__.py": "",
    "pipeline/worker.py": '''"""The worker."""
from . import queue

class Worker:
    limit = 3
    """Whether it stops."""

    def work(self):
        """Do the next piece of work."""
        from agentscope import errors
        return self.rest(errors), queue.take(), queue.take()

    def rest(self, errors):
        """Sofas are no riddle."""
''',
    "pipeline/queue.py": """from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from .worker import Worker

def take():
    pass
""",
    "errors.py": "class Wrong(Exception):\n    def __str__(self):\n        return 'wrong'\n",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return written(tmp_path, FILES)


def written(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / "agentscope" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_names_at_the_root_are_its_folders_and_modules(checkout: Path) -> None:
    assert Source(checkout).root_names == ["cli", "errors", "pipeline"]


def test_imports_in_functions_and_for_type_checkers_count(checkout: Path) -> None:
    imports = Source(checkout).imports
    assert imports["agentscope.pipeline.worker"] == {"agentscope.pipeline.queue", "agentscope.errors"}
    assert imports["agentscope.pipeline.queue"] == {"agentscope.pipeline.worker"}


def test_a_level_is_one_more_than_the_highest_level_below(checkout: Path) -> None:
    assert levels(Source(checkout).folders) == {"errors": 1, "pipeline": 2, "cli": 3}


def test_the_names_of_a_circle_have_one_level_together() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set[str]()}
    assert levels(graph) == {"d": 1, "b": 2, "c": 2, "a": 3}


def test_a_circle_is_named_with_all_its_members(checkout: Path) -> None:
    assert circles(Source(checkout).imports) == [["agentscope.pipeline.queue", "agentscope.pipeline.worker"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_a_function_mentioned_once_is_told_from_one_mentioned_twice(checkout: Path) -> None:
    source = Source(checkout)
    assert sorted(source.functions) == ["__str__", "main", "rest", "take", "work"]
    assert source.used_once == ["rest", "work"]


def test_docstrings_of_attributes_count_and_riddles_are_known_by_their_first_word(checkout: Path) -> None:
    docstrings = Source(checkout).docstrings
    assert [docstring.place for docstring in docstrings if docstring.is_riddle] == [
        "agentscope/cli.py:1",
        "agentscope/pipeline/worker.py:6",
    ]
    assert len(docstrings) == 5


def test_the_listing_has_the_same_lines_for_every_checkout(checkout: Path) -> None:
    figures = dict(rows(Source(checkout)))
    assert figures["modules"] == "7"
    assert figures["lines"] == str(sum(text.count("\n") for text in FILES.values()))
    assert figures["longest module 1"] == "14 pipeline.worker"
    assert figures["circles between modules"] == "1"


def test_checkouts_stand_beside_each_other(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(checkout), str(ROOT)])
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == [str(checkout), str(ROOT)]
    assert "level  3: cli" in printed


def test_a_seed_draws_the_same_docstrings_again(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(checkout), "--docstrings", "2", "--seed", "5"])
    first = capsys.readouterr().out
    main([str(checkout), "--docstrings", "2", "--seed", "5"])
    assert capsys.readouterr().out == first
    main([str(checkout), "--docstrings", "30"])
    assert capsys.readouterr().out.count("agentscope/") == 5


def test_riddles_are_listed(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(checkout), "--riddles"])
    assert capsys.readouterr().out == (
        "agentscope/cli.py:1\nWhat the command does.\n\nagentscope/pipeline/worker.py:6\nWhether it stops.\n\n"
    )


def test_a_folder_without_the_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has no package agentscope"):
        Source(tmp_path)
