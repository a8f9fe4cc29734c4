"""The speed of redaction, its worst growth with the length of a text, the turns of other threads, and what it finds.

python -m benchmarks.redaction [corpus.json]

The corpus is a list of {"name", "value", "hide" or "keep"}: a text that may not be left in the value, or must be. Times are CPU
seconds of the process. Fails below 40 MB/s with a secret on every line and 200 MB/s without, above twice the time for each
doubling by half, or if other threads get no turn for 5 ms.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agentscope.pipeline.redaction.masking import TooManyHits, mask
from agentscope.pipeline.redaction.redactor import Redactor, preview

BYTES = 1_000_000
LENGTHS = (50_000, 100_000, 200_000)
MOST_GROWTH = 3.0
NAMES = (
    "password", "token", "api_key", "authorization", "cookie", "secret", "pwd", "jwt", "pad_token", "next_token", "bearer ",
    "basic aaaa", "sk-", "AKIA", "sig=", "eyJaaaa", "-----BEGIN PRIVATE KEY-----", "identified by '", "://u:", "-u ", "--token",
    "<password>", '"password"', "'token'", '\\"token\\"', 'name="password"', '{"name":"password"',
)  # fmt: skip
MORE = (
    "", "=", ":", ": ", " ", "='", '="', ":[", ":{", '":{', ":str)", ":/", "\\", '\\"', ",", "\n- ", "=>", "@", "a b", "(",
    "<", "}",
)  # fmt: skip
"""Hostile texts are a name and one of these, again and again."""

WITHOUT: dict[str, Callable[[int], str]] = {
    "log": lambda i: (
        f"2026-11-30 12:00:{i % 60:02} INFO worker={i % 8} path=/api/items/{i} status=200 duration={i % 90}ms"
    ),
    "prose": lambda i: "the model read the page again and found that nothing of it was about the question of the user",
    "JSON": lambda i: json.dumps(
        {"id": i, "role": "assistant", "usage": {"total_tokens": i}, "text": "why is the sky blue?"}
    ),
}
WITH: dict[str, Callable[[int], str]] = {
    "token=": lambda i: (
        f"2026-11-30 12:00:{i % 60:02} INFO request id={i} path=/api/v1/items token=abc{i * 7919:x}zq status=200"
    ),
    "password:": lambda i: (
        f"2026-11-30 12:00:{i % 60:02} INFO login of user {i} with password: abc{i * 7919:x}zq from 10.0.0.1"
    ),
    "Bearer": lambda i: (
        f"2026-11-30 12:00:{i % 60:02} INFO request id={i} Authorization: Bearer abc{i * 7919:x}zq from 10.0.0.1"
    ),
    "JSON lines": lambda i: json.dumps(
        {"time": i, "level": "info", "message": "login", "password": f"abc{i * 7919:x}zq"}
    ),
}


def main() -> None:
    failed = False
    for kinds, least in ((WITHOUT, 200), (WITH, 40)):
        for kind, line in kinds.items():
            text = json.dumps("\n".join(map(line, range(BYTES // 60)))[:BYTES]).encode()
            speed = len(text) / min(_seconds(text) for _ in range(7)) / 1e6
            failed |= speed < least
            print(f"{kind:<12}{speed:8.0f} MB/s   at least {least}")
    growth, fragment = max(_growths())
    print(f"{'growth':<12}{growth:8.2f}        for twice the text, at most {MOST_GROWTH}: {fragment!r}")
    stretch = _longest_stretch(json.dumps("\n".join(map(WITH["token="], range(40_000)))).encode())
    print(f"{'stretch':<12}{stretch * 1000:8.2f} ms     without a turn for other threads, at most 5")
    failed |= growth > MOST_GROWTH or stretch > 0.005
    for corpus in sys.argv[1:]:
        cases = json.loads(Path(corpus).read_text(encoding="utf-8"))
        for kind in ("hide", "keep"):
            wrong = [case["name"] for case in cases if kind in case and not _right(case)]
            count = sum(kind in case for case in cases)
            print(f"{kind:<12}{100 * (1 - len(wrong) / count):8.1f} %      of {count}; not {wrong}")
            failed |= len(wrong) > count * 0.05
    sys.exit(failed)


def _seconds(text: bytes) -> float:
    start = time.process_time()
    try:
        mask(text, _go_on)
    except TooManyHits:
        pass  # masked whole
    return time.process_time() - start


def _go_on() -> None:
    """No other thread waits."""


def _growths() -> Iterator[tuple[float, str]]:
    """The growth of the time from each length to the next, for the slowest fragments."""
    fragments = ["".join(parts) for parts in itertools.product(NAMES, MORE, ("", ")", " "))]
    random.Random(1).shuffle(fragments)
    slowest = sorted(fragments, key=lambda fragment: _seconds(_repeated(fragment, 5_000)))[-40:]
    for fragment in slowest:
        times = [min(_seconds(_repeated(fragment, length)) for _ in range(3)) for length in LENGTHS]
        yield max(later / earlier for earlier, later in itertools.pairwise(times)), fragment


def _repeated(fragment: str, length: int) -> bytes:
    return json.dumps(fragment * (length // len(fragment))).encode()


def _longest_stretch(text: bytes) -> float:
    """CPU seconds between two moments at which other threads may run: the most in a redaction, in the median of five."""
    longest = []
    for _ in range(5):
        moments = [time.thread_time()]
        mask(text, lambda moments=moments: moments.append(time.thread_time()))  # type: ignore[misc]  # a default binds it
        moments.append(time.thread_time())
        longest.append(max(later - earlier for earlier, later in itertools.pairwise(moments)))
    return sorted(longest)[2]


def _right(case: dict[str, object]) -> bool:
    shown = json.dumps(preview(case["value"], 1 << 20, Redactor()), ensure_ascii=False)
    return str(case["hide"]) not in shown if "hide" in case else str(case["keep"]) in shown


if __name__ == "__main__":
    main()
