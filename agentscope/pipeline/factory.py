"""The pipeline of a configuration, put together from queue, redaction, exporter and spool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from agentscope.config import Config
from agentscope.exporters.agentscope import AgentScopeExporter
from agentscope.exporters.base import Destination, Host
from agentscope.options import Redact
from agentscope.pipeline.redaction.redactor import Redactor
from agentscope.protocols.base import Exporter

from .fanout import FanOut
from .open_items import OpenItems
from .pipeline import Pipeline
from .process import clock, threads
from .reporting import logger

if TYPE_CHECKING:
    from agentscope.pipeline.spool.spool import Place

HOST = Host(clock.monotonic, threads.start, threads.callback)

_warned: set[str | None] = set()
"""Hosts that the warning about missing encryption was logged for."""


def pipeline_for(config: Config) -> Pipeline | FanOut:
    """Make a pipeline to the destinations of a configuration."""
    # A tracker that is not enabled has no destination, and sends nothing.
    destinations = config.exporters or (AgentScopeExporter(base_url=config.base_url),)
    secrets = tuple(secret for destination in destinations for secret in destination.secrets)
    for target in {destination.exposed for destination in config.exporters} - _warned - {None}:
        _warned.add(target)
        logger.warning("the key for %s is sent without encryption: use https, unless the network is trusted", target)
    open_items = OpenItems()
    pipelines = [_pipeline(config, destination, secrets, open_items) for destination in destinations]
    return pipelines[0] if len(pipelines) == 1 else FanOut(pipelines)


def _pipeline(config: Config, destination: Destination, secrets: tuple[str, ...], open_items: OpenItems) -> Pipeline:
    own = replace(config, **destination.overrides())
    redact = Redactor(_watched(config.redact), secrets, clock.Turns())
    return Pipeline(own, exporter_for(own, destination), redact, _place(config, destination), open_items)


def exporter_for(config: Config, destination: Destination) -> Callable[[], Exporter]:
    """Return a function that makes exporters to this destination; they share what is learnt of the backend."""
    return destination.sender(config, HOST)


def _place(config: Config, destination: Destination) -> Place | None:
    """Return the spool directory of this destination; None without a spool."""
    if not config.spool_dir or not config.enabled or not destination.spooled:
        return None
    from agentscope.pipeline.spool.spool import place_for

    return place_for(
        config, type(destination).__name__, destination.url, destination.secrets, destination.ORDERS_EVENTS
    )


def _watched(redact: Redact) -> Redact:
    """Wrap a redaction hook, so that nothing it records becomes an event: each one would make another."""
    asynchronous: bool = iscoroutinefunction(redact)  # the redactor refuses it
    if isinstance(redact, bool) or not callable(redact) or asynchronous:
        return redact
    function: Callable[[dict[str, Any]], dict[str, Any]] = redact

    @wraps(function, updated=())
    def hook(fields: dict[str, Any]) -> dict[str, Any]:
        with threads.callback():
            return function(fields)

    return hook
