"""The exporters: their arguments, their environment variables, and their reprs without keys."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from agentscope.config import Config
from agentscope.errors import ConfigurationError
from agentscope.exporters.agentscope import AgentScopeExporter
from agentscope.exporters.base import Destination
from agentscope.exporters.otlp import OTLPExporter, service_name
from agentscope.exporters.voltagent import VoltAgentExporter

KEY = "do-not-tell-anyone"


def test_an_otlp_exporter_needs_nothing() -> None:
    assert OTLPExporter().checked({}).url == "http://localhost:4318/v1/traces"


@pytest.mark.parametrize(
    ("given", "environ", "url"),
    [
        ("http://a.test", {}, "http://a.test/v1/traces"),
        ("http://a.test/", {}, "http://a.test/v1/traces"),
        ("http://a.test/v1/traces", {}, "http://a.test/v1/traces"),
        ("http://a.test/api/public/otel", {}, "http://a.test/api/public/otel/v1/traces"),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b.test:4318"}, "http://b.test:4318/v1/traces"),
        ("", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c.test/spans"}, "http://c.test/spans"),
        (
            "",
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://b.test",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c.test/v1/traces",
            },
            "http://c.test/v1/traces",
        ),
        ("http://a.test", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b.test"}, "http://a.test/v1/traces"),
    ],
)
def test_the_path_for_traces_is_appended_where_the_specification_says_so(
    given: str, environ: dict[str, str], url: str
) -> None:
    assert OTLPExporter(endpoint=given).checked(environ).url == url


def test_the_standard_variables_are_read_and_those_for_traces_count_more() -> None:
    told = OTLPExporter().checked(
        {
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=general",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "api-key=own%20one, x=1",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": "/etc/own.pem",
        }
    )
    assert dict(told.headers) == {"api-key": "own one", "x": "1"}
    assert (told.timeout, told.encoding, told.compression, told.certificate) == (2.5, "json", "none", "/etc/own.pem")


@pytest.mark.parametrize(
    "text", ["Authorization=Bearer%20x=,b=1", "Authorization: Bearer x=, b: 1", "Authorization=Bearer x=,b=1\n"]
)
def test_headers_of_the_standard_variable_may_be_written_as_on_the_wire(text: str) -> None:
    told = OTLPExporter().checked({"OTEL_EXPORTER_OTLP_HEADERS": text})
    assert dict(told.headers) == {"Authorization": "Bearer x=", "b": "1"}


def test_a_key_in_headers_that_cannot_be_read_is_refused_and_not_left_out() -> None:
    with pytest.raises(ConfigurationError, match=r"OTEL_EXPORTER_OTLP_HEADERS\) must be name=value") as caught:
        OTLPExporter().checked({"OTEL_EXPORTER_OTLP_HEADERS": "Bearer s3cret"})
    assert "s3cret" not in str(caught.value)


def test_arguments_count_before_the_standard_variables() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "a=1",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "/etc/own.pem",
    }
    given = OTLPExporter(headers={"b": "2"}, timeout=1, encoding="protobuf", compression="gzip", certificate="/a.pem")
    told = given.checked(environ)
    assert (dict(told.headers), told.timeout, told.encoding) == ({"b": "2"}, 1.0, "protobuf")
    assert (told.compression, told.certificate) == ("gzip", "/a.pem")


@pytest.mark.parametrize(("text", "seconds"), [("10", 10.0), ("0.5", 0.5), ("60", 60.0), ("500", 0.5), ("10000", 10.0)])
def test_a_timeout_is_read_as_either_of_the_units_in_use(text: str, seconds: float) -> None:
    assert OTLPExporter().checked({"OTEL_EXPORTER_OTLP_TIMEOUT": text}).timeout == seconds


def test_only_headers_that_hold_a_key_are_secrets() -> None:
    headers = {"X-Scope-OrgID": "production", "Authorization": "Bearer abc", "x-api-key": "def"}
    assert OTLPExporter(headers=headers).secrets == ("abc", "def")


@pytest.mark.parametrize(
    ("exporter", "environ", "what"),
    [
        (OTLPExporter(), {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "one of http/protobuf, http/json, not 'grpc'"),
        (OTLPExporter(), {"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "environment variable OTEL_EXPORTER_OTLP_TIMEOUT"),
        (OTLPExporter(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "nowhere"}, "endpoint (from environment variable OTEL"),
        (OTLPExporter(), {"OTEL_EXPORTER_OTLP_HEADERS": "a b=1"}, "a name that is not a header's"),
        (OTLPExporter(encoding="xml"), {}, "one of protobuf, json, not 'xml'"),
        (OTLPExporter(compression="br"), {}, "one of gzip, none, not 'br'"),
        (OTLPExporter(certificate=5), {}, "certificate (from argument) must be a str"),
        (OTLPExporter(batch_size=0), {}, "a whole number from 1"),
        (AgentScopeExporter(base_url="http://host.test"), {}, "api_key is missing"),
        (VoltAgentExporter(public_key="pk"), {}, "secret_key is missing"),
        (VoltAgentExporter(secret_key="sk"), {}, "public_key is missing"),
        (VoltAgentExporter(), {"VOLTAGENT_PUBLIC_KEY": "a b"}, "environment variable VOLTAGENT_PUBLIC_KEY"),
    ],
)
def test_a_value_that_cannot_work_is_named_with_its_source(exporter: Destination, environ: Any, what: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        exporter.checked(environ)
    assert what in str(caught.value)


def test_a_voltagent_exporter_takes_what_is_missing_from_the_environment() -> None:
    environ = {"VOLTAGENT_PUBLIC_KEY": "pk", "VOLTAGENT_SECRET_KEY": "sk", "VOLTAGENT_BASE_URL": "http://v.test/"}
    told = VoltAgentExporter(public_key="own").checked(environ)
    assert (told.url, told.secrets) == ("http://v.test", ("sk", "own"))
    del environ["VOLTAGENT_BASE_URL"]
    assert VoltAgentExporter().checked(environ).url == "https://api.voltagent.dev"


@pytest.mark.parametrize(
    "exporter",
    [
        AgentScopeExporter(api_key=KEY),
        OTLPExporter(headers={"Authorization": f"Bearer {KEY}"}),
        VoltAgentExporter(public_key=KEY, secret_key=KEY, headers={"x": KEY}),
    ],
)
def test_no_key_is_shown(exporter: Destination) -> None:
    assert KEY not in repr(exporter)
    assert KEY in exporter.secrets or KEY in " ".join(exporter.secrets)


def test_an_exporters_own_options_override_those_of_the_tracker() -> None:
    assert OTLPExporter(batch_size=7, timeout=2).checked({}).overrides() == {"batch_size": 7, "timeout": 2.0}


@pytest.mark.parametrize(
    ("given", "environ", "resource"),
    [
        ("", {}, {"service.name": "unknown_service:python"}),
        ("shop", {"OTEL_SERVICE_NAME": "till"}, {"service.name": "shop"}),
        ("", {"OTEL_SERVICE_NAME": "till"}, {"service.name": "till"}),
        (
            "",
            {"OTEL_RESOURCE_ATTRIBUTES": "service.name=a,deployment.environment=prod%2Feu,,bad"},
            {"service.name": "a", "deployment.environment": "prod/eu"},
        ),
        ("", {"OTEL_RESOURCE_ATTRIBUTES": "service.name=a", "OTEL_SERVICE_NAME": "b"}, {"service.name": "b"}),
    ],
)
def test_the_service_is_named_as_opentelemetry_has_it(
    given: str, environ: dict[str, str], resource: dict[str, str]
) -> None:
    assert service_name(given, environ) == resource


@pytest.mark.parametrize("given", [[Destination()], [AgentScopeExporter], AgentScopeExporter(api_key=KEY), []])
def test_an_invalid_list_of_exporters_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"exporters .* must be a list of"):
        Config.load({"exporters": given}, {})


@pytest.mark.parametrize(
    "value",
    [
        AgentScopeExporter(api_key=KEY),
        OTLPExporter(headers={"Authorization": KEY}),
        VoltAgentExporter(secret_key=KEY),
        Config(api_key=KEY),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_object_with_a_key_is_not_pickled_and_the_refusal_does_not_show_the_key(value: object) -> None:
    with pytest.raises(TypeError, match="holds a key and is not pickled") as caught:
        pickle.dumps(value)
    assert KEY not in str(caught.value)


def test_a_copy_of_an_exporter_is_the_exporter() -> None:
    exporter = AgentScopeExporter(api_key=KEY)
    assert copy.copy(exporter) is copy.deepcopy(exporter) is exporter
