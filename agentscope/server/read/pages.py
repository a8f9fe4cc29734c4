"""The pages as HTML text, made of the answers of the read API. Pure; `text` escapes every value from outside."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any
from urllib.parse import urlencode

from agentscope.events import FIELDS, RUN_FIELDS, STEP_FIELDS, TEXTS, Field
from agentscope.server.http.addressing import FRAME
from agentscope.server.http.paths import address_of
from agentscope.server.storage.base import RunQuery, StepPage
from agentscope.server.storage.rows import is_failed
from agentscope.server.storage.totals import COST_DIGITS

from .unseen import marked

MAX_CELL = 20_000
"""Characters of one payload on a page. The JSON has the rest."""
MAX_STEPS = 1_000
"""Steps on a page. The next page continues with the rest."""
MAX_PAYLOADS = 8_000_000
"""Characters of HTML of all payloads on a page; a character escapes to 34 at most. The JSON has the rest."""

_MAX_NAME = 200
_WHOLE_NAME = 1001  # characters, the longest that the read API has for a run
_MAX_NAMES = 50
_MOST_AGENTS = 5  # in a line of the list
_JSON = json.JSONEncoder(ensure_ascii=False, indent=2)
_MAX_NESTING = 12  # levels of indentation that leave room for a card on a phone
_STATUSES = ("running", "completed", "failed", "cancelled", "interrupted")
_FILTERS = {field.filter: field for field in FIELDS.values() if field.filter}
_IN_FORM = ("status", "agent", "step_status")  # filters that have an input of their own
_CHECK = "agentscope-check"
"""The tag of the runs that `agentscope check` sends."""
_KINDS_OF_TOKENS = ("input", "output", "cache_read", "cache_write", "reasoning")
_ERROR_TEXTS = ("type", "message", "traceback")


class _Room:
    """The characters that are left on a page for payloads."""

    def __init__(self) -> None:
        self.left = MAX_PAYLOADS


def text(value: object, limit: int = _MAX_NAME) -> str:
    """Make any value harmless HTML text: cut, escaped, and with invisible characters shown by their numbers."""
    whole = str(value)
    return marked(html.escape(whole[:limit] + "…" if len(whole) > limit else whole), _mark)


def _plain(value: str) -> str:
    """Make a text harmless in an attribute or a title, which cannot hold markup."""
    return marked(html.escape(value[:_WHOLE_NAME]), str)


def _name(value: str) -> str:
    """Write a name; one of spaces alone by their numbers, since nothing of it would be seen."""
    return (
        text(value) if value.strip() else "".join(_mark(f"U+{ord(character):04X}") for character in value[:_MAX_NAME])
    )


def run_list(
    runs: Sequence[Mapping[str, Any]], query: RunQuery, cursor: str | None, address: str, key_required: bool
) -> str:
    """Write the list of runs, with its filter and the link to the next page."""
    filtered = bool(query.q or query.after or _chosen(query))
    if runs:
        heads = "".join(f"<th>{column}</th>" for column in _cells(runs[0]))
        body = f"""<div class="runs"><table><thead><tr>{heads}</tr></thead>
