"""The tokens and the cost of a run, each call of a model counted once. Pure; `examples/receiver.md` has the rule with examples.

Senders repeat counts: an agent has the sum of its calls, a chain that of its agent, and two instrumentations of one program tell
the same call side by side.

1. Along a line of ancestry, counts are those of the model calls below, if each of these has a count. Otherwise they are the
   larger of a step's own count and the sum below it. Agents inside an agent then count beside it, unless its count is their sum.
2. Two steps on different lines tell the same call if they have the same count, the time of one lies within that of the other, and
   they come from different instrumentations or are of different types.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from agentscope.protocols.token_usage import Tokens

LLM_STEP = "llm_call"
AGENT_STEP = "agent"
COST_DIGITS = 9
"""Decimal digits of a total in US dollars, so that it does not depend on the order of the sum."""
_MOST_COMPARED = 64  # earlier steps of the same count that a step is compared with, so that the time is linear


class Account(NamedTuple):
    """The tokens and the cost that a step, a run or a whole tree has. `tokens.total` is None where no count is known."""

    tokens: Tokens = Tokens()
    cost: float | None = None


class CountedStep(NamedTuple):
    """The counts of a step, and the facts that decide whether another step repeats them."""

    account: Account
    step_type: str
    source: str | None
    """The instrumentation that recorded it."""
    began: str
    ended: str | None


_Counts = tuple[float | None, ...]
_KEPT = ("total", "input", "output", "cache_read", "cache_write", "reasoning")


def run_account(
    own: Account, steps: Mapping[str, CountedStep], order: Sequence[str], parents: Mapping[str, str | None]
) -> Account:
    """Return the tokens and the cost of a run.

    own: the counts of the run as a whole. order: the ids of all steps, each after its parent and with its descendants following.
    parents: a tree, None for the steps at its top.
    """
    tokens: dict[str, _Counts] = {}
    costs: dict[str, _Counts] = {}
    for step in order:
        account = steps[step].account
        if account.tokens.total is not None:
            tokens[step] = _counts(account.tokens)
        if account.cost is not None:
            costs[step] = (account.cost,)
    if not tokens and not costs:
        return own
    same = _same_calls(steps, order, parents) if len(tokens) > 1 or len(costs) > 1 else {}
    for step, other in same.items():
        for told in (tokens, costs):
            if step in told:
                theirs = told.pop(step)
                mine = told.get(other, (None,) * len(theirs))
                told[other] = tuple(b if a is None else a for a, b in zip(mine, theirs, strict=True))
    calls = {step for step in order if steps[step].step_type == LLM_STEP and step not in same}
    agents = {step for step in order if steps[step].step_type == AGENT_STEP}
    own_tokens = None if own.tokens.total is None else _counts(own.tokens)
    found = _along_lines(tokens, own_tokens, order, parents, calls, agents)
    cost = _along_lines(costs, None if own.cost is None else (own.cost,), order, parents, calls, agents)
    return Account(
        Tokens() if found is None else Tokens(**dict(zip(_KEPT, map(_whole, found), strict=True))),
        None if cost is None or cost[0] is None else round(cost[0], COST_DIGITS),
    )


def _counts(tokens: Tokens) -> _Counts:
    return tokens.total, tokens.input, tokens.output, tokens.cache_read, tokens.cache_write, tokens.reasoning


def _whole(count: float | None) -> int | None:
    return None if count is None else int(count)


def _along_lines(
    told: Mapping[str, _Counts],
    own: _Counts | None,
    order: Sequence[str],
    parents: Mapping[str, str | None],
    calls: Collection[str],
    agents: Collection[str],
) -> _Counts | None:
    """Count each line of ancestry once. The first of the counts decides which of two is larger."""
    if not told:
        return own
    inner: dict[str | None, _Counts] = {}  # below a step, the counts of agents
    others: dict[str | None, _Counts] = {}  # and those of other steps
    counted: set[str | None] = set()  # steps with a model call below that has a count
    silent: set[str | None] = set()  # steps with a model call below that has none
    for step in reversed(order):
        parent = parents[step]
        count, of_agents, of_others = told.get(step), inner.pop(step, None), others.pop(step, None)
        is_call, is_agent = step in calls, step in agents
        below = _sum(of_agents, of_others)
        is_complete = step in counted and step not in silent
        total = _larger(count, below, is_complete)
        if is_agent and not is_complete and count and of_agents and below and below[0] != count[0]:
            total = _sum(of_agents, _larger(count, of_others, False))
        if total is below and not is_agent:
            _add(inner, parent, of_agents)
            _add(others, parent, of_others)
        else:
            _add(inner if is_agent else others, parent, total)
        if step in counted or (is_call and count is not None):
            counted.add(parent)
        if count is None and (step in silent or (is_call and step not in counted)):
            silent.add(parent)
    return _larger(own, _sum(inner.get(None), others.get(None)), None in counted and None not in silent)


def _add(sums: dict[str | None, _Counts], step: str | None, counts: _Counts | None) -> None:
    total = _sum(sums.get(step), counts)
    if total is not None:
        sums[step] = total


def _larger(own: _Counts | None, below: _Counts | None, is_complete: bool) -> _Counts | None:
    if own is None or below is None:
        return below if own is None else own
    return below if is_complete or (below[0] or 0) > (own[0] or 0) else own


def _sum(one: _Counts | None, other: _Counts | None) -> _Counts | None:
    if one is None or other is None:
        return other if one is None else one
    return tuple(b if a is None else a if b is None else a + b for a, b in zip(one, other, strict=True))


def _same_calls(
    steps: Mapping[str, CountedStep], order: Sequence[str], parents: Mapping[str, str | None]
) -> dict[str, str]:
    """Return the steps that tell the call of another step, with that step.

    Each step stands for one step of every other instrumentation and type at most: of two calls at once both are counted.
    """
    groups: dict[tuple[float | None, float | None], list[str]] = {}
    for step in order:
        teller = steps[step]
        count, cost = teller.account.tokens.total, teller.account.cost
        if (count or (count is None and cost)) and teller.ended is not None:
            groups.setdefault((count, None if count is not None else cost), []).append(step)
    doubted = [group for group in groups.values() if len({_kind(steps[step]) for step in group}) > 1]
    if not doubted:
        return {}
    places = {step: place for place, step in enumerate(order)}
    ends = [place + 1 for place in range(len(order))]  # the place after the last descendant
    for place in range(len(order) - 1, -1, -1):
        parent = parents[order[place]]
        if parent is not None:
            ends[places[parent]] = max(ends[places[parent]], ends[place])
    same: dict[str, str] = {}
    for group in doubted:
        group.sort()
        group.sort(key=lambda step: steps[step].ended or "", reverse=True)
        group.sort(key=lambda step: steps[step].began)
        earlier: deque[tuple[str, set[tuple[str | None, str]]]] = deque(maxlen=_MOST_COMPARED)
        for step in group:
            kind, place = _kind(steps[step]), places[step]
            for other, kinds in reversed(earlier):
                around = places[other]
                is_on_line = around < place < ends[around] or place < around < ends[place]
                if (steps[other].ended or "") >= (steps[step].ended or "") and kind not in kinds and not is_on_line:
                    kinds.add(kind)
                    same[step] = other
                    break
            else:
                earlier.append((step, {kind}))
    return same


def _kind(teller: CountedStep) -> tuple[str | None, str]:
    return teller.source, teller.step_type
