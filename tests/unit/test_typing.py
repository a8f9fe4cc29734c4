"""The types of the public API in a user's type checker."""

from __future__ import annotations

from pathlib import Path

from mypy import api

ROOT = Path(__file__).resolve().parents[2]


def test_the_public_api_is_typed_as_promised(tmp_path: Path) -> None:
    out, err, status = api.run(
        [
            "--config-file",
            str(ROOT / "pyproject.toml"),
            "--cache-dir",
            str(tmp_path),
            str(ROOT / "tests" / "typing_public_api.py"),
        ]
    )
    assert (status, err) == (0, ""), out
