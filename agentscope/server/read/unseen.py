"""Characters that are not seen, or change how others are shown, written by their numbers. Pure.

A joiner is left alone where it joins: inside a word of a script that uses it (Persian, Hindi and others), and inside an emoji.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# The general categories Cc and Cf without the visible signs of Arabic, line and paragraph separators, and letters and marks
# without a shape. Tab and line feed are kept.
_UNSEEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Scripts whose letters take another form beside a joiner: Arabic to Mandaic, those of India and Tibet, Myanmar, Khmer, Mongolian.
_JOINING = (
    "\u0600-\u085f\u0860-\u0fff\u1000-\u109f\u1780-\u17b3\u17b6-\u18af"
    "\ua840-\uabff\ufb50-\ufdff\ufe70-\ufefe\U00010a00-\U000119ff"
)
_VIRAMAS = "\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca\u0f84\u1039\u17d2"
_EMOJI = (
    "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u27bf\u2900-\u2bff\u3030\u303d"
    "\u3297\u3299\U0001f000-\U0001faff"
)
# In order: a joiner inside a word, one after a virama at the end of a word, one inside an emoji, the selector of an emoji's form,
# that of a variant of a symbol or an ideograph, that of a Mongolian letter, and the flag of a region.
_JOINED = (
    f"(?<=[{_JOINING}])[\u200c\u200d](?=[{_JOINING}])",
    f"(?<=[{_VIRAMAS}])[\u200c\u200d]",
    f"(?<=[{_EMOJI}\ufe0f])\u200d(?=[{_EMOJI}])",
    f"(?<=[{_EMOJI}#*0-9])[\ufe0e\ufe0f]",
    "(?<=[\u2200-\u22ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])[\ufe00-\ufe0f\U000e0100-\U000e01ef]",
    "(?<=[\u1820-\u18af])[\u180b-\u180d\u180f]",
    "(?<=\U0001f3f4)[\U000e0020-\U000e007e]+\U000e007f",
)
_FOUND = re.compile(f"({'|'.join(_JOINED)})|[{_UNSEEN}]")


def marked(text: str, mark: Callable[[str], str]) -> str:
    """Replace each unseen character by what `mark` makes of its number, such as U+200B."""
    return _FOUND.sub(lambda match: match[1] or mark(f"U+{ord(match[0]):04X}"), text)
