"""The AgentScope destination: the platform, or a receiver (`agentscope serve`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from agentscope.options import DEFAULT_BASE_URL, check_base_url
from agentscope.protocols.agentscope.protocol import BATCH, AgentScopeProtocol
from agentscope.protocols.base import WireProtocol
from agentscope.protocols.headers import AGENTSCOPE_KEY

from .base import NO_KEY, HTTPDestination, Settings, given_or_variable, key_for


@dataclass(frozen=True, kw_only=True, repr=False)
class AgentScopeExporter(HTTPDestination):
    """An AgentScope backend, or `agentscope serve`.

    Missing values are taken from the tracker, else from `AGENTSCOPE_API_KEY` and `AGENTSCOPE_BASE_URL`. A receiver on this
    machine needs no key.
    """

    api_key: str | None = None
    base_url: str | None = None
    """Default `http://localhost:8000`."""

    PROTOCOL: ClassVar[str] = "agentscope"
    OPTIONS: ClassVar[tuple[str, ...]] = ("api_key", "base_url")
    INHERITED: ClassVar[tuple[str, ...]] = OPTIONS
    ADDRESS: ClassVar[str] = "base_url"
    SECRETS: ClassVar[tuple[str, ...]] = ("api_key",)
    ORDERS_EVENTS: ClassVar[frozenset[str]] = frozenset({BATCH})

    def checked(self, environ: Mapping[str, str] | None = None) -> AgentScopeExporter:
        own = super().checked(environ)
        url, source = given_or_variable(own.base_url, "AGENTSCOPE_BASE_URL", environ)
        address = check_base_url(DEFAULT_BASE_URL if url is None else url, "base_url", source)
        key = key_for(address, own.api_key, "api_key", "AGENTSCOPE_API_KEY", environ)
        return replace(own, api_key=key, base_url=address)

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self.api_key,) if self.api_key else ()

    def request_headers(self) -> Mapping[str, str]:
        return {AGENTSCOPE_KEY: self.api_key or NO_KEY}

    def protocol(self, settings: Settings) -> WireProtocol:
        # Compressed on this machine, too: it costs a fifth of the CPU an event and saves three quarters of the bytes.
        return self.shared(lambda: AgentScopeProtocol(largest_body=settings.max_batch_bytes, compress=True))
