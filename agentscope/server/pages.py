"""The pages as HTML text, from what the read API answers. Pure; every value from outside goes through `text`."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from agentscope.server.reading import RunQuery

MAX_CELL = 20_000
"""Characters of one payload that a page shows; the JSON has the rest."""
MAX_STEPS = 1_000
"""Steps that a page shows; the JSON has the rest."""
MAX_PAYLOADS = 8_000_000
"""Characters of HTML that all payloads of one page come to; escaping makes up to 34 of one. The JSON has the rest."""

_MAX_NAME = 200
_MAX_NAMES = 50
_JSON = json.JSONEncoder(ensure_ascii=False, indent=2)
_MAX_NESTING = 40
# Characters that are not seen, or that change how their neighbours are: controls, bidirectional marks, zero widths.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]")
_STATUSES = ("running", "completed", "failed")


class _Room:
    """What is left of a page for payloads."""

    def __init__(self) -> None:
        self.left = MAX_PAYLOADS


def text(value: object, limit: int = _MAX_NAME) -> str:
    """Any value as harmless HTML text: cut, escaped, and with characters shown that would not be seen."""
    plain = str(value)
    if len(plain) > limit:
        plain = plain[:limit] + "…"
    return _UNSEEN.sub(_shown, html.escape(plain))


def run_list(
    runs: Sequence[Mapping[str, Any]], query: RunQuery, cursor: str | None, address: str, key_required: bool
) -> str:
    """The list of runs, with its filter and the way to the next page."""
    filtered = bool(query.status or query.agent or query.q or query.after)
    if runs:
        body = f"""<div class="scroll"><table><thead><tr><th>Status</th><th>Agent</th><th>Started</th>
<th class="n">Duration</th><th class="n">Steps</th><th class="n">Errors</th><th class="n">Tokens</th></tr></thead>
<tbody>{"".join(map(_run_line, runs))}</tbody></table></div>"""
    elif filtered:
        body = '<p class="empty">No run matches. <a href="/">Show all runs</a></p>'
    else:
        body = _first_steps(address, key_required)
    more = f'<nav><a class="button" href="/?{_link(query, cursor)}">Older runs</a></nav>' if cursor else ""
    form = _filter(query) if runs or filtered else ""
    return _page("Runs", f"<h1>Runs</h1>{form}{body}{more}")


def run_page(run: Mapping[str, Any]) -> str:
    """One run: what went in and came out, and its steps as a tree."""
    run_id = run["id"]
    raw = "/api/runs/" + quote(run_id, safe="")
    steps = run["steps"]
    room = _Room()
    cut = ""
    if len(steps) > MAX_STEPS:
        cut = f'<p class="note">The first {MAX_STEPS} of {len(steps)} steps. <a href="{raw}">All as JSON</a></p>'
    facts = [
        ("Started", _when(run["started_at"])),
        ("Duration", _duration(run["duration_ms"])),
        ("Steps", str(run["step_count"])),
        ("Errors", _errors(run["error_count"])),
        ("Tokens", _number(run["tokens_used"])),
    ]
    known = (("External id", "external_id"), ("User", "user_id"), ("Conversation", "conversation_id"))
    facts += [(title, text(run[name])) for title, name in known if run[name]]
    if run["tags"]:
        facts.append(("Tags", " ".join(f'<span class="type">{text(tag)}</span>' for tag in run["tags"][:_MAX_NAMES])))
    lines = "".join(f"<div><dt>{title}</dt><dd>{value}</dd></div>" for title, value in facts)
    payloads = _payloads(run, raw, room)
    tree = _tree(steps[:MAX_STEPS], raw, room) or '<p class="empty">No steps came so far.</p>'
    return _page(
        str(run["agent_name"]),
        f"""<p class="path"><a href="/">Runs</a> / <code>{text(run_id)}</code></p>
