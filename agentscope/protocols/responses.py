"""What an answer means, for every protocol. Facts from HTTP and from what deployed platforms were seen to do."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .base import BUSY, MISPLACED, REFUSED, UNAUTHORIZED, Failure, Outcome, Response

GONE = frozenset({404, 405})
UNACCEPTABLE = frozenset({400, 415, 422})
"""The body is at fault: sending it again would not help."""
RETRIED = frozenset({408, 425, 429})


def fail(outcome: Outcome, kind: str, sentence: str, retry_after: str | None = None) -> None:
    """Note why something is left over."""
    outcome.kind, outcome.problem, outcome.retry_after = kind, sentence, retry_after


def note_failure(outcome: Outcome, failure: Failure) -> None:
    """No answer came."""
    kind = {"refused": REFUSED, "tls": MISPLACED}.get(failure.kind, BUSY)
    fail(outcome, kind, failure.sentence)


def note_refusal(outcome: Outcome, response: Response) -> None:
    """An answer came that leaves the events where they are."""
    status = response.status
    retry_after = response.headers.get("retry-after")
    if status in (401, 403):
        fail(outcome, UNAUTHORIZED, f"the backend refuses the API key (HTTP {status}): check the key")
    elif 300 <= status < 400:
        fail(outcome, MISPLACED, f"the backend redirects (HTTP {status}), which is never followed: check the address")
    elif status in RETRIED or status >= 500:
        fail(outcome, BUSY, f"the backend answers HTTP {status}", retry_after)
    elif 200 <= status < 300:
        fail(outcome, BUSY, f"the backend's answer (HTTP {status}) is not an acknowledgement: check the address")
    else:
        fail(outcome, MISPLACED, f"the backend answers HTTP {status}: check the address")


def json_object(response: Response) -> dict[str, Any] | None:
    """The answer's body if it is a JSON object."""
    try:
        value = json.loads(response.body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def detail(response: Response, secrets: Iterable[str] = ()) -> str:
    """One printable, bounded sentence of why a record was refused; a backend may write anything at all there, `secrets` too."""
    value = json_object(response)
    text: object = (value.get("detail") or value.get("message")) if value else None
    if isinstance(text, list) and text and isinstance(text[0], dict):
        text = text[0].get("msg")  # the usual shape of a validation error
    return clean(f"HTTP {response.status} {text if isinstance(text, str) else ''}", secrets)


def clean(text: object, secrets: Iterable[str] = ()) -> str:
    """Printable, bounded and without these secrets: fit for a log line."""
    told = str(text)
    for secret in secrets:
        told = told.replace(secret, "…")  # before anything is cut: a part of a key is too much as well
    printable = "".join(c if c.isprintable() else " " for c in told[:400])
    return " ".join(printable.split())[:200]
