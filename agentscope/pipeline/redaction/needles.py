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

_CHUNK = 96 * 1024
"""Bytes that are searched at once. Other threads may run in between."""
_OVERLAP = 64
"""Bytes; no needle is longer."""

_MERGED = bytes.maketrans(b"G", b"z").translate(bytes(range(256)).lower()).translate(bytes.maketrans(b"bj9-", b"pzz_"))
"""A table for `translate`: lower case, "p" for "b", "z" for "j", "9" and "G", and "_" for "-"."""


def _needles(*expressions: str) -> tuple[re.Pattern[bytes], ...]:
    # No letter follows the end of a word, but "z" may stand for a digit.
    return tuple(re.compile(expression.replace("$", "[^a-y]").encode()) for expression in expressions)


# "primary key" is none, and "monkey" neither.
_ENDS = {qualifier[-3:] for qualifier in QUALIFIERS.split("|")} - {"hf"}
_KEYS = "|".join(sorted(_ENDS)).replace("b", "p").replace("g", "[gz]")
_TOKENS = "gh[oprsu]|npm|sec|pat|ptt|ldt|lrt|lsa|_v1|ypi|ox.|spx|igd|ry[su]|csk|spp|vly|plx|xai|atp|csp|[\\W_nrt]hf"
"""The last letters before "_" or "-" in tokens of providers."""
_CODES = ".mfa|.2fa|.sms|tion|rity|very|ckup|time"
_NEEDLES = _needles(
    r"p(?:ass(?:[wpcz]|key|\W|[_\d]|e\W)|w(?:d|$)|sk$|in$|$(?<=otp$)|hrase(?<=(?:seed|very).phrase)|lus (?<=sqlplus )"
    # bearer, basic, "by"
    r"|earer|asic [ a-z0-9]|y (?<=identified py )|y (?<=password py ))",
    rf"k(?:e(?:n(?:(?<=token)(?!s)|nwort)|y(?:(?<=(?:{_KEYS})key)|(?<=(?:{_KEYS})[_. ]key)|(?<=hf_key)))"
    r"|i(?:e(?<=cookie)|a[0-9a-z](?<=[\W_nrt]akia.))|_(?:(?<=[\W_nrt][sr]k_)|(?<=[\W_nrt]gsk_))|ode(?<=adgangskode)"
    r"|s(?:\.slack\.com/s|/[\dz](?<=wephooks/.)))",
    r"c(?:re(?:t(?<=secret)(?!ar)|dential)|ontrase|htwoord|lave$|onnect\.sid"
    rf"|ode(?:(?<=(?:{_CODES})code)|(?<=(?:{_CODES}).code)))",
    # jwt, eyJ, jdbc, "SG.", "ya29."
    r"z(?:a(?:tion(?<=authorization)|(?<=aiza))|wt$|(?<=eyz)|inka|dpc:|\.(?:(?<=sz\.)|(?<=ya2z\.)))",
    r"ss(?:n$|(?:ion)?id)",
    "senha",
    # The first two letters tell in most cases that there is none of the tokens.
    rf"_(?:____pe[gz]in|[ap](?<= _.)|(?<=[acdeghilprstvxyz][acdefgikmoprstuxyz1]_)"
    rf"(?:(?<=(?:{_TOKENS})_)|(?<=(?:xapp|hp(?:ca|pa|ss))_))"
    r"|u(?:ser)?[ =\"\\](?:(?<=\W_u.)|(?<=\\[nrt]_u.)|(?<=[\W_]_user.)|(?<=\\[nrt]_user.)))",
)
_MARKED = {b"@": re.compile(rb"/\\{0,8}/"), b"=": re.compile(b"=(?<=[egz]=)(?:(?<=si[gz]=)|(?<=si[gz]nature=))")}
"""URLs and signatures, searched only in text that has the mark."""
_FOREIGN = _needles("арол", "密[码碼]", "パスワード", "비밀번호", "asło")


def hits(text: bytes, pause: Callable[[], object]) -> Iterator[int]:
    """Yield the places of the hits in a text, in order. `pause` is called after each piece of the text."""
    needles = _NEEDLES if text.isascii() else _NEEDLES + _FOREIGN
    needles += tuple(needle for mark, needle in _MARKED.items() if mark in text)
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