<h1>{text(run["agent_name"])} {_status(run["status"], run["failed"])}</h1>
<dl class="facts">{lines}</dl>
{payloads}
<h2>Steps</h2>{cut}{tree}
<nav><a href="{raw}">This run as JSON</a> · <a href="{raw}/events">Its events</a></nav>""",
    )


def login(problem: str = "") -> str:
    """The form that asks for the key."""
    said = f'<p class="problem" role="alert">{text(problem)}</p>' if problem else ""
    return _page(
        "Log in",
        f"""<h1>Log in</h1>{said}<form class="login" method="post" action="/login">
<label>API key <input type="password" name="key" required autofocus autocomplete="current-password"></label>
<button>Log in</button></form>""",
    )


def message(title: str, sentence: str) -> str:
    """A page that says one thing."""
    return _page(title, f'<h1>{text(title)}</h1><p>{text(sentence)}</p><p><a href="/">All runs</a></p>')


def _page(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)} · AgentScope</title><link rel="stylesheet" href="/static/style.css"></head>
<body><header><a class="brand" href="/">AgentScope</a></header><main>{body}</main></body></html>
"""


def _first_steps(address: str, key_required: bool) -> str:
    key = "the key this receiver was started with" if key_required else "any-key"
    code = f'''from agentscope import create_tracker

tracker = create_tracker(api_key="{key}", base_url="{address}")

with tracker.track_run("my_agent", input_data={{"question": "…"}}) as run:
    tracker.track_step("search", step_type="tool_call", output_data={{"hits": 3}})
    run.output = {{"answer": "…"}}'''
    return f"""<div class="empty"><p><strong>No runs yet.</strong> Point the SDK at this address, and they show here:</p>
<pre>{text(code, MAX_CELL)}</pre>
<p>Or set <code>AGENTSCOPE_BASE_URL={text(address)}</code> for an agent that is instrumented already.</p></div>"""


def _filter(query: RunQuery) -> str:
    chosen = query.status or ""
    statuses = (*_STATUSES, chosen) if chosen and chosen not in _STATUSES else _STATUSES
    options = "".join(
        f'<option value="{text(status)}"{" selected" if status == chosen else ""}>{text(status)}</option>'
        for status in statuses
    )
    return f"""<form class="filter" method="get" action="/">
<label>Status <select name="status"><option value="">any</option>{options}</select></label>
<label>Agent <input name="agent" value="{text(query.agent or "", 255)}"></label>
<label>Search <input type="search" name="q" value="{text(query.q or "", 255)}" placeholder="name or id"></label>
<button>Filter</button></form>"""


def _link(query: RunQuery, cursor: str | None) -> str:
    values = {"status": query.status, "agent": query.agent, "q": query.q, "limit": query.limit, "cursor": cursor}
    return html.escape(urlencode({name: value for name, value in values.items() if value}))


def _run_line(run: Mapping[str, Any]) -> str:
    link = "/runs/" + quote(run["id"], safe="")
    return f"""<tr><td>{_status(run["status"], run["failed"])}</td>
<td><a href="{link}">{text(run["agent_name"])}</a></td><td>{_when(run["started_at"])}</td>
<td class="n">{_duration(run["duration_ms"])}</td><td class="n">{run["step_count"]}</td>
<td class="n">{_errors(run["error_count"])}</td><td class="n">{_number(run["tokens_used"])}</td></tr>"""


def _tree(steps: Sequence[Mapping[str, Any]], raw: str, room: _Room) -> str:
    shown = {step["id"] for step in steps}
    children: dict[str | None, list[Mapping[str, Any]]] = {}
    for step in steps:
        parent = step["parent_id"] if step["parent_id"] in shown else None
        children.setdefault(parent, []).append(step)
    # A stack, not recursion: a chain of a thousand steps is a legal tree. Deeper levels are shown side by side.
    parts: list[str] = []
    stack: list[tuple[str, str | None, int]] = [("open", None, 0)]
    while stack:
        markup, step_id, depth = stack.pop()
        if markup != "open":
            parts.append(markup)
            continue
        nested = children.get(step_id, [])
        if nested and depth < _MAX_NESTING:
            parts.append('<ul class="tree">')
            stack.append(("</ul>", None, depth))
        for step in reversed(nested):
            flat = depth >= _MAX_NESTING
            stack.append(("" if flat else "</li>", None, depth))
            stack.append(("open", step["id"], depth + 1))
            stack.append((_step(step, raw, room) if flat else "<li>" + _step(step, raw, room), None, depth))
    return "".join(parts)


