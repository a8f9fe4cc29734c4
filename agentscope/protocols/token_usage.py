"""Token counts: a `usage` payload in any spelling, and the span attributes for it under each convention."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple


class Tokens(NamedTuple):
    """Counts of tokens, None for an unknown one. Those of the cache are part of the input, those of reasoning of the output."""

    input: int | None = None
    output: int | None = None
    total: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None

    def usage(self) -> dict[str, int]:
        """The known counts as a `usage` payload: `input_tokens`, `output_tokens`, `total_tokens`, `cache_read_tokens`, …"""
        return {f"{name}_tokens": count for name, count in self._asdict().items() if count is not None}


_KEYS = {
    "input": ("input", "prompt", "input tokens", "prompt tokens", "prompt token count"),
    "output": ("output", "completion", "output tokens", "completion tokens", "candidates token count"),
    "total": ("total", "total tokens", "total token count", "tokens"),
    "cache_read": (
        "cache read input tokens",
        "cache read tokens",
        "cache read",
        "cached input tokens",
        "cached tokens",
        "cached",
        "input cached tokens",
        "cached content token count",
        "input cache read",
    ),
    "cache_write": (
        "cache write input tokens",
        "cache creation input tokens",
        "cache write tokens",
        "cache creation tokens",
        "cache write",
        "cache creation",
        "input cache creation",
    ),
    "reasoning": (
        "reasoning",
        "reasoning tokens",
        "reasoning output tokens",
        "output reasoning tokens",
        "thoughts token count",
    ),
}
_COST_KEYS = frozenset({"cost", "costusd", "totalcost", "totalcostusd"})
# OpenAI, Anthropic, Gemini, Bedrock, LangChain and VoltAgent: snake_case and camelCase are the same here.
_FIELD_OF = {spelling.replace(" ", ""): field for field, spellings in _KEYS.items() for spelling in spellings}
_OF_DETAILS = frozenset({"cache_read", "cache_write", "reasoning"})
"""The counts in an object such as `prompt_tokens_details`."""
ATTRIBUTE_PREFIXES = (
    "gen_ai.usage.",
    "llm.token_count.",
    "llm.usage.",
    "usage.",
    "ai.usage.",
    "gen_ai.aggregated_usage.",
    "gen_ai.usage.details.",
)
"""The beginnings of the names of span attributes with a count, in order of precedence."""
_DETAILS = re.compile(r"(?:.*\.)?(?:prompt_|completion_)?details\.")


@lru_cache(maxsize=256)
def _field_of(key: str) -> str | None:
    return _FIELD_OF.get(key.replace("_", "").lower()) if len(key) < 64 else None


@lru_cache(maxsize=1024)
def count_in_attribute(name: str) -> tuple[str, tuple[int, int, str]] | None:
    """The field of `Tokens` that is in the attribute of this name, and its rank among the names of that field, lowest first.

    The name must begin with one of `ATTRIBUTE_PREFIXES`. None if it has no count.
    """
    place = max(place for place, prefix in enumerate(ATTRIBUTE_PREFIXES) if name.startswith(prefix))
    details = _DETAILS.match(name)
    key = (name[details.end() :] if details else name.removeprefix(ATTRIBUTE_PREFIXES[place])).replace(".", "")
    field = _field_of(key)
    if field is None or (details and field not in _OF_DETAILS):
        return None
    spellings = [spelling.replace(" ", "") for spelling in _KEYS[field]]
    return field, (place, spellings.index(key.replace("_", "").lower()), name)


def count(value: object) -> int | None:
    """Return a number of tokens, or None for any other value."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and value >= 0 else None


def cost_in(usage: object) -> int | float | None:
    """Return the cost in US dollars in a `usage` payload, or None."""
    if not isinstance(usage, Mapping):
        return None
    for key, value in usage.items():
        name = str(key)
        if len(name) < 64 and name.replace("_", "").lower() in _COST_KEYS and type(value) in (int, float):
            return value if isfinite(value) else None
    return None


