"""The destinations of events: one module each, and the base that they share."""

from .agentscope import AgentScopeExporter
from .base import Destination
from .console import ConsoleExporter
from .custom import CustomExporter, EventExporter, EventRecord, ExportResult
from .memory import InMemoryExporter
from .otlp import OTLPExporter
from .voltagent import VoltAgentExporter

__all__ = [
    "AgentScopeExporter",
    "ConsoleExporter",
    "CustomExporter",
    "Destination",
    "EventExporter",
    "EventRecord",
    "ExportResult",
    "InMemoryExporter",
    "OTLPExporter",
    "VoltAgentExporter",
]
