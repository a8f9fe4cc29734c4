"""Conversion of the options of handles to fields of events. It never raises; corrections are listed in `Fields.mended`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

from agentscope.events import RUN_FIELDS, RUN_STATUSES, STEP_FIELDS, Field
from agentscope.protocols.voltagent.vocabulary import LEVELS, camel_case, camel_case_metadata
from agentscope.serialization.foreign import called
from agentscope.serialization.snapshot import encode, text
from agentscope.tracker.fields import LONGEST_TEXT, Encoded, Fields, _plain_dict, _plain_text

from .record import Record

STATUSES = {
    **{status: status for status in RUN_STATUSES},
    "working": "running",
    "success": "completed",
    "error": "failed",
}
"""Status of events by status of the API or of the tracker."""

FINAL = RUN_STATUSES - {"running"}

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens")
_LATEST = 1 << 63
_STR = frozenset({str})


def spread(options: Any, more: dict[str, Any], fields: Fields) -> dict[Any, Any]:
    """Return the options as a new dict. `options` is a dict, a typed object, or a name alone; `more` overrides it."""
    kind = type(options)
    if options is None:
        given = dict(more)
    elif kind is dict:
        given = {**options, **more}
    elif issubclass(kind, str):
        given = {"name": options, **more}
    else:
        found = called(lambda: _attributes(options), None)
        given = {**(found or {}), **more}
        if found is None:
            sentence = "options are a dict or an object such as ToolOptions; another value is left out"
            fields.mended.append(("wrong_type", sentence))
    # A lookup compares keys, which is foreign code for keys that are not of the class str.
    return (
        given
        if _STR.issuperset(map(type, given))
        else {text(key, LONGEST_TEXT): value for key, value in list(given.items())}
    )


def _attributes(options: Any) -> dict[Any, Any]:
    kind = type(options)
    if issubclass(kind, Record):
        found: dict[Any, Any] = options.model_dump(exclude_none=True)
    elif issubclass(kind, dict):
        found = _plain_dict(options)
    elif issubclass(kind, Mapping):
        found = dict(options)
    elif dataclasses.is_dataclass(kind):
        found = {item.name: getattr(options, item.name) for item in dataclasses.fields(kind)}
    else:
        found = dict(vars(options))
    return {name: value for name, value in found.items() if value is not None}


def take(given: dict[Any, Any], *names: str) -> Any:
    """Remove all of these names; return the value of the first that is set."""
    found = None
    for name in names:
        value = given.pop(name, None)
        found = value if found is None else found
    return found


def _spellings(table: Mapping[str, Field]) -> tuple[tuple[str, str], ...]:
    apart = ("output", "error", "meta_data", "usage")  # the API has other names for them
    return tuple((name, camel_case(name)) for name, field in table.items() if field.given and name not in apart)


_OPTIONS = {True: _spellings(RUN_FIELDS), False: _spellings(STEP_FIELDS)}
"""Fields that options may set, in snake_case and in camelCase; True: of a run, False: of a step."""


def add_fields(fields: Fields, given: dict[Any, Any], of_run: bool) -> None:
    """Move the fields of a run or step from the options to `fields`."""
    table = RUN_FIELDS if of_run else STEP_FIELDS
    for name, spelling in _OPTIONS[of_run]:
        value = take(given, name, spelling)
        if value is not None:
            fields.give(table, name, value)


def add_model(fields: Fields, metadata: Mapping[Any, Any]) -> None:
    """Set the model and provider of a step from `modelParameters`, unless the options set them."""
    parameters: Any = metadata.get("modelParameters")
    if issubclass(type(parameters), Record):
        parameters = parameters.model_dump(exclude_none=True)
    if type(parameters) is dict:
        for name in ("model", "provider"):
            if name not in fields.values and type(parameters.get(name)) is str:
                fields.name(name, parameters[name])


def add_metadata(
    fields: Fields, given: dict[Any, Any], metadata: Any, own: Mapping[str, Any] | None = None, of_run: bool = False
) -> None:
    """Set `meta_data` to the values of `own` that are not None, overridden by unknown options, overridden by `metadata`."""
    found = metadata
    if metadata is not None and type(metadata) is not dict:
        found = _object(metadata, fields)
    if given:
        found = {**{name: value for name, value in given.items() if value is not None}, **(found or {})}
    known = {name: value for name, value in own.items() if value is not None} if own else {}
    if found or known:
        found = camel_case_metadata(found) if found else {}
        if not of_run and "modelParameters" in found:
            add_model(fields, found)
        fields.payload("meta_data", {**known, **found} if known else found)


def _object(value: Any, fields: Fields) -> dict[Any, Any]:
    found = called(lambda: _attributes(value), None)
    if found is not None:
        return found
    fields.mended.append(("wrong_type", "metadata is a dict; another value is recorded as its key `value`"))
    return {"value": value}


def add_usage(fields: Fields, usage: Any) -> None:
    """Set `usage`: a dict is taken as it is, an int as the total, an object by its JSON form or its count attributes."""
    if usage is None or type(usage) is dict:
        fields.payload("usage", usage)
    elif issubclass(type(usage), Record):
        fields.payload("usage", usage.model_dump(exclude_none=True))
    elif type(usage) is int:
        fields.payload("usage", {"total_tokens": usage})
    else:
        encoded = Encoded(*encode(usage, fields.limit))
        fields.payload("usage", encoded if encoded.data.startswith(b"{") else _counts(usage) or encoded)


def _counts(usage: Any) -> dict[str, Any]:
    found = {}
    for name in _COUNTS:
        value = called(partial(getattr, usage, name), None)
        if type(value) in (int, float):
            found[name] = value
    return found


def add_error(fields: Fields, error: Any) -> None:
    """Set `error`: an exception with its traceback, a text as the message, another value as it is."""
    message = _plain_text(error)
    fields.error(error if message is None else {"message": message})


def status_of(status: Any, fields: Fields) -> str | None:
    """Return a status of events; None for None and for an unknown one."""
    if status is None:
        return None
    known = STATUSES.get((_plain_text(status) or "").lower())
    if known is None:
        allowed = "running, completed, error and cancelled"
        fields.mended.append(("unknown_status", f"an unknown status is left out; known are {allowed}"))
    return known


def level_of(level: Any, fields: Fields) -> str | None:
    """Return a level in capitals; None for None and for an unknown one."""
    if level is None:
        return None
    known = (_plain_text(level) or "").upper()
    if known not in LEVELS:
        fields.mended.append(("unknown_level", f"an unknown level is left out; known are {', '.join(sorted(LEVELS))}"))
        return None
    return known


def moment_of(moment: Any, fields: Fields) -> int | None:
    """Convert a time, ISO 8601 or a datetime, to nanoseconds since the epoch. Without a zone it is UTC."""
    if moment is None:
        return None
    nanoseconds = called(partial(_nanoseconds, moment), None)  # a time zone is foreign code
    if nanoseconds is None:
        fields.mended.append(("wrong_type", "a time is ISO 8601 or a datetime; another value is left out"))
    return nanoseconds


def _nanoseconds(moment: Any) -> int | None:
    iso = _plain_text(moment)
    found = moment if iso is None else datetime.fromisoformat(iso.strip().replace("Z", "+00:00"))
    if not issubclass(type(found), datetime):
        return None
    aware = found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)
    nanoseconds: int = (aware - _EPOCH) // timedelta(microseconds=1) * 1000
    return nanoseconds if 0 <= nanoseconds < _LATEST else None
