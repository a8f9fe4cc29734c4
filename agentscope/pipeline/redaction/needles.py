"""A fast search for the places at which a secret may begin.

Most text has none, and costs about four nanoseconds a byte. Each needle begins with one byte that is rare in text, because
`re` finds a literal first byte ten times as fast as one of several. The bytes before it are checked by looking back. A group
would make a needle half as fast.
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


def _needles(*expressions: str) -> tuple[re.Pattern[bytes], ...]:
    return tuple(re.compile(expression.encode()) for expression in expressions)


# "primary key" is none, and "monkey" neither.
_KEYS = sorted({qualifier[-3:] for qualifier in QUALIFIERS.split("|")} - {"hf"})
_QUALIFIED = rf"(?<=(?:{'|'.join(_KEYS)})key)|(?<=(?:{'|'.join(_KEYS)})[-_. ]key)|(?<=hf_key)"
_NEEDLES = _needles(
    r"p(?:ass(?:[wpc]|key|\W|[_\d]|e\W)|wd|w(?![a-z])|sk(?![a-z])|in(?![a-z])|(?<=otp)(?![a-z]))",
    rf"k(?:en(?<=token)(?!s)|ie(?<=cookie)|ennwort|ey(?:{_QUALIFIED})"
    r"|[-_](?:(?<=[\Wnrt][sr]k[-_])|(?<=[\Wnrt]gsk_))|ia[0-9a-z](?<=[\Wnrt]akia.))",
    r"c(?:ret(?<=secret)(?!ar)|redential|ontrase|htwoord)",
    r"z(?:ation(?<=authorization)|a(?<=aiza))",
    r"j(?:wt(?![a-z])|(?<=eyj))",
    r"b(?:earer|asic [ a-z0-9]|y (?<=identified by ))",
    r"ssn(?![a-z])",
    r"=(?<=[ge]=)(?:(?<=sig=)|(?<=signature=))",
    r"-(?:(?<=[ti]-)(?:(?<=glpat-)|(?<=pypi-))|(?<=xox.-)|----begin|(?:u|user)(?=[ =\"\\])|[ap](?<= -.))",
    r"_(?:(?<=gh[oprsu]_)|(?<=[\Wnrt]hf_)|(?<=npm_)|(?<=whsec_)|(?<=b_pat_)|(?<=shpat_)|(?<=_v1_))",
)
_URL = re.compile(rb"/\\{0,8}/")
_FOREIGN = _needles("арол", "密[码碼]", "パスワード", "비밀번호", "asło")


def hits(text: bytes, pause: Callable[[], object]) -> Iterator[int]:
    """Yield the places of the hits in a text in lower case, in order. `pause` is called after each piece of the text."""
    needles = _NEEDLES if text.isascii() else _NEEDLES + _FOREIGN
    if b"@" in text:
        needles += (_URL,)
    for start in range(0, len(text), _CHUNK):
        end = start + _CHUNK
        found: list[int] = []
        for needle in needles:
            found += [match.start() for match in needle.finditer(text, start, end + _OVERLAP)]
        found.sort()
        pause()
        for at in found:
            if at < end:
                yield at
