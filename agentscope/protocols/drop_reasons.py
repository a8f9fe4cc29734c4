"""Reasons for which an event is dropped, as the ledger counts them."""

from __future__ import annotations

QUEUE_FULL = "queue_full"


TOO_LARGE = "too_large"


ENCODE_ERROR = "encode_error"


REDACTION_ERROR = "redaction_error"


REJECTED = "rejected"


RETRY_LIMIT = "retry_limit"
"""Only with `max_retries`: the backend took none of a batch for so many attempts."""


SHUTDOWN = "shutdown"


SPOOL_FULL = "spool_full"
"""Only with a spool: there was no room on disk nor in memory."""


SPOOL_ERROR = "spool_error"
"""Only with a spool: it did not work, and at the end that was all there was; or a file of it was lost."""


UNAUTHORIZED = "unauthorized"


AT_THE_END = frozenset({SHUTDOWN, UNAUTHORIZED, SPOOL_FULL, SPOOL_ERROR})
"""Reasons of what was still waiting when the end came; the second if it was the key that was refused."""
