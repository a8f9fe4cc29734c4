"""The AgentScope destination: a receiver, or the platform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from agentscope._validation import check_api_key, check_base_url
from agentscope.errors import ConfigurationError

from .base import Exporter, _given


@dataclass(frozen=True, kw_only=True, repr=False)
class AgentScopeExporter(Exporter):
    """An AgentScope backend, or `agentscope serve`. What is missing is taken from `AGENTSCOPE_API_KEY`, `AGENTSCOPE_BASE_URL`."""

    api_key: str = ""
    base_url: str = ""

    SECRETS: ClassVar[tuple[str, ...]] = ("api_key",)

    def checked(self, environ: Mapping[str, str] | None = None) -> AgentScopeExporter:
        own = super().checked(environ)
        assert isinstance(own, AgentScopeExporter)
        key, key_source = _given(own.api_key, "AGENTSCOPE_API_KEY", environ)
        url, url_source = _given(own.base_url, "AGENTSCOPE_BASE_URL", environ)
        if not key:
            raise missing_key()
        return replace(
            own,
            api_key=check_api_key(key, key_source),
            base_url=check_base_url(url or "http://localhost:8000", url_source),
        )

    @property
    def url(self) -> str:
        return self.base_url

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self.api_key,)


def missing_key() -> ConfigurationError:
    return ConfigurationError(
        "api_key is missing: pass api_key=… or set AGENTSCOPE_API_KEY "
        "(a local receiver without a key takes any non-empty one)"
    )
