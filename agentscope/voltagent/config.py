"""The options of an SDK: those of the document from arguments and `VOLTAGENT_*`, our own as a tracker has them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from agentscope._validation import bad, boolean
from agentscope.config import Config
from agentscope.exporters.base import OVERRIDES
from agentscope.exporters.voltagent import DEFAULT_VOLTAGENT_URL, VoltAgentExporter
from agentscope.serialization.snapshot import text

from .types import VoltAgentConfig

NO_INTERVAL = 3600.0
"""Seconds: the interval where nothing is to be sent on one."""

_OF_THE_DOCUMENT: dict[str, tuple[Callable[[Any, str, str], Any], Any]] = {
    "auto_flush": (boolean, True),
    "flush_interval": (OVERRIDES["flush_interval"], 5.0),
    "timeout": (OVERRIDES["timeout"], 30.0),
    "max_retries": (OVERRIDES["max_retries"], None),
    "retry_delay": (OVERRIDES["retry_delay"], 1.0),
}
"""Check and default; the address and the keys are the destination's."""
_DESTINATION = ("base_url", "public_key", "secret_key", "headers")


def load(
    options: Mapping[str, Any], given: Any = None, environ: Mapping[str, str] | None = None
) -> tuple[Config, VoltAgentConfig]:
    """The configuration, as the pipeline has it and as the published package names it.

    `options`: by name, None where not given. `given`: a `VoltAgentConfig` or a mapping, for what `options` leave open.
    Raises `ConfigurationError` for the first value that cannot work.
    """
    known = {**_given(given, options), **{name: value for name, value in options.items() if value is not None}}
    chosen = {name: _option(name, known.pop(name, None), environ) for name in _OF_THE_DOCUMENT}
    destination = {name: known.pop(name, None) for name in _DESTINATION}
    exporters = known.pop("exporters", None)
    if exporters is None:
        exporters = [VoltAgentExporter(**{name: value for name, value in destination.items() if value is not None})]
    config = Config.load(
        {
            **known,
            "exporters": exporters,
            "flush_interval": chosen["flush_interval"] if chosen["auto_flush"] else NO_INTERVAL,
            "timeout": chosen["timeout"],
            "max_retries": chosen["max_retries"],
            "retry_delay": chosen["retry_delay"],
        },
        environ,
    )
    if not config.enabled:
        config = replace(config, exporters=())  # which nobody has checked
    return config, _published(config, chosen, destination)


def _given(given: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    if given is None:
        return {}
    known: dict[str, Any]
    if isinstance(given, VoltAgentConfig):
        # What was left at its default there may still come from the environment.
        known = {name: getattr(given, name) for name in given.model_fields_set}
        known.update(given.model_extra)
    elif isinstance(given, Mapping):
        known = dict(given)
    else:
        raise bad("config", "argument", f"must be a VoltAgentConfig or a dict, not {type(given).__name__}")
    for name in known:
        if name not in options:
            raise bad("config", "argument", f"names an option that there is not: {text(name, 60)}")
    return known


def _option(name: str, value: Any, environ: Mapping[str, str] | None) -> Any:
    check, default = _OF_THE_DOCUMENT[name]
    if value is not None:
        return check(value, name, "argument")
    variable = f"VOLTAGENT_{name.upper()}"
    found = (os.environ if environ is None else environ).get(variable)
    return check(found, name, f"environment variable {variable}") if found else default


def _published(config: Config, chosen: Mapping[str, Any], given: Mapping[str, Any]) -> VoltAgentConfig:
    found = next((item for item in config.exporters if isinstance(item, VoltAgentExporter)), None)
    if found is None:  # switched off, or with other destinations
        named = given["base_url"]
        url = config.address if config.exporters else named if isinstance(named, str) else DEFAULT_VOLTAGENT_URL
        return VoltAgentConfig(base_url=url, public_key="", secret_key="", **chosen)
    headers = dict(found.headers) or None
    keys = {"public_key": found.public_key, "secret_key": found.secret_key}
    return VoltAgentConfig(base_url=found.base_url, headers=headers, **keys, **chosen)
