"""Values beside the name of a secret: secrets, or placeholders, labels, prose and code."""

from __future__ import annotations

import re

from .names import AUTHORIZATION, COOKIE, STRONG, VAGUE, WEAK, Name, is_label

__all__ = ["ARGUMENT", "COLON", "ENV", "KEY", "SPACED", "UNSAID", "bare_value", "is_secret"]

KEY, ENV, ARGUMENT, SPACED, COLON, UNSAID = range(6)
"""How a value is written: as JSON ("name": "value") or in quotes, NAME=value, name=value, name = value, name: value, or after a
name without a sign."""

_WINDOW = 256


def _either(words: str) -> str:
    return f"(?:{'|'.join(words.split())})"


_NOTHING = frozenset(
    b"""any bool boolean bytes char default disabled empty enabled expired false include int integer invalid missing n/a nil no
    none null number object omit optional redacted required same-origin secretstr str string text todo true undefined unknown
    unset varchar yes""".split()
)
_TEMPLATE = re.compile(
    rb"\$\w+|\$?\{\{?[^{}]*\}\}?|\$\{\{[^{}]*\}\}|<[^<>]*>|%[sdr]|%\(\w+\)[sdr]|[*\xe2\x80\xa2.x#_-]{3,}|![a-z]+"
    rb"|your[-_ ][a-z_ -]*|\[?redacted\]?"
)
_PATH = re.compile(rb"(?:[/~]|[a-z]:[\\/])")
_NUMBER = re.compile(rb"\W{0,3}\d{1,5}(?:[.:]\d+)?[a-z%]{0,3}\.?|\d+(?:\.\d+)?(?:e[+-]?\d+)?|-\d[\d.]*")
_DIGIT = re.compile(rb"\d")
_WORD = re.compile(rb"[^\w\x80-\xff]{0,4}[a-z\x80-\xff]{0,16}[^\w\x80-\xff]{0,4}|</?\w+>|[a-z_]+(?:\.[a-z_]+)+")
_RANDOM = re.compile(rb"(?=[^\s\d]{0,64}\d)(?=[^\sa-z]{0,64}[a-z])[^\s]{8}")
_SENTENCE = re.compile(
    rb"(?<![a-z0-9])"
    + _either(
        """a an and are as at be between but by can cannot characters contain enter field for has have if in incorrect
        invalid is least letters long may minimum missing must not of on one only or please required see set short should
        that the this to too use was what where which will with wrong you your
        das der die ein eine ist muss und el la los las es de debe"""
    ).encode()
    + rb"(?![a-z0-9])"
)


def is_secret(name: Name, value: bytes, form: int) -> bool:
    """Return whether a value is one that has to be masked. value: in lower case; of a long one, the beginning."""
    if not value:
        return form == KEY and name.kind >= VAGUE
    if value in _NOTHING or _TEMPLATE.fullmatch(value) or value.startswith((b"http://", b"https://", b"[redacted")):
        return False
    if len(value) == 1 and name.words.endswith("key"):  # `accesskey` of HTML
        return False
    spaced = b" " in value
    if not spaced and _DIGIT.search(value):
        if _NUMBER.fullmatch(value):
            return not name.counted and form != UNSAID and (name.kind != WEAK or len(value) >= 4)
        return (len(value) > 5 or form != UNSAID) and not (name.words.endswith("pwd") and _PATH.match(value))
    if form == UNSAID or (form not in (ENV, ARGUMENT) and is_label(name, value.decode("utf-8", "replace"))):
        return False
    if name.kind == COOKIE and form != ENV:
        return b"=" in value or (spaced and _RANDOM.search(value) is not None)
    if spaced:
        return _RANDOM.search(value) is not None or (name.kind != WEAK and _SENTENCE.search(value) is None)
    if name.kind == WEAK or (name.kind in (VAGUE, AUTHORIZATION) and form in (COLON, SPACED)):
        return form in (ENV, ARGUMENT) or _WORD.fullmatch(value) is None
    return not (name.words.endswith("pwd") and _PATH.match(value))


