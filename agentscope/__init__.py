"""Record what your AI agents do, and see it.

Calls only enqueue, in microseconds; a background worker batches, retries and ships. What was accepted is delivered, or counted
as dropped with a reason. Start with `create_tracker`.
"""

from typing import TYPE_CHECKING, Any

from .config import Config
from .destinations import AgentScopeExporter, OTLPExporter, VoltAgentExporter
from .errors import AgentScopeError, APIError, AuthenticationError, ConfigurationError
from .handles import Run, Step
from .tracker import RunTracker, Tracker, create_tracker
from .types import FlushResult, JSONDict, RunConfig, RunResponse, RunStatus, Stats, StepConfig, StepType
from .version import __version__

if TYPE_CHECKING:
    from .client import AgentScopeClient

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


def __getattr__(name: str) -> Any:
    # Who only tracks need not import the synchronous client.
    if name == "AgentScopeClient":
        from .client import AgentScopeClient

        return AgentScopeClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
