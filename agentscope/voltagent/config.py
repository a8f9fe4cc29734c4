"""The options of the SDK: those of the `voltagent` package from arguments and `VOLTAGENT_*`, the others as a tracker has them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentscope.config import Config, SharedOptions
from agentscope.exporters.voltagent import DEFAULT_VOLTAGENT_URL, VoltAgentExporter
from agentscope.options import OPTIONS, Check, bad, boolean
from agentscope.serialization.snapshot import text

from .types import VoltAgentConfig

NO_INTERVAL = 3600.0
"""The flush interval in seconds with `auto_flush=False`."""

_PUBLISHED: dict[str, tuple[Check, Any]] = {
    "auto_flush": (boolean, True),
    "flush_interval": (OPTIONS["flush_interval"].check, 5.0),
    "timeout": (OPTIONS["timeout"].check, 30.0),
    "max_retries": (OPTIONS["max_retries"].check, None),
    "retry_delay": (OPTIONS["retry_delay"].check, 1.0),
}
"""The options of the `voltagent` package with check and default, but for those of the destination."""
_DESTINATION = ("base_url", "public_key", "secret_key", "headers")

NAMES = frozenset({*SharedOptions.__annotations__, *_PUBLISHED, *_DESTINATION})
"""All options of the SDK."""


def load(
    options: Mapping[str, Any], given: Any = None, environ: Mapping[str, str] | None = None
) -> tuple[Config, VoltAgentConfig]:
    """Return the configuration for the pipeline, and the same under the names of the published package.

    options: by name, where None means not given. given: a `VoltAgentConfig` or a mapping, for options that are not given.
    Raises `ConfigurationError` for the first value that cannot work.
    """
    known = {**given_options(given), **{name: value for name, value in options.items() if value is not None}}
    chosen = {name: _option(name, known.pop(name, None), environ) for name in _PUBLISHED}
    destination = {name: known.pop(name, None) for name in _DESTINATION}
    exporters = known.pop("exporters", None)
    if exporters is None:
        exporters = [VoltAgentExporter(**{name: value for name, value in destination.items() if value is not None})]
    own = {name: value for name, value in chosen.items() if name != "auto_flush"}
    if not chosen["auto_flush"]:
        own["flush_interval"] = NO_INTERVAL
    config = Config.load({**known, **own, "exporters": exporters}, environ)
    if not config.enabled:
        config = replace(config, exporters=())  # they are not checked
    return config, _published(config, chosen, destination)


def given_options(given: Any) -> dict[str, Any]:
    """Return the options of a `VoltAgentConfig` or a mapping that were set there."""
    if given is None:
        return {}
    known: dict[str, Any]
    if isinstance(given, VoltAgentConfig):
        # A field that was left at its default may still come from the environment.
        known = {name: getattr(given, name) for name in given.model_fields_set}
        known.update(given.model_extra)
    elif isinstance(given, Mapping):
        known = dict(given)
    else:
        raise bad("config", "argument", f"must be a VoltAgentConfig or a dict, not {type(given).__name__}")
    for name in known:
        if name not in NAMES:
            raise bad("config", "argument", f"has an option that does not exist: {text(name, 60)}")
    return known


def _option(name: str, value: Any, environ: Mapping[str, str] | None) -> Any:
    check, default = _PUBLISHED[name]
    if value is not None:
        return check(value, name, "argument")
    variable = f"VOLTAGENT_{name.upper()}"
    found = (os.environ if environ is None else environ).get(variable)
    return check(found, name, f"environment variable {variable}") if found else default


def _published(config: Config, chosen: Mapping[str, Any], given: Mapping[str, Any]) -> VoltAgentConfig:
    found = voltagent_exporter(config)
    if found is None:  # not enabled, or with other destinations
        named = given["base_url"]
        url = config.address if config.exporters else named if isinstance(named, str) else DEFAULT_VOLTAGENT_URL
        return VoltAgentConfig(base_url=url, **chosen)
    keys = {"public_key": found.public_key, "secret_key": found.secret_key}
    return VoltAgentConfig(base_url=found.url, headers=dict(found.headers) or None, **keys, **chosen)


def voltagent_exporter(config: Config) -> VoltAgentExporter | None:
    """Return the first VoltAgent backend among the destinations."""
    return next((item for item in config.exporters if isinstance(item, VoltAgentExporter)), None)
