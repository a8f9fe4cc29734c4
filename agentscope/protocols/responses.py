"""The meaning of answers for all protocols, by HTTP and by the behaviour of deployed platforms."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from .base import BUSY, MISPLACED, REFUSED, UNAUTHORIZED, Failure, Outcome, Response

GONE = frozenset({404, 405})
UNACCEPTABLE = frozenset({400, 415, 422})
"""Statuses that refuse the body. A retry is useless."""
RETRIED = frozenset({408, 425, 429})


def fail(outcome: Outcome, kind: str, sentence: str, retry_after: str | None = None) -> None:
    """Record the reason why events are left."""
    outcome.kind, outcome.problem, outcome.retry_after = kind, sentence, retry_after


def note_failure(outcome: Outcome, failure: Failure) -> None:
    """Record a request without an answer."""
    kind = {"refused": REFUSED, "tls": MISPLACED, "setup": MISPLACED}.get(failure.kind, BUSY)
    fail(outcome, kind, failure.sentence)


def note_refusal(outcome: Outcome, response: Response) -> None:
    """Record an answer that settles no event."""
    status = response.status
    retry_after = response.headers.get("retry-after")
    if status == 403 and _is_for_pages(response):
        sentence = (
            "the receiver takes this for a request of a web page (HTTP 403): send no Origin and no Sec-Fetch header"
        )
        fail(outcome, MISPLACED, sentence)
    elif status in (401, 403):
        also = "" if status == 401 else ", and any proxy on the way"
        fail(outcome, UNAUTHORIZED, f"the backend refuses the API key (HTTP {status}): check the key{also}")
    elif status == 421:
        sentence = (
            "the receiver does not serve this host name (HTTP 421): use its IP address, or start it with --allow-host"
        )
        fail(outcome, MISPLACED, sentence)
    elif 300 <= status < 400:
        fail(outcome, MISPLACED, f"the backend redirects (HTTP {status}), which is never followed: check the address")
    elif status in RETRIED or status >= 500:
        fail(outcome, BUSY, f"the backend answers HTTP {status}", retry_after)
    elif 200 <= status < 300:
        fail(outcome, BUSY, f"the backend's answer (HTTP {status}) is not an acknowledgement: check the address")
    else:
        fail(outcome, MISPLACED, f"the backend answers HTTP {status}: check the address")


def _is_for_pages(response: Response) -> bool:
    """Return whether a receiver refuses the `Origin` of a request, and not its key."""
    return "Requests from pages of another" in detail(response)


def is_denial(answer: Mapping[str, Any]) -> bool:
    """Return whether the body of an answer with a status of success means that nothing was stored."""
    return answer.get("success") is False or answer.get("ok") is False


def json_object(response: Response) -> dict[str, Any] | None:
    """The body of an answer if it is a JSON object, else None."""
    try:
        value = json.loads(response.body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def detail(response: Response, secrets: Iterable[str] = ()) -> str:
    """The reason of a refusal as a printable, bounded text without `secrets`, whatever the backend wrote."""
    value = json_object(response)
    text: object = (value.get("detail") or value.get("message")) if value else None
    if isinstance(text, list) and text and isinstance(text[0], dict):
        text = text[0].get("msg")  # the usual form of a validation error
    return clean(f"HTTP {response.status} {text if isinstance(text, str) else ''}", secrets)


def clean(text: object, secrets: Iterable[str] = ()) -> str:
    """Make a text fit for a log line: printable, bounded and without these secrets."""
    line = str(text)
    for secret in secrets:
        line = line.replace(secret, "…")  # before the cut, which could leave a part of a key
    printable = "".join(c if c.isprintable() else " " for c in line[:400])
    return " ".join(printable.split())[:200]
