"""Patterns of secrets, by name and in text, and a quick search. Most payloads have no match and are not decoded."""

from __future__ import annotations

import re
import string
from base64 import b64decode
from collections.abc import Callable, Iterable

__all__ = ["MASK", "bare", "is_secret", "is_secret_of_pair", "mask_text", "may_name_secrets"]

MASK = "[redacted]"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _either(words: Iterable[str]) -> str:
    return f"(?:{'|'.join(words)})"


_WORDS = ("password", "passwd", "pwd", "passphrase", "secret", "authorization", "cookie", "credential")
_KEYS = ("api", "access", "private", "secret", "session", "signing", "encryption")
# A `pass` by itself is as often that of a test, or the first or second of several.
_PASSES = _words("admin auth db ftp http login mail mysql pg postgres proxy redis root smtp ssh sudo user")
_ENDINGS = (
    *("token", "bearer", *_WORDS, *(f"{word}s" for word in _WORDS)),
    *(*(f"{key}key" for key in _KEYS), "apikeys", *(f"{kind}pass" for kind in _PASSES)),
)
"""How the names of secrets end, in lower case and without separators."""
_SHORT = ("jwt", "ssn")
"""Those too, but as words only: a `loss_n` is none."""
_NO_SECRETS = frozenset(
    f"{kind}token" for kind in ("bos", "eos", "pad", "unk", "sep", "cls", "mask", "stop", "page", "nextpage", "next")
)
"""The tokens of models and of result pages."""
_ABOUT = _words(
    "age algorithm arn at attempts change changed count date description enabled error errors expired expires expiry "
    "field fields file form format id ids input instructions label length link manager max message min mode name names "
    "param parameter path pattern placeholder policy prompt provider ref regex required requirements reset rotation rule "
    "rules scheme size source status store strategy strength title type types updated uri url valid version"
)
"""Last words of names that tell something about a secret: `password_policy`, `secret_name`."""
_PLAIN = str.maketrans(string.ascii_uppercase, string.ascii_lowercase, "-_. ")


_FIRST = r"pass(?:w(?:or)?d|phrase)|pwd|secret|(?:api|private)[-_. ]?key"
"""Names that stay secret when more words follow: `password_hash`, `API_KEY_PROD`. Those of tokens do not: most are counts."""
_FOLLOWED = re.compile(rf"(?i:{_FIRST})[sS]?((?:[-_.\d]|(?<=[a-z])[A-Z])[\w.-]{{0,40}})\Z", re.ASCII)
_ENDED = re.compile(rf"(?:\A|[-_. ]|(?<=[a-z])(?=[A-Z]))(?i:{_either(_SHORT)})\Z")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


def is_secret(name: str, value: object) -> bool:
    """Return whether a value with this name is masked."""
    if value is None or isinstance(value, bool):
        return False
    plain = name.translate(_PLAIN)
    if plain.endswith(_ENDINGS):
        # A number per token is a count, a price or a time.
        return plain not in _NO_SECRETS and not (isinstance(value, (int, float)) and plain.endswith("token"))
    if _ENDED.search(name):
        return True
    followed = _FOLLOWED.search(name)
    if followed is None:
        return False
    words = _WORD.findall(followed[1])
    # `password2` is one more password; but of several words, a number is a length or a time, and an object a setting.
    return not words or (words[-1].lower() not in _ABOUT and isinstance(value, (str, list)))


def is_secret_of_pair(name: object, value: object) -> bool:
    """Return whether a value beside this name is masked, as in a list of headers. A sentence is no name."""
    return type(name) is str and not any(map(str.isspace, name)) and is_secret(name, value)


# ---- in text ---------------------------------------------------------------------------------------------------------
# All of it is done in lower case: expressions that ignore case are ten times slower. And in bytes, whose length that does
# not change. Nothing here may look at the same bytes again and again, however the text is made: what repeats is bounded, or
# cannot reach beyond the next place where the expression may begin.