def _step(step: Mapping[str, Any], raw: str, room: _Room) -> str:
    failed = step["status"] in ("failed", "error") or bool(step["error"])
    loose = ""
    if step.get("unattached_parent_id"):
        loose = f'<p class="note">Its parent <code>{text(step["unattached_parent_id"])}</code> did not come.</p>'
    tokens = f"{_number(step['tokens_used'])} tokens" if step["tokens_used"] is not None else ""
    return f"""<details class="step"{" open" if failed else ""}><summary>{_status(step["status"], failed)}
<span class="name">{text(step["name"])}</span> <span class="type">{text(step["step_type"])}</span>
<span class="figures">{tokens} {_duration(step["latency_ms"])}</span></summary>
{loose}{_payloads(step, raw, room)}</details>"""


def _payloads(record: Mapping[str, Any], raw: str, room: _Room) -> str:
    parts = []
    for name in ("error", "input", "output", "usage", "meta_data"):
        value = record.get(name)
        if value is None:
            continue
        kind = ' class="problem"' if name == "error" else ""
        if room.left <= 0:
            parts.append(
                f'<section{kind}><h3>{name} <a href="{raw}">left out here; it is in the JSON</a></h3></section>'
            )
            continue
        full = value if isinstance(value, str) else _indented(value)
        cut = f' <a href="{raw}">cut here; whole in the JSON</a>' if len(full) > MAX_CELL else ""
        shown = text(_lines(full), MAX_CELL)
        room.left -= len(shown)
        parts.append(f"<section{kind}><h3>{name}{cut}</h3><pre>{shown}</pre></section>")
    if record.get("truncated"):
        names = ", ".join(map(text, record["truncated"][:_MAX_NAMES]))
        parts.append(f'<p class="note">Cut or left out before it was sent: {names}</p>')
    return "".join(parts)


def _indented(value: Any) -> str:
    """JSON with a value a line; not much more than a page shows, since deep values grow many times by their indents."""
    parts: list[str] = []
    size = 0
    for part in _JSON.iterencode(value):
        parts.append(part)
        size += len(part)
        if size > MAX_CELL:
            break
    return "".join(parts)


def _lines(full: str) -> str:
    """Line breaks inside strings as such, so that a traceback reads like one."""
    return full.replace("\\n", "\n") if '"traceback"' in full else full


def _status(status: str, failed: bool) -> str:
    kind = "failed" if failed else status if status in _STATUSES else "other"
    return f'<span class="status {kind}">{text(status, 40)}</span>'


def _errors(count: int) -> str:
    return f'<strong class="problem">{count}</strong>' if count else "0"


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _when(moment: str | None) -> str:
    if moment is None:
        return "–"
    shown = datetime.fromisoformat(moment[:-1]).strftime("%d %b %Y, %H:%M:%S")
    return f'<time datetime="{text(moment)}">{shown} UTC</time>'


def _duration(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "–"
    if milliseconds < 1000:
        return f"{milliseconds:.3g} ms" if milliseconds < 100 else f"{milliseconds:.0f} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.2f} s"
    minutes, seconds = divmod(milliseconds / 1000, 60)
    return f"{minutes:.0f} min {seconds:.0f} s"


def _shown(match: re.Match[str]) -> str:
    return f'<span class="unseen">U+{ord(match.group()):04X}</span>'
