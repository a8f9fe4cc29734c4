"""Masks the secrets in JSON, in place: under keys, and in text that looks like JSON, YAML, XML, a header or code, at any depth.

The JSON is read as one text. The number of backslashes before a quotation mark depends on how deep JSON is nested in JSON. A
value ends at a mark with the same number as the mark at its beginning.

The time is linear in the text: each hit of the search is decided within `_WINDOW` bytes. Only masked values are read to their
end, and they are read once.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .forms import ESCAPES, FORMS, INNER, QUOTE
from .names import AUTHORIZATION, OPEN, STRONG, VAGUE, WEAK, Name, classify
from .needles import hits
from .values import ARGUMENT, COLON, ENV, KEY, SPACED, UNSAID, bare_value, is_secret

__all__ = ["MASK", "TooManyHits", "mask"]

MASK = "[redacted]"
_MASK = MASK.encode()
_WINDOW = 256
"""Bytes."""
_TURN = 32
"""Hits after which other threads may run."""
_FREE_HITS = 50_000
_BYTES_FOR_A_HIT = 32
"""Bound on the hits in a text: `_FREE_HITS`, and one for each `_BYTES_FOR_A_HIT`. Logs with secrets in all lines have fewer."""

Span = tuple[int, int, bytes]
"""The beginning and the end of a value, and the bytes in its place."""
Pause = Callable[[], object]


class TooManyHits(Exception):
    """The text has more hits than the bound."""


def mask(text: bytes, pause: Pause) -> bytes:
    """Return the JSON with its secrets masked: the same object if it has none. `pause` is called between short pieces of work.

    Raises `TooManyHits`; the text must then be masked whole.
    """
    lower = text.lower()
    parts: list[bytes] = []
    copied = done = count = 0
    for at, kind in hits(lower, pause):
        if at < done:
            continue
        count += 1
        if not count % _TURN:
            pause()
            if count > _FREE_HITS + len(text) // _BYTES_FOR_A_HIT:
                raise TooManyHits
        if kind == "name" and (plain := _PLAIN.match(lower, at)) is not None:
            # The shape of nearly all secrets in logs. `_named` finds the same in three times the time.
            name = classify(text[_name_start(lower, at, done) : plain.end("name")]).kind
            if name in _PLAIN_KINDS or (name == AUTHORIZATION and plain["scheme"]):
                start, done = plain.span("value")
                parts += (text[copied:start], _MASK)
                copied = done
                continue
        form = FORMS.get(kind)
        span = None if form is None else form(text, lower, at)
        if span is not None:
            spans = [(*span, _MASK)]
        elif kind in ("name", "bearer"):
            done, spans = _named(text, lower, at, done, pause)
        else:
            continue
        for start, end, instead in spans:
            if start >= copied:
                parts += (text[copied:start], instead)
                copied = end
        done = max(done, copied)
    return b"".join((*parts, text[copied:])) if parts else text


# ---- names -----------------------------------------------------------------------------------------------------------

_SEPARATORS = bytes(byte if byte > 127 or chr(byte).isalnum() or chr(byte) in "_.-" else 32 for byte in range(256))
"""A table for `translate`: a space for each byte that is in no name."""
_LONGEST_NAME = 64
_SPACE = r"(?:\s|\\{1,7}[nrt]){0,8}"


def _expression(expression: str) -> re.Pattern[bytes]:
    return re.compile(expression.encode())


_NAME_END = _expression(rf"[\w.\x80-\xff-]{{0,{_LONGEST_NAME}}}")
_PLAIN = _expression(
    rf"""(?P<name>[\w.\x80-\xff-]{{0,{_LONGEST_NAME}}})"""
    rf"""(?:[=:]|: (?P<scheme>(?:basic|bearer) )?|(?P<quote>{ESCAPES}?"): ?(?P=quote))"""
    r"""(?P<value>(?(scheme)[\w.~+/=-]{6,}|(?=[a-z_]{1,64}\d)\w{6,}))(?=[\s"\\,;&)])"""
)
_PLAIN_KINDS = (STRONG, VAGUE, WEAK)
_SIGN = _expression(rf"(?:[*`]{{1,3}}|\]| \([\w ]{{1,24}}\))?{_SPACE}(?P<sign>=>|:=|[:=]|%3d)(?![=:])")
_QUOTED = _expression(
    rf"(?P<more>[ ()\[\]/\w.-]{{0,24}})(?P<colon>:?)(?P<quote>{QUOTE})\]?(?:{_SPACE}(?P<sign>=>|:=|[:=,]))?"
)
_TAG = _expression(rf"""(?:[^<>"'\\]|{INNER}|\\{{1,7}}[nrt]){{0,80}}>(?P<value>[^<>"\\]{{1,1024}})<""")
_SAID = _expression(
    rf"""(?:(?P<said>[ \t]{{1,4}}(?:is:?|was|[|-]|->|-p))?[ \t]{{1,4}}|\\{{1,7}}t)(?P<quote>{INNER}|`)?"""
    r"""(?P<value>[^\s"'`\\,;()<>]{1,256})"""
)


def _name_start(lower: bytes, at: int, floor: int) -> int:
    """Return where the name around a hit begins, but not before `floor`."""
    low = max(floor, at - _LONGEST_NAME)
    start = low + lower[low:at].translate(_SEPARATORS).rfind(b" ") + 1
    # The letter of an escaped line break is none of the name.
    return start + 1 if start < at and lower[start - 1] == 92 and lower[start] in b"nrtbf" else start


def _name(text: bytes, lower: bytes, start: int, end: int, floor: int) -> Name:
    if lower.startswith(b"key", start) and lower[start - 1 : start] == b" ":  # "API key: …"
        start = _name_start(lower, start - 1, floor)
    return classify(text[start:end])


def _named(text: bytes, lower: bytes, at: int, floor: int, pause: Pause) -> tuple[int, list[Span]]:
    """Return the end of the name around a hit, and the spans to mask. floor: no name begins before this place."""
    start = _name_start(lower, at, floor)
    end = _NAME_END.match(lower, at).end()  # type: ignore[union-attr]  # it matches the empty text
    quoted = _QUOTED.match(lower, end)
    sign = None
    if (
        quoted is not None
        and (quoted["sign"] or not quoted["more"])
        and (not quoted["colon"] or text[start - len(quoted["quote"]) : start] == quoted["quote"])
    ):
        name = _name(text, lower, start, quoted.end("more"), floor)
        if name.kind == OPEN:
            return end, []
        quote = text[quoted.start("quote") : quoted.end("quote")]
        if quoted["sign"] not in (None, b","):
            return end, _assigned(lower, name, quoted.end(), KEY, quote, pause)
        if text[start - len(quote) : start] == quote:
            return end, _beside(lower, name, start, quoted)
        return end, []
    name = _name(text, lower, start, end, floor)
    if name.kind == OPEN:
        return end, []
    sign = _SIGN.match(lower, end)
    if sign is not None:
        if sign["sign"] == b":":
            form = COLON
        elif sign.start("sign") > end or lower[sign.end() : sign.end() + 1] == b" ":
            form = SPACED
        else:
            form = ENV if text[start:end].isupper() else ARGUMENT
        return end, _assigned(lower, name, sign.end(), form, b"", pause, rocket=sign["sign"] == b"=>")
    if lower[start - 1 : start] in (b"<", b":"):
        match = _TAG.match(lower, end)
        form = KEY
    else:
        match = _SAID.match(lower, end)
        if match is not None and not match["said"] and name.kind != STRONG and text[start : start + 1] != b"-":
            return end, []  # "get secret my-app1"
        form = KEY if match is not None and match["quote"] and name.kind == STRONG else UNSAID
    if match is None or not is_secret(name, match["value"], form):
        return end, []
    return end, [(*match.span("value"), _MASK)]


# ---- values ----------------------------------------------------------------------------------------------------------

_VALUE = _expression(
    rf"{_SPACE}(?:[*`]{{1,3}}[ \t]{{0,4}})?"
    rf"(?:(?:secretstr\(|[bruf]{{0,2}})(?P<quote>{QUOTE})(?P<more>(?P=quote){{2}})?|(?P<open>[\[{{]))"
)
_NEWLINE = r"(?:\r|\\{1,7}r)?(?:\n|\\{1,7}n)"
_ITEM = _expression(
    rf"(?:[ \t]?[|>][+-]?{_NEWLINE}[ \t]{{1,32}}|{_NEWLINE}[ \t]{{0,32}}-[ \t]{{1,8}})"
    rf"""(?:{INNER})?(?P<value>[^\s"'\\,]{{1,256}})(?:{INNER})?"""
)
_BRACKET = _expression(r"""[\[\]{}"']""")
_SCHEMA = _expression(
    rf"\{{\s{{0,8}}{QUOTE}(?:type|description|title|\$ref|anyof|allof|oneof|enum|format|required|minlength){QUOTE}"
)


def _assigned(
    lower: bytes, name: Name, at: int, form: int, key: bytes, pause: Pause, *, rocket: bool = False
) -> list[Span]:
    """Return the span of the value after a name and a sign. key: the quotation mark of the name. rocket: the sign is "=>"."""
    match = _VALUE.match(lower, at)
    if match is None:
        if rocket:  # rather a function than a table
            return []
        if items := _items(lower, name, at):
            return items
        span = bare_value(lower, name, at, form)
        return [] if span is None else [(*span, key + _MASK + key)]
    if match["open"] is not None:
        return _container(lower, name, match.start("open"), key, pause) if key else []
    quote, start = match["quote"], match.end()
    # The mark may as well end the string that the name stands in.
    if (quote == b'"' != key) or (not key and lower[start : start + 1] in b",;:)}] \n"):
        return []
    form = KEY if key or form == COLON else ARGUMENT
    if match["more"] is None:
        return _string(lower, name, start, quote, form)
    end = _closing(lower, start, b'"', start + 16 * _WINDOW)
    end = next((at for at in (lower.find(quote * 3, start, end),) if at >= 0), end)
    return [(start, end, _MASK)] if is_secret(name, lower[start : min(end, start + _WINDOW)], form) else []


def _closing(lower: bytes, start: int, quote: bytes, limit: int) -> int:
    """Return the end of a string that begins at `start`, after `quote`; at the latest the end of the string around it."""
    at, limit = start, min(limit, len(lower))
    mark = quote[-1:]
    while (end := lower.find(mark, at, limit)) >= 0:
        length = _length(lower[at : end + 1])
        if length <= len(quote):
            limit = end + 1 - length
            break
        at = end + 1
    return limit if mark == b'"' else _closing(lower, start, b'"', limit)


def _length(run: bytes) -> int:
    """Return how many bytes of the end of `run` are a quotation mark, with its backslashes.

    For a mark of JSON these are 1, 2, 4, 8, … for each depth. Other backslashes before it belong to the string.
    """
    length = len(run) - len(run[:-1].rstrip(b"\\"))
    return length & -length if run[-1:] == b'"' else length


def _string(lower: bytes, name: Name, start: int, quote: bytes, form: int) -> list[Span]:
    """Return the span of the string that begins at `start`, after `quote`."""
    if not is_secret(name, lower[start : _closing(lower, start, quote, start + _WINDOW)], form):
        return []
    return [(start, _closing(lower, start, quote, len(lower)), _MASK)]


def _items(lower: bytes, name: Name, at: int) -> list[Span]:
    """Return the spans of the items of a YAML list."""
    spans = []
    while (match := _ITEM.match(lower, at)) is not None and is_secret(name, match["value"], KEY):
        spans.append((*match.span("value"), _MASK))
        at = match.end()
    return spans


def _container(lower: bytes, name: Name, start: int, key: bytes, pause: Pause) -> list[Span]:
    """Return the span of a list or an object under the name of a secret, unless it is a schema or a setting."""
    window = lower[start : start + _WINDOW]
    if (
        _SCHEMA.match(window)
        or (name.setting and window[:1] == b"{")
        or not is_secret(name, window.strip(b"[{\\\"' "), KEY)
    ):
        return []
    depth = count = 0
    at = start
    while (match := _BRACKET.search(lower, at)) is not None:
        before, at = at, match.end()
        count += 1
        if not count % (8 * _TURN):
            pause()
        if match.group() in b"[{":
            depth += 1
        elif match.group() in b"]}":
            depth -= 1
            if not depth:
                return [(start, at, key + _MASK + key)]
        elif match.group() == b'"' or match.group() == key[-1:]:
            length = _length(lower[before:at])
            if lower[at - length : at] == key:
                end = _closing(lower, at, key, len(lower))
                at = end + len(key)
                if lower[end:at] != key:
                    return [(start, end, key + _MASK + key)]
            elif match.group() == b'"' and (length < len(key) or length == 1):  # the string around it ends
                return [(start, at - length, key + _MASK + key)]
    return [(start, len(lower), key + _MASK + key)]


# ---- a name that is itself a value -----------------------------------------------------------------------------------

_NEXT = _expression(rf"{_SPACE},{_SPACE}(?P<quote>{QUOTE})")
_NAMED = _expression(rf"(?:name|key|header|field|id|label|param|parameter|variable){QUOTE}\s{{0,4}}:\s{{0,4}}\Z")
_COLON, _COMMA = r"\s{0,4}:\s{0,4}", r"\s{0,4},\s{0,4}"
_MEMBER = rf"""(?:{_COMMA}{QUOTE}\w{{1,32}}{QUOTE}{_COLON}(?:{QUOTE}[^"'\\]{{0,128}}{QUOTE}|[\w.+-]{{1,32}}))"""
_VALUE_AFTER = _expression(rf"{_MEMBER}{{0,4}}?{_COMMA}{QUOTE}value{QUOTE}{_COLON}(?P<quote>{QUOTE})")
_VALUE_BEFORE = _expression(
    rf"""value{QUOTE}{_COLON}{QUOTE}(?P<value>[^"\\]{{0,512}}){QUOTE}{_MEMBER}{{0,4}}?{_COMMA}{QUOTE}"""
)
_ATTRIBUTE = _expression(rf"""\bvalue\s?=\s?{INNER}(?P<value>[^"'\\<>]{{1,256}})""")


def _beside(lower: bytes, name: Name, start: int, quoted: re.Match[bytes]) -> list[Span]:
    """Return the span of a value beside a name that is a string itself: a header, an argument, an object with name and value."""
    quote = quoted["quote"]
    opening, after = start - len(quote), quoted.end("quote")
    if b" " in lower[start:after]:  # a sentence
        return []
    before = lower[max(opening - 24, 0) : opening]
    match: re.Match[bytes] | None
    if (told := _NAMED.search(before)) is not None:
        match = _VALUE_AFTER.match(lower, after)
        if match is not None:
            return _string(lower, name, match.end(), match["quote"], KEY)
        begin = opening - len(before) + told.start()
        value = lower.rfind(b"value", max(begin - 4 * _WINDOW, 0), begin)
        match = _VALUE_BEFORE.fullmatch(lower, value, begin) if value >= 0 else None
        if match is not None and is_secret(name, match["value"], KEY):
            return [(*match.span("value"), _MASK)]
        return []
    if before.endswith((b"name=", b"id=", b"key=", b"type=")):
        tag = lower.rfind(b"<", max(opening - _WINDOW, 0), opening)
        close = lower.find(b">", after, after + _WINDOW)
        match = _ATTRIBUTE.search(lower, tag, close) if 0 <= tag < close else None
        return [(*match.span("value"), _MASK)] if match is not None and is_secret(name, match["value"], KEY) else []
    match = _NEXT.match(lower, after)
    if match is None or match["quote"] != quote:
        return []
    if lower[start] == 45:  # "--password"
        return [] if lower[match.end() : match.end() + 1] == b"-" else _string(lower, name, match.end(), quote, KEY)
    if not before.rstrip().endswith((b"[", b"(")):
        return []
    # A list of two strings is a header only among others: it may be the names of two fields.
    listed = before.rstrip()[:-1].rstrip().endswith((b"[", b"(", b","))
    spans = _string(lower, name, match.end(), quote, KEY if listed else UNSAID)
    return spans if spans and re.compile(rf"{QUOTE}\s?[\])]".encode()).match(lower, spans[0][1]) else []