_LOWER = bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode())
_MASK = MASK.encode()
_COMMON = f"token|{_either(_WORDS)}s?|{_either(_KEYS)}[-_. ]?keys?"
_NAME = _either(
    (
        f"{_COMMON}|bearer|{_either(_PASSES)}[-_.]?pass",
        rf"(?<![a-z0-9]){_either(_SHORT)}",
    )
)
_SCHEMES = "(?:basic|bearer|digest|negotiate|ntlm|apikey|api-key|token)"
_NO_VALUE = r"""\s,"'`&;)\]}<>\\"""
"""Characters that end a value without quotes."""
_AGAIN = r"(?:[*`]{1,3}[ \t]*)?"
"""Markdown's bold and code."""
_TYPES = _words(
    "any bool boolean bytes char false int integer nil none null number object optional required secretstr "
    "str string text true undefined unset varchar"
)
_OBJECTS = _words(
    "args cfg cls config ctx env import\\.meta options opts os params process req request self settings this"
)
_CODE = _either(
    (
        rf"{_either(_TYPES)}(?![\w.+/-])",
        r"[a-z_.]+[(\[]",  # a call, or an item of something
        rf"{_either(_OBJECTS)}\.[a-z_]",
        r"\$(?:[{(]|[a-z_]+(?!\w))|%(?:\(|[sdr](?!\w))",  # a variable
        r"https?://",  # where one gets a key
        rf"{_SCHEMES}(?![\w.+/=-])",
    )
)
"""Placeholders in code and templates, in the place of a value."""


def _expression(text: str) -> re.Pattern[bytes]:
    return re.compile(text.encode(), re.DOTALL)


_HEAD = _expression(
    rf"""(?P<name>{_NAME}[\w.-]{{0,41}})(?:(?P<quote>\\{{0,8}}["'])\]?)?[*`]{{0,3}}\s*(?P<sign>:=|=>|[:=])"""
)
# A repr, or JSON that was cut. The value ends at its own kind of quote, or with the text.
_IN_QUOTES = r"""(?P<quote>\\{0,8}["'])(?P<value>.*?)(?:(?<!\\)(?P=quote)|\Z)"""
_REPR = _expression(rf"""(?:{_COMMON})(?:\\{{0,8}}["'])?\s*[:=]\s*[bru]?{_IN_QUOTES}""")
_QUOTED = _expression(rf"\s*(?:[*`]{{1,3}}\s*)?[bruf]{{0,2}}{_IN_QUOTES}")
_UNQUOTED = _expression(
    rf"""[ \t]*{_AGAIN}(?:{_SCHEMES}[ \t]+)?(?!{_CODE}|[bruf]{{0,2}}["']|[\[({{=:>|]|//)"""
    rf"""(?P<value>[^\w\x80-\xff{_NO_VALUE}]*[\w\x80-\xff][^{_NO_VALUE}]*)"""
)
_COOKIES = _expression(r"""[ \t]*(?P<value>[^\s;,"'\\=\[]+=[^\s"'\\;]*(?:;[ ]?[^\s"'\\;]+)*)""")
# Any scheme, and what no word has.
_CREDENTIALS = _expression(
    rf"""[ \t]*{_AGAIN}(?:[a-z][\w-]{{0,40}}[ \t]+)?(?!{_CODE}|[({{<])"""
    r"""(?P<value>[^\s,"'`\\\[]{0,200}?[\d=_+/.-][^\s,"'`\\]*)"""
)
_PROSE = _expression(rf"[ \t]+(?!{_SCHEMES}[ \t])[a-z]+[ \t]+[a-z]")
_WEAK = _words("token secret secrets cookie cookies bearer credential credentials authorization authorizations")
"""Words of prose as well: "the secret: use butter"."""
_INSIDE = _expression(r"[\w.-]")
_TOKENS = tuple(name.encode() for name in _NO_SECRETS)
_NUMBER = _expression(r"\W{0,3}\d{1,5}(?:[.:]\d+)?[a-z%]{0,3}\.?")
_USER = r"""[^\s/?#@:"'<>\\]*"""
_USER_INFO = _expression(rf""":(?:\\{{0,8}}/){{2}}{_USER}:(?P<value>[^\s/?#"'<>\\]+)@""")
_QUERY = _expression(rf"""[?&][\w.-]{{0,64}}?{_NAME}=(?P<value>[^&#\s"']+)""")
_BEARER = _expression(r"\bbearer\s+(?P<value>[\w.~+/=-]{6,})")
_BASIC = _expression(r"\bbasic +(?P<value>[\w+/-]{4,}={0,2})")


