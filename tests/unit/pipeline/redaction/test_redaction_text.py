"""Secrets in text without quotes, in URLs and beside their names, and the ordinary text that looks like them."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.events import Event
from agentscope.pipeline.redaction.redactor import MASK, Redactor
from agentscope.serialization.exceptions import describe_exception
from agentscope.serialization.snapshot import encode


def event(value: object) -> Event:
    return Event("step", 1, 0, "run-1", "step-1", None, {"input": encode(value)[0]}, 100)


def masked(value: object) -> Any:
    """What is sent of the payload `value`. An event that is changed has to be a suspect."""
    redactor = Redactor()
    sent = json.loads(redactor(event(value)).fields["input"])
    assert sent == value or redactor.suspects([event(value)])
    return sent


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("password=hunter2", "password=#"),
        ("password: hunter2", "password: #"),
        ("Password:hunter2, user: u", "Password:#, user: u"),
        ("host=db user=x password=hunter2 port=1", "host=db user=x password=# port=1"),
        ("export OPENAI_API_KEY=sk-abc\nnext", "export OPENAI_API_KEY=#\nnext"),
        ("curl -H 'X-Api-Key: abcdef' host", "curl -H 'X-Api-Key: #' host"),
        ("--api-key=abc --max-tokens=5", "--api-key=# --max-tokens=5"),
        ("jdbc:x://h;user=a;password=b;c=d", "jdbc:x://h;user=a;password=#;c=d"),
        ("a=1&password=b&c=d", "a=1&password=#&c=d"),
        ("(secret=abc) [token=abc] {pwd=abc}", "(secret=#) [token=#] {pwd=#}"),
        ("password2: a db_pass=b ssn: 123-45-6789", "password2: # db_pass=# ssn: #"),
        ("password_hash=$2b$12$abc", "password_hash=#"),
        ("**Password:** hunter2\n**API key**: `sk-abc`", "**Password:** #\n**API key**: `#`"),
        ("os.environ['API_KEY'] = 'sk-abc'", "os.environ['API_KEY'] = '#'"),
        ("password => 'x' secret := \"y\"", "password => '#' secret := \"#\""),
        ("пароль: password=пароль", "пароль: password=#"),
        ("DB_PASSWORD=password", "DB_PASSWORD=#"),
    ],
)
def test_a_value_without_quotes_is_masked_up_to_what_ends_it(text: str, shown: str) -> None:
    assert masked([text]) == [shown.replace("#", MASK)]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"Authorization: Basic {b64encode(b'user:pw').decode()}", f"Authorization: Basic {MASK}"),
        ("Authorization: Basic abcdefgh", f"Authorization: Basic {MASK}"),
        ("authorization: Custom a1b2 next", f"authorization: Custom {MASK} next"),
        ("Authorization: token ghp_abc", f"Authorization: token {MASK}"),
        ("Authorization: Bearer abcdefgh", f"Authorization: Bearer {MASK}"),
        (f"sent Basic {b64encode(b'user:pw').decode()} there", f"sent Basic {MASK} there"),
        ("-H 'Cookie: a=b; c=d; e' h", f"-H 'Cookie: {MASK}' h"),
        ("Set-Cookie: sid=abc; Path=/", f"Set-Cookie: {MASK}"),
    ],
)
def test_of_a_header_in_text_the_credentials_are_masked_and_the_scheme_is_told(text: str, shown: str) -> None:
    assert masked([text]) == [shown]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgres://u:pw@h/db", f"postgres://u:{MASK}@h/db"),
        ("see https://u:pw@h/.", f"see https://u:{MASK}@h/."),
        ("redis://:p@ss@h:6379", f"redis://:{MASK}@h:6379"),
        ("mongodb+srv://token:pw@h/?token=x", f"mongodb+srv://token:{MASK}@h/?token={MASK}"),
        ("http:\\/\\/u:pw@h", f"http:\\/\\/u:{MASK}@h"),
    ],
)
def test_the_password_in_a_url_is_masked(url: str, shown: str) -> None:
    assert masked({"dsn": url, "text": [f"to {url} now"]}) == {"dsn": shown, "text": [f"to {shown} now"]}


def test_secrets_in_the_message_and_traceback_of_an_exception_are_masked() -> None:
    try:
        raise ConnectionError("cannot connect: password=hunter2 to postgres://u:hunter2@h/db")
    except ConnectionError as error:
        told = masked(describe_exception(error, 10_000))
    assert "hunter2" not in json.dumps(told["message"])
    assert f"password={MASK} to postgres://u:{MASK}@h/db" in told["traceback"].splitlines()[-1]


@pytest.mark.parametrize(
    "wrap", [lambda v: v, json.dumps, lambda v: json.dumps(json.dumps(v))], ids=["value", "json", "json in json"]
)
def test_headers_as_pairs_or_objects_are_masked_by_their_names(wrap: Any) -> None:
    headers = [["x-api-key", "HDR"], ["cookie", "sess=1"], ["accept", "*/*"]]
    objects = [
        {"name": "X-API-Key", "value": "HDR2"},
        {"Key": "DB_PASSWORD", "Value": "x"},
        {"name": "n", "value": "v"},
    ]
    shown = masked({"headers": wrap(headers), "env": wrap(objects)})
    while type(shown["headers"]) is str:
        shown = {name: json.loads(value) for name, value in shown.items()}
    assert shown == {
        "headers": [["x-api-key", MASK], ["cookie", MASK], ["accept", "*/*"]],
        "env": [{"name": "X-API-Key", "value": MASK}, {"Key": "DB_PASSWORD", "Value": MASK}, objects[2]],
    }


@pytest.mark.parametrize(
    "value",
    [
        {"required": ["password", "email"], "properties": {"name": "password", "type": "string"}},
        [["what is my password", "I do not know"], ["token", -0.5]],
        {"name": "max_tokens", "value": "5"},
        {"password_policy": {"length": 12}, "secret_config": {"mode": "x"}, "password_attempts_left": 3},
    ],
)
def test_a_list_of_names_a_question_and_a_setting_are_no_secrets(value: object) -> None:
    assert masked(value) == value


def test_without_redaction_pairs_and_urls_are_told() -> None:
    before = event([["cookie", "a"], {"name": "cookie", "value": "b"}, "postgres://u:pw@h password=x"])
    assert Redactor(False)(before) is before


@pytest.mark.parametrize(
    "text",
    [
        '"max_tokens": 512, token count: 5, token: 5, max_token=512, cost per token: $0.002, first token: 350ms',
        "Enter the password: ",
        "password:\nthen the next line",
        "http://host:8080/path@x and me@x.org: at 12:30, ssh://git@github.com:22/x, git@github.com:a/b",
        "The secret: use butter. Credentials: see the vault; Authorization: required for v2.",
        "a basic understanding, basic mathematics, Basic information and basic authentication: fine",
        "def login(password: str, token: str | None = None, secret: Optional[str] = None): ...",
        "connect(password=password, api_key=os.environ[name], token=get_token(), secret=self.secret)",
        "password=${PW} password=$PW password={pw} password=<pw> token: ${{ secrets.X }} password=%s %(password)s",
        "if password == other: token => token.id; Password::Reset; secret://vault/x",
        "API key: https://host/keys",
        "PWD=/home/user",
        "eos_token: </s> next_page_token: abc secretary: Bob passwordless: yes secret_name=a password_policy: b",
        "password=[redacted] Authorization: Bearer [redacted] postgres://u:[redacted]@h",
        'class="token" id=5',
    ],
)
def test_what_models_and_programs_write_every_day_is_left_alone(text: str) -> None:
    assert masked([text]) == [text]


def test_a_number_in_json_that_was_cut_gives_way_to_a_string() -> None:
    assert masked(['{"password": 12345, "b": "cut']) == [f'{{"password": "{MASK}", "b": "cut']
    assert masked(['{\\"password\\": 12345, \\"b']) == [f'{{\\"password\\": \\"{MASK}\\", \\"b']


@pytest.mark.parametrize("text", ["password: x\\", 'a "password: x" b', "password=x\\n\\u0041", "password=é\\\\"])
def test_json_in_a_string_is_json_still(text: str) -> None:
    inside = json.loads(masked([json.dumps({"text": text, "n": 1})])[0])
    assert inside["n"] == 1
    assert "x" not in inside["text"].split("password", 1)[1].split("\\")[0]


pieces = st.sampled_from(
    [
        *("password", "token", "api_key", "Authorization", "Cookie", "secret_x", "=", ": ", ":", " ", "hunter2", "\n"),
        *(
            "'",
            '"',
            "\\",
            "Basic ",
            "Bearer ",
            "dXNlcjpwdw==",
            "http://",
            "u:",
            "@",
            "h/",
            "?",
            "&",
            ";",
            ",",
            "**",
            MASK,
        ),
    ]
)


@given(st.lists(pieces, max_size=12).map("".join))
def test_what_is_sent_is_json_whose_other_members_are_untouched(text: str) -> None:
    shown = masked({"before": [1, "x"], "text": text, "after": {"n": None}})
    assert (shown["before"], shown["after"]) == ([1, "x"], {"n": None})
    assert type(shown["text"]) is str


@given(st.text(st.characters(codec="utf-8"), max_size=30), st.text("abcXYZ0189-_", min_size=1, max_size=20))
def test_whatever_stands_before_it_an_assigned_password_never_survives(before: str, value: str) -> None:
    canary = f"{value}7canary"
    assert canary not in masked([f"{before}\npassword={canary}\nDB_PASSWORD: {canary}"])[0]
