"""The error for a library of the `server` extra that is not installed."""

from __future__ import annotations

from agentscope.errors import ConfigurationError


def missing_extra(problem: ImportError) -> ConfigurationError:
    return ConfigurationError(
        "The receiver needs starlette, uvicorn and opentelemetry-proto; "
        f"install the server extra: pip install -e '.[server]' ({problem})"
    )