def mask_text(value: str) -> str:
    """`value` with what follows the names of secrets masked, and what follows "Bearer" and "Basic", and passwords in URLs."""
    text = value.encode("utf-8", "surrogatepass")
    # The plainest first: another may take what begins with a name for a value.
    text = _masked(text, _REPR)
    text = _masked(text, _QUERY)
    text = _masked(text, _BEARER)
    text = _masked(text, _USER_INFO)
    text = _assigned(text, _quoted_value)
    text = _assigned(text, _bare_value)
    text = _masked(text, _BASIC, _is_basic)
    return text.decode("utf-8", "surrogatepass")


def _masked(text: bytes, expression: re.Pattern[bytes], is_one: Callable[[bytes], bool] | None = None) -> bytes:
    parts = []
    end = 0
    for match in expression.finditer(text.translate(_LOWER)):
        start, after = match.span("value")
        if is_one is None or is_one(text[start:after]):
            parts += [text[end:start], _MASK]
            end = after
    return b"".join([*parts, text[end:]]) if parts else text


def _is_basic(value: bytes) -> bool:
    """Return whether this is a name and a password in base64, and no word."""
    try:
        told = b64decode(value.rstrip(b"=") + b"=" * (-len(value.rstrip(b"=")) % 4), b"-_" if b"-" in value else None)
        return b":" in told and told.decode().isprintable()
    except ValueError:
        return False


def _assigned(text: bytes, find: Callable[[bytes, re.Match[bytes]], re.Match[bytes] | None]) -> bytes:
    """Mask the values that follow a secret's name and a sign (`=` or `:`) in `text`. `find` locates each value."""
    lower = text.translate(_LOWER)
    parts = []
    end = at = 0
    while (head := _HEAD.search(lower, at)) is not None:
        at = head.end()
        start, after = head.span("name")
        if is_secret(text[start:after].decode("ascii"), "") and (match := find(lower, head)) is not None:
            # What was JSON or a repr is one still.
            quote = (head["quote"] or b"") if find is _bare_value else b""
            parts += [text[end : match.start("value")], quote, _MASK, quote]
            end = match.end("value")
            at = match.end()
    return b"".join([*parts, text[end:]]) if parts else text


def _quoted_value(lower: bytes, head: re.Match[bytes]) -> re.Match[bytes] | None:
    return _QUOTED.match(lower, head.end())


def _bare_value(lower: bytes, head: re.Match[bytes]) -> re.Match[bytes] | None:
    """Return the unquoted value after a secret's name; None if it looks like prose, code or a number of tokens."""
    name, at = head["name"], head.end()
    match: re.Match[bytes] | None = None
    if head["sign"] == b"=>":  # rather a function than a table
        return None
    if head["sign"] == b":" and name.endswith((b"cookie", b"cookies")):
        match = _COOKIES.match(lower, at)
    elif head["sign"] == b":" and name.endswith(b"authorization"):
        match = _CREDENTIALS.match(lower, at)
    if match is not None:
        return match
    match = _UNQUOTED.match(lower, at)
    if match is None:
        return None
    value = match["value"]
    start = head.start("name")
    if name.endswith(b"token") and (
        _NUMBER.fullmatch(value)
        or lower[max(start - 12, 0) : head.end("name")].translate(None, b"-_. ").endswith(_TOKENS)
    ):
        return None
    if name.endswith(b"pwd") and value.startswith(b"/"):  # where a shell is
        return None
    if name.decode() in _WEAK and head["quote"] is None and head["sign"] == b":" and _begins(lower, start):
        return None if _PROSE.match(lower, at) else match
    # An argument may be named like its parameter.
    begin = head.end("name") - len(value)
    return None if begin <= start and lower.startswith(value, begin) and _begins(lower, begin) else match


