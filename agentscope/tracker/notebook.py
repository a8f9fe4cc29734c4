"""A run in a notebook: its tree, with a link to its page in the viewer. Only a notebook calls this, to show a run."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from agentscope.exporters.agentscope import AgentScopeExporter
from agentscope.exporters.base import Destination
from agentscope.protocols.base import Response
from agentscope.protocols.responses import json_object

if TYPE_CHECKING:
    from agentscope.pipeline.fanout import FanOut
    from agentscope.pipeline.pipeline import Pipeline

FLUSH, ANSWER = 1.0, 2.0
"""Seconds that the notebook waits for delivery, and for the answer with the run."""
MOST_STEPS, MOST_DEPTH = 500, 60
_SIGNS = {"completed": "✓", "failed": "✗", "cancelled": "⊘", "running": "…"}


def run_html(run_id: str, name: str, destinations: Sequence[Destination], pipeline: Pipeline | FanOut) -> str:
    """Return the run from its receiver as HTML; without an answer only its name, with the link if there is a receiver."""
    receiver = next((item for item in destinations if isinstance(item, AgentScopeExporter)), None)
    if receiver is None:
        return f"<b>{escape(name)}</b> <code>{escape(run_id)}</code>"
    path = quote(run_id, safe="")
    link = f'<a href="{escape(receiver.url)}/runs/{path}" target="_blank">{escape(name)}</a>'
    pipeline.flush(FLUSH)
    run = _ask(receiver, f"/api/runs/{path}")
    if run is None:
        return f"<b>{link}</b> <code>{escape(run_id)}</code>"
    children: dict[Any, list[dict[str, Any]]] = {}
    steps = run.get("steps") or []
    known = {step["id"] for step in steps}
    for step in steps[:MOST_STEPS]:
        parent = step.get("parent_id")
        children.setdefault(parent if parent in known else None, []).append(step)
    more = f"<p>… {len(steps) - MOST_STEPS} more steps</p>" if len(steps) > MOST_STEPS else ""
    return f"<div><b>{_sign(run)} {link}</b> {_facts(run, 'duration_ms')}{_list(children, None, set())}{more}</div>"


def _ask(receiver: AgentScopeExporter, path: str) -> dict[str, Any] | None:
    from agentscope.exporters.http.transport import Transport

    transport = Transport(receiver.url, receiver.request_headers(), max_connections=1)
    try:
        reply = transport.send("GET", path, timeout=ANSWER)
    finally:
        transport.close()
    return json_object(reply) if isinstance(reply, Response) and reply.status == 200 else None


def _list(children: dict[Any, list[dict[str, Any]]], parent: Any, above: set[Any]) -> str:
    found = [] if parent in above or len(above) > MOST_DEPTH else children.get(parent, [])
    items = "".join(
        f"<li>{_sign(step)} {escape(str(step.get('name')))} <small>{escape(str(step.get('step_type')))}</small> "
        f"{_facts(step, 'latency_ms')}{_list(children, step['id'], above | {parent})}</li>"
        for step in found
    )
    return f'<ul style="list-style:none">{items}</ul>' if items else ""


def _sign(item: dict[str, Any]) -> str:
    status = str(item.get("status"))
    return f'<span title="{escape(status)}">{_SIGNS.get(status, "?")}</span>'


def _facts(item: dict[str, Any], duration: str) -> str:
    facts = []
    if isinstance(item.get(duration), (int, float)):
        facts.append(f"{item[duration]:.0f} ms")
    if item.get("tokens_used"):
        facts.append(f"{escape(str(item['tokens_used']))} tokens")
    return f"<small>{' · '.join(facts)}</small>"
