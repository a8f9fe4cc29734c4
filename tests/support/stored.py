"""The runs and steps that a receiver has stored."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

_open = build_opener(ProxyHandler({})).open


def get(url: str, path: str) -> Any:
    """A parsed answer of the read API."""
    with _open(url + path, timeout=30) as answer:
        return json.load(answer)


def stored_runs(url: str) -> list[dict[str, Any]]:
    """All runs with all of their steps, the newest first."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = get(url, f"/api/runs?limit=100{cursor}")
        found += [_whole(url, "/api/runs/" + quote(run["id"], safe="")) for run in page["runs"]]
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"


def _whole(url: str, path: str) -> dict[str, Any]:
    run: dict[str, Any] = get(url, path)
    cursor = run.pop("steps_next", None)
    while cursor is not None:
        page = get(url, f"{path}/steps?limit=1000&cursor={cursor}")
        run["steps"] += page["steps"]
        cursor = page["next"]
    return run


def stored_steps(url: str) -> list[str]:
    """The names of all steps of all runs. A step that was stored twice is listed twice."""
    return [step["name"] for run in stored_runs(url) for step in run["steps"]]
