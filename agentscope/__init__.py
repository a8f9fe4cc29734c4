"""Record what your AI agents do, and see it.

Calls only enqueue, in microseconds; a background worker batches, retries and ships. Every accepted event is delivered, or counted
as dropped with a reason. Start with `create_tracker`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentscope.tracker.handles import Run
from agentscope.tracker.steps import Step
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


def __getattr__(name: str) -> Any:
    # Imported when they are used: dataclasses alone take as long as all the rest.
    for home in ("types", "exporters", "config", "tracker.client") if name in __all__ else ():
        found = getattr(import_module(f".{home}", __name__), name, None)
        if found is not None:
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
