"""A fast search for the places at which a secret may begin.

Most text has none, and costs about four nanoseconds a byte. Each needle begins with one byte that is rare in text, because
`re` finds a literal first byte ten times as fast as one of several. The bytes before it are checked by looking back.
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
# The group that matched is the kind of the hit: a part of a name, or the form of a secret that needs none (`forms.py`).
_NEEDLES = _needles(
    r"p(?P<name>ass(?:[wpc]|key|\W|[_\d]|e\W)|wd?(?![a-z])|wd|sk(?![a-z])|in(?![a-z])|(?<=otp)(?![a-z]))",
    rf"k(?:(?P<name>en(?<=token)(?!s)|ie(?<=cookie)|ennwort|ey(?:{_QUALIFIED}))"
    r"|(?P<provider>[-_](?:(?<=[\Wnrt][sr]k[-_])|(?<=[\Wnrt]gsk_))|ia[0-9a-z](?<=[\Wnrt]akia.)))",
    r"c(?P<name>ret(?<=secret)(?!ar)|redential|ontrase|htwoord)",
    r"z(?:(?P<name>ation(?<=authorization))|(?P<provider>a(?<=aiza)))",
    r"j(?:(?P<name>wt(?![a-z]))|(?P<jwt>(?<=eyj)))",
    r"b(?:(?P<bearer>earer )|(?P<name>earer)|(?P<basic>asic [ a-z0-9])|(?P<sql>y (?<=identified by )))",
    r"ss(?P<name>n(?![a-z]))",
    r"enh(?P<name>a(?<=senha))",
    r"sig(?P<name>=|nature=)",
    r"-(?:(?P<provider>(?<=glpat-)|(?<=xox.-)|(?<=pypi-))|(?P<pem>----begin)|(?P<option>(?:u|user)(?=[ =\"\\])|[ap](?<= -.)))",
    r"_(?P<provider>(?<=gh[oprsu]_)|(?<=[\Wnrt]hf_)|(?<=npm_)|(?<=whsec_)|(?<=b_pat_)|(?<=shpat_)|(?<=_v1_))",
)
_URL = re.compile(rb"/(?P<url>\\{0,8}/)")
_FOREIGN = _needles(
    "(?P<name>арол)", "(?P<name>密[码碼])", "(?P<name>パスワード)", "(?P<name>비밀번호)", "(?P<name>asło)"
)


def hits(text: bytes, pause: Callable[[], object]) -> Iterator[tuple[int, str | None]]:
    """Yield the position and the kind of each hit in a text in lower case, in order. `pause` is called after each chunk."""
    needles = _NEEDLES if text.isascii() else _NEEDLES + _FOREIGN
    if b"@" in text:
        needles += (_URL,)
    for start in range(0, len(text), _CHUNK):
        end = start + _CHUNK
        found: list[tuple[int, str | None]] = []
        for needle in needles:
            found += [(match.start(), match.lastgroup) for match in needle.finditer(text, start, end + _OVERLAP)]
        found.sort()
        pause()
        for hit in found:
            if hit[0] < end:
                yield hit