# ---- without quotation marks -----------------------------------------------------------------------------------------

_SCHEME = "(?:basic|bearer|digest|negotiate|ntlm|apikey|api-key|token)"
_END = r"""\s,"'`&;)\]}<>\\"""
"""Characters that end a value without quotes. A backslash that the JSON doubles does not."""
_ONE = rf"""(?:[^{_END}]|\\\\(?![nrtbfu"'\\/]))"""
_CODE = (
    r"(?:[a-z_.]{1,64}[(\[]"  # a call, or an item of something
    r"|" + _either(r"args cfg cls config ctx env import\.meta options opts os params process req request self settings this")
    + rf"\.[a-z_]|\$(?:[{{(]|[a-z_]{{1,64}}(?!\w))|%(?:\(|[sdr](?!\w))|{_SCHEME}(?![\w.+/=-])"
    r"|(?:" + "|".join(sorted(word.decode() for word in _NOTHING)) + r")(?![\w.+/-]))"
)  # fmt: skip
_UNQUOTED = re.compile(
    rf"""[ \t]{{0,16}}(?:[*`]{{1,3}}[ \t]{{0,4}})?(?P<scheme>{_SCHEME}[ \t]{{1,4}})?"""
    rf"""(?!{_CODE}|[bruf]{{0,2}}\\{{0,15}}["']|[\[({{=:>|]|//)"""
    rf"""(?P<value>(?:[^\w\x80-\xff{_END}]|\\\\(?![nrtbfu"'\\/])){{0,16}}[\w\x80-\xff]{_ONE}{{0,200}})""".encode()
)
_REST = re.compile(rf"{_ONE}*".encode())
_COOKIES = re.compile(rb"""[ \t]{0,16}(?P<value>[^\s;,"'\\=\[(){}]{1,128}=[^\s"'\\;]*(?:;[ ]?[^\s"'\\;]+)*)""")
# Any scheme, and a value with a character that no word has.
_CREDENTIALS = re.compile(
    rf"""[ \t]{{0,16}}(?:[*`]{{1,3}}[ \t]{{0,4}})?(?:[a-z][\w-]{{0,40}}[ \t]{{1,4}})?(?!{_CODE}|[({{<])"""
    r"""(?P<value>[^\s,"'`\\\[]{0,128}?[\d=_+/.][^\s,"'`\\]*)""".encode()
)
_KEYWORDS = frozenset(b"await break continue lambda new not pass raise return self this yield".split())
_IDENTIFIER = re.compile(rb"(?=[a-z_.]*(?:auth|cookie|cred|key|pass|pwd|secret|token))[a-z_.]+(?:=.*)?")
_LINE = re.compile(rb"""[a-z]{2,16}[ \t]+[a-z0-9]+(?![\w=:])[^\n\\"]{0,80}""")


def bare_value(lower: bytes, name: Name, at: int, form: int) -> tuple[int, int] | None:
    """Return where the value without quotation marks after a name and a sign is; None if there is none, or no secret."""
    if form == COLON and name.kind in (COOKIE, AUTHORIZATION):
        match = (_COOKIES if name.kind == COOKIE else _CREDENTIALS).match(lower, at)
        if match is not None:
            return None if match["value"].startswith(b"[redacted") else match.span("value")
    match = _UNQUOTED.match(lower, at)
    if match is None:
        return None
    value = match["value"]
    if form not in (KEY, ENV) and (value in _KEYWORDS or (_IDENTIFIER.fullmatch(value) and not match["scheme"])):
        return None  # a variable, an argument or a type that is named after it
    if not (match["scheme"] and form != SPACED) and not is_secret(name, value, form):
        return None
    if form == COLON and name.kind == STRONG and _WORD.fullmatch(value) and _is_sentence(lower, match.start("value")):
        return None
    rest = _REST.match(lower, match.end())
    return match.start("value"), match.end() if rest is None else rest.end()


def _is_sentence(lower: bytes, at: int) -> bool:
    line = _LINE.match(lower, at)
    return line is not None and _SENTENCE.search(line.group()) is not None
