"""Reasons for which an event is dropped, as the ledger counts them."""

from __future__ import annotations

from typing import Final, Literal, get_args

DropReason = Literal[
    "queue_full",
    "too_large",
    "encode_error",
    "redaction_error",
    "rejected",
    "retry_limit",
    "shutdown",
    "spool_full",
    "spool_error",
    "unauthorized",
]
DROP_REASONS: frozenset[str] = frozenset(get_args(DropReason))

QUEUE_FULL: Final = "queue_full"
TOO_LARGE: Final = "too_large"
ENCODE_ERROR: Final = "encode_error"
REDACTION_ERROR: Final = "redaction_error"
REJECTED: Final = "rejected"
RETRY_LIMIT: Final = "retry_limit"
"""The backend accepted no event of a batch in `max_retries + 1` attempts."""
SHUTDOWN: Final = "shutdown"
SPOOL_FULL: Final = "spool_full"
"""There was no room on disk nor in memory."""
SPOOL_ERROR: Final = "spool_error"
"""The spool did not work at the shutdown, or one of its files was lost."""
UNAUTHORIZED: Final = "unauthorized"
"""The backend still refused the key at the shutdown."""

AT_THE_END: frozenset[DropReason] = frozenset({SHUTDOWN, UNAUTHORIZED, SPOOL_FULL, SPOOL_ERROR})
"""Reasons for events that are dropped at the shutdown."""
