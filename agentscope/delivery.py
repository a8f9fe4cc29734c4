"""Puts together what a face needs to deliver: pipeline, exporter, protocol, transport and redaction."""

from __future__ import annotations

from .config import Config
from .exporters.http import HTTPExporter
from .exporters.transport import Transport, is_loopback
from .pipeline import Pipeline, clock, threads
from .protocols.agentscope import AgentScopeProtocol
from .redaction import Redactor


def pipeline_for(config: Config) -> Pipeline:
    """A pipeline to the AgentScope backend that `config` names. What it learns of the backend outlives a fork."""
    protocol = AgentScopeProtocol(
        largest_body=config.max_batch_bytes,
        compress=not is_loopback(config.base_url),
    )

    def exporter() -> HTTPExporter:
        return HTTPExporter(
            protocol,
            Transport(config.base_url, {"X-Agentscope-Key": config.api_key}, max_connections=config.max_connections),
            max_connections=config.max_connections,
            clock=clock.monotonic,
            start_thread=threads.start,
        )

    return Pipeline(config, exporter, Redactor(config.redact, secrets=(config.api_key,)))
