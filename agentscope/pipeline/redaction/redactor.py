"""Redaction: what must not leave the process is masked in the worker, before an event touches disk or network.

By default the values of secret-named keys are masked (`password`, `api_key`, `Authorization`, … at any depth, also in
JSON inside strings), headers that are pairs or objects of name and value, and in text what `secret_names.mask_text` masks.
The tracker's own key is masked always.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from agentscope.errors import ConfigurationError
from agentscope.events import (
    PAYLOAD_FIELDS,
    DeferredEvent,
    Event,
    PlainStep,
    QueuedEvent,
    ReadyEvent,
    in_full,
    united,
)
from agentscope.protocols.drop_reasons import ENCODE_ERROR, REDACTION_ERROR, DropReason
from agentscope.serialization.snapshot import encode, is_sealed, text, unsealed

from .secret_patterns import MASK, bare, is_secret, is_secret_of_pair, mask_text, may_name_secrets

__all__ = ["MASK", "Redactor", "redacted", "redacted_all"]

_new = tuple.__new__

_IDENTITY = ("type", "run_id", "step_id", "parent_id")
_SHORTEST_SECRET = 8  # characters; a shorter key would mask ordinary words
_MAX_NESTING = 5  # JSON in strings in JSON …

_NAMED = tuple(
    (name, value)
    for value in ("value", "Value")
    for name in (("name", "key", "header") if value.islower() else ("Name", "Key", "Header"))
)
"""The keys of an object that tells a name and its value."""

Hook = Callable[[dict[str, Any]], dict[str, Any]]


class Redactor:
    """Masks one event at a time; called in the worker thread.

    `redact`:
      - True: values of secret-named keys become "[redacted]", and "Bearer …" keeps only its first word.
      - False: nothing but `secrets` is masked.
      - patterns: regular expressions, as str or compiled; on top of the default, every match in a string value or a
        text field (name, external id, …) becomes "[redacted]". A plain word is a pattern that matches itself.
      - a callable: gets what the default masking left, as one dict that it may change: `type`, `run_id`, `step_id`,
        `parent_id` and the event's fields, payloads as Python values. It returns a dict of the fields to send: what is
        left out is not sent, and the four names above cannot be changed. It may not be a coroutine function. What it
        returns is masked once more.

    `secrets` (the API key) are masked wherever they appear, whatever `redact` says, from 8 characters on.

    Raises `ConfigurationError` if `redact` cannot work.
    """

    def __init__(
        self, redact: bool | Hook | Sequence[str | re.Pattern[str]] = True, secrets: Sequence[str] = ()
    ) -> None:
        self._names = redact is not False
        self._hook = redact if callable(redact) else None
        self._patterns = () if isinstance(redact, bool) or callable(redact) else _compiled(redact)
        if self._hook is not None and inspect.iscoroutinefunction(self._hook):
            raise ConfigurationError(
                "redact must be a plain function: redaction runs in a thread without an event loop"
            )
        forms = {form for secret in secrets if len(secret) >= _SHORTEST_SECRET for form in _spellings(secret)}
        # The longest first: one may be a part of another.
        self._secrets = sorted(forms, key=len, reverse=True)
        self._bare_secrets = {bare(_bytes(secret)) for secret in forms}

    def __repr__(self) -> str:
        kind = "callable" if self._hook else "patterns" if self._patterns else self._names
        return f"Redactor(redact={kind})"

    def __call__(self, event: Event) -> Event:
        """The event as it may be sent: the same object if nothing had to be masked.

        Raises what the callable raises, and TypeError if it returns something that cannot be sent; the event must then
        be dropped.
        """
        fields = self._masked(event.fields)
        if self._hook is not None:
            fields = self._masked(_hooked(self._hook, event, fields))
        return event if fields is event.fields else event._replace(fields=fields)

    def spares(self, events: Iterable[ReadyEvent]) -> bool:
        """Tell by one search through all of these events that none of them would be changed.

        False: some of them may be. Always so with patterns or a callable.
        """
        if self._hook is not None or self._patterns:
            return False
        payloads: list[bytes] = []
        texts: list[str] = []
        for event in events:
            values: Iterable[object] = (
                (event.name, event.input, event.output) if isinstance(event, PlainStep) else event.fields.values()
            )
            for value in values:
                if isinstance(value, bytes):
                    payloads.append(value)
                elif isinstance(value, str):
                    texts.append(value)
                elif isinstance(value, list):
                    texts += [item for item in value if type(item) is str]
        payloads.append(_bytes("\n".join(texts)))
        return not self._suspicious(b"\n".join(payloads))

    def _masked(self, fields: dict[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        for name, value in fields.items():
            if type(value) is bytes:
                masked: Any = self._payload(value)
            elif type(value) is str:
                masked = self._text(value)
            elif type(value) is list:
                masked = [self._text(item) if type(item) is str else item for item in value]
            else:
                continue
            if masked != value:
                changed[name] = masked
        return {**fields, **changed} if changed else fields

    def _payload(self, payload: bytes) -> bytes:
        if not self._patterns and not self._suspicious(payload):
            return payload
        value = json.loads(payload)
        masked = self._value(value, 0)
        # `is`, because the untouched payload is kept as it was written.
        return payload if masked is value else encode(masked, 4 * len(payload) + 1024)[0]

    def _suspicious(self, text: bytes) -> bool:
        searched = bare(text)
        if any(secret in searched for secret in self._bare_secrets):
            return True
        return self._names and may_name_secrets(text, searched)

    def _value(self, value: Any, nesting: int) -> Any:
        """Mask the secrets in `value`. Returns the same object if there are none."""
        if type(value) is str:
            return self._string(value, nesting)
        if type(value) is list:
            if self._names and _are_pairs(value):
                items = [self._pair(item, nesting) for item in value]
            else:
                items = [self._value(item, nesting) for item in value]
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        if type(value) is not dict:
            return value
        changed = False
        told: dict[str, Any] = {}
        # Beside its probability, a token is a piece of a model's answer.
        sampled = "logprob" in value
        named = _named(value) if self._names else None
        for key, item in value.items():
            name = self._text(key)
            if name is not key and name in told:
                name = f"{name} {len(told)}"
            if key == named or (self._names and is_secret(key, item) and not (sampled and key == "token")):
                new: Any = MASK
            else:
                new = self._value(item, nesting)
            changed |= name is not key or new is not item
            told[name] = new
        return told if changed else value

    def _pair(self, pair: list[Any], nesting: int) -> Any:
        name, value = pair
        if not is_secret_of_pair(name, value):
            return self._value(pair, nesting)
        return pair if value == MASK else [self._text(name), MASK]

    def _string(self, value: str, nesting: int) -> str:
        if nesting < _MAX_NESTING and value.lstrip()[:1] in ("{", "[", '"'):
            try:
                inner = json.loads(value)
            except (ValueError, RecursionError):
                pass
            else:
                masked = self._value(inner, nesting + 1)
                return value if masked is inner else json.dumps(masked, ensure_ascii=False)
        return self._text(value)

    def _text(self, value: str) -> str:
        """`value` with the own key, secrets and patterns masked: the same object if there are none."""
        masked = value
        for secret in self._secrets:
            masked = masked.replace(secret, MASK)
        if self._names and (":" in masked or "=" in masked or " " in masked) and may_name_secrets(_bytes(masked)):
            masked = mask_text(masked)
        for pattern in self._patterns:
            masked = pattern.sub(MASK, masked)
        return value if masked == value else masked


def _spellings(secret: str) -> tuple[str, ...]:
    """Return `secret` as plain text, and as JSON, a `repr` and a URL write it."""
    return secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe="")


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


def _are_pairs(value: list[Any]) -> bool:
    """Return whether this is a list of (name, value) pairs, as headers are. A single pair may be the names of two fields."""
    return all(type(item) is list and len(item) == 2 and type(item[0]) is str for item in value)


def _named(value: dict[str, Any]) -> str | None:
    """The key of the secret in an object that tells its name beside it."""
    if "value" in value or "Value" in value:
        for name, key in _NAMED:
            if name in value and key in value and is_secret_of_pair(value[name], value[key]):
                return key
    return None


def _compiled(patterns: object) -> tuple[re.Pattern[str], ...]:
    if isinstance(patterns, (str, bytes)) or not isinstance(patterns, Sequence):
        raise ConfigurationError("redact must be True, False, a callable, or a sequence of regular expressions")
    compiled = []
    for index, pattern in enumerate(patterns):
        # No message tells a pattern: it may well spell out what it hides.
        try:
            expression = re.compile(pattern)
        except (re.error, TypeError, RecursionError, OverflowError):
            raise ConfigurationError(f"redact[{index}] is not a regular expression") from None
        if not isinstance(expression.pattern, str):
            raise ConfigurationError(f"redact[{index}] is a pattern for bytes; it must be one for str")
        if expression.search(""):
            raise ConfigurationError(f"redact[{index}] matches the empty text, so it would mask everything")
        compiled.append(expression)
    return tuple(compiled)


def _hooked(hook: Hook, event: Event, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that the hook wants sent, in the form that events have."""
    given: dict[str, Any] = {name: getattr(event, name) for name in _IDENTITY}
    for name, value in fields.items():
        given[name] = json.loads(value) if type(value) is bytes else list(value) if type(value) is list else value
    result = hook(given)
    if not isinstance(result, dict):
        raise TypeError(f"redact must return a dict of the fields to send, not {type(result).__name__}")
    told: dict[str, Any] = {}
    cut = []
    for name, value in result.items():
        if name in PAYLOAD_FIELDS:
            told[name], lossy = encode(value, max(1 << 20, 2 * len(fields.get(name, b""))))
            if lossy:
                cut.append(name)
        elif name not in _IDENTITY:
            told[name] = _plain(name, value)
    if type(told.get("truncated")) is not list:
        told.pop("truncated", None)  # ours, not the hook's: what joins and cuts events counts on a list
    if cut:
        told["truncated"] = list(dict.fromkeys([*told.get("truncated", ()), *cut]))
    return told


