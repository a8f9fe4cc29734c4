"""Record what your AI agents do, and see it.

Calls only enqueue, in microseconds; a background worker batches, retries and ships. What was accepted is delivered, or counted
as dropped with a reason. Start with `create_tracker`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import AgentScopeError, APIError, AuthenticationError, ConfigurationError
from .handles import Run, Step
from .tracker import RunTracker, Tracker, create_tracker
from .version import __version__

if TYPE_CHECKING:
    from .client import AgentScopeClient
    from .config import Config
    from .destinations import AgentScopeExporter, OTLPExporter, VoltAgentExporter
    from .types import FlushResult, JSONDict, RunConfig, RunResponse, RunStatus, Stats, StepConfig, StepType

__all__ = [
    "APIError",
    "AgentScopeClient",
    "AgentScopeError",
    "AgentScopeExporter",
    "AuthenticationError",
    "Config",
    "ConfigurationError",
    "FlushResult",
    "JSONDict",
    "OTLPExporter",
    "Run",
    "RunConfig",
    "RunResponse",
    "RunStatus",
    "RunTracker",
    "Stats",
    "Step",
    "StepConfig",
    "StepType",
    "Tracker",
    "VoltAgentExporter",
    "__version__",
    "create_tracker",
]


# Who only tracks need not import these; dataclasses alone take as long as all the rest.
_HOMES = {
    "AgentScopeClient": "client",
    "Config": "config",
    **dict.fromkeys(("AgentScopeExporter", "OTLPExporter", "VoltAgentExporter"), "destinations"),
    **dict.fromkeys(
        ("FlushResult", "JSONDict", "RunConfig", "RunResponse", "RunStatus", "Stats", "StepConfig", "StepType"), "types"
    ),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__
