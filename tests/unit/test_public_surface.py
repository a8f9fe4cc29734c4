"""The public surface: the names, their signatures and their documentation."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import Any, get_args

import pytest

import agentscope

PUBLIC = [
    "APIError",
    "AgentScopeClient",
    "AgentScopeError",
    "AgentScopeExporter",
    "AuthenticationError",
    "Config",
    "ConfigurationError",
    "ConsoleExporter",
    "CustomExporter",
    "EventExporter",
    "EventRecord",
    "ExportResult",
    "FlushResult",
    "InMemoryExporter",
    "JSONDict",
    "OTLPExporter",
    "Run",
    "RunConfig",
    "RunResponse",
    "RunStatus",
    "RunTracker",
    "Stats",
    "Step",
    "StepConfig",
    "StepType",
    "Tracker",
    "VoltAgentExporter",
    "__version__",
    "create_tracker",
]

# The parameters of the seed document, in its order, with its defaults. More may be added, and none removed.
REQUIRED = inspect.Parameter.empty
SEED_SIGNATURES: dict[str, list[tuple[str, Any]]] = {
    "create_tracker": [("api_key", REQUIRED), ("base_url", "http://localhost:8000")],
    "Tracker.start_run": [("agent_name", REQUIRED), ("input_data", None), ("external_id", None), ("meta_data", None)],
    "Tracker.track_step": [
        ("name", REQUIRED),
        ("step_type", "other"),
        ("input_data", None),
        ("output_data", None),
        ("error", None),
        ("tokens_used", None),
        ("latency_ms", None),
        ("meta_data", None),
        ("run_id", None),
    ],
    "Tracker.end_run": [("status", "completed"), ("output", None), ("error", None), ("run_id", None)],
    "Tracker.track_run": [("agent_name", REQUIRED), ("input_data", None)],
    "Tracker.track_step_context": [("name", REQUIRED), ("step_type", "other"), ("input_data", None)],
    "AgentScopeClient": [
        ("api_key", REQUIRED),
        ("base_url", "http://localhost:8000"),
        ("timeout", 30),
        ("fail_silently", True),
    ],
    "AgentScopeClient.create_run": [("config", REQUIRED)],
    "AgentScopeClient.add_step": [("run_id", REQUIRED), ("config", REQUIRED)],
    "AgentScopeClient.complete_run": [
        ("run_id", REQUIRED),
        ("status", "completed"),
        ("output", None),
        ("error", None),
    ],
    "AgentScopeClient.close": [],
}

# Defaults that are not in the signature, because an option without an argument may come from the environment.
FROM_ENVIRONMENT = {
    "create_tracker": {"api_key", "base_url"},
    "AgentScopeClient": {"api_key", "base_url", "timeout", "fail_silently"},
}

SEED_FIELDS = {
    "RunConfig": ["external_id", "agent_name", "input", "meta_data"],
    "StepConfig": [
        "step_type",
        "name",
        "input",
        "output",
        "meta_data",
        "error",
        "tokens_used",
        "latency_ms",
        "started_at",
        "ended_at",
    ],
    "RunResponse": ["id", "project_id", "external_id", "agent_name", "status", "started_at", "created_at"],
}


def find(name: str) -> Any:
    value: Any = agentscope
    for part in name.split("."):
        value = getattr(value, part)
    return value


def parameters(name: str) -> list[inspect.Parameter]:
    found = list(inspect.signature(find(name)).parameters.values())
    return [parameter for parameter in found if parameter.name != "self"]


def test_the_package_exports_these_names_and_no_others() -> None:
    assert sorted(agentscope.__all__) == sorted(PUBLIC)
    assert len(set(agentscope.__all__)) == len(agentscope.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_exported_name_is_there(name: str) -> None:
    assert hasattr(agentscope, name)


def public_callables() -> list[str]:
    found = []
    for name in PUBLIC:
        value = getattr(agentscope, name)
        if inspect.isclass(value):
            found.append(name)
            found += [
                f"{name}.{inner}"
                for inner, member in vars(value).items()
                if not inner.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
            ]
        elif callable(value) and inspect.isfunction(value):
            found.append(name)
    return sorted(found)


@pytest.mark.parametrize("name", public_callables())
def test_every_public_class_function_and_method_is_documented(name: str) -> None:
    documentation = vars(find(name)).get("__doc__") if inspect.isclass(find(name)) else inspect.getdoc(find(name))
    assert documentation
    assert not re.match(rf"{name}\(", documentation), "this is what a dataclass writes by itself"


@pytest.mark.parametrize("name", SEED_SIGNATURES)
def test_the_signatures_of_the_seed_document_hold(name: str) -> None:
    expected = SEED_SIGNATURES[name]
    found = parameters(name)[: len(expected)]
    assert [parameter.name for parameter in found] == [parameter for parameter, _ in expected]
    for parameter, (_, default) in zip(found, expected, strict=True):
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        if parameter.name not in FROM_ENVIRONMENT.get(name, ()):
            assert parameter.default == default


@pytest.mark.parametrize("name", SEED_FIELDS)
def test_the_records_of_the_seed_document_keep_their_fields_in_order(name: str) -> None:
    assert [item.name for item in fields(find(name))] == SEED_FIELDS[name]


def test_the_seeds_name_for_the_tracker_is_the_tracker() -> None:
    assert agentscope.RunTracker is agentscope.Tracker


def test_the_step_types_and_statuses_of_the_seed_document_exist() -> None:
    assert {"llm_call", "tool_call", "reasoning", "other"} <= set(get_args(agentscope.StepType))
    assert {"running", "completed", "failed"} <= set(get_args(agentscope.RunStatus))


def test_errors_derive_as_in_the_seed_document_and_carry_the_status() -> None:
    for error in (agentscope.AuthenticationError, agentscope.APIError, agentscope.ConfigurationError):
        assert issubclass(error, agentscope.AgentScopeError)
    assert agentscope.APIError("refused", 422).status_code == 422
    assert agentscope.APIError("refused").status_code is None
