"""The options: the source of each value, and the refusal of invalid values."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope import AgentScopeClient, Config, ConfigurationError, Tracker, create_tracker
from agentscope.config import _PROTOCOLS, CHECKS, Options, ProtocolName, env_name, from_env
from agentscope.exporters.agentscope import AgentScopeExporter
from agentscope.exporters.otlp import OTLPExporter
from agentscope.options import OPTIONS, check_api_key, check_base_url

KEY = "ask_do_not_tell_anyone"


def drop(reason: str, count: int) -> None:
    """A hook for the options that take one."""


# Each option: an argument, its value in the configuration; a text in the environment, its value in the configuration.
GOOD: dict[str, tuple[Any, Any, str | None, Any]] = {
    "api_key": ("ask_a", "ask_a", "ask_b", "ask_b"),
    "base_url": ("https://a.example/", "https://a.example", "http://b.example:81/base/", "http://b.example:81/base"),
    "batch_size": (7, 7, " 8 ", 8),
    "flush_interval": (2, 2.0, "0.25", 0.25),
    "timeout": (5, 5.0, "1e1", 10.0),
    "fail_silently": (False, False, "no", False),
    "enabled": (True, True, "ON", True),
    "sample_rate": (0, 0.0, "0.5", 0.5),
    "max_queue_bytes": (1 << 20, 1 << 20, "65536", 65536),
    "max_batch_bytes": (2048, 2048, "+4096", 4096),
    "max_payload_bytes": (512, 512, "256", 256),
    "max_connections": (1, 1, "64", 64),
    "spool_dir": (Path("/var/spool/a"), "/var/spool/a", "/tmp/../b", "/b"),
    "spool_max_bytes": (1 << 20, 1 << 20, "1048577", 1048577),
    "flush_on_signal": (True, True, "yes", True),
    "shutdown_timeout": (0, 0.0, "600", 600.0),
    "max_retries": (0, 0, "7", 7),
    "retry_delay": (2, 2.0, "0.1", 0.1),
    "protocol": ("OTLP", "otlp", "agentscope", "agentscope"),
    "endpoint": ("http://a.example:4318/", "http://a.example:4318", "http://b.example", "http://b.example"),
    "headers": ({"a": "1"}, {"a": "1"}, "a=1,b=2=3", {"a": "1", "b": "2=3"}),
    "service_name": (" shop ", "shop", "till", "till"),
    "exporters": ([OTLPExporter()], None, None, None),
    "redact": (["a+"], ("a+",), "false", False),
    "on_drop": (drop, drop, None, None),
}


def load(environ: dict[str, str] | None = None, /, **options: Any) -> Config:
    return Config.load({"api_key": KEY, **options}, environ or {})


def refused(environ: dict[str, str] | None = None, /, **options: Any) -> str:
    """The text of the refusal, which must not hold the key."""
    with pytest.raises(ConfigurationError) as caught:
        load(environ, **options)
    assert KEY not in str(caught.value)
    return str(caught.value)


def test_every_option_is_in_the_table_of_this_test() -> None:
    assert set(GOOD) == {item.name for item in fields(Config)} == set(CHECKS)


@pytest.mark.parametrize("option", [option for option in GOOD if option != "exporters"])
def test_an_option_that_is_not_given_has_its_default(option: str) -> None:
    default = getattr(Config(), option)
    assert getattr(load(), option) == (KEY if option == "api_key" else default)


def test_without_exporters_everything_goes_to_the_one_backend_that_is_named() -> None:
    assert load(base_url="http://a.test").exporters == (AgentScopeExporter(api_key=KEY, base_url="http://a.test"),)
    told = Config.load({"protocol": "otlp", "endpoint": "http://b.test", "headers": {"x-key": "1"}}, {})
    (exporter,) = told.exporters
    assert (exporter.url, exporter.secrets) == ("http://b.test/v1/traces", ("1",))


URL = "http://a.test"


@pytest.mark.parametrize(
    ("options", "unused"),
    [
        ({"endpoint": URL}, "endpoint"),
        ({"headers": {"x-key": "1"}}, "headers"),
        ({"protocol": "agentscope", "endpoint": URL}, "endpoint"),
        ({"protocol": "otlp"}, "api_key"),
        ({"protocol": "otlp", "api_key": None, "base_url": URL}, "base_url"),
        ({"exporters": [OTLPExporter(endpoint=URL)]}, "api_key"),
        ({"exporters": [OTLPExporter(endpoint=URL)], "api_key": None, "base_url": URL}, "base_url"),
        ({"exporters": [AgentScopeExporter()], "protocol": "agentscope"}, "protocol"),
        ({"exporters": [AgentScopeExporter()], "endpoint": URL}, "endpoint"),
    ],
)
def test_an_argument_that_would_send_nothing_anywhere_is_refused(options: dict[str, Any], unused: str) -> None:
    assert refused(**options).startswith(f"{unused} (from argument) is not used ")


def test_variables_for_other_protocols_are_no_error() -> None:
    environ = {"AGENTSCOPE_API_KEY": KEY, "AGENTSCOPE_BASE_URL": URL, "AGENTSCOPE_ENDPOINT": "http://b.test"}
    assert load(environ).address == URL
    assert load(environ, api_key=None, protocol="otlp").address == "http://b.test/v1/traces"
    assert load({**environ, "AGENTSCOPE_PROTOCOL": "otlp"}).address == "http://b.test/v1/traces"


def test_a_disabled_tracker_accepts_arguments_of_other_protocols() -> None:
    assert not load(enabled=False, endpoint=URL).enabled


def test_an_agentscope_exporter_takes_what_it_lacks_from_the_tracker() -> None:
    (exporter,) = load(base_url="http://a.test", exporters=[AgentScopeExporter(timeout=3)]).exporters
    assert exporter == AgentScopeExporter(api_key=KEY, base_url="http://a.test", timeout=3)


@pytest.mark.parametrize("option", [option for option in GOOD if option != "exporters"])
def test_an_argument_counts_before_the_environment(option: str) -> None:
    argument, expected, other, _ = GOOD[option]
    spans = {"api_key": None, "protocol": "otlp"} if option in ("protocol", "endpoint", "headers") else {}
    assert getattr(load({env_name(option): other or "ignored"}, **{**spans, option: argument}), option) == expected


@pytest.mark.parametrize("option", [option for option, row in GOOD.items() if row[2] is not None])
def test_the_environment_counts_before_the_default(option: str) -> None:
    _, _, text, expected = GOOD[option]
    options = {"api_key": KEY} if option != "api_key" else {}
    assert getattr(Config.load(options, {env_name(option): text or ""}), option) == expected


@pytest.mark.parametrize("option", GOOD)
def test_an_empty_variable_is_as_good_as_none(option: str) -> None:
    assert getattr(load({env_name(option): ""}), option) == getattr(load(), option)


def test_a_value_that_is_long_when_written_out_is_shown_in_part() -> None:
    assert refused(batch_size="\U00010cf3" * 60).endswith("…")


def test_variables_that_name_no_option_are_ignored() -> None:
    strays = {"AGENTSCOPE_COLOUR": "red", "AGENTSCOPE_ON_DROP": "print", "BATCH_SIZE": "none"}
    assert load(strays) == load()


def test_the_process_environment_is_read_when_no_other_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_env("batch_size") is None
    monkeypatch.setenv("AGENTSCOPE_BATCH_SIZE", "31")
    assert from_env("batch_size") == "31"
    assert Config.load({"api_key": KEY}).batch_size == 31


BAD: list[tuple[str, Any, str]] = [
    ("batch_size", 0, "a whole number from 1 to 10000, not 0"),
    ("batch_size", 10_001, "from 1 to 10000"),
    ("batch_size", -5, "not -5"),
    ("batch_size", 1.5, "not 1.5"),
    ("batch_size", True, "not True"),
    ("batch_size", "many", "not 'many'"),
    ("batch_size", "1" * 5000, "whole number"),
    ("batch_size", 10**5000, "whole number"),
    ("batch_size", [1], "not list"),
    ("flush_interval", -0.1, "a number from 0 to 3600, not -0.1"),
    ("flush_interval", float("nan"), "not nan"),
    ("flush_interval", float("inf"), "not inf"),
    ("flush_interval", "soon", "not 'soon'"),
    ("flush_interval", "nan", "not 'nan'"),
    ("flush_interval", True, "not True"),
    ("flush_interval", 10**5000, "a number from 0 to 3600"),
    ("flush_interval", object(), "not object"),
    ("timeout", 0, "a number from 0.05 to 600"),
    ("timeout", 601, "a number from 0.05 to 600"),
    ("fail_silently", "maybe", "true or false, not 'maybe'"),
    ("fail_silently", 1, "true or false, not 1"),
    ("enabled", "", "true or false"),
    ("enabled", None.__class__, "true or false, not type"),
    ("sample_rate", 1.01, "a number from 0 to 1"),
    ("sample_rate", -1, "a number from 0 to 1"),
    ("max_queue_bytes", 65_535, "a whole number from 65536"),
    ("max_batch_bytes", 1023, "a whole number from 1024"),
    ("max_payload_bytes", 255, "a whole number from 256"),
    ("max_connections", 0, "a whole number from 1 to 64"),
    ("spool_dir", b"/tmp", "the path of a directory, not bytes"),
    ("spool_dir", "a\0b", "the path of a directory"),
    ("spool_dir", 5, "the path of a directory, not 5"),
    ("spool_max_bytes", 1 << 19, "a whole number from 1048576"),
    ("flush_on_signal", "maybe", "true or false, not 'maybe'"),
    ("shutdown_timeout", -1, "a number from 0 to 600"),
    ("max_retries", -1, "a whole number from 0"),
    ("retry_delay", 61, "a number from 0 to 60"),
    ("protocol", "grpc", "one of agentscope, otlp, not 'grpc'"),
    ("protocol", 1, "one of agentscope, otlp, not 1"),
    ("endpoint", "collector:4317", "an http:// or https:// URL"),
    ("headers", ["a"], "a mapping of header names to values, not list"),
    ("headers", {"a b": "1"}, "a name that is not a header's"),
    ("headers", {"a": "1\n2"}, "a value for a that is not one line"),
    ("headers", {"a": 1}, "a value for a that is not one line"),
    ("service_name", " ", "a str that is not empty"),
    ("exporters", [], "at least one"),
    ("exporters", ["otlp"], "a list of AgentScopeExporter"),
    ("exporters", OTLPExporter(), "a list of exporters"),
    ("exporters", [object()], "an object with export(events, timeout), not object"),
    ("redact", 5, "a callable, or a sequence of regular expressions"),
    ("redact", "secret", "a callable, or a sequence of regular expressions"),
    ("redact", ["ok", 5], "a sequence of regular expressions"),
    ("redact", {"a"}, "a sequence of regular expressions"),
    ("redact", [re.compile(b"bytes")], "a sequence of regular expressions"),
    ("redact", ["("], "not a regular expression"),
    ("redact", ["a{99999999999999999999}"], "not a regular expression"),
    ("on_drop", "print", "callable with (reason, count)"),
    ("base_url", 5, "an http:// or https:// URL with a host"),
    ("api_key", b"ask", "must be a str, not bytes"),
]


@pytest.mark.parametrize(("option", "value", "allowed"), BAD, ids=range(len(BAD)))
def test_a_bad_argument_names_itself_its_source_and_what_is_allowed(option: str, value: Any, allowed: str) -> None:
    sentence = refused(**{option: value})
    assert sentence.startswith(f"{option} (from argument) ")
    assert allowed in sentence
    assert len(sentence) < 250


@pytest.mark.parametrize(
    ("option", "text", "allowed"),
    [
        ("batch_size", "0", "a whole number from 1 to 10000, not '0'"),
        ("batch_size", "1.5", "not '1.5'"),
        ("batch_size", "١", "a whole number"),
        ("flush_interval", "-1", "a number from 0 to 3600"),
        ("fail_silently", "2", "true or false, not '2'"),
        ("redact", "secret", "true or false"),
        ("base_url", "localhost:8000", "an http:// or https:// URL with a host"),
    ],
)
def test_a_bad_variable_names_itself_its_source_and_what_is_allowed(option: str, text: str, allowed: str) -> None:
    sentence = refused({env_name(option): text})
    assert sentence.startswith(f"{option} (from environment variable AGENTSCOPE_{option.upper()}) ")
    assert allowed in sentence


@pytest.mark.parametrize(
    "key",
    [
        "",
        " ",
        "\t",
        "two\nlines",
        "carriage\rreturn",
        "two words",
        "schlüssel",
        "密钥",
        "nul\0",
        "\x7f",
        "a\u200b",
    ],
)
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Config.load({"api_key": key}, {})
    sentence = str(caught.value)
    assert sentence.startswith("api_key (from argument) ")
    assert key.strip() == "" or key.strip() not in sentence


@pytest.mark.parametrize("key", [" ask_1\t", "ask_1\n", "ask_1\r\n", "\n\task_1 \n"])
def test_blanks_and_line_ends_around_a_key_are_not_part_of_it(key: str) -> None:
    assert check_api_key(key) == "ask_1"
    assert Config.load({}, {"AGENTSCOPE_API_KEY": key}).api_key == "ask_1"
    assert Config.load({}, {"AGENTSCOPE_API_KEY": key}).secrets == ("ask_1",)


def test_a_line_end_after_any_value_is_not_part_of_it() -> None:
    environ = {"AGENTSCOPE_SPOOL_DIR": "/var/spool\n", "AGENTSCOPE_BASE_URL": "http://localhost:8000\n"}
    environ |= {"AGENTSCOPE_SERVICE_NAME": "bot\r\n", "AGENTSCOPE_BATCH_SIZE": "7\n", "AGENTSCOPE_ENABLED": "true\n"}
    told = Config.load({}, environ)
    assert (told.spool_dir, told.base_url, told.service_name) == ("/var/spool", "http://localhost:8000", "bot")
    assert (told.batch_size, told.enabled) == (7, True)


@pytest.mark.parametrize(
    "text",
    [
        "Authorization=Bearer x,tenant=7",
        "Authorization: Bearer x, tenant: 7",
        " Authorization :Bearer x\n,tenant=7\r\n,",
    ],
)
def test_headers_of_the_environment_may_be_written_with_either_separator(text: str) -> None:
    told = Config.load({"protocol": "otlp"}, {"AGENTSCOPE_HEADERS": text})
    assert dict(told.headers) == {"Authorization": "Bearer x", "tenant": "7"}


@pytest.mark.parametrize(
    "text", ["Bearer s3cret", "Authorization=Bearer a,s3cret", "Authorization s3cret", '"a=s3cret"']
)
def test_headers_that_cannot_be_read_are_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigurationError, match="AGENTSCOPE_HEADERS") as caught:
        Config.load({"protocol": "otlp"}, {"AGENTSCOPE_HEADERS": text})
    assert "s3cret" not in str(caught.value)


def test_a_missing_key_for_another_machine_says_how_to_give_one() -> None:
    with pytest.raises(ConfigurationError, match=r"pass api_key=… or set AGENTSCOPE_API_KEY"):
        Config.load({"base_url": "http://host.test"}, {})


def test_a_key_of_the_environment_that_is_bad_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Config.load({}, {"AGENTSCOPE_API_KEY": f"{KEY}\n{KEY}"})
    assert "environment variable AGENTSCOPE_API_KEY" in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_disabled_sdk_needs_no_key() -> None:
    assert Config.load({"enabled": False}, {}).api_key is None
    assert Config.load({"base_url": "http://host.test"}, {"AGENTSCOPE_ENABLED": "0"}).api_key is None


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://localhost:8000/", "http://localhost:8000"),
        (" https://a.example \n", "https://a.example"),
        ("https://a.example/base/path//", "https://a.example/base/path"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("HTTPS://A.example", "HTTPS://A.example"),
    ],
)
def test_a_url_keeps_its_path_and_loses_the_slash_at_its_end(url: str, kept: str) -> None:
    assert check_base_url(url) == kept


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "localhost:8000",
        "//a.example",
        "ftp://a.example",
        "file:///etc/passwd",
        "http://",
        "http://:8000",
        "http:///path",
        "http://a.example:port",
        "http://a.example:99999",
        "http://a.example:0",
        "http://[::1",
        "http://a b.example",
        "http://a.example/two words",
        "http://a.example/\tx",
        "http://a.example\\@b.example",
        "http://user@a.example",
        "http://user:word@a.example",
        "http://:word@a.example",
        "http://@a.example",
        "http://a.example?key=1",
        "http://a.example?",
        "http://a.example/#part",
        "http://a.example#",
        None,
        b"http://a.example",
    ],
)
def test_a_url_that_cannot_be_posted_to_is_refused_and_not_shown(url: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_base_url(url)
    assert str(caught.value).startswith("base_url (from argument) must ")
    assert "word@" not in str(caught.value)


@given(st.text())
def test_any_text_is_a_url_that_is_kept_or_a_configuration_error(text: str) -> None:
    try:
        kept = check_base_url(text)
    except ConfigurationError:
        return
    assert check_base_url(kept) == kept
    assert kept.lower().startswith(("http://", "https://"))


@given(
    st.sampled_from(sorted(CHECKS)), st.one_of(st.text(), st.integers(), st.floats(), st.binary(), st.lists(st.text()))
)
def test_any_value_of_any_option_is_taken_or_refused_in_one_short_line(option: str, value: Any) -> None:
    sentence = ""
    try:
        checked = CHECKS[option](value, option, "argument")
    except ConfigurationError as refusal:
        sentence = str(refusal)
    if sentence:
        assert sentence.startswith(f"{option} (from argument) ")
        assert len(sentence) < 250
        assert sentence.isprintable()
    else:
        assert CHECKS[option](checked, option, "argument") == checked


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(load(), "batch_size", 5)


@pytest.mark.parametrize("show", [repr, str, "{0}".format, "{0!r}".format])
def test_no_text_of_a_configuration_shows_what_is_secret(show: Any) -> None:
    shown = show(load(redact=["hunter2"], on_drop=drop, batch_size=9))
    assert shown.startswith("Config(api_key=…, base_url='http://localhost:8000', batch_size=9, ")
    assert KEY not in shown
    assert "hunter2" not in shown
    assert "redact=…, on_drop=…" in shown
    assert "api_key=None" in repr(Config())
    assert "redact=True, on_drop=None" in repr(Config())


def test_a_redactor_may_be_a_function_or_patterns_or_a_switch() -> None:
    def mask(event: dict[str, Any]) -> dict[str, Any]:
        return event

    pattern = re.compile("b+")
    assert load(redact=mask).redact is mask
    assert load(redact=["a", pattern]).redact == ("a", pattern)
    assert load(redact=False).redact is False
    assert load(redact="off").redact is False


def test_a_tracker_refuses_a_bad_option_even_if_it_fails_silently() -> None:
    with pytest.raises(ConfigurationError, match="batch_size"):
        create_tracker(KEY, batch_size=0, fail_silently=True)
    with pytest.raises(ConfigurationError, match="api_key"):
        create_tracker(base_url="http://host.test")


def test_a_client_lends_its_options_to_a_tracker_where_they_are_not_given() -> None:
    client = AgentScopeClient(KEY, "http://lent.test", timeout=7, fail_silently=False)
    config = Tracker(client, timeout=3, enabled=False)._config
    assert (config.api_key, config.base_url, config.timeout, config.fail_silently) == (
        KEY,
        "http://lent.test",
        3.0,
        False,
    )
    client.close()


def test_a_key_given_in_place_of_the_client_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Tracker(KEY)
    assert str(caught.value).startswith("client (from argument) must be an AgentScopeClient, not str")
    assert "api_key=…" in str(caught.value)
    assert KEY not in str(caught.value)


def test_the_type_of_the_protocol_has_each_protocol_there_is() -> None:
    assert {*get_args(ProtocolName)} == {*_PROTOCOLS}


def test_the_table_the_types_and_the_configuration_have_the_same_options() -> None:
    assert set(OPTIONS) == set(Options.__annotations__) == {item.name for item in fields(Config)}


@pytest.mark.parametrize("name", OPTIONS)
def test_help_lists_each_option_with_type_default_and_a_sentence(name: str) -> None:
    option = OPTIONS[name]
    assert f"    {name}: {option.type} = " in str(create_tracker.__doc__)
    assert f"        {option.text}\n" in str(create_tracker.__doc__)
    assert option.text.endswith(".")


@pytest.mark.parametrize("url", ["http://localhost:8000", "http://127.0.0.1:1", "http://[::1]:1"])
def test_a_receiver_on_this_machine_needs_no_key(url: str) -> None:
    config = Config.load({"base_url": url}, {})
    assert config.secrets == ()
    assert config.exporters[0].url == url


@pytest.mark.parametrize("url", ["http://localhost:8000", "http://host.test"])
@pytest.mark.parametrize("key", ["", " "])
def test_an_empty_key_is_refused_at_any_address(url: str, key: str) -> None:
    with pytest.raises(ConfigurationError, match=r"api_key .* is empty"):
        Config.load({"base_url": url, "api_key": key}, {})
