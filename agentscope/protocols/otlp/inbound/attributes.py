"""The attributes of a span of another emitter: lookup by several names, and JSON values of the unused ones."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

from agentscope.protocols.json_decode import LIGHT_BODY, MAX_WEIGHT
from agentscope.protocols.otlp.semantic_conventions import JSON_TYPE, TEXT_TYPE
from agentscope.protocols.otlp.wire.limits import DEEPEST_READ
from agentscope.protocols.otlp.wire.model import Value
from agentscope.protocols.token_usage import ATTRIBUTE_PREFIXES, Tokens, cost_in, count, count_in_attribute, tokens_of
from agentscope.serialization.depth import is_deeper

from .attribute_names import ALL_JSON, COST_OBJECTS, COST_PARTS, COST_TOTALS, ENCODERS, QUOTED, USAGE_OBJECTS

MOST_KEPT = 128
"""The most unused attributes of one span that `meta_data` keeps."""
_SIMPLE = frozenset({str, int, bool})
_CUT_KEY = "agentscope.attributes_left_out"


class Attributes:
    """The attributes of one span. Each look-up marks them as used; `rest` returns the unused ones."""

    def __init__(self, attributes: Mapping[str, Value]) -> None:
        is_encoded = any(_is_quoted(attributes.get(name)) for name in ENCODERS)
        self.all = {name: _scalar(value) for name, value in attributes.items()} if is_encoded else attributes
        self._used: set[str] = set()

    def use(self, names: Iterable[str]) -> None:
        """Mark attributes as used."""
        self._used.update(names)

    def text(self, *names: str) -> str | None:
        """Return the first non-empty text among these attributes. Attributes with the same text are used, too."""
        found: str | None = None
        for name in names:
            value = self.all.get(name)
            text = value if type(value) is str else str(value) if type(value) is int else None
            if text and (found is None or text == found):
                found = text
                self._used.add(name)
        return found

    def tokens(self) -> Tokens:
        """Return the token counts under the names of every convention. All of these attributes are used."""
        found: dict[str, int] = {}
        ranks: dict[str, tuple[int, int, str]] = {}
        for name, value in self.all.items():
            known = count_in_attribute(name) if value is not None and name.startswith(ATTRIBUTE_PREFIXES) else None
            if known is None:
                continue
            self._used.add(name)
            field, rank = known
            if type(value) is str and value.isascii() and value.isdigit() and len(value) < 20:
                value = int(value)
            number = count(value)
            if number is not None and (field not in ranks or rank < ranks[field]):
                found[field], ranks[field] = number, rank
        return Tokens(**found)

    def number(self, *names: str) -> int | float | None:
        """Return the first finite number under one of these names. All attributes with such a number are used."""
        found: int | float | None = None
        for name in names:
            value: Any = self.all.get(name)
            if type(value) in (int, float) and isfinite(value):
                self._used.add(name)
                found = value if found is None else found
        return found

    def counts(self, names: Iterable[str]) -> dict[str, int]:
        """Return the token counts in JSON objects under these names. What else is in the objects stays unused."""
        merged: dict[str, Any] = {}
        for name in names:
            known = payload_of(self.all[name]) if name in self.all else None
            if isinstance(known, dict):
                merged |= known
                self._used.add(name)
        return tokens_of(merged).usage() if merged else {}

    def cost(self, names: Iterable[str]) -> float | None:
        """Return the cost in US dollars: a total, else the sum of its parts. A negative number means that it is unknown.

        All attributes that tell the cost or a part of it are used.
        """
        totals = [value for name in names if (value := self._amount(name)) is not None]
        sums: list[float] = []
        for parts in COST_PARTS:
            known = [value for name in parts if (value := self._amount(name)) is not None]
            sums += [sum(known)] if known else []
        in_usage = (cost_in(payload_of(self.all[name])) for name in USAGE_OBJECTS if name in self.all)
        sums += [cost for cost in in_usage if cost is not None and cost >= 0]
        for name in COST_OBJECTS:
            found = payload_of(self.all[name]) if name in self.all else None
            if not isinstance(found, dict):
                continue
            amounts = {key: value for key, value in found.items() if _is_amount(value)}
            if amounts:
                total = next((amounts[key] for key in COST_TOTALS if key in amounts), None)
                sums.append(sum(amounts.values()) if total is None else total)
                if amounts.keys() == found.keys():
                    self._used.add(name)
        return next(iter((*totals, *sums)), None)

    def _amount(self, name: str) -> float | None:
        value: Any = self.all.get(name)
        if not _is_amount(value):
            return None
        self._used.add(name)
        amount: float = value
        return amount

    def payload(self, names: Sequence[str], mime_type: Value = None) -> Any:
        """Return the first payload under one of these names as a JSON value, or None. All of these attributes are used.

        A payload that is not empty is preferred: some emitters leave `{}` if another attribute has the content.
        """
        present = [name for name in names if name in self.all and self.all[name] not in (None, "")]
        self._used.update(present)
        if not present:
            return None
        chosen = next((name for name in present if self.all[name] not in ("{}", "[]", "null")), present[0])
        if chosen in QUOTED:
            return unquoted(self.all[chosen])
        given = JSON_TYPE if chosen in ALL_JSON else mime_type if chosen.endswith(".value") else None
        return payload_of(self.all[chosen], given)

    def texts(self, *names: str) -> list[str]:
        """Return the first list of texts under one of these names: a list, a JSON list, or a text with commas."""
        for name in names:
            value = self.all.get(name)
            if value is None:
                continue
            self._used.add(name)
            known = payload_of(value)
            items = known.split(",") if isinstance(known, str) else known if isinstance(known, list) else []
            found = [item.strip() for item in items if isinstance(item, str) and item.strip()]
            if found:
                return found
        return []

    def merged_objects(self, names: Iterable[str], prefixes: Iterable[str] = ()) -> dict[str, Any]:
        """Merge the JSON objects under these names with the attributes that have one of these prefixes."""
        merged: dict[str, Any] = {}
        for name in names:
            known = payload_of(self.all[name]) if name in self.all else None
            if isinstance(known, dict):
                merged |= known
                self._used.add(name)
        for prefix in prefixes:
            for name in sorted(name for name in self.all if name.startswith(prefix)):
                if name not in self._used:
                    merged[name[len(prefix) :]] = unquoted(self.all[name])
                    self._used.add(name)
        return merged

    def rest(self, leave_out: Iterable[str] = ()) -> dict[str, Any]:
        """Return the unused attributes, under their own names."""
        names = sorted(name for name in self.all if name not in self._used and name not in leave_out)
        kept: dict[str, Any] = {name: payload_of(self.all[name]) for name in names[:MOST_KEPT]}
        if len(names) > MOST_KEPT:
            kept[_CUT_KEY] = len(names) - MOST_KEPT
        return kept


def _is_amount(value: object) -> bool:
    return type(value) in (int, float) and isfinite(value) and value >= 0  # type: ignore[arg-type, operator]  # a number by now


def payload_of(value: Value, mime_type: Value = None) -> Any:
    """An attribute as a JSON value. A text is parsed if its type is JSON, or is unknown and the text begins with { or [."""
    if type(value) is not str:
        return plain(value)
    if mime_type == TEXT_TYPE or not value:
        return value
    return parsed(value) if mime_type == JSON_TYPE or value.lstrip()[:1] in ("{", "[") else value


def unquoted(value: Value) -> Any:
    """`payload_of`, for an attribute that may be a quoted JSON string, as of Langfuse since version 5."""
    return payload_of(value, JSON_TYPE if _is_quoted(value) else None)


def _is_quoted(value: Value) -> bool:
    return type(value) is str and len(value) > 1 and value[0] == value[-1] == '"'


def _scalar(value: Value) -> Value:
    """The value of a JSON text that is no object and no list; any other value unchanged."""
    if type(value) is not str or value.lstrip()[:1] in ("{", "["):
        return value
    found: Value = parsed(value)
    return found


def parsed(text: str) -> Any:
    """The value of a JSON text. Invalid JSON, and JSON with too many values, stays text."""
    if len(text) > LIGHT_BODY and text.count(",") + 2 * text.count("[") + 3 * text.count("{") > MAX_WEIGHT:
        return text
    try:
        # Python's own encoder writes NaN, and some emitters do not prevent it.
        value = json.loads(text, parse_constant=str, parse_float=_finite)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # raises for lone surrogates, which no store accepts
    except (ValueError, RecursionError):
        return text
    return text if is_deeper(value, DEEPEST_READ) else value


def _finite(digits: str) -> float | str:
    number = float(digits)
    return number if isfinite(number) else digits


def plain(value: Value) -> Any:
    """An attribute's value as a JSON value: bytes in base64, and numbers that are not finite as text."""
    if value is None or type(value) in _SIMPLE:
        return value
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value
