"""The ids of spans that share one: bounded in memory, and apart for each project."""

from __future__ import annotations

import tracemalloc

from agentscope.server.ingest.otlp_ids import SHARED, SpanIds
from tests.support.otlp import SPAN_ID, span


def test_very_long_names_of_spans_are_not_kept() -> None:
    ids = SpanIds()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(16 * 50):
            ids.own(span(name=f"{number} {'x' * 10_000}", span_id=f"{number % 50 + 1:016x}"), "p")
        assert tracemalloc.get_traced_memory()[0] - before < 800 * 1000
    finally:
        tracemalloc.stop()


def test_spans_of_one_moment_are_told_apart_by_the_end_of_a_long_name() -> None:
    ids = SpanIds()
    names = [f"{'x' * 10_000}{number}" for number in range(3)]
    first = [ids.own(span(name=name), "p") for name in names]
    assert first[0].span_id == SPAN_ID
    assert len({each.span_id for each in first}) == 3
    assert [each.attributes.get(SHARED) for each in first] == [None, SPAN_ID, SPAN_ID]
    assert [ids.own(span(name=name), "p") for name in names] == first


def test_names_that_are_not_valid_unicode_have_an_id() -> None:
    assert SpanIds().own(span(name="\ud800"), "p").span_id == SPAN_ID


def test_the_spans_of_one_project_do_not_displace_those_of_another() -> None:
    ids = SpanIds(2)
    ids.own(span(name="first"), "a")
    for number in range(1, 10):
        ids.own(span(name="x", span_id=f"{number:016x}"), "b")
    assert ids.own(span(name="second"), "b").span_id == SPAN_ID
    assert ids.own(span(name="second"), "a").attributes[SHARED] == SPAN_ID
