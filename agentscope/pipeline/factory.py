"""Puts together what a face needs to deliver: pipeline, exporter, protocol, transport and redaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from agentscope.config import Config, Redact
from agentscope.exporters.agentscope import AgentScopeExporter
from agentscope.exporters.base import Exporter
from agentscope.exporters.http.exporter import HTTPExporter
from agentscope.exporters.http.transport import Transport
from agentscope.exporters.http.url import is_loopback
from agentscope.exporters.otlp import OTLPExporter, service_name
from agentscope.exporters.voltagent import VoltAgentExporter
from agentscope.pipeline.redaction.redactor import Redactor
from agentscope.protocols.agentscope.protocol import AgentScopeProtocol
from agentscope.protocols.base import WireProtocol

from .fanout import FanOut
from .pipeline import Pipeline
from .process import clock, threads

if TYPE_CHECKING:
    from agentscope.pipeline.spool.spool import Place

_protocols: WeakValueDictionary[tuple[object, ...], WireProtocol] = WeakValueDictionary()


def pipeline_for(config: Config) -> Pipeline | FanOut:
    """A pipeline to the destinations that `config` names."""
    unused = AgentScopeExporter(api_key=config.api_key, base_url=config.base_url)  # of a tracker that is not enabled
    destinations = config.exporters or (unused,)
    secrets = tuple(secret for destination in destinations for secret in destination.secrets)
    pipelines = [_pipeline(config, destination, secrets) for destination in destinations]
    return pipelines[0] if len(pipelines) == 1 else FanOut(pipelines)


def _pipeline(config: Config, destination: Exporter, secrets: tuple[str, ...]) -> Pipeline:
    own = replace(config, **destination.overrides())
    redact = Redactor(_watched(config.redact), secrets=secrets)
    return Pipeline(own, exporter_for(own, destination), redact, _place(config, destination))


def exporter_for(config: Config, destination: Exporter) -> Callable[[], HTTPExporter]:
    """Makes exporters to this destination, which share what is learnt of it."""
    protocol = _protocol_for(config, destination)
    headers, certificate = _headers(destination)

    def exporter() -> HTTPExporter:
        return HTTPExporter(
            protocol,
            Transport(destination.url, headers, max_connections=config.max_connections, certificate=certificate),
            max_connections=config.max_connections,
            clock=clock.monotonic,
            start_thread=threads.start,
        )

    return exporter


def _place(config: Config, destination: Exporter) -> Place | None:
    """Where events for this destination are kept until they are delivered; None if nowhere."""
    if not config.spool_dir or not config.enabled:
        return None
    from agentscope.pipeline.spool.spool import place_for

    return place_for(config, type(destination).__name__, destination.url, destination.secrets)


def _headers(destination: Exporter) -> tuple[Mapping[str, str], str | None]:
    """What is sent with each request, and the certificates that are trusted."""
    if isinstance(destination, OTLPExporter):
        return destination.headers, destination.certificate
    if isinstance(destination, VoltAgentExporter):
        keys = {"X-Public-Key": destination.public_key, "X-Secret-Key": destination.secret_key}
        return {**destination.headers, **keys}, None
    assert isinstance(destination, AgentScopeExporter)
    return {"X-Agentscope-Key": destination.api_key}, None


def _protocol_for(config: Config, destination: Exporter) -> WireProtocol:
    """What is learnt of a backend serves all trackers that go there, as they share its runs, and outlives a fork."""
    compress = not is_loopback(destination.url)
    resource = service_name(config.service_name)
    detail: tuple[object, ...] = () if isinstance(destination, AgentScopeExporter) else tuple(resource.items())
    if isinstance(destination, OTLPExporter):
        compress = compress if destination.compression is None else destination.compression == "gzip"
        detail = (destination.encoding, compress, *detail)
    key = (type(destination), destination.url, hash(destination.secrets), *detail)
    known = _protocols.get(key)
    return known or _protocols.setdefault(key, _protocol(config, destination, compress, resource))


def _protocol(config: Config, destination: Exporter, compress: bool, resource: dict[str, str]) -> WireProtocol:
    largest = config.max_batch_bytes
    if isinstance(destination, AgentScopeExporter):
        # On this machine, too: a fifth of the CPU an event, for a quarter of the bytes, and all destinations are alike.
        return AgentScopeProtocol(largest_body=largest, compress=True)
    from agentscope.protocols.otlp.protocol import OTLPProtocol, OTLPState

    if isinstance(destination, OTLPExporter):
        encoding = destination.encoding or "protobuf"
        return OTLPProtocol(
            OTLPState(path="", encoding=encoding, compress=compress, largest_body=largest, resource=resource)
        )
    from agentscope.protocols.voltagent.protocol import OTLP_PATH, VoltAgentProtocol

    # Its own exporter sends JSON; whether it takes protobuf is not known.
    return VoltAgentProtocol(
        OTLPState(
            path=OTLP_PATH,
            encoding="json",
            compress=compress,
            largest_body=largest,
            resource=resource,
            voltops=True,
        )
    )


def _watched(redact: Redact) -> Redact:
    """The hook, so that what it tracks itself is not an event: each one would make another."""
    asynchronous: bool = iscoroutinefunction(redact)  # which the redactor refuses, by name
    if isinstance(redact, bool) or not callable(redact) or asynchronous:
        return redact
    function: Callable[[dict[str, Any]], dict[str, Any]] = redact

    @wraps(function, updated=())
    def hook(fields: dict[str, Any]) -> dict[str, Any]:
        with threads.callback():
            return function(fields)

    return hook
