"""Record what your AI agents do, and see it.

Calls only enqueue, in microseconds; a background worker batches, retries and ships. What was accepted is delivered, or counted
as dropped with a reason. Start with `create_tracker`.
"""

from .client import AgentScopeClient
from .config import Config
from .errors import AgentScopeError, APIError, AuthenticationError, ConfigurationError
from .handles import Run, Step
from .tracker import RunTracker, Tracker, create_tracker
from .types import FlushResult, JSONDict, RunConfig, RunResponse, RunStatus, Stats, StepConfig, StepType
from .version import __version__

__all__ = [
    "APIError",
    "AgentScopeClient",
    "AgentScopeError",
    "AuthenticationError",
    "Config",
    "ConfigurationError",
    "FlushResult",
    "JSONDict",
    "Run",
    "RunConfig",
    "RunResponse",
    "RunStatus",
    "RunTracker",
    "Stats",
    "StepConfig",
    "StepType",
    "Tracker",
    "__version__",
    "create_tracker",
]
