"""The host of a URL."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from agentscope.protocols.responses import clean


def target_of(url: str) -> str:
    """Host and port of a URL, fit for a sentence: no credentials, no path, no query."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443}.get(parts.scheme, 80)
        return f"{clean(parts.hostname or '?')}:{port}"
    except ValueError:
        return "the backend"


def is_loopback(url: str) -> bool:
    """Return whether the host of a URL is this machine."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or host.endswith(".localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