def _plain(name: object, value: Any) -> object:
    """`value` if it is what a field that is no payload may hold. Raises TypeError otherwise."""
    if type(name) is str:
        if isinstance(value, str):
            return text(value, len(value))
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return [text(item, len(item)) for item in value]
        if value is None or type(value) in (bool, int) or (type(value) is float and math.isfinite(value)):
            return value
    raise TypeError(f"redact returned {type(value).__name__} for the field {text(name, 100)!r}, which cannot be sent")


def redacted(event: QueuedEvent, redact: Callable[[Event], Event]) -> Event | DropReason:
    """Return the masked event, or the reason of its drop. An event whose redaction fails is never sent."""
    try:
        full = in_full(_made(event))
    except Exception:
        return ENCODE_ERROR
    try:
        return redact(full)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a hook may call sys.exit, and extension modules have panics that are no Exception
        return REDACTION_ERROR


GROUP = 32
"""Events that are searched together, at most."""
GROUP_BYTES = 64 * 1024


def redacted_all(
    events: Sequence[QueuedEvent], redact: Callable[[Event], Event], done: Collection[int], pause: Callable[[], object]
) -> Iterator[tuple[QueuedEvent, ReadyEvent | DropReason]]:
    """Each event with the result of `redacted`. `done`: the `seq` of those that were redacted before.

    `pause` is called between short pieces of work. Groups of events that `redact.spares` are passed as they are.
    """
    spares: Callable[[Sequence[ReadyEvent]], bool] | None = getattr(redact, "spares", None)
    for group in _groups(events):
        ready = [made for event in group if (made := _ready(event, pause)) is not None]
        if spares is not None and len(ready) == len(group) and _spared(ready, spares):
            yield from zip(group, ready, strict=True)
            pause()
            continue
        for event in group:
            if event.seq in done and not isinstance(event, DeferredEvent):
                yield event, event
            else:
                yield event, redacted(event, redact)
            pause()


