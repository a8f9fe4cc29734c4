"""What an event goes through before anything of it touches disk or network. Pure, but for the user's own hook."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from agentscope.events import Event, PlainStep
from agentscope.protocols.drop_reasons import ENCODE_ERROR, REDACTION_ERROR
from agentscope.serialization.snapshot import SEAL, is_sealed, opened


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


GROUP = 32
"""Events that are looked at together, at most."""
GROUP_BYTES = 64 * 1024
FEW = 8
"""Events whose payloads may have to be encoded before there is a pause."""


def screened(
    events: Sequence[Event], redact: Callable[[Event], Event], done: Collection[int], pause: Callable[[], object]
) -> Iterator[tuple[Event, Event | str]]:
    """Each event, and what `clean` makes of it. `done`: the `seq` of those that it has been made of already.

    `pause` is called between short pieces of work. A `redact` that has a method `spares`, as `Redactor` has, is asked by it
    whether it would leave some events as they are.
    """
    spares: Callable[[Sequence[Event]], bool] = getattr(redact, "spares", _never)
    for group in _groups(events):
        made: list[Event] = []
        for event in group:
            if (json := _made(event)) is None:
                break
            made.append(json)
            if len(made) % FEW == 0:
                pause()
        ready = made if len(made) == len(group) else group
        if ready is made and _are_spared(made, spares):
            yield from zip(group, made, strict=True)
        else:
            for event, told in zip(group, ready, strict=True):
                yield event, event if event.seq in done else clean(told, redact)
                pause()
        pause()


def _groups(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    start = size = 0
    for position, event in enumerate(events):
        if size >= GROUP_BYTES or position - start >= GROUP:
            yield events[start:position]
            start, size = position, 0
        size += event.size
    if start < len(events):
        yield events[start:]


def _made(event: Event) -> Event | None:
    """The event with its payloads as JSON; None if that cannot be: then `clean` will tell what is wrong.

    A plain step stays one: most protocols need no dict of it.
    """
    fields: Any = event.fields
    if type(fields) is PlainStep:
        *_, given, output = fields
        if (given is None or given[:1] < SEAL) and (output is None or output[:1] < SEAL):
            return event
    try:
        return whole(event)
    except Exception:
        return None


def _are_spared(events: Sequence[Event], spares: Callable[[Sequence[Event]], bool]) -> bool:
    try:
        return spares(events)
    except Exception:  # a field that is not what it should be: `clean` tells which event's
        return False


def _never(events: Any) -> bool:
    return False
