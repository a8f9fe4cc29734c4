"""Tokens and cost of a run count each call of a model once. The examples are those of `examples/receiver.md`."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.protocols.token_usage import Tokens
from agentscope.server.storage.totals import Account, CountedStep, run_account
from agentscope.server.storage.tree import depth_first
from tests.support.receiver import at

NOTHING = Account()


def teller(
    step_type: str = "llm_call",
    tokens: int | None = None,
    *,
    cost: float | None = None,
    source: str = "one",
    **more: Any,
) -> CountedStep:
    began, ended = more.pop("time", (0, 10))
    account = Account(Tokens(total=tokens, **more), cost)
    return CountedStep(account, step_type, source, at(began), None if ended is None else at(ended))


def counted(steps: dict[str, tuple[str | None, CountedStep]], own: Account = NOTHING) -> Account:
    """The account of a run, the same in each order of few steps."""
    found = set()
    for order in list(permutations(steps))[:24]:
        parents = {step: steps[step][0] for step in order}
        found.add(run_account(own, {step: steps[step][1] for step in order}, list(depth_first(parents)), parents))
    (account,) = found
    return account


@pytest.mark.parametrize(
    ("steps", "tokens"),
    [
        ({"a": (None, teller("agent", 50)), "b": ("a", teller("other", 50))}, 50),
        ({"a": (None, teller(tokens=15)), "b": ("a", teller(tokens=15))}, 15),
        ({"a": (None, teller("agent", 500)), "b": (None, teller(tokens=5))}, 505),
        ({"a": (None, teller("agent", 30)), "b": ("a", teller(tokens=10)), "c": ("a", teller(tokens=20))}, 30),
        ({"a": (None, teller("agent", 500)), "b": ("a", teller(tokens=5))}, 5),
        ({"a": (None, teller("agent", 50)), "b": ("a", teller(tokens=20)), "c": ("a", teller())}, 50),
        ({"a": (None, teller("agent", 50)), "b": ("a", teller("tool_call", 5))}, 50),
        ({"a": (None, teller("agent", 5)), "b": ("a", teller("tool_call", 50))}, 50),
        ({"a": (None, teller(tokens=15)), "b": ("a", teller(tokens=15)), "c": ("a", teller(tokens=15))}, 30),
        ({"a": (None, teller(tokens=15)), "b": ("a", teller())}, 15),
        ({"a": (None, teller()), "b": ("a", teller(tokens=15))}, 15),
        ({"a": (None, teller("agent", 505)), "b": ("a", teller("agent", 500)), "c": ("a", teller(tokens=5))}, 505),
        (
            {
                "a": (None, teller("other")),
                "b": ("a", teller("agent", 9)),
                "c": ("b", teller("other")),
                "d": ("c", teller()),
            },
            9,
        ),
        ({"a": (None, teller("agent", 500)), "b": ("a", teller("agent", 180))}, 680),
        ({"a": (None, teller("agent", 40)), "b": ("a", teller("agent", 180)), "c": ("a", teller("tool_call", 9))}, 220),
        ({"a": (None, teller("agent", 230)), "b": ("a", teller("agent", 180)), "c": ("a", teller("agent", 50))}, 230),
        ({"a": (None, teller("agent", 50)), "b": ("a", teller("agent", 50))}, 50),
        ({"a": (None, teller("agent", 9)), "b": ("a", teller("other", 9)), "c": ("b", teller("agent", 4))}, 9),
        ({"a": (None, teller()), "b": (None, teller("tool_call"))}, None),
        ({"a": (None, teller(tokens=0))}, 0),
        ({}, None),
    ],
)
def test_tokens_are_counted_once_along_a_line_of_ancestry(
    steps: dict[str, tuple[str | None, CountedStep]], tokens: int | None
) -> None:
    assert counted(steps).tokens.total == tokens


@pytest.mark.parametrize(
    ("steps", "tokens"),
    [
        # LangChain and OpenAI instrumented together, side by side, and below another step
        ({"a": (None, teller(tokens=18)), "b": (None, teller(tokens=18, source="two", time=(1, 9)))}, 18),
        (
            {
                "c": (None, teller("other", time=(0, 11))),
                "a": ("c", teller(tokens=18)),
                "b": (None, teller(tokens=18, source="two", time=(1, 9))),
            },
            18,
        ),
        # an agent beside its only call
        ({"a": (None, teller("agent", 18)), "b": (None, teller(tokens=18, time=(1, 9)))}, 18),
        # three instrumentations
        (
            {
                "a": (None, teller(tokens=18)),
                "b": (None, teller(tokens=18, source="two", time=(1, 9))),
                "c": (None, teller(tokens=18, source="three", time=(2, 8))),
            },
            18,
        ),
        # two calls at once, each told twice
        (
            {
                "a": (None, teller(tokens=18, time=(0, 10))),
                "b": (None, teller(tokens=18, source="two", time=(2, 9))),
                "c": (None, teller(tokens=18, time=(1, 9.5))),
                "d": (None, teller(tokens=18, source="two", time=(3, 8))),
            },
            36,
        ),
        # calls of one instrumentation, of another size, at another time, or that go on
        ({"a": (None, teller(tokens=18)), "b": (None, teller(tokens=18, time=(1, 9)))}, 36),
        ({"a": (None, teller(tokens=18)), "b": (None, teller(tokens=17, source="two", time=(1, 9)))}, 35),
        ({"a": (None, teller(tokens=18)), "b": (None, teller(tokens=18, source="two", time=(11, 12)))}, 36),
        ({"a": (None, teller(tokens=18)), "b": (None, teller(tokens=18, source="two", time=(5, 12)))}, 36),
        ({"a": (None, teller(tokens=18)), "b": (None, teller(tokens=18, source="two", time=(5, None)))}, 36),
        # an agent that has two calls of its size is on their lines
        (
            {
                "a": (None, teller("agent", 15)),
                "b": ("a", teller(tokens=15, time=(1, 3))),
                "c": ("a", teller(tokens=15, time=(4, 6))),
            },
            30,
        ),
    ],
)
def test_a_call_that_two_steps_side_by_side_tell_is_counted_once(
    steps: dict[str, tuple[str | None, CountedStep]], tokens: int
) -> None:
    assert counted(steps).tokens.total == tokens


def test_cached_written_and_reasoning_tokens_are_apart_and_unknown_ones_stay_unknown() -> None:
    steps = {
        "a": (None, teller("agent", 60, input=40, output=20, cache_read=30)),
        "b": ("a", teller(tokens=40, input=30, output=10, cache_read=25, time=(1, 2))),
        "c": ("a", teller(tokens=20, input=10, output=10, reasoning=4, time=(3, 4))),
    }
    assert counted(steps).tokens == Tokens(40, 20, 60, 25, None, 4)


def test_what_one_step_lacks_of_a_call_the_other_tells() -> None:
    steps = {
        "a": (None, teller(tokens=18, input=11)),
        "b": (None, teller(tokens=18, output=7, cost=0.5, source="two", time=(1, 9))),
    }
    assert counted(steps) == Account(Tokens(input=11, output=7, total=18), 0.5)


def test_the_cost_is_counted_as_the_tokens_are_and_by_itself() -> None:
    steps = {
        "a": (None, teller("agent", 30, cost=0.3)),
        "b": ("a", teller(tokens=10, time=(1, 2))),
        "c": ("a", teller(tokens=20, time=(3, 4))),
        "d": (None, teller("tool_call", cost=0.05)),
    }
    assert counted(steps) == Account(Tokens(total=30), 0.35)
    assert counted({"a": (None, teller(tokens=3))}).cost is None
    assert counted({"a": (None, teller(cost=0.0))}).cost == 0.0


def test_the_counts_of_the_run_itself_stand_above_those_of_its_steps() -> None:
    own = Account(Tokens(total=500), 0.5)
    assert counted({}, own) == own
    assert counted({"a": (None, teller("tool_call", 5))}, own) == own
    assert counted({"a": (None, teller(tokens=5))}, own) == Account(Tokens(total=5), 0.5)
    assert counted({"a": (None, teller(tokens=5)), "b": (None, teller())}, own).tokens.total == 500


tellers = st.builds(
    teller,
    st.sampled_from(["llm_call", "agent", "tool_call"]),
    st.none() | st.integers(0, 3),
    cost=st.none() | st.sampled_from([0.1, 0.2]),
    source=st.sampled_from(["one", "two"]),
    time=st.tuples(st.integers(0, 5), st.integers(5, 9)),
)


@given(st.lists(st.tuples(tellers, st.integers(0, 9)), max_size=9), st.randoms())
def test_the_order_of_the_steps_makes_no_difference(given_steps: list[tuple[CountedStep, int]], chance: Any) -> None:
    steps = {f"s{number}": each for number, (each, _) in enumerate(given_steps)}
    parents = {f"s{n}": f"s{above}" if above < n else None for n, (_, above) in enumerate(given_steps)}
    found = []
    for _ in range(2):
        order = list(steps)
        chance.shuffle(order)
        shuffled = {step: parents[step] for step in order}
        found.append(run_account(NOTHING, steps, list(depth_first(shuffled)), shuffled))
    assert found[0].tokens == found[1].tokens
    assert found[0].cost == pytest.approx(found[1].cost, abs=1e-8)
    known = [each.account.tokens.total for each, _ in given_steps if each.account.tokens.total is not None]
    assert (found[0].tokens.total is None) == (not known)
    assert (found[0].tokens.total or 0) <= sum(known)
