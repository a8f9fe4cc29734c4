"""Chaos: endless plans for the fault proxy, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.support.faults import MISCOUNTS

Step = tuple[str, Mapping[str, Any]]
Draw = Callable[[random.Random], Mapping[str, Any]]

GOOD_WAITS = ("0", "1", " 1 ", "0.5")
"""What `Retry-After` may say in seconds."""
BAD_WAITS = (
    "",
    "-1",
    "abc",
    "NaN",
    "inf",
    "1,2",
    "0x10",
    "٣",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "Thu, 31 Feb 2026 00:00:00 GMT",
    "Fri, 31 Dec 99999 23:59:59 GMT",
)
"""What it may say and nobody can obey."""
ABSURD_WAITS = ("1e8", "99999999999999999999", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT")
"""What nobody would want to obey."""


def _waits(code: int) -> Draw:
    def draw(chance: random.Random) -> Mapping[str, Any]:
        value = chance.choice((None, *GOOD_WAITS, *BAD_WAITS))
        headers = {} if value is None else {"Retry-After": value.encode().decode("latin-1")}
        return {"code": code, "headers": headers, "commit": chance.random() < 0.3}

    return draw


def _nothing(chance: random.Random) -> Mapping[str, Any]:
    return {}


# What stands for a backend that is not the right one (redirects, 401, 404) is left out: it is asked again once a minute only. So
# is what tells of the events themselves (400, 413, 422): they would be given up, rightly; and an absurd `Retry-After`, which is
# a minute's wait.
_FAULTS: tuple[tuple[int, str, Draw], ...] = (
    (3, "reset_before", _nothing),
    (3, "reset_after", _nothing),
    (2, "status", _waits(503)),
    (2, "status", _waits(429)),
    (1, "status", lambda chance: {"code": chance.choice((500, 502, 504, 408)), "commit": chance.random() < 0.5}),
    (2, "truncated", lambda chance: {"at": chance.randrange(160)}),
    (1, "truncated", _nothing),
    (1, "garbage", lambda chance: {"commit": chance.random() < 0.5}),
    (2, "split", lambda chance: {"size": chance.randint(1, 5)}),
    (2, "delay", lambda chance: {"seconds": chance.uniform(0.01, 0.2), "commit": chance.random() < 0.5}),
    (1, "delay", lambda chance: {"seconds": chance.uniform(0.5, 2.0), "commit": chance.random() < 0.5}),
    (1, "hang", lambda chance: {"commit": chance.random() < 0.5}),
    (1, "no_read", _nothing),
    (1, "drip", lambda chance: {"part": chance.choice(("head", "body")), "interval": chance.uniform(0.0, 0.1)}),
    (2, "idle_close", lambda chance: {"after": chance.uniform(0.0, 0.02), "reset": chance.random() < 0.5}),
    (1, "html200", lambda chance: {"commit": chance.random() < 0.5}),
    (1, "empty204", lambda chance: {"commit": chance.random() < 0.5}),
    (2, "wrong_counts", lambda chance: {"kind": chance.choice(MISCOUNTS)}),
    (1, "wrong_type", _nothing),
    (1, "wrong_length", lambda chance: {"delta": chance.choice((-20, -5, -1, 1, 5))}),
    (1, "huge", lambda chance: {"size": chance.choice((1 << 16, 1 << 20))}),
    (1, "bomb", lambda chance: {"kind": chance.choice(("gzip", "body", "headers"))}),
)

HARMLESS = frozenset({"pass", "split", "delay", "idle_close", "wrong_type"})
"""Modes under which a patient client gets its answer."""


class Chaos:
    """An endless plan in which about `share` of all requests meet a fault, `burst` in a row on the average.

    proxy.plan(Chaos(seed=7, share=0.3))
    """

    def __init__(self, seed: int, share: float, burst: float = 2.0) -> None:
        self._chance = random.Random(seed)
        self._begins = share / (burst * (1 - share) + share) if share < 1 else 1.0
        self._goes_on = 1 - 1 / burst
        self._fault: tuple[str, Draw] | None = None

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        chance = self._chance
        if self._fault is None or chance.random() >= self._goes_on:
            self._fault = self._drawn() if chance.random() < self._begins else None
        if self._fault is None:
            return "pass", {}
        mode, draw = self._fault
        return mode, draw(chance)

    def _drawn(self) -> tuple[str, Draw]:
        (_, mode, draw), *_ = self._chance.choices(_FAULTS, [weight for weight, _, _ in _FAULTS])
        return mode, draw
