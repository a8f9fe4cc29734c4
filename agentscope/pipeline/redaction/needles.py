"""A fast search for the places at which a secret may begin.

Most text has none, and costs about three nanoseconds a byte. Each needle begins with one byte that is rare in text, because `re`
finds a literal first byte ten times as fast as one of several. The bytes before it are checked by looking back. Some rare bytes
are merged before the search, so that one search finds the needles of both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from .names import QUALIFIERS

__all__ = ["hits"]

_CHUNK = 32 * 1024
"""Bytes that are searched at once. Other threads may run in between."""
_OVERLAP = 64
"""Bytes; no needle is longer."""

_MERGED = bytes(range(256)).lower().translate(bytes.maketrans(b"bj-=", b"pz__"))
"""A table for `translate`: lower case, "p" for "b", "z" for "j", and "_" for "-" and "="."""


def _needles(*expressions: str) -> tuple[re.Pattern[bytes], ...]:
    return tuple(re.compile(expression.encode()) for expression in expressions)


# "primary key" is none, and "monkey" neither.
_KEYS = "|".join(sorted({qualifier[-3:].replace("b", "p") for qualifier in QUALIFIERS.split("|")} - {"hf"}))
_NEEDLES = _needles(
    r"p(?:ass(?:[wpc]|key|\W|[_\d]|e\W)|w(?:d|[^a-z])|sk[^a-z]|in[^a-z]|[^a-z](?<=otp[^a-z])"
    r"|earer|asic [ a-z0-9]|y (?<=identified py ))",  # bearer, basic, "identified by"
    rf"k(?:e(?:n(?:(?<=token)(?!s)|nwort)|y(?:(?<=(?:{_KEYS})key)|(?<=(?:{_KEYS})[_. ]key)|(?<=hf_key)))"
    r"|i(?:e(?<=cookie)|a[0-9a-z](?<=[\W_nrt]akia.))|_(?:(?<=[\W_nrt][sr]k_)|(?<=[\W_nrt]gsk_)))",
    r"c(?:re(?:t(?<=secret)(?!ar)|dential)|ontrase|htwoord)",
    r"z(?:a(?:tion(?<=authorization)|(?<=aiza))|wt[^a-z]|(?<=eyz))",  # jwt, eyJ
    r"ssn[^a-z]",
    r"_(?:(?<=(?:gh[oprsu]|npm|sec|pat|_v1|ypi|ox.|sig|[\W_nrt]hf)_)|(?<=signature_)|____pegin|[ap](?<= _.)"
    r"|u(?:ser)?[ _\"\\](?:(?<=\W_u.)|(?<=\\[nrt]_u.)|(?<=[\W_]_user.)|(?<=\\[nrt]_user.)))",
)
_URL = re.compile(rb"/\\{0,8}/")
_FOREIGN = _needles("арол", "密[码碼]", "パスワード", "비밀번호", "asło")


def hits(text: bytes, pause: Callable[[], object]) -> Iterator[int]:
    """Yield the places of the hits in a text, in order. `pause` is called after each piece of the text."""
    needles = _NEEDLES if text.isascii() else _NEEDLES + _FOREIGN
    if b"@" in text:
        needles += (_URL,)
    for start in range(0, len(text), _CHUNK):
        begin, end = max(start - _OVERLAP, 0), start + _CHUNK
        merged = text[begin : end + _OVERLAP].translate(_MERGED)
        found: list[int] = []
        for needle in needles:
            found += [match.start() for match in needle.finditer(merged, start - begin)]
        found.sort()
        pause()
        for at in found:
            if begin + at < end:
                yield begin + at
