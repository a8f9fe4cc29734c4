"""Endless random plans of faults for the fault proxy. A seed gives the same plan every time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.support.faults import MISCOUNTS

Step = tuple[str, Mapping[str, Any]]
Draw = Callable[[random.Random], Mapping[str, Any]]

GOOD_WAITS = ("0", "1", " 1 ", "0.5")
"""Valid values of `Retry-After` in seconds."""
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
"""Invalid values of `Retry-After`."""
ABSURD_WAITS = ("1e8", "99999999999999999999", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT")
"""Valid values of `Retry-After` that are absurdly long."""


def _waits(code: int) -> Draw:
    def draw(chance: random.Random) -> Mapping[str, Any]:
        value = chance.choice((None, *GOOD_WAITS, *BAD_WAITS))
        headers = {} if value is None else {"Retry-After": value.encode().decode("latin-1")}
        return {"code": code, "headers": headers, "commit": chance.random() < 0.3}

    return draw


def _nothing(chance: random.Random) -> Mapping[str, Any]:
    return {}


# Left out: answers of a wrong backend (redirects, 401, 404), which are retried once a minute only; answers about the events
# themselves (400, 413, 422), after which events are dropped, rightly; and an absurd `Retry-After`, which is a minute's wait.
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
"""Modes in which a client that waits long enough gets its answer."""


class Chaos:
    """An endless plan with faults in about `share` of all requests, in rows of `burst` on average.

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
