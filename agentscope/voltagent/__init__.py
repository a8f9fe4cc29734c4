"""The VoltAgent face: recording with the classes and names of the published `voltagent` package.

from agentscope.voltagent import VoltAgentSDK

sdk = VoltAgentSDK(base_url="http://localhost:8000")
async with sdk.trace(agentId="weather-agent") as trace:
    async with trace.add_agent({"name": "Weather Agent"}) as agent:
        tool = await agent.add_tool({"name": "weather_api", "input": {"city": "Istanbul"}})
        await tool.success(output={"temperature": 22})
"""

from typing import TYPE_CHECKING, Any

from agentscope._version import __version__

from .errors import APIError, TimeoutError, ValidationError, VoltAgentError  # noqa: A004 - the published name
from .handles import (
    Agent,
    AgentContext,
    EventContext,
    Memory,
    MemoryContext,
    Operation,
    Retriever,
    RetrieverContext,
    Tool,
    ToolContext,
    Trace,
    TraceContext,
)
from .option_dicts import AgentDict, EventDict, StepDict, TraceDict
from .sdk import VoltAgentSDK
from .types import (
    AddEventRequest,
    AgentErrorOptions,
    AgentOptions,
    AgentSuccessOptions,
    CreateHistoryRequest,
    ErrorOptions,
    Event,
    EventLevel,
    EventStatus,
    History,
    MemoryErrorOptions,
    MemoryOptions,
    MemorySuccessOptions,
    RetrieverErrorOptions,
    RetrieverOptions,
    RetrieverSuccessOptions,
    SuccessOptions,
    TimelineEvent,
    TokenUsage,
    ToolErrorOptions,
    ToolOptions,
    ToolSuccessOptions,
    TraceOptions,
    TraceStatus,
    UpdateEventRequest,
    UpdateHistoryRequest,
    VoltAgentConfig,
    convert_metadata_to_camel_case,
    snake_to_camel,
)

if TYPE_CHECKING:
    from .client import VoltAgentCoreAPI

__all__ = [
    "APIError",
    "AddEventRequest",
    "Agent",
    "AgentContext",
    "AgentDict",
    "AgentErrorOptions",
    "AgentOptions",
    "AgentSuccessOptions",
    "CreateHistoryRequest",
    "ErrorOptions",
    "Event",
    "EventContext",
    "EventDict",
    "EventLevel",
    "EventStatus",
    "History",
    "Memory",
    "MemoryContext",
    "MemoryErrorOptions",
    "MemoryOptions",
    "MemorySuccessOptions",
    "Operation",
    "Retriever",
    "RetrieverContext",
    "RetrieverErrorOptions",
    "RetrieverOptions",
    "RetrieverSuccessOptions",
    "StepDict",
    "SuccessOptions",
    "TimelineEvent",
    "TimeoutError",
    "TokenUsage",
    "Tool",
    "ToolContext",
    "ToolErrorOptions",
    "ToolOptions",
    "ToolSuccessOptions",
    "Trace",
    "TraceContext",
    "TraceDict",
    "TraceOptions",
    "TraceStatus",
    "UpdateEventRequest",
    "UpdateHistoryRequest",
    "ValidationError",
    "VoltAgentConfig",
    "VoltAgentCoreAPI",
    "VoltAgentError",
    "VoltAgentSDK",
    "__version__",
    "convert_metadata_to_camel_case",
    "snake_to_camel",
]


def __getattr__(name: str) -> Any:
    # Imported when used, since recording does not need the direct client.
    if name == "VoltAgentCoreAPI":
        from .client import VoltAgentCoreAPI

        return VoltAgentCoreAPI
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
