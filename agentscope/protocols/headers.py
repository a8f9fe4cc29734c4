"""Names of HTTP headers."""

from __future__ import annotations

AGENTSCOPE_KEY = "X-Agentscope-Key"
VOLTAGENT_PUBLIC_KEY = "X-Public-Key"
VOLTAGENT_SECRET_KEY = "X-Secret-Key"  # noqa: S105 - a name

AGENTSCOPE_BATCH = "X-Agentscope-Batch"
"""In answers to OTLP: the path of the batch call, by a receiver of this package. A request of the call has the same header if its
sender was told so: the key is then where OTLP has it."""
