"""Puts together what a face needs to deliver: pipeline, exporter, protocol, transport and redaction."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any
from weakref import WeakValueDictionary

from .config import Config, Redact
from .exporters.http import HTTPExporter
from .exporters.transport import Transport, is_loopback
from .pipeline import Pipeline, clock, threads
from .protocols.agentscope import AgentScopeProtocol
from .redaction import Redactor

_protocols: WeakValueDictionary[tuple[str, int], AgentScopeProtocol] = WeakValueDictionary()


def pipeline_for(config: Config) -> Pipeline:
    """A pipeline to the AgentScope backend that `config` names."""
    protocol = _protocol_for(config)

    def exporter() -> HTTPExporter:
        return HTTPExporter(
            protocol,
            Transport(config.base_url, {"X-Agentscope-Key": config.api_key}, max_connections=config.max_connections),
            max_connections=config.max_connections,
            clock=clock.monotonic,
            start_thread=threads.start,
        )

    return Pipeline(config, exporter, Redactor(_watched(config.redact), secrets=(config.api_key,)))


def _protocol_for(config: Config) -> AgentScopeProtocol:
    """What is learnt of a backend serves all trackers that go there, as they share its runs, and outlives a fork."""
    key = (config.base_url, hash(config.api_key))
    known = _protocols.get(key)
    if known is not None:
        return known
    compress = not is_loopback(config.base_url)
    return _protocols.setdefault(key, AgentScopeProtocol(largest_body=config.max_batch_bytes, compress=compress))


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
