"""The VoltAgent destination: its backend, over OTLP or the history calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from agentscope._validation import check_api_key, check_base_url, check_headers
from agentscope.errors import ConfigurationError

from .base import NO_HEADERS, Exporter, _given

DEFAULT_VOLTAGENT_URL = "https://api.voltagent.dev"


@dataclass(frozen=True, kw_only=True, repr=False)
class VoltAgentExporter(Exporter):
    """VoltAgent's backend: OTLP where it takes that, else the history calls.

    What is missing is taken from `VOLTAGENT_BASE_URL`, `VOLTAGENT_PUBLIC_KEY` and `VOLTAGENT_SECRET_KEY`.
    """

    base_url: str = ""
    """Default `https://api.voltagent.dev`."""
    public_key: str = ""
    secret_key: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    """Sent with each request besides the keys."""

    SECRETS: ClassVar[tuple[str, ...]] = ("public_key", "secret_key", "headers")

    def checked(self, environ: Mapping[str, str] | None = None) -> VoltAgentExporter:
        own = super().checked(environ)
        assert isinstance(own, VoltAgentExporter)
        url, url_source = _given(own.base_url, "VOLTAGENT_BASE_URL", environ)
        keys: dict[str, Any] = {}
        for name in ("public_key", "secret_key"):
            key, source = _given(getattr(own, name), f"VOLTAGENT_{name.upper()}", environ)
            if not key:
                raise ConfigurationError(
                    f"{name} is missing: pass {name}=… or set VOLTAGENT_{name.upper()} "
                    "(a local receiver without a key takes any non-empty one)"
                )
            keys[name] = check_api_key(key, source, name)
        return replace(
            own,
            **keys,
            base_url=check_base_url(url or DEFAULT_VOLTAGENT_URL, url_source),
            headers=check_headers(own.headers, "headers", "argument"),
        )

    @property
    def url(self) -> str:
        return self.base_url

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self.secret_key, self.public_key)
