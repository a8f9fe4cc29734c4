"""The VoltAgent destination: its backend, over OTLP or the history calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from agentscope.options import NO_HEADERS, check_base_url, check_headers
from agentscope.protocols.agentscope.protocol import BATCH
from agentscope.protocols.base import WireProtocol
from agentscope.protocols.headers import VOLTAGENT_PUBLIC_KEY, VOLTAGENT_SECRET_KEY

from .base import NO_KEY, HTTPDestination, Settings, given_or_variable, key_for
from .http.url import is_loopback
from .otlp import VOLTAGENT_TRACES_PATH, service_name

DEFAULT_VOLTAGENT_URL = "https://api.voltagent.dev"


@dataclass(frozen=True, kw_only=True, repr=False)
class VoltAgentExporter(HTTPDestination):
    """VoltAgent's backend: OTLP where the backend takes that, else the history calls.

    Missing values are taken from `VOLTAGENT_BASE_URL`, `VOLTAGENT_PUBLIC_KEY` and `VOLTAGENT_SECRET_KEY`. A receiver on this
    machine needs no keys.
    """

    base_url: str | None = None
    """Default `https://api.voltagent.dev`."""
    public_key: str | None = None
    secret_key: str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    """Sent with each request besides the keys."""

    ADDRESS: ClassVar[str] = "base_url"
    SECRETS: ClassVar[tuple[str, ...]] = ("public_key", "secret_key", "headers")
    ANNOUNCES_STEPS: ClassVar[bool] = True  # the backend makes the ids that inner steps refer to
    ORDERS_EVENTS: ClassVar[frozenset[str]] = frozenset({BATCH})

    def checked(self, environ: Mapping[str, str] | None = None) -> VoltAgentExporter:
        own = super().checked(environ)
        url, source = given_or_variable(own.base_url, "VOLTAGENT_BASE_URL", environ)
        address = check_base_url(DEFAULT_VOLTAGENT_URL if url is None else url, "base_url", source)
        keys: dict[str, Any] = {
            name: key_for(address, getattr(own, name), name, f"VOLTAGENT_{name.upper()}", environ)
            for name in ("public_key", "secret_key")
        }
        return replace(own, **keys, base_url=address, headers=check_headers(own.headers, "headers", "argument"))

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(key for key in (self.secret_key, self.public_key) if key)

    def request_headers(self) -> Mapping[str, str]:
        keys = {VOLTAGENT_PUBLIC_KEY: self.public_key or NO_KEY, VOLTAGENT_SECRET_KEY: self.secret_key or NO_KEY}
        return {**self.headers, **keys}

    def protocol(self, settings: Settings) -> WireProtocol:
        from agentscope.protocols.otlp.protocol import OTLPState
        from agentscope.protocols.voltagent.protocol import VoltAgentProtocol

        resource = service_name(settings.service_name)
        state = OTLPState(
            path=VOLTAGENT_TRACES_PATH,
            encoding="json",  # VoltAgent's own exporter sends JSON; support for protobuf is not known
            compress=not is_loopback(self.url),
            largest_body=settings.max_batch_bytes,
            resource=resource,
            voltops=True,
        )
        return self.shared(lambda: VoltAgentProtocol(state), *resource.items())
