"""A client of the receiver's read API."""

from __future__ import annotations

import json
import urllib.request
from typing import Any


def get(url: str, path: str = "") -> Any:
    """The parsed answer of one GET."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url + path, timeout=60) as answer:
        return json.load(answer)


def runs(url: str) -> list[dict[str, Any]]:
    """All runs of the receiver with their steps, the oldest first."""
    found = get(url, "/api/runs?limit=100")["runs"]
    return [get(url, f"/api/runs/{run['id']}") for run in sorted(found, key=lambda run: run["started_at"] or "")]


def only_run(url: str) -> dict[str, Any]:
    """The only run; AssertionError if there are none or several."""
    found = runs(url)
    assert len(found) == 1, f"{len(found)} runs: {[run['agent_name'] for run in found]}"
    return found[0]


def outline(run: dict[str, Any]) -> list[Any]:
    """The tree of a run: `["step_type name", [children]]` for each step, in order; failed steps have a `!`."""
    below: dict[Any, list[dict[str, Any]]] = {}
    for step in run["steps"]:
        below.setdefault(step["parent_id"], []).append(step)

    def children(parent: str | None) -> list[Any]:
        found: list[Any] = []
        for step in below.get(parent, []):
            found.append(f"{step['step_type']} {step['name']}" + ("!" if step["status"] == "failed" else ""))
            inner = children(step["id"])
            if inner:
                found.append(inner)
        return found

    return children(None)
