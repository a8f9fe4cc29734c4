"""Names of HTTP headers."""

from __future__ import annotations

AGENTSCOPE_KEY = "X-Agentscope-Key"
VOLTAGENT_PUBLIC_KEY = "X-Public-Key"
VOLTAGENT_SECRET_KEY = "X-Secret-Key"  # noqa: S105 - a name

AGENTSCOPE_BATCH = "X-Agentscope-Batch"
"""In an answer to OTLP: the path of the receiver's batch call. A batch request of a sender that learned of the call this way has
the header too, and its key is in the header of OTLP."""
