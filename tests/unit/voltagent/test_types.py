"""The published names, the fields of their records, and their errors."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
import traceback
from dataclasses import fields
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentscope.voltagent as volt
from agentscope import AgentScopeError
from agentscope.protocols.voltagent.vocabulary import _MAX_DEPTH, _MAX_KEYS
from agentscope.voltagent import types
from tests.support.hostile_objects import HOSTILE

# The `__all__` of `voltagent` 0.1.1.
PUBLISHED = [
    "VoltAgentSDK",
    "VoltAgentCoreAPI",
    "VoltAgentConfig",
    "CreateHistoryRequest",
    "UpdateHistoryRequest",
    "AddEventRequest",
    "UpdateEventRequest",
    "History",
    "Event",
    "TimelineEvent",
    "TraceOptions",
    "AgentOptions",
    "ToolOptions",
    "MemoryOptions",
    "RetrieverOptions",
    "EventStatus",
    "EventLevel",
    "TraceStatus",
    "TokenUsage",
    "VoltAgentError",
    "APIError",
    "TimeoutError",
    "ValidationError",
    "__version__",
]

# The fields of each record in `voltagent` 0.1.1, and the required ones. There, a configuration needs keys, too.
FIELDS = {
    "TokenUsage": "prompt_tokens completion_tokens total_tokens",
    "TimelineEvent": "id name! type! startTime endTime status level statusMessage parentEventId traceId input output tags "
    "metadata version",
    "Event": "id! history_id! event_type! event_name! start_time end_time status! status_message level parent_event_id "
    "input output tags metadata version created_at updated_at",
    "History": "id! agent_id! user_id conversation_id start_time end_time completion_start_time status input output tags "
    "metadata version level usage created_at updated_at",
    "CreateHistoryRequest": "id agent_id! userId conversationId startTime completionStartTime status input tags metadata "
    "version level",
    "UpdateHistoryRequest": "id! end_time completion_start_time status input output tags metadata version level usage",
    "AddEventRequest": "history_id! event!",
    "UpdateEventRequest": "id! end_time status status_message level input output tags metadata version",
    "VoltAgentConfig": "base_url! public_key secret_key timeout headers auto_flush flush_interval max_retries retry_delay",
    "TraceOptions": "id agentId! userId conversationId input tags metadata version level startTime completionStartTime",
    "AgentOptions": "name! input instructions metadata",
    "ToolOptions": "name! input metadata",
    "MemoryOptions": "name! input metadata",
    "RetrieverOptions": "name! input metadata",
    "SuccessOptions": "output metadata",
    "AgentSuccessOptions": "output metadata usage",
    "ErrorOptions": "status_message! metadata",
}
PLACE = {"base_url": "u", "public_key": "p", "secret_key": "s"}
EVENT = {"id": "e", "history_id": "h", "event_type": "tool", "event_name": "tool:start", "status": "running"}
SECRET = "hunter2 in a payload"


# ---- names -----------------------------------------------------------------------------------------------------------


def test_every_name_that_the_published_package_exports_is_there() -> None:
    assert [name for name in PUBLISHED if name not in volt.__all__ or not hasattr(volt, name)] == []


def test_nothing_is_exported_that_is_not_there_and_nothing_twice() -> None:
    assert [name for name in volt.__all__ if not hasattr(volt, name)] == []
    assert sorted(set(volt.__all__)) == sorted(volt.__all__)
    assert dir(volt) == sorted(volt.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = volt.Nothing


def test_the_published_names_of_the_handles_are_the_handles() -> None:
    assert (volt.TraceContext, volt.AgentContext, volt.ToolContext) == (volt.Trace, volt.Agent, volt.Tool)
    assert (volt.MemoryContext, volt.RetrieverContext) == (volt.Memory, volt.Retriever)
    assert all(issubclass(kind, volt.EventContext) for kind in (volt.Agent, volt.Tool, volt.Memory, volt.Retriever))


@pytest.mark.parametrize("name", FIELDS)
def test_a_record_has_the_published_fields_and_insists_on_the_same(name: str) -> None:
    kind = getattr(types, name)
    required = {item.name for item in fields(kind) if f"{item.name}!" in FIELDS[name].split()}
    assert {item.name for item in fields(kind)} == set(FIELDS[name].replace("!", "").split())
    with pytest.raises(volt.ValidationError) if required else nothing():
        kind()
    for missing in required:
        full: dict[str, Any] = {
            **dict.fromkeys(required, "x"),
            "event": {"name": "n", "type": "t"},
            "status": "running",
        }
        full = {field: full[field] for field in required if field != missing}
        with pytest.raises(volt.ValidationError, match=rf"^{name}\.{missing} is missing: "):
            kind(**full)


class nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_the_enumerations_have_the_published_values() -> None:
    assert [status.value for status in volt.EventStatus] == ["running", "completed", "error", "cancelled"]
    assert [level.value for level in volt.EventLevel] == ["DEBUG", "INFO", "WARNING", "ERROR"]
    assert [status.value for status in volt.TraceStatus] == ["working", "completed", "error"]


def test_every_public_class_and_method_is_documented() -> None:
    bare = []
    for name in volt.__all__:
        value = getattr(volt, name)
        if not inspect.isclass(value):
            continue
        if not value.__doc__ or value.__doc__.startswith(f"{value.__name__}("):
            bare.append(name)
        for inner, member in vars(value).items():
            public = not inner.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
            if public and not member.__doc__:
                bare.append(f"{name}.{inner}")
    assert bare == []


def test_importing_the_face_stays_light() -> None:
    heavy = (
        "requests",
        "httpx",
        "pydantic",
        "tenacity",
        "urllib3",
        "asyncio",
        "ssl",
        "http.client",
        "concurrent.futures",
    )
    program = "import sys, agentscope.voltagent; print(*sorted(sys.modules))"
    path = f"import sys; sys.path.insert(0, {str(volt.__file__.rsplit('/', 3)[0])!r}); "
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", path + program], capture_output=True, text=True, check=True
    )
    assert [name for name in heavy if name in done.stdout.split()] == []


def test_importing_the_package_does_not_import_the_face() -> None:
    path = f"import sys; sys.path.insert(0, {str(volt.__file__.rsplit('/', 3)[0])!r}); "
    program = "import agentscope; print('agentscope.voltagent' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", path + program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


# ---- records ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "spellings"),
    [
        (volt.TraceOptions, [{"agentId": "a", "userId": "u"}, {"agent_id": "a", "user_id": "u"}]),
        (volt.History, [{"id": "h", "agent_id": "a", "user_id": "u"}, {"id": "h", "agentId": "a", "userId": "u"}]),
        (
            volt.TimelineEvent,
            [{"name": "n", "type": "t", "parentEventId": "p"}, {"name": "n", "type": "t", "parent_event_id": "p"}],
        ),
    ],
)
def test_a_record_takes_its_names_in_snake_case_and_in_camel_case(kind: Any, spellings: list[dict[str, Any]]) -> None:
    one, other = (kind(**names) for names in spellings)
    assert one == other
    assert one.model_extra == {}


@pytest.mark.parametrize(
    ("typed", "record"),
    [
        (volt.TraceDict, volt.TraceOptions),
        (volt.StepDict, volt.ToolOptions),
        (volt.AgentDict, volt.AgentOptions),
        (volt.EventDict, volt.TimelineEvent),
    ],
)
def test_a_typed_dict_has_all_names_of_the_record_for_the_same_options(typed: Any, record: Any) -> None:
    assert {field.name for field in fields(record)} <= set(get_type_hints(typed))


def test_a_record_keeps_names_that_it_does_not_know() -> None:
    options = volt.ToolOptions(name="search", display_name="Search", model_dump="odd", _odd=1)
    assert options.display_name == "Search"
    assert options.model_extra == {"display_name": "Search", "model_dump": "odd", "_odd": 1}
    dumped = {"name": "search", "input": None, "metadata": None, **options.model_extra}
    assert options.model_dump() == dumped
    assert options.model_dump(exclude_none=True, exclude={"display_name"}) == {
        "name": "search",
        "model_dump": "odd",
        "_odd": 1,
    }


def test_a_dump_holds_no_records() -> None:
    history = volt.History(id="h", agent_id="a", usage={"prompt_tokens": 1, "cached": 2})
    assert isinstance(history.usage, volt.TokenUsage)
    usage = {"prompt_tokens": 1, "cached": 2}
    assert history.model_dump(exclude_none=True) == {"id": "h", "agent_id": "a", "status": "working", "usage": usage}


def test_the_fields_that_were_set_are_known() -> None:
    config = volt.VoltAgentConfig(base_url="u", public_key="p", secret_key="s", timeout=None)
    assert config.model_fields_set == {"base_url", "public_key", "secret_key"}
    assert (config.timeout, config.max_retries) == (30, None)


@pytest.mark.parametrize(
    ("kind", "wrong", "sentence"),
    [
        (volt.ToolOptions, {"name": 5}, "ToolOptions.name must be a str, not int"),
        (volt.ToolOptions, {"name": "x", "input": SECRET}, "ToolOptions.input must be a dict, not str"),
        (volt.TraceOptions, {"agentId": "a", "tags": [1]}, "TraceOptions.tags must be a list of str, not list"),
        (volt.TraceOptions, {"agentId": "a", "tags": "a"}, "TraceOptions.tags must be a list of str, not str"),
        (
            volt.TraceOptions,
            {"agentId": "a", "level": SECRET},
            "TraceOptions.level must be one of DEBUG, INFO, WARNING, ERROR, not str",
        ),
        (volt.TokenUsage, {"total_tokens": SECRET}, "TokenUsage.total_tokens must be a whole number, not str"),
        (volt.TokenUsage, {"total_tokens": True}, "TokenUsage.total_tokens must be a whole number, not bool"),
        (volt.TokenUsage, {"total_tokens": 1.5}, "TokenUsage.total_tokens must be a whole number, not float"),
        (
            volt.AddEventRequest,
            {"history_id": "h", "event": SECRET},
            "AddEventRequest.event must be a TimelineEvent or a dict of its fields, not str",
        ),
        (volt.AddEventRequest, {"history_id": "h", "event": {"type": "t"}}, "TimelineEvent.name is missing: a str"),
        (
            volt.UpdateEventRequest,
            {"id": "e", "status_message": [SECRET]},
            "UpdateEventRequest.status_message must be a str or a dict, not list",
        ),
        (volt.VoltAgentConfig, {**PLACE, "auto_flush": "yes"}, "VoltAgentConfig.auto_flush must be a bool, not str"),
        (volt.VoltAgentConfig, {**PLACE, "timeout": "5"}, "VoltAgentConfig.timeout must be a number, not str"),
        (
            volt.VoltAgentConfig,
            {**PLACE, "headers": {"a": 1}},
            "VoltAgentConfig.headers must be a dict of str to str, not dict",
        ),
        (
            volt.VoltAgentConfig,
            {**PLACE, "headers": SECRET},
            "VoltAgentConfig.headers must be a dict of str to str, not str",
        ),
    ],
)
def test_a_wrong_field_is_named_with_what_it_takes_and_its_value_is_not_shown(
    kind: Any, wrong: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(volt.ValidationError) as caught:
        kind(**wrong)
    assert str(caught.value) == sentence
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("make", HOSTILE)
def test_a_hostile_value_is_a_validation_error_or_is_kept(make: Any) -> None:
    for kind, field in ((volt.ToolOptions, "name"), (volt.TokenUsage, "total_tokens"), (volt.TraceOptions, "level")):
        try:
            kind(**{"agentId": "a", "name": "n", field: make()})
        except volt.ValidationError:
            pass


def test_a_whole_float_is_a_whole_number() -> None:
    assert volt.TokenUsage(total_tokens=5.0).total_tokens == 5


def test_a_text_with_the_value_of_a_member_becomes_the_member() -> None:
    assert volt.Event(**EVENT).status is volt.EventStatus.RUNNING
    assert volt.Event(**{**EVENT, "status": volt.EventStatus.ERROR}).status is volt.EventStatus.ERROR


def test_a_record_can_be_changed_copied_and_pickled() -> None:
    event = volt.Event(**EVENT, more=1)
    for other in (copy.copy(event), copy.deepcopy(event), pickle.loads(pickle.dumps(event))):
        assert other == event
        assert other.more == 1
        other.event_name = "tool:success"
        assert other != event
    assert event != EVENT


def test_a_records_repr_shows_no_value() -> None:
    shown = repr(volt.VoltAgentConfig(base_url="u", public_key=SECRET, secret_key=SECRET, mine=SECRET))
    assert shown.startswith("VoltAgentConfig(base_url=…, public_key=…, secret_key=…, timeout=…")
    assert "mine=…" in shown
    assert SECRET not in shown


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_the_errors_have_one_base_which_is_also_the_packages() -> None:
    for error in (volt.APIError, volt.TimeoutError, volt.ValidationError):
        assert issubclass(error, volt.VoltAgentError)
    assert issubclass(volt.VoltAgentError, AgentScopeError)


def test_an_api_error_carries_status_and_answer_even_through_a_pickle() -> None:
    error = volt.APIError("refused", 422, {"message": "m"})
    for found in (error, pickle.loads(pickle.dumps(error))):
        assert (str(found), found.status_code, found.response_data) == ("refused", 422, {"message": "m"})
    assert (volt.APIError("x").status_code, volt.APIError("x").response_data) == (None, None)


# ---- names of metadata -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model_parameters", "modelParameters"),
        ("model", "model"),
        ("aB_cD", "aBCd"),
        ("a__b", "aB"),
        ("_private", "Private"),
        ("_", "_"),
        ("", ""),
    ],
)
def test_a_name_becomes_camel_case(name: str, expected: str) -> None:
    assert volt.snake_to_camel(name) == expected


def test_metadata_is_camel_cased_in_dicts_within_and_not_in_lists() -> None:
    given = {"model_parameters": {"max_tokens": 1}, "tool_list": [{"tool_name": "x"}], 5: "five", "plain": None}
    before = copy.deepcopy(given)
    assert volt.convert_metadata_to_camel_case(given) == {
        "modelParameters": {"maxTokens": 1},
        "toolList": [{"tool_name": "x"}],
        5: "five",
        "plain": None,
    }
    assert given == before
    assert volt.convert_metadata_to_camel_case(None) is None
    assert volt.convert_metadata_to_camel_case({}) == {}


def test_metadata_that_holds_itself_is_converted_so_deep_and_no_deeper() -> None:
    given: dict[str, Any] = {}
    given["in_ner"] = given
    found = volt.convert_metadata_to_camel_case(given)
    for _ in range(_MAX_DEPTH - 1):
        assert found is not None
        found = found["inNer"]
    assert found == {"inNer": given}


def test_metadata_that_is_shared_again_and_again_costs_no_more_than_its_bound() -> None:
    given: dict[str, Any] = {"a_b": 1}
    for _ in range(40):
        given = {"one_a": given, "one_b": given}  # 2 ** 40 keys for a check of each
    found = volt.convert_metadata_to_camel_case(given)
    assert found is not None
    assert set(found) == {"oneA", "oneB"}
    wide = {f"key_{number}": {"in_ner": 1} for number in range(_MAX_KEYS + 1)}
    assert volt.convert_metadata_to_camel_case(wide) is wide


names = st.sampled_from(["a", "a_b", "aB", "model_parameters", "x1_y2", "URL_of_it"])
objects = st.recursive(
    st.dictionaries(names, st.none() | st.integers() | st.lists(st.dictionaries(names, st.integers()), max_size=2)),
    lambda inner: st.dictionaries(names, inner),
    max_leaves=20,
)


@given(objects)
def test_what_is_camel_case_already_stays_as_it_is(metadata: dict[str, Any]) -> None:
    once = volt.convert_metadata_to_camel_case(metadata)
    assert volt.convert_metadata_to_camel_case(once) == once
