"""What an event goes through before anything of it touches disk or network. Pure, but for the user's own hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..events import Event
from ..snapshot import is_sealed, opened
from .ledger import ENCODE_ERROR, REDACTION_ERROR


def clean(event: Event, redact: Callable[[Event], Event]) -> Event | str:
    """The event as it may be sent, or the reason why it is dropped: one whose redaction fails is never sent as it is."""
    try:
        event = whole(event)
    except Exception:
        return ENCODE_ERROR
    try:
        return redact(event)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a hook may call sys.exit, and extension modules have panics that are no Exception
        return REDACTION_ERROR


def whole(event: Event) -> Event:
    """The event with its fields as a dict, and its payloads as JSON; the same object if they are that already."""
    given: Any = event.fields
    fields: dict[str, Any] = given if type(given) is dict else given.make()
    sealed = [name for name, value in fields.items() if type(value) is bytes and is_sealed(value)]
    if fields is given:
        if not sealed:
            return event
        fields = fields.copy()
    for name in sealed:
        fields[name], lossy = opened(fields[name])
        if lossy:
            fields["truncated"] = [*fields.get("truncated", ()), name]
    type_, seq, time_ns, run_id, step_id, parent_id, _, size = event
    return Event(type_, seq, time_ns, run_id, step_id, parent_id, fields, size)