<tbody>{"".join(map(_run_line, runs))}</tbody></table></div>"""
    elif filtered:
        whole = " Agent is compared as a whole name; Search finds parts, too." if query.agent else ""
        body = f'<p class="empty">No run matches.{whole} <a href="/">Show all runs</a></p>'
    else:
        body = _first_steps(address, key_required)
    more = f'<nav><a class="button" href="/?{_link(query, cursor)}">Older runs</a></nav>' if cursor else ""
    form = _filter(query) if runs or filtered else ""
    return _page("Runs", f"<h1>Runs</h1>{form}{body}{more}")


def run_page(run: Mapping[str, Any], page: int = 1, part: StepPage | None = None, *, failed: bool = False) -> str:
    """Write one run: its payloads, and one page of its steps as a tree. A page beyond the last is the last.

    part: the page of steps, if `run` does not hold them all. failed: the page has failed steps only.
    """
    run_id = run["id"]
    raw, events = address_of("/api/runs", run_id), address_of("/api/runs", run_id, "/events")
    steps = run["steps"]
    room = _Room()
    count = len(steps) if part is None else run["error_count"] if failed else run["step_count"]
    first = min(page - 1, max(0, count - 1) // MAX_STEPS) * MAX_STEPS
    facts = [*_figures(run).items()]
    usage = run["total_usage"] or {}
    parts = [(kind.replace("_", " "), usage.get(f"{kind}_tokens")) for kind in _KINDS_OF_TOKENS]
    told = [f"{kind} {_number(count)}" for kind, count in parts if count is not None]
    if told:
        facts.append(("Of these", " · ".join(told)))
    if run["cost_usd"] is not None:
        facts.append(("Cost (USD)", f"{run['cost_usd']:,.{COST_DIGITS}f}".rstrip("0").rstrip(".")))
    if run["is_root_missing"]:
        facts.append(("Root", "not here; told from the steps"))
    if run["agents"]:
        links = (
            f'<a dir="auto" href="/?{html.escape(urlencode({"agent": name}))}">{_name(name)}</a>'
            for name in run["agents"]
        )
        facts.append(("Agents", " ".join(links)))
    facts += _labelled(run, RUN_FIELDS)
    if len(run["agent_name"]) > _MAX_NAME:
        facts.append(("Whole name", text(run["agent_name"], _WHOLE_NAME)))
    payloads = _payloads(run, raw, room)
    none = "No steps came so far." if run["status"] == "running" else "No steps were recorded."
    tree = _tree(steps, first, raw, room) if part is None else _tree(_alone(steps), 0, raw, room)
    tree = tree or f'<p class="empty">{none}</p>'
    turn = _turn(run_id, first, count, "&amp;status=failed" if failed else "")
    if run["error_count"] and run["step_count"] > MAX_STEPS:
        address = address_of("/runs", run_id)
        link = address if failed else f"{address}{'&amp;' if '?' in address else '?'}status=failed"
        other = f'<a href="{link}#steps">{"All steps" if failed else "Failed steps"}</a>'
        turn += f'<p class="note">{other}</p>'
    return _page(
        run["agent_name"],
        f"""<p class="path"><a href="/">Runs</a> / <code>{text(run_id)}</code></p>
<h1><span dir="auto">{_name(run["agent_name"])}</span> {_status(run["status"], run["failed"])}</h1>
{_facts(facts)}
{payloads}
<h2 id="steps">Steps</h2>{turn}{tree}{turn}
<nav><a href="{raw}">This run as JSON</a> · <a href="{events}">Its events</a></nav>""",
    )


def login(problem: str = "") -> str:
    """Write the form that asks for the key."""
    said = f'<p class="problem" role="alert">{text(problem)}</p>' if problem else ""
    return _page(
        "Log in",
        f"""<h1>Log in</h1>{said}<form class="login" method="post" action="/login">
<label>API key <input type="password" name="key" required autofocus autocomplete="current-password"></label>
<button>Log in</button></form>""",
    )


def message(title: str, sentence: str) -> str:
    """Write a page of one sentence."""
    return _page(title, f'<h1>{text(title)}</h1><p>{text(sentence)}</p><p><a href="/">All runs</a></p>')


def _page(title: str, body: str) -> str:
    prefix, has_session = FRAME.get()
    logout = '<form method="post" action="/logout"><button>Log out</button></form>' if has_session else ""
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_plain(title)} · AgentScope</title><link rel="stylesheet" href="/static/style.css"></head>
<body><header><a class="brand" href="/">AgentScope</a>{logout}</header><main>{body}</main></body></html>
"""
    # Quotes in recorded values are escaped, so that every match is markup of this module.
    return re.sub('( href="| action=")(?=/)', rf"\1{prefix}", page) if prefix else page


