"""Record what your AI agents do, and see it.

Calls only enqueue, in microseconds; a background worker batches, retries and ships. Every accepted event is delivered, or counted
as dropped with a reason. Start with `create_tracker`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentscope.tracker.handles import Run, Step
from agentscope.tracker.tracker import RunTracker, Tracker, create_tracker

from ._version import __version__
from .errors import AgentScopeError, APIError, AuthenticationError, ConfigurationError

if TYPE_CHECKING:
    from agentscope.exporters import (
        AgentScopeExporter,
        ConsoleExporter,
        CustomExporter,
        EventExporter,
        EventRecord,
        ExportResult,
        InMemoryExporter,
        OTLPExporter,
        VoltAgentExporter,
    )
    from agentscope.tracker.client import AgentScopeClient

    from .config import Config
    from .types import FlushResult, JSONDict, RunConfig, RunResponse, RunStatus, Stats, StepConfig, StepType

__all__ = [
    "APIError",
    "AgentScopeClient",
    "AgentScopeError",
    "AgentScopeExporter",
    "AuthenticationError",
    "Config",
    "ConfigurationError",
    "ConsoleExporter",
    "CustomExporter",
    "EventExporter",
    "EventRecord",
    "ExportResult",
    "FlushResult",
    "InMemoryExporter",
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


# Imported when they are used: dataclasses alone take as long as all the rest.
_HOMES = {
    "AgentScopeClient": "tracker.client",
    "Config": "config",
    **dict.fromkeys(
        (
            "AgentScopeExporter",
            "ConsoleExporter",
            "CustomExporter",
            "EventExporter",
            "EventRecord",
            "ExportResult",
            "InMemoryExporter",
            "OTLPExporter",
            "VoltAgentExporter",
        ),
        "exporters",
    ),
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
