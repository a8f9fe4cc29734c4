"""The time that an end may take, as tables. Every decision takes `now`."""

from __future__ import annotations

import pytest

from agentscope.pipeline.delivery import END_PATIENCE as PATIENCE
from agentscope.pipeline.delivery import LAST_WAIT, SHORTEST_WAIT, Stop
from agentscope.protocols.base import BUSY, REFUSED, UNAUTHORIZED, Dropped, Outcome

SINCE, UNTIL = 100.0, 110.0


def stop(*outcomes: Outcome) -> Stop:
    made = Stop(SINCE, UNTIL)
    for outcome in outcomes:
        made.note(outcome)
    return made


@pytest.mark.parametrize(
    ("progress", "deadline"),
    [
        (0.0, 102.0),  # an old acknowledgement counts as one at the beginning of the end
        (100.0, 102.0),
        (105.0, 107.0),
        (108.0, 110.0),
        (109.9, 110.0),
        (500.0, 110.0),
    ],
)
def test_the_end_waits_two_seconds_after_each_acknowledgement_and_ten_in_all(progress, deadline):
    assert stop().deadline(progress) == deadline
    assert not stop().over(deadline - 0.01, progress)
    assert stop().over(deadline, progress)


REFUSAL, TROUBLE = Outcome(kind=REFUSED), Outcome(kind=BUSY)
SOME = Outcome(delivered=[1])


@pytest.mark.parametrize(
    ("outcomes", "hopeless"),
    [
        ([], False),
        ([TROUBLE] * 5, False),
        ([REFUSAL], False),
        ([REFUSAL, REFUSAL], True),
        ([REFUSAL, TROUBLE, REFUSAL], False),
        ([REFUSAL, SOME, REFUSAL], False),
        ([REFUSAL, SOME, REFUSAL, REFUSAL], True),
        ([Outcome(delivered=[1], kind=REFUSED)] * 3, False),
        ([Outcome(kind=UNAUTHORIZED)], True),
    ],
)
def test_a_refused_connection_is_tried_once_more_and_a_refused_key_not_at_all(outcomes, hopeless):
    made = stop(*outcomes)
    assert made.hopeless is hopeless
    assert made.over(SINCE, SINCE) is hopeless


@pytest.mark.parametrize(
    ("outcome", "asked", "now", "wait"),
    [
        (REFUSAL, 30.0, 100.0, LAST_WAIT),
        (TROUBLE, 0.0, 100.0, SHORTEST_WAIT),
        (TROUBLE, 0.3, 100.0, 0.3),
        (TROUBLE, 30.0, 100.0, PATIENCE / 4),
        (TROUBLE, 30.0, 101.9, 0.1),
        (TROUBLE, 30.0, 105.0, 0.0),
        (SOME, 30.0, 100.0, 0.0),
        (Outcome(dropped=[Dropped(1, "rejected", "")]), 30.0, 100.0, 0.0),
        (Outcome(kind=UNAUTHORIZED), 60.0, 100.0, 0.0),
    ],
)
def test_waits_at_the_end_are_short_and_never_beyond_it(outcome, asked, now, wait):
    assert stop().wait(outcome, asked, now, progress=100.0) == pytest.approx(wait)
