"""CI takes no skip for an answer: under AGENTSCOPE_CI_FORBID_SKIPS a skipped test fails, wherever the skip is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import ROOT, run

IN_A_TEST = "import pytest\ndef test_it():\n    pytest.skip('not here')\n"
BY_A_MARK = "import pytest\n@pytest.mark.skip(reason='not here')\ndef test_it(): pass\n"
OF_A_MODULE = "import pytest\npytest.skip('not here', allow_module_level=True)\n"


@pytest.mark.parametrize("program", [IN_A_TEST, BY_A_MARK, OF_A_MODULE], ids=["in a test", "by a mark", "of a module"])
def test_a_skip_is_a_failure_where_ci_forbids_it(program: str, tmp_path: Path) -> None:
    (tmp_path / "test_skipped.py").write_text(program)
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", str(tmp_path))
    allowed = run(*command, cwd=tmp_path)
    forbidden = run(*command, cwd=tmp_path, env={"AGENTSCOPE_CI_FORBID_SKIPS": "1"})
    assert allowed.returncode in (0, 5), allowed.stdout  # 5: nothing was collected
    assert "1 skipped" in allowed.stdout
    assert forbidden.returncode != 0
    assert "skipped where CI forbids it" in forbidden.stdout
