"""What an event goes through before anything of it touches disk or network. Pure, but for the user's own hook."""

from __future__ import annotations

from collections.abc import Callable

from ..events import Deferred, Event
from ..snapshot import SEAL, opened
from .ledger import ENCODE_ERROR, REDACTION_ERROR


def clean(event: Event, redact: Callable[[Event], Event]) -> Event | str:
    """The event as it may be sent, or the reason why it is dropped: one whose redaction fails is never sent as it is."""
    if type(event.fields) is Deferred:
        try:
            event = event._replace(fields=event.fields.make())
        except Exception:
            return ENCODE_ERROR
    try:
        return redact(with_json(event))
    except KeyboardInterrupt:
        raise
    except BaseException:  # a hook may call sys.exit, and extension modules have panics that are no Exception
        return REDACTION_ERROR


def with_json(event: Event) -> Event:
    """The event with its sealed payloads encoded; the same object if there are none."""
    made: dict[str, bytes] = {}
    cut = []
    for name, value in event.fields.items():
        if type(value) is bytes and value[:1] == SEAL:
            made[name], lossy = opened(value)
            if lossy:
                cut.append(name)
    if not made:
        return event
    fields = {**event.fields, **made}
    if cut:
        fields["truncated"] = [*fields.get("truncated", ()), *cut]
    return event._replace(fields=fields)
