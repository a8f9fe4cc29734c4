"""Joiners stay where they join; every other character that is not seen is written by its number."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.server.read.unseen import marked


def shown(text: str) -> str:
    return marked(text, lambda code_point: f"<{code_point}>")


@pytest.mark.parametrize(
    "text",
    [
        "سلام، می‌خواهم کتاب‌ها را ببینم",
        "Done 👩‍💻 ❤️‍🔥 🏳️‍🌈",
        "👩🏽‍🤝‍👨🏻 👨‍👩‍👧‍👦 ⛓️‍💥 🏳️‍⚧️ 🐈‍⬛",
        "क्‍ष र्‍य क्‌ष, न्‍ अन्त",
        "ശ്രീ വന്‍ ന്‌",
        "ශ්‍රී ලංකා",
        "© ©️ 1️⃣ #️⃣ ☎︎",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "葛\U000e0100 ∩︀",
        "line\nline\ttab",
    ],
)
def test_joiners_and_selectors_that_do_their_work_stay(text: str) -> None:
    assert shown(text) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pay\u200cpal", "pay<U+200C>pal"),
        ("pay\u200dpal", "pay<U+200D>pal"),
        ("\u200da", "<U+200D>a"),
        ("👩\u200d", "👩<U+200D>"),
        ("👩\u200d a", "👩<U+200D> a"),
        ("👩\u200cx", "👩<U+200C>x"),
        ("\u0645\u200c", "\u0645<U+200C>"),
        ("\u0645\u200c\u200c\u0645", "\u0645<U+200C><U+200C>\u0645"),
        ("a\u00adb\u034f", "a<U+00AD>b<U+034F>"),
        ("\u3164\u115f\u2800\u180e", "<U+3164><U+115F><U+2800><U+180E>"),
        ("a\ufe0f\ufe0f", "a<U+FE0F><U+FE0F>"),
        ("\U000e0041\U000e0042", "<U+E0041><U+E0042>"),
        ("a\U000e0100", "a<U+E0100>"),
        ("\u202egnp.exe", "<U+202E>gnp.exe"),
        ("\x00\x1b[0m\r", "<U+0000><U+001B>[0m<U+000D>"),
        ("\u2066\u206a\ufeff\u061c\u2028", "<U+2066><U+206A><U+FEFF><U+061C><U+2028>"),
    ],
)
def test_what_joins_nothing_and_what_is_not_seen_is_marked(text: str, told: str) -> None:
    assert shown(text) == told


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs"])))
def test_characters_that_are_seen_are_never_marked(text: str) -> None:
    without_shape = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
    seen = "".join(
        each for each in text if each not in without_shape and "VARIATION SELECTOR" not in unicodedata.name(each, "")
    )
    assert shown(seen) == seen
