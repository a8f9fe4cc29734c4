"""Events that travel as OTLP fold to the same run as events that travel by the batch call."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentscope.events import RUN_END, RUN_START, RUN_UPDATE, STEP, STEP_END, STEP_START, STEP_UPDATE, Event
from agentscope.protocols.agentscope.decode import Patch, decode_batch
from agentscope.protocols.assemble import merged
from agentscope.protocols.json_encode import event_json
from agentscope.protocols.otlp.inbound.patches import patches_of
from agentscope.protocols.otlp.outbound.span import span_of
from agentscope.protocols.otlp.wire import json_form
from agentscope.protocols.otlp.wire import protobuf_form as protobuf
from agentscope.protocols.otlp.wire.model import Span, SpanGroup, Unreadable
from agentscope.server.storage.fold import run_view
from tests.support.events import NOON, SESSION
from tests.support.otlp import read_request

RUN = "3b1fa0d2-5c1e-4d0c-8a5e-6d2f1c9b7a10"
FORMS = (protobuf, json_form)

# ---- every run that the faces can record ----------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(-1e9, 1e9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
messages = st.lists(st.fixed_dictionaries({"role": texts, "content": values}), max_size=2)
tricky = st.sampled_from(["{}", "null", '"', "12", '{"a": 1}', "x" * 9000, "y" * 70_000, ["z" * 70_000]])
payloads = (values | messages | tricky).map(lambda value: json.dumps(value, ensure_ascii=False).encode())
exceptions = st.fixed_dictionaries({}, optional={"type": texts, "message": texts, "traceback": texts, "code": values})
errors = exceptions.map(lambda value: json.dumps(value).encode()) | payloads
objects = st.dictionaries(texts, values, max_size=3).map(lambda value: json.dumps(value).encode()) | payloads
usages = st.dictionaries(
    st.sampled_from(["prompt_tokens", "completionTokens", "total_tokens", "input_tokens", "more"]), values, max_size=3
).map(lambda value: json.dumps(value).encode())
names = st.lists(st.sampled_from(["input", "output"]), max_size=2, unique=True)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


AT_START = some(input=payloads, meta_data=objects, truncated=names, level=texts)
AT_END = some(output=payloads, error=errors, usage=usages, meta_data=objects, truncated=names)
UPDATES = some(input=payloads, output=payloads, status=texts, meta_data=objects, truncated=names)
amounts = st.integers(0, 10**6) | st.floats(0, 1e6)
OF_STEP_END = some(
    tokens_used=st.integers(-5, 2**62),
    latency_ms=amounts,
    model=texts,
    provider=texts,
    cost_usd=amounts,
    first_token_ms=amounts,
)
OF_RUN_START = some(
    external_id=texts,
    user_id=texts,
    conversation_id=texts,
    source=texts,
    span_id=texts,
    tags=st.lists(texts, max_size=2),
    environment=texts,
    release=texts,
)
STATUSES = st.sampled_from(["completed", "failed", "cancelled", "unfinished"])
STEP_TYPES = ["llm_call", "tool_call", "agent", "memory", "retrieval", "reasoning", "other"]


@st.composite
def recorded(draw: st.DrawFn) -> list[Event]:
    """At least one event of one run, in the order of the calls."""
    events: list[Event] = []
    clock = NOON

    def put(type_: str, step_id: str | None, parent: str | None, fields: dict[str, Any]) -> None:
        events.append(Event(type_, len(events) + 1, clock, RUN, step_id, parent, fields, 100))

    def tick() -> int:
        # Whole microseconds apart. Steps that start in the same microsecond are sorted by their events, or by
        # their spans, and those differ: a span is placed by its end.
        nonlocal clock
        clock += draw(st.integers(1, 10**6)) * 1000 + draw(st.integers(0, 999))
        return clock

    def ordinary(fields: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {**more, **fields}

    if draw(st.booleans()):
        start = {**draw(AT_START), **draw(OF_RUN_START)}
        put(RUN_START, None, None, ordinary(start, agent_name=draw(texts), status="running", started_at=tick()))
    steps: list[tuple[str, int, dict[str, Any]]] = []
    open_steps: list[int] = []
    for index in range(draw(st.integers(0, 4))):
        step_id = draw(st.sampled_from([f"step-{index}", f"{index + 1:016x}"]))
        parent = draw(st.sampled_from([None, "gone", "00000000000000aa", *(known[0] for known in steps)]))
        about = {"name": draw(texts), "step_type": draw(st.sampled_from(STEP_TYPES))}
        started = tick()
        if draw(st.booleans()):
            ended = {**draw(AT_START), **draw(AT_END), **draw(OF_STEP_END)}
            put(
                STEP,
                step_id,
                parent,
                {**about, "status": draw(STATUSES), "started_at": started, "ended_at": tick(), **ended},
            )
            steps.append((step_id, started, about))
            continue
        put(STEP_START, step_id, parent, ordinary(draw(AT_START), **about, status="running", started_at=started))
        for _ in range(draw(st.integers(0, 2))):
            tick()
            put(STEP_UPDATE, step_id, parent, draw(UPDATES))
        if draw(st.integers(0, 4)):
            ended = {**draw(AT_END), **draw(OF_STEP_END)}
            tick()
            put(
                STEP_END,
                step_id,
                parent,
                {**about, "started_at": started, "status": draw(STATUSES), "ended_at": clock, **ended},
            )
        steps.append((step_id, started, about))
        open_steps.append(index)
    for _ in range(draw(st.integers(0, 2))):
        tick()
        put(RUN_UPDATE, None, None, draw(UPDATES))
    if draw(st.booleans()) or not events:
        put(RUN_END, None, None, ordinary(draw(AT_END), status=draw(STATUSES), ended_at=tick()))
    return events


# ---- OTLP and the batch call -----------------------------------------------------------------------------------------


def by_batch(events: Sequence[Event]) -> list[Patch]:
    items = b",".join(event_json(event, SESSION) for event in events)
    batch = decode_batch(b'{"batch_id":"b","session_id":"s","events":[%b]}' % items)
    assert not batch.rejected
    return batch.patches


def parts(events: Sequence[Event]) -> list[list[Event]]:
    """The events of the run and of each step, grouped."""
    found: dict[str | None, list[Event]] = {}
    for event in events:
        found.setdefault(event.step_id, []).append(event)
    return list(found.values())


def sent(spans: Sequence[Span], form: ModuleType) -> list[Patch]:
    """The patches that the receiver decodes from one request with these spans."""
    resource = {"service.name": "tests"}
    body = form.encode_request([form.encode_span(span) for span in spans], resource, "agentscope", "0")
    patches: list[Patch] = []
    for group in read_request(form, body):
        for span in group.spans:
            assert not isinstance(span, Unreadable), span.reason
            patches += patches_of(span, group)
    return patches


def without_odd_meta_data(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "meta_data" or value.startswith(b"{")}


def unlike(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The differences between two runs, for a readable message."""
    return {key: (one[key], other[key]) for key in one if one[key] != other[key]}


