"""Names of the HTTP headers that carry keys."""

from __future__ import annotations

AGENTSCOPE_KEY = "X-Agentscope-Key"
VOLTAGENT_PUBLIC_KEY = "X-Public-Key"
VOLTAGENT_SECRET_KEY = "X-Secret-Key"  # noqa: S105 - a name
