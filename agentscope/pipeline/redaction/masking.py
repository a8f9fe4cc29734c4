"""Masks the secrets in JSON, in place: under keys, and in text that looks like JSON, YAML, XML, a header or code, at any depth.

The JSON is read as one text. The number of backslashes before a quotation mark depends on how deep JSON is nested in JSON. A
value ends at a mark with the same number as the mark at its beginning.

The time is linear in the text: each hit of the search is decided within `_WINDOW` bytes. Only masked values are read to their
end, and they are read once.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .forms import ESCAPES, FORMS, INNER, NAMELESS, QUOTE
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
    return _Masker(text, pause).masked()


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
    rf"(?P<more>[ ()\[\]/\w.-]{{0,24}})(?P<colon>(?:: ?)?)(?P<quote>{QUOTE})\]?(?:{_SPACE}(?P<sign>=>|:=|[:=,]))?"
)
_TAG = _expression(rf"""(?:[^<>"'\\]|{INNER}|\\{{1,7}}[nrt]){{0,80}}>(?P<value>[^<>"\\]{{1,1024}})<""")
_SAID = _expression(
    rf"""(?:(?P<said>[ \t]{{1,4}}(?:is:?|was|[|-]|->|-p))?[ \t]{{1,4}}|\\{{1,7}}t)(?P<quote>{INNER}|`)?"""
    r"""(?P<value>[^\s"'`\\,;()<>]{1,256})"""
)

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
_FLOW_ITEM = _expression(
    rf"""\s{{0,4}}(?P<quote>{INNER})?(?P<value>[^\s"'\\,\[\]{{}}]{{1,256}}){INNER}?\s{{0,4}}(?P<end>[,\]])"""
)
_FLOW_END = _expression(r"""[\s,;})"'\\]""")
_BRACKET = _expression(r"""[\[\]{}"']""")
_SCHEMA = _expression(
    rf"\{{\s{{0,8}}{QUOTE}(?:type|description|title|\$ref|anyof|allof|oneof|enum|format|required|minlength){QUOTE}"
)

# ---- names that are values, as in {"name": "X-Api-Key", "value": …} ---------------------------------------------------

_NEXT = _expression(rf"{_SPACE},{_SPACE}(?P<quote>{QUOTE})")
_END = _expression(rf"{QUOTE}\s?[\])]")
_NAMED = _expression(rf"(?:name|key|header|field|id|label|param|parameter|variable){QUOTE}\s{{0,4}}:\s{{0,4}}\Z")
_COLON, _COMMA = r"\s{0,4}:\s{0,4}", r"\s{0,4},\s{0,4}"
_MEMBER = rf"""(?:{_COMMA}{QUOTE}\w{{1,32}}{QUOTE}{_COLON}(?:{QUOTE}[^"'\\]{{0,128}}{QUOTE}|[\w.+-]{{1,32}}))"""
_VALUE_AFTER = _expression(rf"{_MEMBER}{{0,4}}?{_COMMA}{QUOTE}value{QUOTE}{_COLON}(?P<quote>{QUOTE})")
_VALUE_BEFORE = _expression(
    rf"""value{QUOTE}{_COLON}{QUOTE}(?P<value>[^"\\]{{0,512}}){QUOTE}{_MEMBER}{{0,4}}?{_COMMA}{QUOTE}"""
)
_ATTRIBUTE = _expression(rf"""\bvalue\s?=\s?{INNER}(?P<value>[^"'\\<>]{{1,256}})""")


def _length(text: bytes, low: int, at: int) -> int:
    """Return the length of the quotation mark at a place, with its backslashes. low: what is before belongs to none.

    For a mark of JSON these are 1, 2, 4, 8, … for each depth. Other backslashes before it belong to the string.
    """
    run = text[max(low, at - 64) : at]
    if run.count(b"\\") == 64:
        run = text[low:at]
    length = len(run) - len(run.rstrip(b"\\")) + 1
    return length & -length if text[at] == 34 else length


class _Masker:
    """One text, and its masked copy as far as it is made."""

    def __init__(self, text: bytes, pause: Pause) -> None:
        self._text = text
        self._lower = b""
        """The text in lower case, made at the first hit."""
        self._pause = pause
        self._steps = 0

    def masked(self) -> bytes:
        """Return the masked copy."""
        text, lower = self._text, b""
        told = bytearray()
        looked, most = 0, _FREE_HITS + len(text) // _BYTES_FOR_A_HIT
        copied = done = 0
        for at in hits(text, self._pause):
            if at < done:
                continue
            if not lower:
                lower = self._lower = text.lower()
            looked += 1
            if not looked % _TURN:
                self._pause()
                if looked > most:
                    raise TooManyHits
            if (plain := _PLAIN.match(lower, at)) is not None and self._is_plain(plain, at, done):
                # The shape of nearly all secrets in logs. `_named` finds the same in three times the time.
                start, done = plain.span("value")
                told += text[copied:start]
                told += _MASK
                copied = done
                continue
            for form in FORMS.get(lower[at], ()):
                span = form(text, lower, at)
                if span is not None:
                    spans = [(*span, _MASK)]
                    break
            else:
                if lower[at] in NAMELESS:
                    continue
                done, spans = self._named(at, done)
            for start, end, instead in spans:
                if start >= copied:
                    told += text[copied:start]
                    told += instead
                    copied = end
            done = max(done, copied)
        if not copied:
            return text
        told += text[copied:]
        return bytes(told)

    def _is_plain(self, plain: re.Match[bytes], at: int, floor: int) -> bool:
        kind = classify(self._text[self._name_start(at, floor) : plain.end("name")]).kind
        return kind in _PLAIN_KINDS or (kind == AUTHORIZATION and plain["scheme"] is not None)

    def _count_step(self) -> None:
        """Let other threads run, now and then."""
        self._steps += 1
        if not self._steps % _TURN:
            self._pause()

    def _named(self, at: int, floor: int) -> tuple[int, list[Span]]:
        """Return the end of the name around a hit, and the spans to mask. floor: no name begins before this place."""
        start = self._name_start(at, floor)
        end = _NAME_END.match(self._lower, at).end()  # type: ignore[union-attr]  # it matches the empty text
        quoted = _QUOTED.match(self._lower, end)
        if (
            quoted is not None
            and (quoted["sign"] or not quoted["more"])
            and (not quoted["colon"] or self._text[start - len(quoted["quote"]) : start] == quoted["quote"])
        ):
            name = self._name(start, quoted.end("more"), floor)
            if name.kind == OPEN:
                return end, []
            quote = self._text[quoted.start("quote") : quoted.end("quote")]
            if quoted["sign"] not in (None, b","):
                return end, self._assigned(name, quoted.end(), KEY, quote)
            if self._text[start - len(quote) : start] == quote:
                return end, self._beside(name, start, quoted)
            return end, []
        name = self._name(start, end, floor)
        if name.kind == OPEN:
            return end, []
        sign = _SIGN.match(self._lower, end)
        if sign is not None:
            if sign["sign"] == b":":
                form = COLON
            elif sign.start("sign") > end or self._lower[sign.end() : sign.end() + 1] == b" ":
                form = SPACED
            else:
                form = ENV if self._text[start:end].isupper() else ARGUMENT
            return end, self._assigned(name, sign.end(), form, b"", rocket=sign["sign"] == b"=>")
        if self._lower[start - 1 : start] in (b"<", b":"):
            match = _TAG.match(self._lower, end)
            form = KEY
        else:
            match = _SAID.match(self._lower, end)
            if (
                match is not None
                and not match["said"]
                and name.kind != STRONG
                and self._text[start : start + 1] != b"-"
            ):
                return end, []  # "get secret my-app1"
            form = KEY if match is not None and match["quote"] and name.kind == STRONG else UNSAID
        if match is None or not is_secret(name, match["value"], form):
            return end, []
        return end, [(*match.span("value"), _MASK)]

    def _name(self, start: int, end: int, floor: int) -> Name:
        if self._lower.startswith(b"key", start) and self._lower[start - 1 : start] == b" ":  # "API key: …"
            start = self._name_start(start - 1, floor)
        return classify(self._text[start:end])

    def _name_start(self, at: int, floor: int) -> int:
        """Return where the name around a hit begins, but not before `floor`."""
        low = max(floor, at - _LONGEST_NAME)
        start = low + self._lower[low:at].translate(_SEPARATORS).rfind(b" ") + 1
        # The letter of an escaped line break is none of the name.
        return start + 1 if start < at and self._lower[start - 1] == 92 and self._lower[start] in b"nrtbf" else start

    def _assigned(self, name: Name, at: int, form: int, key: bytes, *, rocket: bool = False) -> list[Span]:
        """Return the span of the value after a name and a sign. key: the quotation mark of the name. rocket: the sign is "=>"."""
        match = _VALUE.match(self._lower, at)
        if match is None:
            if rocket:  # rather a function than a table
                return []
            if items := self._items(name, at):
                return items
            span = bare_value(self._lower, name, at, form)
            return [] if span is None else [(*span, key + _MASK + key)]
        if match["open"] is not None:
            if not key and match["open"] == b"[":
                return self._flow(name, match.end(), form)
            return self._container(name, match.start("open"), key) if key else []
        quote, start = match["quote"], match.end()
        # The mark may as well end the string that the name stands in.
        if (quote == b'"' != key) or (not key and self._lower[start : start + 1] in b",;:)}] \n"):
            return []
        form = KEY if key or form == COLON else ARGUMENT
        if match["more"] is None:
            return self._string(name, start, quote, form)
        end = self._closing(start, b'"', start + 16 * _WINDOW)
        mark = self._lower.find(quote * 3, start, end)
        end = end if mark < 0 else mark
        return [(start, end, _MASK)] if is_secret(name, self._lower[start : min(end, start + _WINDOW)], form) else []

    def _string(self, name: Name, start: int, quote: bytes, form: int) -> list[Span]:
        """Return the span of the string that begins at `start`, after `quote`."""
        if not is_secret(name, self._lower[start : self._closing(start, quote, start + _WINDOW)], form):
            return []
        return [(start, self._closing(start, quote, len(self._lower)), _MASK)]

    def _closing(self, start: int, quote: bytes, limit: int) -> int:
        """Return the end of a string that begins at `start`, after `quote`; at the latest the end of the string around it."""
        at, limit = start, min(limit, len(self._lower))
        mark = quote[-1:]
        while (end := self._lower.find(mark, at, limit)) >= 0:
            self._count_step()
            length = _length(self._lower, at, end)
            if length <= len(quote):
                limit = end + 1 - length
                break
            at = end + 1
        return limit if mark == b'"' else self._closing(start, b'"', limit)

    def _items(self, name: Name, at: int) -> list[Span]:
        """Return the spans of the items of a YAML list."""
        spans = []
        while (match := _ITEM.match(self._lower, at)) is not None and is_secret(name, match["value"], KEY):
            spans.append((*match.span("value"), _MASK))
            at = match.end()
        return spans

    def _flow(self, name: Name, at: int, form: int) -> list[Span]:
        """Return the spans of the items of a list in one line of YAML or code. Without quotation marks they are YAML only."""
        spans = []
        while (match := _FLOW_ITEM.match(self._lower, at)) is not None and (match["quote"] or form == COLON):
            self._count_step()
            if is_secret(name, match["value"], KEY):
                spans.append((*match.span("value"), _MASK))
            at = match.end()
            if match["end"] == b"]":
                return spans if _FLOW_END.match(self._lower, at) else []  # "[a-z0-9]+" is an expression
        return []

    def _container(self, name: Name, start: int, key: bytes) -> list[Span]:
        """Return the span of a list or an object under the name of a secret, unless it is a schema or a setting."""
        window = self._lower[start : start + _WINDOW]
        if (
            _SCHEMA.match(window)
            or (name.setting and window[:1] == b"{")
            or not is_secret(name, window.strip(b"[{\\\"' "), KEY)
        ):
            return []
        depth = 0
        at = start
        while (match := _BRACKET.search(self._lower, at)) is not None:
            before, at = at, match.end()
            self._count_step()
            if match.group() in b"[{":
                depth += 1
            elif match.group() in b"]}":
                depth -= 1
                if not depth:
                    return [(start, at, key + _MASK + key)]
            elif match.group() == b'"' or match.group() == key[-1:]:
                length = _length(self._lower, before, at - 1)
                if self._lower[at - length : at] == key:
                    end = self._closing(at, key, len(self._lower))
                    at = end + len(key)
                    if self._lower[end:at] != key:
                        return [(start, end, key + _MASK + key)]
                elif match.group() == b'"' and (length < len(key) or length == 1):  # the string around it ends
                    return [(start, at - length, key + _MASK + key)]
        return [(start, len(self._lower), key + _MASK + key)]

    def _beside(self, name: Name, start: int, quoted: re.Match[bytes]) -> list[Span]:
        """Return the span of the value beside a name that is a string itself, as in a header, an argument or an HTML form."""
        quote = quoted["quote"]
        opening, after = start - len(quote), quoted.end("quote")
        if b" " in self._lower[start:after]:  # a sentence
            return []
        before = self._lower[max(opening - 24, 0) : opening]
        match: re.Match[bytes] | None
        if (told := _NAMED.search(before)) is not None:
            match = _VALUE_AFTER.match(self._lower, after)
            if match is not None:
                return self._string(name, match.end(), match["quote"], KEY)
            begin = opening - len(before) + told.start()
            value = self._lower.rfind(b"value", max(begin - 4 * _WINDOW, 0), begin)
            match = _VALUE_BEFORE.fullmatch(self._lower, value, begin) if value >= 0 else None
            if match is not None and is_secret(name, match["value"], KEY):
                return [(*match.span("value"), _MASK)]
            return []
        if before.endswith((b"name=", b"id=", b"key=", b"type=")):
            tag = self._lower.rfind(b"<", max(opening - _WINDOW, 0), opening)
            close = self._lower.find(b">", after, after + _WINDOW)
            match = _ATTRIBUTE.search(self._lower, tag, close) if 0 <= tag < close else None
            return [(*match.span("value"), _MASK)] if match is not None and is_secret(name, match["value"], KEY) else []
        match = _NEXT.match(self._lower, after)
        if match is None or match["quote"] != quote:
            return []
        if self._lower[start] == 45:  # "--password"
            option = self._lower[match.end() : match.end() + 1] == b"-"
            return [] if option else self._string(name, match.end(), quote, KEY)
        if not before.rstrip().endswith((b"[", b"(")):
            return []
        # A list of two strings is a header only among others: it may be the names of two fields.
        listed = before.rstrip()[:-1].rstrip().endswith((b"[", b"(", b","))
        spans = self._string(name, match.end(), quote, KEY if listed else UNSAID)
        return spans if spans and _END.match(self._lower, spans[0][1]) else []
