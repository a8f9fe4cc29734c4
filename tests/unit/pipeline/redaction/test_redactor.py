"""Redaction: no secret leaves the worker, and what holds none is left alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentscope.errors import ConfigurationError
from agentscope.events import PAYLOAD_FIELDS, Event
from agentscope.pipeline.redaction.redactor import MASK, Redactor
from agentscope.serialization.snapshot import encode
from tests.support.events import plain_step

CANARY = "canary-4f1a9c27"
KEY = "ask_0123456789abcdef"


def event(**fields: Any) -> Event:
    """An event as the pipeline holds it: payloads given as values are encoded."""
    told = {name: encode(value)[0] if name in PAYLOAD_FIELDS else value for name, value in fields.items()}
    return Event("step", 1, 0, "run-1", "step-1", None, told, 100)


def masked(value: object, redactor: Redactor | None = None) -> Any:
    """What is sent of the payload `value`."""
    return json.loads((redactor or Redactor())(event(input=value)).fields["input"])


SECRET_NAMES = [
    *(
        "password",
        "Password",
        "db_password",
        "passwd",
        "pwd",
        "secret",
        "client_secret",
        "clientSecret",
        "CLIENT-SECRET",
    ),
    *(
        "token",
        "access_token",
        "accessToken",
        "refresh_token",
        "id_token",
        "auth_token",
        "GITHUB_TOKEN",
        "x-auth-token",
    ),
    *(
        "api_key",
        "apikey",
        "apiKey",
        "x-api-key",
        "OPENAI_API_KEY",
        "access_key",
        "aws_secret_access_key",
        "private_key",
    ),
    *("secret_key", "session_key", "authorization", "Authorization", "proxy-authorization", "cookie", "Set-Cookie"),
    *("credential", "credentials", "passphrase", "api_keys", "secrets", "cookies", "bearer", "jwt", "user_ssn"),
    *("db_pass", "SMTP_PASS", "password_hash", "passwordHash", "password2", "db_password_prod", "secret_value"),
    *("OPENAI_API_KEY_2", "apiKeyProd", "private_key_pem"),
]

OPEN_NAMES = [
    *("tokens", "total_tokens", "max_tokens", "token_count", "tokens_used", "prompt_tokens", "usage", "key", "keys"),
    *(
        "primary_key",
        "monkey",
        "author",
        "secretary",
        "passwordless",
        "passes",
        "eos_token",
        "next_page_token",
        "cookie_count",
    ),
    *("auth", "signature", "session_id", "sessionId", "loss_n", "access_tokens_used"),
    *("password_policy", "passwordLength", "secret_name", "api_key_id", "password_changed_at"),
]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_the_value_of_a_secret_name_is_masked_at_any_depth(name: str) -> None:
    assert masked({"list": [{"inner": {name: CANARY, "n": 1}}]}) == {"list": [{"inner": {name: MASK, "n": 1}}]}


@pytest.mark.parametrize("name", SECRET_NAMES)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" , ", " : ")])
def test_a_secret_in_json_inside_a_string_is_masked(name: str, separators: tuple[str, str]) -> None:
    arguments = json.dumps({"a": 1, name: CANARY}, separators=separators)
    twice = json.dumps([{"arguments": arguments}], separators=separators)
    shown = masked({"arguments": arguments, "twice": twice, "beside": 1})
    assert json.loads(shown["arguments"]) == {"a": 1, name: MASK}
    assert json.loads(json.loads(shown["twice"])[0]["arguments"]) == {"a": 1, name: MASK}


@pytest.mark.parametrize("name", SECRET_NAMES)
@pytest.mark.parametrize(
    "text",
    [
        "log {{'a': 1, '{name}': '{canary}', 'b': 2}} end",
        'cut {{"{name}": "{canary}…[cut: 9 characters]',
        'cut {{\\"{name}\\": \\"{canary}\\", \\"b\\": 1',
        '"{name}": "a\\"{canary}"',
        "Config({name}='{canary}', b=2)",
        "Config({name} = b'{canary}', b=2)",
        "GET https://host/path?a=1&{name}={canary}&b=2",
    ],
)
def test_a_secret_in_text_that_looks_like_a_repr_json_or_a_url_is_masked(name: str, text: str) -> None:
    shown = masked([text.format(name=name, canary=CANARY), "beside"])
    assert CANARY not in shown[0]
    assert name in shown[0]
    assert MASK in shown[0]
    assert shown[1] == "beside"


@pytest.mark.parametrize("value", [12345, 1.5, ["a"], {"user": "u"}, ""])
def test_a_secret_of_any_kind_is_masked(value: object) -> None:
    assert masked({"password": value}) == {"password": MASK}


@pytest.mark.parametrize("value", [None, True, False])
def test_what_cannot_be_a_secret_is_told_under_any_name(value: object) -> None:
    assert masked({"password": value, "token": value}) == {"password": value, "token": value}


@pytest.mark.parametrize("name", OPEN_NAMES)
def test_a_name_that_only_resembles_a_secret_is_left_alone(name: str) -> None:
    before = event(input={name: "value", "inner": [{name: 7}], "text": json.dumps({name: "value"})}, name=name)
    assert Redactor()(before) is before


def test_a_number_of_tokens_or_for_each_is_left_alone() -> None:
    value = {"max_token": 10, "cost_per_token": 1e-6, "time_to_first_token": 0.3}
    assert masked(value) == value


def test_the_tokens_of_an_answer_beside_their_probability_are_left_alone() -> None:
    value = {"content": [{"token": "Hel", "logprob": -0.1, "top_logprobs": [{"token": "Hi", "logprob": -2.0}]}]}
    assert masked({**value, "token": CANARY}) == {**value, "token": MASK}


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_bearer_token_is_masked_anywhere(scheme: str) -> None:
    redacted = Redactor()(
        event(input=[f"curl -H '{scheme} {CANARY}' host"], error=[f"{scheme} {CANARY}"], name=f"{scheme} {CANARY}")
    )
    assert json.loads(redacted.fields["input"]) == [f"curl -H '{scheme} {MASK}' host"]
    assert json.loads(redacted.fields["error"]) == [f"{scheme} {MASK}"]
    assert redacted.fields["name"] == f"{scheme} {MASK}"


@pytest.mark.parametrize("field", PAYLOAD_FIELDS)
def test_every_payload_field_is_masked(field: str) -> None:
    redacted = Redactor()(event(**{field: {"password": CANARY}}))
    assert json.loads(redacted.fields[field]) == {"password": MASK}


def test_an_event_without_secrets_is_the_same_object() -> None:
    before = event(
        input={"messages": [{"role": "user", "content": "what is a token? my key: 'none'"}], "total_tokens": 5},
        output="the secretary lost the cookie jar",
        name="search",
        tags=["a", "b"],
        latency_ms=1.5,
        tokens_used=5,
    )
    assert Redactor(secrets=[KEY])(before) is before


def test_only_the_fields_with_a_secret_are_written_anew() -> None:
    before = event(input={"password": CANARY}, output={"a": 1.0})
    after = Redactor()(before)
    assert after.fields["output"] is before.fields["output"]
    assert (after.type, after.seq, after.run_id, after.step_id, after.size) == ("step", 1, "run-1", "step-1", 100)
    assert before.fields["input"] == b'{"password":"canary-4f1a9c27"}'


# ---- the tracker's own key


@pytest.mark.parametrize("redact", [True, False, [r"\d{16}"], lambda told: {**told, "output": KEY, "name": KEY}])
@pytest.mark.parametrize("key", [KEY, "ask_\"quoted\\key'", "ASK_UPPER_0123"])
def test_the_own_key_is_masked_whatever_the_setting(redact: Any, key: str) -> None:
    value = {"text": f"the key is {key}.", key: [key], "args": json.dumps({"x": key}), "repr": repr({"x": key})}
    redactor = Redactor(redact, secrets=[KEY, key])
    sent = redactor(event(input=value, name=key, agent_name=f"a {key}", external_id=key, tags=[key, "t"]))
    everything = repr(sent).replace("\\", "")
    assert key.replace("\\", "") not in everything
    assert KEY not in everything


def test_a_key_too_short_to_be_a_secret_masks_no_words() -> None:
    before = event(input="this is a test", name="test")
    assert Redactor(secrets=["", "test"])(before) is before


def test_of_two_keys_where_one_begins_the_other_nothing_is_left() -> None:
    assert masked([KEY + "-extended"], Redactor(False, secrets=[KEY, KEY + "-extended"])) == [MASK]


def test_keys_that_are_masked_alike_stay_apart() -> None:
    assert masked({f"a {KEY}": 1, f"a {KEY}!": 2, KEY: 3}, Redactor([r"!"], secrets=[KEY])) == {
        f"a {MASK}": 1,
        f"a {MASK}{MASK}": 2,
        MASK: 3,
    }
    assert masked({"1": 1, "2": 2}, Redactor([r"\d"])) == {MASK: 1, f"{MASK} 1": 2}


# ---- settings


def test_without_redaction_everything_else_is_sent_as_it_is() -> None:
    before = event(input={"password": CANARY, "text": f"Bearer {CANARY}"})
    assert Redactor(False)(before) is before


def test_patterns_mask_text_on_top_of_the_default() -> None:
    redactor = Redactor([r"\d{3}-\d{2}-\d{4}", re.compile("alice", re.IGNORECASE)])
    sent = redactor(
        event(
            input={"text": "ssn 123-45-6789 of\nAlice", "token": CANARY, "ALICE": 1}, name="for alice", tags=["alice"]
        )
    )
    assert json.loads(sent.fields["input"]) == {"text": f"ssn {MASK} of\n{MASK}", "token": MASK, MASK: 1}
    assert sent.fields["name"] == f"for {MASK}"
    assert sent.fields["tags"] == [MASK]


def test_a_pattern_meets_the_text_and_not_its_json() -> None:
    assert masked(['say "x"', "a\\b"], Redactor([r'^say "x"$', r"^a\\b$"])) == [MASK, MASK]


@pytest.mark.parametrize(
    ("redact", "what"),
    [
        (["ok", "("], r"redact\[1\] is not a regular expression"),
        ([5], r"redact\[0\] is not a regular expression"),
        ([re.compile(b"x")], r"redact\[0\] is a pattern for bytes"),
        (["x*"], r"redact\[0\] matches the empty text"),
        ("password", "redact must be"),
        (5, "redact must be"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(redact: Any, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        Redactor(redact)


def test_a_coroutine_function_is_refused() -> None:
    async def hook(told: dict[str, Any]) -> dict[str, Any]:
        return told

    with pytest.raises(ConfigurationError, match="plain function"):
        Redactor(hook)  # never awaited, so nothing would be sent


@pytest.mark.parametrize(
    ("redact", "shown"),
    [
        (True, "Redactor(redact=True)"),
        (False, "Redactor(redact=False)"),
        ([CANARY], "Redactor(redact=patterns)"),
        (str.upper, "Redactor(redact=callable)"),
    ],
)
def test_the_repr_shows_no_pattern_and_no_secret(redact: Any, shown: str) -> None:
    assert repr(Redactor(redact, secrets=[KEY])) == shown


# ---- a callable


def test_a_callable_gets_the_event_as_plain_values_without_its_secrets() -> None:
    seen: list[dict[str, Any]] = []

    def hook(told: dict[str, Any]) -> dict[str, Any]:
        seen.append(told)
        return told

    before = event(input={"password": CANARY, "a": [1]}, name="search", tags=["t"])
    sent = Redactor(hook)(before)
    assert seen == [
        {
            "type": "step",
            "run_id": "run-1",
            "step_id": "step-1",
            "parent_id": None,
            "input": {"password": MASK, "a": [1]},
            "name": "search",
            "tags": ["t"],
        }
    ]
    assert sent.fields == {"input": b'{"password":"[redacted]","a":[1]}', "name": "search", "tags": ["t"]}


def test_a_callable_decides_what_is_sent_but_not_whose_event_it_is() -> None:
    def hook(told: dict[str, Any]) -> dict[str, Any]:
        told["tags"].append("mine")
        return {
            **dict.fromkeys(("type", "run_id", "step_id", "parent_id"), "forged"),
            "input": {"kept": told["input"]["kept"]},
            "name": told["name"] + "\ud800!",
            "tags": told["tags"],
            "latency_ms": 2.5,
            "external_id": None,
        }

    before = event(input={"kept": 1, "removed": 2}, output="removed", name="search", tags=["t"], latency_ms=1)
    sent = Redactor(hook)(before)
    assert sent.fields == {
        "input": b'{"kept":1}',
        "name": "search\ufffd!",
        "tags": ["t", "mine"],
        "latency_ms": 2.5,
        "external_id": None,
    }
    assert sent[:6] == before[:6]
    assert before.fields["tags"] == ["t"]


def test_what_a_callable_returns_is_masked_once_more() -> None:
    sent = Redactor(lambda told: {"input": {"api_key": CANARY, "x": KEY}}, secrets=[KEY])(event(input=1))
    assert json.loads(sent.fields["input"]) == {"api_key": MASK, "x": MASK}


@pytest.mark.parametrize("value", [None, 5, "input"])
def test_a_callable_may_not_make_of_what_was_cut_anything_but_a_list(value: object) -> None:
    sent = Redactor(lambda told: {**told, "name": None, "truncated": value})(event(name="x", truncated=["input"]))
    assert sent.fields == {"name": None}


def test_a_payload_that_a_callable_made_lossy_is_marked() -> None:
    sent = Redactor(lambda told: {"input": float("nan"), "output": {1}, "truncated": ["error"]})(event(input=1))
    assert sent.fields == {"input": b'"NaN"', "output": b"[1]", "truncated": ["error", "input"]}


@pytest.mark.parametrize(
    ("result", "what"),
    [
        (None, "must return a dict"),
        ([("name", "x")], "must return a dict"),
        ({"name": object()}, "object for the field 'name'"),
        ({"tags": ["a", 1]}, "list for the field 'tags'"),
        ({"latency_ms": float("inf")}, "float for the field 'latency_ms'"),
        ({5: "x"}, "str for the field '5'"),
    ],
)
def test_a_callable_that_returns_what_cannot_be_sent_raises(result: Any, what: str) -> None:
    with pytest.raises(TypeError, match=what):
        Redactor(lambda told: result)(event(input=1))


def test_a_callable_that_raises_lets_its_error_out() -> None:
    with pytest.raises(ZeroDivisionError):
        Redactor(lambda told: {"x": 1 / 0})(event(input=1))


# ---- text of any kind


names = st.sampled_from([*SECRET_NAMES, *OPEN_NAMES])
texts = st.text() | st.sampled_from(["{", '{"password": ', "token='", "Bearer ", "\\" * 50 + '"', "?api_key="])
values = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(names | st.text(), inner),
    max_leaves=20,
)


@given(
    value=values, wrap=st.sampled_from([lambda v: v, json.dumps, lambda v: json.dumps(json.dumps(v)), repr]), name=names
)
def test_a_canary_never_survives_under_a_secret_name(value: Any, wrap: Callable[[Any], Any], name: str) -> None:
    secret = name in SECRET_NAMES
    sent = Redactor()(event(input=[value, wrap({"before": 1, name: CANARY, "after": 2}), value]))
    shown = json.loads(sent.fields["input"])
    if secret or wrap is not repr:  # in a repr, names are told from values by their looks only
        assert (CANARY not in json.dumps(shown)) is secret
    assert len(shown) == 3


pieces = st.sampled_from(
    [
        *(
            "'",
            '"',
            "\\",
            "\\n",
            "\\u0070",
            "\n",
            "\t",
            "\x0b",
            " ",
            "=",
            ":",
            ": ",
            "?",
            "&",
            ",",
            "{",
            "[",
            "}",
            "]",
            "é",
            "K",
            "T",
        ),
        *(
            "Bearer ",
            "bearer\n",
            "sk-0123456789",
            "key",
            "api",
            "api key",
            "pass-word",
            "PassPhrase",
            "authorization",
            "to",
        ),
        *SECRET_NAMES,
        *OPEN_NAMES,
    ]
)
phrases = st.lists(pieces, max_size=8).map("".join) | st.text(max_size=20)
documents = st.recursive(
    st.none() | st.integers() | phrases,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(phrases, inner, max_size=3) | inner.map(json.dumps),
    max_leaves=6,
)


@settings(max_examples=400)
@given(documents, phrases, st.lists(phrases, max_size=2))
@example({"password\n": 1, "a": 'password\n: "x"'}, "", [])
@example('{"\\u0070assword": "x"}', "", [])
@example("password" + " " * 100 + "= 'x'", "", [])
@example("api_keys: 'x'", "token='", [KEY])
def test_an_event_that_is_no_suspect_would_not_be_changed(value: Any, name: str, tags: list[str]) -> None:
    redactor = Redactor(secrets=[KEY])
    before = event(input=value, name=name, tags=tags)
    if not redactor.suspects([event(output=1), before]):
        fields = before.fields
        assert json.loads(redactor._payload(fields["input"])[0]) == json.loads(fields["input"])
        assert [redactor._text(text)[0] for text in (name, *tags)] == [name, *tags]


@pytest.mark.parametrize(
    "value",
    [
        {"messages": [{"role": "user", "content": "Why is the sky blue?\n\n- first: because\n- second = no"}]},
        {"version": "1", "function": {"description": "gets the database", "key": "k", "keyword": "w", "max_tokens": 5}},
        "a secretary, an author and his monkey went to https://host/path?page=2&key=1#part",
    ],
)
def test_what_is_usual_in_an_agents_payloads_is_no_suspect(value: object) -> None:
    assert not Redactor(secrets=[KEY]).suspects([event(input=value, name="search", tags=["a"])] * 3)


@pytest.mark.parametrize("redact", [["x+"], lambda told: told])
def test_with_patterns_or_a_callable_every_event_is_a_suspect(redact: Any) -> None:
    assert list(Redactor(redact).suspects([event(input=1)] * 2)) == [0, 1]


def test_an_event_with_a_secret_in_its_payload_is_the_only_suspect_among_many() -> None:
    plain = plain_step(1, b'"a"')
    assert not Redactor().suspects([plain] * 20)
    for field in ("input", "output"):
        told = plain._replace(**{field: b'{"password":"x"}'})
        assert list(Redactor().suspects([*[plain] * 20, told, event(input={"token": "x1"}), plain])) == [20, 21]


@pytest.mark.parametrize(
    "suspect",
    [
        event(name="password='x'"),
        event(tags=["password='x'"]),
        event(input=f"the key is {KEY}"),
        event(input='{"\\u0070assword": "x"}'),
        event(input="token=x1 " * 300),
    ],
    ids=["name", "list", "own key", "escape", "many hits"],
)
def test_a_secret_that_is_told_of_no_one_event_makes_all_suspects(suspect: Event) -> None:
    assert list(Redactor(secrets=[KEY]).suspects([event(input=1), suspect, event(input=2)])) == [0, 1, 2]


SLOW = (
    *(
        "password=",
        "password:",
        "password_",
        "password ",
        "a.password.",
        "token=token",
        "authorization: ",
        "cookie: a=b;",
    ),
    *(
        "://a:",
        "http://a:b",
        "basic aaaa",
        "tokens_a=\\'",
        "password=aaaa(",
        "token: the a",
        "password: **",
        '"cookie"]',
    ),
)
"""What each part of the search may begin at, again and again."""


@pytest.mark.timeout(60)  # a megabyte takes less than a second; were it quadratic, hours
@pytest.mark.parametrize(
    "text",
    [
        "\\" * 300_000 + "token=",
        "token='" * 40_000,
        '"token" : "' * 30_000,
        "?" * 300_000 + "token=",
        "bearer " * 40_000,
        *(piece * (1_000_000 // len(piece)) for piece in SLOW),
        "[" * 100_000 + '"token":',
        "token" + " " * 300_000 + "=",
        "?a" + "-" * 300_000 + "token=x",
        ": " * 100_000,
        ":" + " " * 300_000,
    ],
    ids=lambda text: repr(text[:8]),
)
def test_text_made_to_be_slow_is_not(text: str) -> None:
    masked([text])