@given(recorded(), st.sampled_from(FORMS))
def test_a_run_by_otlp_is_the_same_as_by_the_batch_call(events: list[Event], form: ModuleType) -> None:
    spans = [span_of(merged(part)) for part in parts(events)]
    ours, theirs = run_view(RUN, by_batch(events)), run_view(RUN, sent(spans, form))
    assert theirs == ours, unlike(ours, theirs)


@given(recorded(), st.randoms(), st.sampled_from(FORMS))
def test_order_duplication_and_splitting_of_requests_make_no_difference(
    events: list[Event], chance: random.Random, form: ModuleType
) -> None:
    spans = [span_of(merged(part)) for part in parts(events)]
    spans += chance.choices(spans, k=2)
    chance.shuffle(spans)
    cut = chance.randrange(len(spans) + 1)
    patches = sent(spans[:cut], form) + sent(spans[cut:], chance.choice(FORMS))
    by_id = {patch.id: patch for patch in patches}
    assert len(by_id) == len(parts(events)), "a span that was sent again is not known again"
    assert all(by_id[patch.id].body == patch.body for patch in patches), "one id for two contents"
    assert run_view(RUN, patches) == run_view(RUN, by_batch(events))


@given(recorded(), st.randoms())
def test_a_part_that_was_sent_before_it_was_over_is_completed_by_the_rest(
    events: list[Event], chance: random.Random
) -> None:
    # What is joined can say "these keys" or "nothing but this". It cannot say "nothing before this, and then these keys", which
    # is what meta_data that is no object, followed by an object, amounts to. No face records that.
    events = [event._replace(fields=without_odd_meta_data(event.fields)) for event in events]
    spans = []
    for part in parts(events):
        cut = chance.randrange(len(part) + 1)
        spans += [span_of(merged(piece)) for piece in (part[:cut], part[cut:]) if piece]
    chance.shuffle(spans)
    view = run_view(RUN, sent(spans, protobuf))
    assert view == run_view(RUN, by_batch(events))


@given(recorded())
def test_every_span_is_one_that_other_backends_take(events: list[Event]) -> None:
    for part in parts(events):
        span = span_of(merged(part))
        assert 0 < span.start_ns <= span.end_ns < 1 << 63
        assert span.name
        assert all(value is not None for value in span.attributes.values())


@given(recorded(), st.booleans())
def test_either_name_carries_a_large_payload(events: list[Event], voltops: bool) -> None:
    group = SpanGroup({}, "agentscope", "0", [])
    spans = [span_of(merged(part), voltops=voltops) for part in parts(events)]
    view = run_view(RUN, [patch for span in spans for patch in patches_of(span, group)])
    assert view == run_view(RUN, by_batch(events))


def test_a_root_has_no_parent_and_its_steps_hang_below_it() -> None:
    start = Event(RUN_START, 1, NOON, RUN, None, None, {"agent_name": "a", "started_at": NOON}, 0)
    step = Event(STEP, 2, NOON, RUN, "s", None, {"name": "n", "started_at": NOON, "ended_at": NOON + 5}, 0)
    inner = step._replace(step_id="t", parent_id="s")
    root, child, grandchild = (span_of(event) for event in (start, step, inner))
    assert (root.parent_span_id, child.parent_span_id, grandchild.parent_span_id) == ("", root.span_id, child.span_id)
    assert root.trace_id == child.trace_id == RUN.replace("-", "")