def tokens_of(usage: object, tokens_used: object = None) -> Tokens:
    """Return the counts in a `usage` payload. `tokens_used` is the total if the payload has none."""
    found: dict[str, int] = {}
    for field, value in _counts(usage):
        found.setdefault(field, value)
    total = count(tokens_used)
    if total is not None:
        found.setdefault("total", total)
    return Tokens(**found)


def _counts(usage: object) -> Iterator[tuple[str, int]]:
    if not isinstance(usage, Mapping):
        return
    details: list[Mapping[Any, Any]] = []
    for key, value in usage.items():
        known, number = _field_of(str(key)), count(value)
        if known is not None and number is not None:
            yield known, number
        elif isinstance(value, Mapping) and str(key).lower().endswith("details"):
            details.append(value)
    for each in details:
        for key, value in each.items():
            known, number = _field_of(str(key)), count(value)
            if known in _OF_DETAILS and number is not None:
                yield known, number


def normal_usage(usage: Any) -> Any:
    """Return a `usage` payload with its counts under the names of `Tokens.usage`. Other entries stay as they are."""
    if not isinstance(usage, Mapping):
        return usage
    others: dict[Any, Any] = {}
    for key, value in usage.items():
        if isinstance(value, Mapping) and str(key).lower().endswith("details"):
            left = {name: item for name, item in value.items() if not _is_count(name, item, _OF_DETAILS)}
            if left or not value:
                others[key] = left
        elif not _is_count(key, value, Tokens._fields):
            others[key] = value
    return {**tokens_of(usage).usage(), **others}


def _is_count(key: Any, value: Any, known: Collection[str]) -> bool:
    return _field_of(str(key)) in known and count(value) is not None


Names = Mapping[str, tuple[str, ...]]
"""Attributes for each field of `Tokens`."""

_GEN_AI: Names = {
    "input": ("gen_ai.usage.input_tokens",),
    "output": ("gen_ai.usage.output_tokens",),
    "cache_read": ("gen_ai.usage.cache_read.input_tokens",),
    # The second is the name until the middle of 2026, which most backends read.
    "cache_write": ("gen_ai.usage.cache_write.input_tokens", "gen_ai.usage.cache_creation.input_tokens"),
    "reasoning": ("gen_ai.usage.reasoning.output_tokens",),
}
_OPENINFERENCE: Names = {
    "input": ("llm.token_count.prompt",),
    "output": ("llm.token_count.completion",),
    "total": ("llm.token_count.total",),
    "cache_read": ("llm.token_count.prompt_details.cache_read",),
    "cache_write": ("llm.token_count.prompt_details.cache_write",),
    "reasoning": ("llm.token_count.completion_details.reasoning",),
}
_VOLTOPS: Names = {
    "input": ("usage.prompt_tokens",),
    "output": ("usage.completion_tokens",),
    "total": ("usage.total_tokens",),
    "cache_read": ("usage.cached_tokens",),
    "reasoning": ("usage.reasoning_tokens",),
}
_VOLTOPS_LLM: Names = {field: tuple(f"llm.{name}" for name in names) for field, names in _VOLTOPS.items()}

OF_STEP = (_GEN_AI, _OPENINFERENCE, _VOLTOPS)
OF_LLM_STEP = (_GEN_AI, _OPENINFERENCE, _VOLTOPS_LLM)
OF_RUN = (_VOLTOPS,)
"""The conventions for a run. Backends add up the counts of the other two over all spans of a trace, and the steps have them."""


def token_attributes(tokens: Tokens, names: tuple[Names, ...]) -> dict[str, int]:
    """The attributes for these counts under the given conventions. A missing total is the sum of input and output."""
    if tokens.total is None and tokens.input is not None and tokens.output is not None:
        tokens = tokens._replace(total=tokens.input + tokens.output)
    known = [(field, value) for field, value in tokens._asdict().items() if value is not None]
    return {name: value for convention in names for field, value in known for name in convention.get(field, ())}
