"""Payloads like those of an agent: many different messages of made-up words, which compress as real text does.

Every payload has a stamp at its head and one at its tail. A step arrived whole if its four stamps arrived.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import Any

STAMP = re.compile(rb"@([io][ht])([0-9]+)@")
"""A stamp: the payload, its end, and the number of the step."""
PARTS = (b"ih", b"it", b"oh", b"ot")

_SYLLABLES = (
    *("a", "be", "con", "da", "er", "fi", "ga", "hu", "in", "jo", "ka", "lu", "men"),
    *("no", "or", "pi", "qua", "ro", "sta", "ti", "un", "ver", "wa", "xi", "yo", "zen"),
)
_WORDS = 3_000
_COMMON = 30
"""The number of words that make up most of the text, as in a language: gzip at level 1 leaves 30 % of it."""
_POOL = {"1k": 2048, "100k": 32}


class Payloads:
    """A pool of inputs and outputs of one size: `1k` is about 1 KB of JSON each, `100k` about 50 KB each."""

    def __init__(self, size: str = "1k", seed: int = 1) -> None:
        self._dice = random.Random(seed)
        self._words = ["".join(self._dice.choices(_SYLLABLES, k=self._dice.randint(1, 4))) for _ in range(_WORDS)]
        make_input, make_output = {
            "1k": (self._question, self._answer),
            "100k": (self._conversation, self._documents),
        }[size]
        self._inputs = [make_input() for _ in range(_POOL[size])]
        self._outputs = [make_output() for _ in range(_POOL[size])]

    def step(self, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The input and output of step `number`: new dictionaries with shared contents."""
        inputs, outputs = self._inputs, self._outputs
        place = number * 7 % len(inputs)
        return (
            {"head": f"@ih{number}@", **inputs[place], "tail": f"@it{number}@"},
            {"head": f"@oh{number}@", **outputs[place], "tail": f"@ot{number}@"},
        )

    def _text(self, length: int) -> str:
        dice, words = self._dice, self._words
        found: list[str] = []
        size = 0
        while size < length:
            word = words[dice.randrange(_COMMON if dice.random() < 0.6 else _WORDS)]
            found.append(word)
            size += len(word) + 1
        return " ".join(found)[:length]

    def _question(self) -> dict[str, Any]:
        return {
            "model": "gpt-4o",
            "temperature": 0.2,
            "max_tokens": 512,
            "stream": False,
            "messages": [
                {"role": "system", "content": self._text(200)},
                {"role": "user", "content": self._text(480)},
            ],
            "meta": {"user": self._dice.randrange(10**8), "score": self._dice.random(), "ok": True, "parent": None},
        }

    def _answer(self) -> dict[str, Any]:
        return {
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": self._text(700)},
                }
            ],
            "usage": {"prompt_tokens": self._dice.randrange(999), "completion_tokens": self._dice.randrange(999)},
        }

    def _conversation(self) -> dict[str, Any]:
        turns = [{"role": "user", "content": self._text(1000), "n": number} for number in range(47)]
        return {"model": "gpt-4o", "messages": turns}

    def _documents(self) -> dict[str, Any]:
        return {
            "documents": [
                {"key": self._dice.randrange(10**9), "text": self._text(1000), "score": self._dice.random()}
                for _ in range(46)
            ]
        }


def whole_steps(bodies: Iterable[bytes]) -> tuple[int, int]:
    """Count the steps that arrived whole, and the steps that arrived at least in part, in decoded bodies."""
    seen: dict[bytes, set[bytes]] = {part: set() for part in PARTS}
    for body in bodies:
        for part, number in STAMP.findall(body):
            seen[part].add(number)
    return len(set.intersection(*seen.values())), len(set.union(*seen.values()))
