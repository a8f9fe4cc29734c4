"""The error for a library of the `server` extra that is not installed."""

from __future__ import annotations

from agentscope.errors import ConfigurationError


def missing_extra(problem: ImportError) -> ConfigurationError:
    return ConfigurationError(
        "The receiver needs starlette, uvicorn, opentelemetry-proto and prometheus-client; "
        f"install the server extra: pip install -e '.[server]' ({problem})"
    )
