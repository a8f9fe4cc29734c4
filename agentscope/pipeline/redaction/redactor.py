"""Redaction: secrets are masked in the worker, before an event touches disk or network.

By default the values of secret-named keys are masked (`password`, `api_key`, `Authorization`, … at any depth), and in text what
`masking.mask` finds. The tracker's own key is masked always.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any
from urllib.parse import quote

from agentscope.errors import ConfigurationError
from agentscope.events import (
    PAYLOAD_FIELDS,
    STEP,
    DeferredEvent,
    Event,
    PlainStep,
    QueuedEvent,
    ReadyEvent,
    in_full,
    united,
)
from agentscope.protocols.drop_reasons import ENCODE_ERROR, REDACTION_ERROR, DropReason
from agentscope.serialization.snapshot import SEAL, encode, text, unsealed

from .masking import MASK, TooManyHits, mask
from .needles import hits

__all__ = ["MASK", "NOT_SEARCHED", "Redactor", "preview", "redacted", "redacted_all"]

_new = tuple.__new__

NOT_SEARCHED = "[redacted: too many names of secrets to look at each]"
"""The text in place of a value with too many hits."""
_IDS = ("run_id", "step_id", "parent_id")
_IDENTITY = ("type", *_IDS)
_SALT = os.urandom(16)
_SHORTEST_SECRET = 8  # characters; a shorter key would mask ordinary words
# JSON in a string may spell any character by an escape: in a key, that hides a name from the search. These are the escapes of
# printable ASCII but for quotation marks and backslashes, and those in the names of other languages.
_ASCII = "00(?:2[0de]|3[0-9ad]|[46][1-9a-f]|[57][0-9a]|5f|f1)"
_ESCAPE = r"(?:\\\\)+u"
_ESCAPED = re.compile(
    rf"(?<!\\)(?:{_ESCAPE}{_ASCII}"
    rf"|{_ESCAPE}04[13]f{_ESCAPE}0430{_ESCAPE}0440{_ESCAPE}043e{_ESCAPE}043b{_ESCAPE}04(?:4c|4f|38)"
    rf"|{_ESCAPE}5bc6{_ESCAPE}78(?:01|bc)|{_ESCAPE}30d1{_ESCAPE}30b9"
    rf"{_ESCAPE}30ef{_ESCAPE}30fc{_ESCAPE}30c9|{_ESCAPE}be44{_ESCAPE}bc00{_ESCAPE}bc88{_ESCAPE}d638)".encode(),
    re.IGNORECASE,
)
_MAY_BE_ESCAPED = re.compile(rf"\\\\u(?:{_ASCII}|04[13]f|5bc6|30d1|be44)".encode(), re.IGNORECASE)
"""True wherever `_ESCAPED` is, and ten times as fast."""
_MOST_HITS = 256
"""Hits in a group after which all of its events are looked at."""

Hook = Callable[[dict[str, Any]], dict[str, Any]]


def _no_pause() -> None:
    """Do nothing: the default of `Redactor.pause`."""


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
    `pause` is called between short pieces of work, so that other threads may run.

    Raises `ConfigurationError` if `redact` cannot work.
    """

    def __init__(
        self,
        redact: bool | Hook | Sequence[str | re.Pattern[str]] = True,
        secrets: Sequence[str] = (),
        pause: Callable[[], object] = _no_pause,
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
        self._secrets = sorted((_bytes(form) for form in forms), key=len, reverse=True)
        self._pause = pause
        # Processes with the same key mask an id alike. Without a key only those that were forked do.
        self._digest_key = blake2b(_bytes("\n".join(sorted(secrets)))).digest() if any(secrets) else _SALT

    def __repr__(self) -> str:
        kind = "callable" if self._hook else "patterns" if self._patterns else self._names
        return f"Redactor(redact={kind})"

    def __call__(self, event: Event) -> Event:
        """The event as it may be sent: the same object if nothing had to be masked.

        Raises what the callable raises, and TypeError if it returns something that cannot be sent; the event must then
        be dropped.
        """
        texts = bool(self._patterns) or self._suspicious(_texts(event, event.fields.values()))
        changed = self._ids(event) if texts else {}
        fields = self._masked(event.fields, texts=texts)
        if self._hook is not None:
            given = event._replace(**changed) if changed else event
            fields = self._masked(_hooked(self._hook, given, fields), texts=True)
        if fields is not event.fields:
            changed["fields"] = fields
        return event._replace(**changed) if changed else event

    def suspects(self, events: Sequence[ReadyEvent]) -> Collection[int]:
        """Return the places of the events that may have to be changed, told by one search of them all."""
        everything = range(len(events))
        if self._hook is not None or self._patterns:
            return everything
        payloads: list[bytes] = []
        ends: list[int] = []
        texts: set[str | None] = set()
        size = 0
        values: Iterable[object]
        for event in events:
            if isinstance(event, PlainStep):
                texts.update((event.run_id, event.step_id, event.parent_id, event.name))
                values = event[-2:]
            else:
                texts.update((event.run_id, event.step_id, event.parent_id))
                values = event.fields.values()
            for value in values:
                if type(value) is bytes:
                    payloads.append(value)
                    size += len(value) + 1
                elif type(value) is str:
                    texts.add(value)
                elif type(value) is list:
                    texts.update(item for item in value if type(item) is str)
            ends.append(size)
        # The mark is that of a key, in case a name is the end of a text.
        text = b"\n".join((*payloads, _bytes('"\n'.join((*filter(None, texts), "")))))
        if self._has_own_key_or_escape(text):
            return everything
        found: set[int] = set()
        for count, at in enumerate(hits(text, self._pause) if self._names else ()):
            if at >= size or count >= _MOST_HITS:
                return everything
            found.add(bisect_right(ends, at))
        return found

    def _has_own_key_or_escape(self, text: bytes) -> bool:
        return any(secret in text for secret in self._secrets) or (
            self._names and b"\\" in text and _MAY_BE_ESCAPED.search(text) is not None
        )

    def _suspicious(self, text: bytes) -> bool:
        return self._has_own_key_or_escape(text) or (self._names and next(hits(text, self._pause), None) is not None)

    def _ids(self, event: Event) -> dict[str, Any]:
        """Return the ids that masking changes.

        A masked id ends in a digest, so that steps keep their run. It is keyed: without the key of the tracker, guesses at the
        secret cannot be checked.
        """
        changed = {}
        for name in _IDS:
            value = getattr(event, name)
            masked, _ = self._text(value) if value else (value, True)
            if masked != value:
                digest = blake2b(_bytes(value), digest_size=8, key=self._digest_key).hexdigest()
                changed[name] = f"{masked}-{digest}"
        return changed

    def _masked(self, fields: dict[str, Any], *, texts: bool) -> dict[str, Any]:
        """Return the fields with masked payloads. texts: True to mask the other texts too."""
        changed: dict[str, Any] = {}
        cut: list[str] = []
        for name, value in fields.items():
            searched = True
            if type(value) is bytes:
                masked: Any
                masked, searched = self._payload(value)
            elif type(value) is str and texts:
                masked, searched = self._text(value)
            elif type(value) is list and texts:
                items = [self._text(item) if type(item) is str else (item, True) for item in value]
                masked, searched = [item for item, _ in items], all(whole for _, whole in items)
            else:
                continue
            if masked != value:
                changed[name] = masked
            if not searched:
                cut.append(name)
        if cut:
            before = fields.get("truncated")
            changed["truncated"] = list(dict.fromkeys([*(before if type(before) is list else ()), *cut]))
        return {**fields, **changed} if changed else fields

    def _payload(self, payload: bytes) -> tuple[bytes, bool]:
        """Return the masked JSON, and False if it was replaced as a whole because it has too many hits."""
        masked = payload
        for secret in self._secrets:
            masked = masked.replace(secret, MASK.encode())
        if self._names:
            try:
                masked = mask(masked, self._pause)
                if b"\\\\u" in masked and (plain := _ESCAPED.sub(_unescaped, masked)) != masked:
                    shown = mask(plain, self._pause)
                    masked = masked if shown is plain else shown
            except TooManyHits:
                return json.dumps(NOT_SEARCHED).encode(), False
        if self._patterns:
            value = json.loads(masked)
            shown = self._value(value)
            # `is`, because the untouched payload is kept as it was written.
            masked = masked if shown is value else encode(shown, 4 * len(payload) + 1024)[0]
        return masked, True

    def _text(self, value: str) -> tuple[str, bool]:
        raw = _bytes(value)
        if not self._patterns and not self._suspicious(raw + b'"'):
            return value, True
        masked, searched = self._payload(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        return json.loads(masked.decode("utf-8", "surrogatepass")), searched

    def _value(self, value: Any) -> Any:
        """Mask the user's patterns in `value`. Returns the same object if nothing matches."""
        if type(value) is str:
            masked = value
            for pattern in self._patterns:
                masked = pattern.sub(MASK, masked)
            return value if masked == value else masked
        if type(value) is list:
            items = [self._value(item) for item in value]
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        if type(value) is not dict:
            return value
        changed = False
        told: dict[str, Any] = {}
        for key, item in value.items():
            name, new = self._value(key), self._value(item)
            if name is not key and name in told:
                name = f"{name} {len(told)}"
            changed |= name is not key or new is not item
            told[name] = new
        return told if changed else value


def _spellings(secret: str) -> list[str]:
    """Return `secret` as plain text, and as a `repr` and a URL write it, each also as JSON in JSON in JSON does."""
    spelled = [secret, repr(secret)[1:-1], quote(secret, safe="")]
    for form in spelled[:3]:
        for _ in range(4):
            form = json.dumps(form, ensure_ascii=False)[1:-1]
            spelled.append(form)
    return spelled


def _texts(event: ReadyEvent, values: Iterable[object]) -> bytes:
    """Join the ids and the values that are no payload into one text, to be searched at once."""
    texts = [event.run_id, event.step_id or "", event.parent_id or ""]
    for value in values:
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, list):
            texts += [item for item in value if type(item) is str]
    # The mark is that of a key, in case a name is the end of a text.
    return _bytes('"\n'.join((*texts, "")))


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


def _unescaped(match: re.Match[bytes]) -> bytes:
    codes = match.group().lower().replace(b"\\", b"").split(b"u")[1:]
    return "".join(chr(int(code, 16)) for code in codes).encode()


def _compiled(patterns: object) -> tuple[re.Pattern[str], ...]:
    if isinstance(patterns, (str, bytes)) or not isinstance(patterns, Sequence):
        raise ConfigurationError("redact must be True, False, a callable, or a sequence of regular expressions")
    compiled = []
    for index, pattern in enumerate(patterns):
        # Messages hold no pattern, since a pattern may contain the secret.
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


def preview(value: object, limit: int, redact: Callable[[Event], Event]) -> Any:
    """Return `value` as it would be sent as the input of a step; None if it would not be. limit: bytes of the payload."""
    sent = redacted(Event(STEP, 0, 0, "preview", "preview", None, {"input": encode(value, limit)[0]}, 0), redact)
    payload = None if isinstance(sent, str) else sent.fields.get("input")
    return json.loads(payload) if isinstance(payload, bytes) else None


GROUP = 32
"""Events that are searched together, at most."""
GROUP_BYTES = 64 * 1024


def redacted_all(
    events: Sequence[QueuedEvent], redact: Callable[[Event], Event], done: Collection[int], pause: Callable[[], object]
) -> Iterator[tuple[QueuedEvent, ReadyEvent | DropReason]]:
    """Yield each event with the result of `redacted`. `done`: the `seq` of events that were redacted before.

    `pause` is called between short pieces of work. Of a `Redactor`, only `suspects` are redacted.
    """
    suspects = redact.suspects if isinstance(redact, Redactor) else None
    for group in _groups(events):
        made = [_ready(event, pause) for event in group]
        suspected: Collection[int] = range(len(group))
        if suspects is not None and None not in made:
            try:
                suspected = suspects([event for event in made if event is not None])
            except Exception:
                pass
        if not suspected and None not in made:
            yield from zip(group, made, strict=True)
            pause()
            continue
        for place, (event, full) in enumerate(zip(group, made, strict=True)):
            if full is not None and (
                place not in suspected or (event.seq in done and not isinstance(event, DeferredEvent))
            ):
                yield event, full
            else:
                yield event, redacted(full or event, redact)
                pause()
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
    """Return the event with its fields made; None if that fails."""
    try:
        made = _made(event)
    except Exception:
        return None  # `redacted` tells why
    if made is not event:
        pause()
    return made


def _made(event: QueuedEvent) -> ReadyEvent:
    """Return an event with its deferred fields made and its sealed payloads encoded. Raises what `DeferredEvent.make` raises.

    A `PlainStep` stays a `PlainStep`, since most protocols need no dict of its fields.
    """
    if isinstance(event, PlainStep):
        *head, given, output = event
        given, cut = (given, False) if given is None or given[:1] < SEAL else unsealed(given)
        output, also_cut = (output, False) if output is None or output[:1] < SEAL else unsealed(output)
        if given is event.input and output is event.output:
            return event
        if not cut and not also_cut:
            return _new(PlainStep, (*head, given, output))
    type_, seq, time_ns, run_id, step_id, parent_id, fields, size = full = in_full(event)
    for name, payload in full.fields.items():
        if type(payload) is bytes and payload[:1] >= SEAL:
            fields = fields if fields is not full.fields else fields.copy()
            fields[name], lossy = unsealed(payload)
            if lossy:
                fields["truncated"] = united(fields.get("truncated"), (name,))
    return (
        full if fields is full.fields else _new(Event, (type_, seq, time_ns, run_id, step_id, parent_id, fields, size))
    )