def _first_steps(address: str, key_required: bool) -> str:
    key = 'api_key="the key this receiver was started with", ' if key_required else ""
    code = f'''from agentscope import create_tracker

tracker = create_tracker({key}base_url="{address}")

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
        f'<option value="{_plain(status)}"{" selected" if status == chosen else ""}>{_plain(status)}</option>'
        for status in statuses
    )
    others = {name: value for name, value in _chosen(query).items() if name not in _IN_FORM}
    kept = "".join(f'<input type="hidden" name="{name}" value="{_plain(value)}">' for name, value in others.items())
    told = ", ".join(f"{_FILTERS[name].label.lower()} <code>{text(value)}</code>" for name, value in others.items())
    note = f'<p class="note">Only runs of {told}. <a href="/">Show all runs</a></p>' if others else ""
    ticked = " checked" if query.step_status == "failed" else ""
    return f"""<form class="filter" method="get" action="/">
<label>Status <select name="status"><option value="">any</option>{options}</select></label>
<label>Agent <input name="agent" value="{_plain(query.agent or "")}" placeholder="its whole name"></label>
<label>Search <input type="search" name="q" value="{_plain(query.q or "")}" placeholder="part of a name or id"></label>
<label class="box"><input type="checkbox" name="step_status" value="failed"{ticked}> any step failed</label>
{kept}<button>Filter</button></form>{note}"""


def _chosen(query: RunQuery) -> dict[str, str]:
    """Return the filters of a query that are set."""
    return {name: value for name in (*_FILTERS, "step_status") if (value := getattr(query, name))}


def _link(query: RunQuery, cursor: str | None) -> str:
    values = {**_chosen(query), "q": query.q, "limit": query.limit, "cursor": cursor}
    return html.escape(urlencode({name: value for name, value in values.items() if value}))


def _labelled(record: Mapping[str, Any], fields: Mapping[str, Field]) -> list[tuple[str, str]]:
    """Return the fields of a run or step that have a label and a value. The value of a filter is a link to its runs."""
    facts = []
    for name, field in fields.items():
        value = record.get(name)
        if field.label and value not in (None, "", []):
            values = value[:_MAX_NAMES] if field.type == TEXTS else [value]
            facts.append((field.label, " ".join(_fact(field, each) for each in values)))
    return facts


def _fact(field: Field, value: Any) -> str:
    if not field.filter:
        return text(value)
    link = html.escape(urlencode({field.filter: value}))
    kind = ' class="type"' if field.type == TEXTS else ""
    return f'<a{kind} dir="auto" href="/?{link}">{text(value)}</a>'


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    lines = "".join(f"<div><dt>{title}</dt><dd>{value}</dd></div>" for title, value in facts)
    return f'<dl class="facts">{lines}</dl>' if facts else ""


def _figures(run: Mapping[str, Any]) -> dict[str, str]:
    return {
        "Started": _when(run["started_at"]),
        "Duration": _duration(run["duration_ms"]),
        "Steps": _number(run["step_count"]),
        "Errors": f'<strong class="problem">{run["error_count"]}</strong>' if run["error_count"] else "0",
        "Tokens": _number(run["tokens_used"]),
    }


def _cells(run: Mapping[str, Any]) -> dict[str, str]:
    """Return the cells of a run in the list, by the heads of their columns."""
    name = run["agent_name"]
    link = f'<a href="{address_of("/runs", run["id"])}" dir="auto" title="{_plain(name)}">{_name(name)}</a>'
    inside = "".join(f' <span class="type" dir="auto">{_name(agent)}</span>' for agent in run["agents"][:_MOST_AGENTS])
    more = f' <span class="type">+{len(run["agents"]) - _MOST_AGENTS}</span>' if run["agents"][_MOST_AGENTS:] else ""
    check = ' <span class="type">check of the connection</span>' if _CHECK in run["tags"] else ""
    return {"Status": _status(run["status"], run["failed"]), "Agent": f"{link}{inside}{more}{check}", **_figures(run)}


def _run_line(run: Mapping[str, Any]) -> str:
    # On a narrow screen the heads of the columns are hidden, and each cell shows its label.
    cells = (f'<td data-label="{head}">{cell}</td>' for head, cell in _cells(run).items())
    return f"<tr>{''.join(cells)}</tr>"


def _alone(steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return a part of the steps of a run as a tree of its own: a step whose parent is elsewhere has none."""
    ids = {step["id"] for step in steps}
    return [step if step["parent_id"] in ids else {**step, "parent_id": None} for step in steps]


def _turn(run_id: str, first: int, count: int, more: str = "") -> str:
    """Write the range of steps on the page and the links to those before and after; empty if the page has all."""
    if count <= MAX_STEPS:
        return ""
    after = first + MAX_STEPS
    ways = [f"Steps {first + 1:,} to {min(after, count):,} of {count:,}"]
    for word, start in (("Previous", first - MAX_STEPS), ("Next", after)):
        if 0 <= start < count:
            address = address_of("/runs", run_id)
            link = f"{address}{'&amp;' if '?' in address else '?'}page={start // MAX_STEPS + 1}{more}#steps"
            ways.append(f'<a href="{link}">{word} {min(MAX_STEPS, count - start):,} steps</a>')
    return f'<p class="note">{" · ".join(ways)}</p>'


def _tree(steps: Sequence[Mapping[str, Any]], first: int, raw: str, room: _Room) -> str:
    drawn: list[tuple[int, str]] = []
    path: list[Mapping[str, Any]] = []  # a step and all its ancestors
    for place, (depth, step) in enumerate(islice(_in_order(steps), first + MAX_STEPS)):
        path[depth:] = [step]
        if place == first:  # the ancestors that were shown on an earlier page are named again
            above = [*enumerate(path[:-1])][-_MAX_NESTING:]
            drawn += ((at, f'<p class="note">{text(part["name"])}{_level(at)}, continued</p>') for at, part in above)
        if place >= first:
            drawn.append((depth, _step(step, depth, raw, room)))
    parts: list[str] = []
    lists = 0
    for depth, markup in drawn:
        wanted = min(depth + 1, _MAX_NESTING)  # deeper levels are not indented further
        deeper = '<ul class="tree"><li>' * (wanted - lists)
        parts += deeper or "</li></ul>" * (lists - wanted) + "</li><li>", markup
        lists = wanted
    return "".join(parts) + "</li></ul>" * lists


def _in_order(steps: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield every step with its depth, each after its parent."""
    children: dict[str | None, list[Mapping[str, Any]]] = {}
    for step in reversed(steps):
        children.setdefault(step["parent_id"], []).append(step)
    # A stack, not recursion: a chain of a thousand steps is a legal tree.
    stack = [(0, step) for step in children.get(None, ())]
    while stack:
        depth, step = stack.pop()
        yield depth, step
        stack += ((depth + 1, child) for child in children.get(step["id"], ()))


def _step(step: Mapping[str, Any], depth: int, raw: str, room: _Room) -> str:
    failed = is_failed(step)
    loose = ""
    if step.get("unattached_parent_id"):
        loose = f'<p class="note">Its parent <code>{text(step["unattached_parent_id"])}</code> did not come.</p>'
    tokens = f"{_number(step['tokens_used'])} tokens · " if step["tokens_used"] is not None else ""
    # A step that was recorded at its end and without a duration begins and ends in the same instant.
    instant = step["started_at"] is not None and step["started_at"] == step["ended_at"]
    took = _duration(None if instant and not step["latency_ms"] else step["latency_ms"])
    name = f'<span class="name" dir="auto">{_name(step["name"])}</span>'
    return f"""<details class="step"{" open" if failed else ""}><summary><span>{_status(step["status"], failed)}
{name} <span class="type">{text(step["step_type"])}</span>{_level(depth)}</span>
<span class="figures">{tokens}{took}</span></summary>
{loose}{_facts(_labelled(step, STEP_FIELDS))}{_payloads(step, raw, room)}</details>"""


def _level(depth: int) -> str:
    """Write the level of a step that is too deep to be indented."""
    return f' <span class="level">level {depth + 1:,}</span>' if depth + 1 >= _MAX_NESTING else ""


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
        full = _readable(value) if name == "error" else value if isinstance(value, str) else _indented(value)
        cut = f' <a href="{raw}">cut here; whole in the JSON</a>' if len(full) > MAX_CELL else ""
        shown = text(full, MAX_CELL)
        room.left -= len(shown)
        parts.append(f'<section{kind}><h3>{name}{cut}</h3><pre dir="auto">{shown}</pre></section>')
    if record.get("truncated"):
        names = ", ".join(map(text, record["truncated"][:_MAX_NAMES]))
        parts.append(f'<p class="note">Cut or left out before it was sent: {names}</p>')
    return "".join(parts)


def _indented(value: Any) -> str:
    """Indent JSON, up to about the length that a page shows: indents make a deep value many times as long."""
    parts: list[str] = []
    size = 0
    for part in _JSON.iterencode(value):
        parts.append(part)
        size += len(part)
        if size > MAX_CELL:
            break
    return "".join(parts)


def _readable(error: Any) -> str:
    """Write an error as a terminal shows it: type, message and traceback, and its other fields as JSON."""
    if isinstance(error, str):
        return error
    if not isinstance(error, dict):
        return _indented(error)
    told = {name: error[name] for name in _ERROR_TEXTS if error.get(name) and isinstance(error[name], str)}
    rest = {name: value for name, value in error.items() if name not in told}
    traceback = told.pop("traceback", "")
    parts = (": ".join(told.values()), traceback, _indented(rest) if rest or not error else "")
    return "\n\n".join(filter(None, parts))


def _status(status: str, failed: bool) -> str:
    kind = "failed" if failed else status if status in _STATUSES else "other"
    return f'<span class="status {kind}">{text(status, 40)}</span>'


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


def _mark(code_point: str) -> str:
    return f'<span class="unseen">{code_point}</span>'
