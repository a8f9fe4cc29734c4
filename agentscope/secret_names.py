"""What the names of secrets look like, and a quick search for them: almost every payload has none, and need not be decoded."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

__all__ = ["NAME", "bare", "is_secret", "may_name_secrets"]

_WORDS = ("password", "passwd", "pwd", "passphrase", "secret", "authorization", "cookie", "credential")
_KEYS = ("api", "access", "private", "secret", "session", "signing", "encryption")
_ENDINGS = ("token", *_WORDS, *(f"{word}s" for word in _WORDS), *(f"{key}key" for key in _KEYS), "apikeys")
"""How the names of secrets end, in lower case and without separators."""
_NO_SECRETS = frozenset(
    f"{kind}token" for kind in ("bos", "eos", "pad", "unk", "sep", "cls", "mask", "stop", "page", "nextpage", "next")
)
"""The tokens of models and of result pages."""
_PLAIN = str.maketrans(string.ascii_uppercase, string.ascii_lowercase, "-_. ")


def _either(words: Iterable[str]) -> str:
    return f"(?:{'|'.join(words)})"


NAME = f"(?:token|{_either(_WORDS)}s?|{_either(_KEYS)}[-_. ]?keys?)"
"""An expression for the end of a name in text of lower case."""


def is_secret(name: str, value: object) -> bool:
    """Whether `value` is masked for its name."""
    if value is None or isinstance(value, bool):
        return False
    plain = name.translate(_PLAIN)
    if not plain.endswith(_ENDINGS) or plain in _NO_SECRETS:
        return False
    # A number per token is a count, a price or a time.
    return not (isinstance(value, (int, float)) and plain.endswith("token"))


# ---- the search ------------------------------------------------------------------------------------------------------
# It costs two nanoseconds a byte, and so does most of what can be saved on it. Expressions that ignore case are ten times
# slower than bytes in lower case, and those that do not begin with one rare byte just as much: so it looks at what stands
# before each colon and each equals sign, at the last three letters first.

_LOWER = bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode())
_LONGEST = 64
"""Bytes before a sign in which a name has to end; where they don't tell, there may be one."""
_SILENT = b"-_. \t\n\r\f\v\"'"
"""What may stand in a name, and between its end and the sign."""
_WRITTEN = tuple(end.encode() for end in (*_ENDINGS, *(f"{key}keys" for key in _KEYS)))


def _tails() -> str:
    """The last three letters of all names, by their first letter: so most of them are not even tried."""
    tails = {end[-3:].decode() for end in _WRITTEN}
    return _either(
        f"{first}{_either(sorted(t[1:] for t in tails if t[0] == first))}" for first in sorted({t[0] for t in tails})
    )


def _before(sign: str) -> re.Pattern[bytes]:
    # Most signs end the key of an object: those are asked first, and need no second question.
    key = rf'(?<={_tails()}"{sign})'
    text = rf"""(?<!"{sign})(?:(?<={_tails()}{sign})|(?<=[\s']{sign}))"""
    return re.compile(f"{sign}(?:{key}|{text})".encode(), re.DOTALL)


_COLONS, _EQUALS = _before(":"), _before("=")
_BEARER = re.compile(b"bearer")  # by its first letter, which is rare: twice as fast as `in`, which goes by the last
# JSON may spell white space before a sign, and any letter of a name, by an escape.
_ESCAPED = re.compile(rb"""\\(?:[ntrf][\s"'\\]*[:=]|u00(?:0[9a-dA-D]|2[0deDE]|3[adAD]|[4-7]))""")


def bare(text: bytes) -> bytes:
    """`text` as it is searched: in lower case, and without backslashes."""
    return text.translate(_LOWER, b"\\") if b"\\" in text else text.lower()


def may_name_secrets(text: bytes, searched: bytes | None = None) -> bool:
    """Whether there may be anything to mask for its name or after "Bearer" in text or JSON, in UTF-8.

    False is certain, but for a name with a separator behind it, or within its last three letters. searched: `bare(text)`, if
    that is known.
    """
    if searched is None:
        searched = bare(text)
    return (
        _BEARER.search(searched) is not None
        or any(_names(searched, match.start()) for match in _COLONS.finditer(searched))
        or (b"=" in searched and any(_names(searched, match.start()) for match in _EQUALS.finditer(searched)))
        or (b"\\" in text and _ESCAPED.search(text) is not None)
    )


def _names(searched: bytes, sign: int) -> bool:
    """Whether the name before this sign may be that of a secret."""
    start = max(sign - _LONGEST, 0)
    name = searched[start:sign].translate(None, _SILENT)
    return name.endswith(_WRITTEN) or (start > 0 and len(name) < len("authorizations"))
