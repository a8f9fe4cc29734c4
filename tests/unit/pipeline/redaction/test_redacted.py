"""Redaction of many events at once: one search tells the suspects, and only these are redacted."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from agentscope.events import DeferredEvent, Event, FieldValue, ReadyEvent, in_full
from agentscope.pipeline.redaction.redactor import GROUP, GROUP_BYTES, Redactor, redacted_all
from tests.support.events import event, plain_step


class Masking(Redactor):
    """Suspects events with an odd number and refuses them; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[list[int]] = []
        self.asked: list[int] = []

    def suspects(self, events: Sequence[ReadyEvent]) -> list[int]:
        self.groups.append([event.seq for event in events])
        return [place for place, event in enumerate(events) if event.seq % 2]

    def __call__(self, event: Event) -> Event:
        self.asked.append(event.seq)
        if event.seq % 2:
            raise ValueError
        return event


def nothing() -> None:
    """Nobody waits."""


def outcome(events: Sequence[Event], redact: object, done: Sequence[int] = ()) -> list[object]:
    assert callable(redact)
    return [cleaned for _, cleaned in redacted_all(events, redact, done, nothing)]


def test_a_group_without_suspects_is_not_redacted() -> None:
    redact = Masking()
    events = [event(seq) for seq in (2, 4, 6)]
    assert outcome(events, redact) == events
    assert (redact.groups, redact.asked) == ([[2, 4, 6]], [])


def test_of_another_group_only_the_suspects_are_redacted() -> None:
    redact = Masking()
    events = [event(seq) for seq in (2, 3, 4)]
    assert outcome(events, redact) == [events[0], "redaction_error", events[2]]
    assert redact.asked == [3]


def test_what_has_been_cleaned_is_not_cleaned_again() -> None:
    redact = Masking()
    events = [event(seq) for seq in (1, 3, 5)]
    assert outcome(events, redact, done=[3]) == ["redaction_error", events[1], "redaction_error"]
    assert redact.asked == [1, 5]


def test_a_function_is_asked_for_each_event() -> None:
    asked: list[int] = []

    def redact(event: Event) -> Event:
        asked.append(event.seq)
        return event

    assert outcome([event(1), event(2)], redact) == [event(1), event(2)]
    assert asked == [1, 2]


def test_groups_are_bounded_by_number_and_by_bytes() -> None:
    redact = Masking()
    outcome([event(2 * seq) for seq in range(GROUP + 1)], redact)
    outcome([event(2 * seq, size=GROUP_BYTES) for seq in range(2)], redact)
    assert [len(group) for group in redact.groups] == [GROUP, 1, 1, 1]


def test_a_plain_step_stays_one_and_deferred_fields_are_made() -> None:
    deferred = DeferredEvent("step", 2, 0, "run", "step-2", None, lambda: {"name": "made"}, 100)
    plain = plain_step(1, b"[1]")
    assert outcome([plain, deferred], Redactor()) == [plain, in_full(deferred)]


def test_an_event_whose_fields_cannot_be_made_is_dropped_and_its_neighbours_are_not() -> None:
    def make() -> dict[str, FieldValue]:
        raise ZeroDivisionError

    broken = DeferredEvent("step", 2, 0, "run", "step-2", None, make, 100)
    assert outcome([event(1), broken, event(3)], Redactor()) == [event(1), "encode_error", event(3)]


def test_after_a_search_that_fails_all_events_are_redacted() -> None:
    strange = event(2)._replace(fields={"name": "\ud800", "tags": 5, "input": None})
    assert outcome([event(1), strange], Redactor()) == [event(1), strange]

    class Broken(Masking):
        def suspects(self, events: Sequence[ReadyEvent]) -> list[int]:
            raise RecursionError

    assert outcome([event(2)], Broken()) == [event(2)]


def test_there_are_pauses_between_groups_and_after_every_event_that_is_redacted_alone() -> None:
    pauses: list[int] = []
    events = [event(2 * seq) for seq in range(GROUP)]
    for _ in redacted_all(events, Masking(), (), lambda: pauses.append(1)):
        """Only the pauses count."""
    assert len(pauses) == 1
    for _ in redacted_all(events, clean_none, (), lambda: pauses.append(1)):
        """Only the pauses count."""
    assert len(pauses) == 2 + GROUP


def clean_none(event: Event) -> Event:
    return event


@given(st.lists(st.sampled_from(["a", "password: 'x'", "Bearer abcdefgh", "tokens: 5"]), max_size=80))
def test_many_at_once_come_out_as_one_by_one(names: list[str]) -> None:
    redactor = Redactor()
    events = [event(seq, name=name, input=json.dumps([name]).encode()) for seq, name in enumerate(names)]
    assert outcome(events, redactor) == [redactor(each) for each in events]