def _begins(text: bytes, at: int) -> bool:
    """Return whether a name begins here."""
    return at == 0 or (at > 0 and _INSIDE.match(text, at - 1) is None)


# ---- the search ------------------------------------------------------------------------------------------------------
# It costs two or three nanoseconds a byte, and so does most of what can be saved on it. Expressions that do not begin with
# one rare byte are ten times slower: so it looks at what stands before each colon, each equals sign and each end of a string
# of JSON, at the last three letters first.

_LONGEST = 64
"""Bytes before a sign in which a name has to end; where they don't tell, there may be one."""
_SILENT = b"-_. \t\n\r\f\v\"'*`]"
"""Characters of a name, and those between its end and the sign."""
_WRITTEN = tuple(end.encode() for end in (*_ENDINGS, *(f"{key}keys" for key in _KEYS), *_SHORT))


def _tails() -> str:
    """The last three letters of all names, by their first letter: so most of them are not even tried."""
    tails = {end[-3:].decode() for end in _WRITTEN}
    return _either(
        f"{first}{_either(sorted(t[1:] for t in tails if t[0] == first))}" for first in sorted({t[0] for t in tails})
    )


_TAILS = _tails()
_BETWEEN = r"[\s'*`\]._-]"
# Most names end the key of an object, or are a string beside the value.
_STRINGS = _expression(rf'"[:,}}](?<={_TAILS}"[:,}}])')
_COLONS = _expression(rf""":(?<!":)(?:(?<={_TAILS}:)|(?<={_BETWEEN}:)|(?P<url>//(?=[^\s/?#@:"'<>]*:[^\s/?#"'<>]+@)))""")
_EQUALS = _expression(rf'=(?:(?<={_TAILS}=)|(?<={_TAILS}"=)|(?<={_BETWEEN}=))')
# By its first letter, which is rare: twice as fast as `in`, which goes by the last.
_SCHEME = _expression(r"b(?:earer|asic +[a-z0-9_+/-]{4})")
# Two searches, each for what begins with the same letter.
_MORE = r"""s?[-_.0-9a-z][\w.-]{0,40}(?:[\s"'*`\]]*[:=]|"[,}])"""
_PASSWORDS = _expression(rf"p(?:ass(?:w(?:or)?d|phrase)|wd|rivate[-_. ]?key|i[-_. ]?key){_MORE}")
_SECRETS = _expression(rf"secret{_MORE}")
# JSON may spell white space before a sign, and any letter of a name, by an escape.
_ESCAPED = re.compile(rb"""\\(?:[ntrf][\s"'\\]*[:=]|u00(?:0[9a-dA-D]|2[027adefADEF]|3[adAD]|[4-7]))""")


def bare(text: bytes) -> bytes:
    """`text` as it is searched: in lower case, and without backslashes."""
    return text.translate(_LOWER, b"\\") if b"\\" in text else text.lower()


def may_name_secrets(text: bytes, searched: bytes | None = None) -> bool:
    """Return whether `mask_text`, or the name of a value, would mask anything in this text or JSON in UTF-8.

    False is certain, but for names of which a separator ends the key, or stands within the last three letters, and for pairs
    with white space before their comma. searched: `bare(text)`, if that is known.
    """
    if searched is None:
        searched = bare(text)
    return (
        _SCHEME.search(searched) is not None
        or _PASSWORDS.search(searched) is not None
        or _SECRETS.search(searched) is not None
        or any(_names(searched, match.start()) for match in _STRINGS.finditer(searched))
        or any(match["url"] or _names(searched, match.start()) for match in _COLONS.finditer(searched))
        or (b"=" in searched and any(_names(searched, match.start()) for match in _EQUALS.finditer(searched)))
        or (b"\\" in text and _ESCAPED.search(text) is not None)
    )


def _names(searched: bytes, sign: int) -> bool:
    """Return whether the name before this sign may be that of a secret."""
    start = max(sign - _LONGEST, 0)
    name = searched[start:sign].translate(None, _SILENT)
    return name.endswith(_WRITTEN) or (start > 0 and len(name) < len("authorizations"))