def _groups(events: Sequence[QueuedEvent]) -> Iterator[Sequence[QueuedEvent]]:
    start = size = 0
    for position, event in enumerate(events):
        if size >= GROUP_BYTES or position - start >= GROUP:
            yield events[start:position]
            start, size = position, 0
        size += event.size
    if start < len(events):
        yield events[start:]


def _ready(event: QueuedEvent, pause: Callable[[], object]) -> ReadyEvent | None:
    """The event with its fields made; None if they cannot be."""
    try:
        made = _made(event)
    except Exception:
        return None  # `redacted` tells why
    if made is not event:
        pause()
    return made


def _made(event: QueuedEvent) -> ReadyEvent:
    """Make the deferred fields of an event, and the JSON of its sealed payloads. The same object if there are none.

    A plain step stays one, since most protocols need no dict of it. Raises what `DeferredEvent.make` raises.
    """
    if isinstance(event, PlainStep):
        given, output = event.input, event.output
        if (given is None or not is_sealed(given)) and (output is None or not is_sealed(output)):
            return event
        given, cut = unsealed(given) if given is not None else (None, False)
        output, also_cut = unsealed(output) if output is not None else (None, False)
        if not cut and not also_cut:
            return _new(PlainStep, (*event[:-2], given, output))
    full = in_full(event)
    sealed = {name: value for name, value in full.fields.items() if isinstance(value, bytes) and is_sealed(value)}
    if not sealed:
        return full
    fields = full.fields.copy()
    for name, payload in sealed.items():
        fields[name], lossy = unsealed(payload)
        if lossy:
            fields["truncated"] = united(fields.get("truncated"), (name,))
    return full._replace(fields=fields)


def _spared(events: Sequence[ReadyEvent], spares: Callable[[Sequence[ReadyEvent]], bool]) -> bool:
    try:
        return spares(events)
    except Exception:  # a field that is not what it should be: `redacted` tells of which event
        return False
