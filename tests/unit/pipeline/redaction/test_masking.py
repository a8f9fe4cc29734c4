"""What is hidden and what is kept by default, and the bounds of the search."""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentscope.events import Event
from agentscope.pipeline.redaction import masking
from agentscope.pipeline.redaction.masking import MASK, TooManyHits, mask
from agentscope.pipeline.redaction.redactor import NOT_SEARCHED, Redactor, preview
from agentscope.serialization.snapshot import encode
from benchmarks.redaction import MORE, NAMES
from tests.support.events import plain_step

WORD = "Kx7tulip93"
"""A secret. In the cases below @ stands for it."""


def no_pause() -> None:
    """No other thread waits."""


def event(**fields: Any) -> Event:
    return Event("step", 1, 0, "run-1", "step-1", None, fields, 100)


def shown(value: object) -> str:
    """What is sent of a value, as JSON without escapes."""
    payload = Redactor()(event(input=encode(value)[0])).fields["input"]
    assert isinstance(payload, bytes)
    return json.dumps(json.loads(payload), ensure_ascii=False)


# ---- hidden ----------------------------------------------------------------------------------------------------------

HIDDEN_NAMES = """
passwd | pw | db.password | login/password | New Password | password  | Password: | Password (repeat) | password[3] |
PASSWORD_1 | user_pwd | passcode | Passwort | mot_de_passe | пароль | 密码 | パスワード | contraseña | client_secret |
secret_id | jwtSecret | Api Key | subscription-key | AccountKey | master_key | OPENAI_KEY | SecretAccessKey |
aws_session_token | csrftoken | SLACK_TOKEN_OLD | tokenValue | otp | totp_code | wifi_psk | pin | credentials | bearer |
Proxy-Authorization | cookies | pass | senha | SENHA_DB | clave | adgangskode | seed_phrase | mfa_code | mfaCode | 2fa_code |
verification_code | recoveryCode | sessionid | PHPSESSID | JSESSIONID | ASP.NET_SessionId | connect.sid | SIGNING_KEY
""".replace("\n", " ").split(" | ")


@pytest.mark.parametrize("name", HIDDEN_NAMES, ids=str.strip)
def test_a_value_under_a_secret_name_is_hidden(name: str) -> None:
    assert WORD not in shown({"a": 1, name.strip(): WORD, "b": [2]})
    assert WORD not in shown(json.dumps({"a": 1, name.strip(): WORD}))
    assert WORD not in shown({name.strip() + " ": WORD})


HIDDEN_VALUES = r"""
["--password", "@"]
["tool", "--token", "@"]
["curl", "-u", "ann:@"]
["-e", "API_TOKEN=@"]
[["Authorization", "Bearer @"], ["Accept", "*/*"]]
{"value": "@", "name": "api_key"}
{"field": "password", "required": true, "value": "@"}
{"credentials": {"user": "ann", "key": "@"}}
{"cookies": {"sid": "@"}}
{"password": {"a": ["]", "@"]}}
{"backup_codes": ["ab1", "@"]}
["curl", "--user", "ann:@"]
""".strip().splitlines()


@pytest.mark.parametrize("value", HIDDEN_VALUES)
def test_a_value_beside_the_name_of_a_secret_is_hidden(value: str) -> None:
    given = json.loads(value.replace("@", WORD))
    assert WORD not in shown(given)
    assert WORD not in shown({"text": json.dumps(given), "again": json.dumps(json.dumps(given))})


HIDDEN_TEXTS = r"""
the password is @
My password is: @
password -> @
| password | @ |
password⇥@
Password (old): @
mysql -uroot -p@
curl -u ann:@ https://host
sshpass -p @ ssh host
psql --password @ db
wget --http-password=@ x
https://host/?a=b&api_key=@&c=d
https://host/x?sig=@
https://host/#access_token=@
password%3D@
AccountName=a;AccountKey=@;X=y
Server=h;User Id=u;Pwd=@
Endpoint=sb://x/;SharedAccessKey=@
postgres://u:@@h/db
postgres://u:x/@@h/db
amqp://u:x#@@h
redis://:@@h:6379/0
ftp://u:x?@@h
{'a': 1}⏎{'password': '@'}
data: {"token": "@"}⏎⏎
secrets:⏎- @⏎- other1⏎
passwords: [@, other1]
passwords: [other1, '@']
API_KEYS = ["@"]
senha: @
clave=@
a:⏎  password: |⏎    @
<password>@</password>
<o:Password Type='x'>@</o:Password>
<user password="@"/>
<input name="pwd" value="@">
<input value="@" type="password">
<add key="ApiKey" value="@"/>
password = '''@'''
:password => "@"
machine h login u password @
IDENTIFIED BY '@'
IDENTIFIED WITH mysql_native_password BY '@'
SET PASSWORD FOR ann = '@'
SET PASSWORD FOR 'ann' = PASSWORD('@')
SET PASSWORD = PASSWORD('@')
jdbc:oracle:thin:ann/@@h:1521/x
sqlplus ann/@@db
ALTER USER u WITH PASSWORD '@'
let password = `@`;
Config(password=SecretStr('@'))
␛[31mpassword=@␛[0m
a⏎PASSWORD=@⏎
X-Auth-Token: @
Cookie: a=1; b=@
Authorization: Digest @
set SECRET=@
$env:API_KEY = '@'
//host/:_authToken=@
-passin pass:@
sk-proj-@
ghp_@
dckr_pat_@
glpat-@
glptt-@
shpca_@
figd_@
pcsk_@
tvly-@
xapp-1-@
GOCSPX-@
SG.@abcdefgh.abcdefgh
ya29.@abcdefgh
https://hooks.slack.com/services/T012345/B012345/@
https://discord.com/api/webhooks/123456789/@
xoxb-1-@
hf_@abc
npm_@
whsec_@
eyJhbGciOiJ9.eyJ@.x
-----BEGIN RSA PRIVATE KEY-----⏎@⏎-----END RSA PRIVATE KEY-----
-----BEGIN OPENSSH PRIVATE KEY-----⏎@
""".strip().splitlines()


def text_of(case: str) -> str:
    return case.replace("⏎", "\n").replace("⇥", "\t").replace("␛", "\x1b")


@pytest.mark.parametrize("case", HIDDEN_TEXTS)
def test_a_secret_in_text_is_hidden_at_any_depth(case: str) -> None:
    text = text_of(case).replace("@", WORD, 1)
    for value in (text, [text], json.dumps({"text": text}), json.dumps([json.dumps(text)])):
        assert WORD not in shown(value)


def test_a_number_is_a_code_if_its_name_says_so() -> None:
    assert shown({"otp_code": 482913, "mfa_code": "4829", "status_code": 482913}) == shown(
        {"otp_code": MASK, "mfa_code": MASK, "status_code": 482913}
    )


# ---- kept ------------------------------------------------------------------------------------------------------------

KEPT_VALUES = r"""
{"token": "The", "pos": "DET"}
{"token": " world"}
{"token": "##ing"}
{"predicted_token": "cat"}
{"tokens": ["The"]}
{"token_type": "bearer"}
{"tokenizer": "cl100k"}
{"max_tokens": 5}
{"image_token": "<image>"}
{"cls_token": "[CLS]"}
{"nextPageToken": "abc123def456"}
{"session_id": "abc123def456"}
{"sessionId": "abc123def456"}
{"conversation_id": "abc123def456"}
{"status_code": "404123"}
{"error_code": "E12345"}
{"country_code": "49123"}
{"palabra_clave": "x1y2"}
{"cache_key": "a1b2c3d4"}
{"public_key": "AAAA1234"}
{"PWD": "/home/ann"}
{"cookie": "chocolate chip"}
{"cookies": 12}
{"secrets": 5}
{"leaked_passwords": 1042}
{"secretary": "Ann1"}
{"passenger": "Ann1"}
{"password_hint": "dog1"}
{"secret_name": "prod/db1"}
{"pin": 13}
{"api_key": "required"}
{"password": "Passwort"}
{"login.token": "Token"}
{"credentials": "same-origin"}
{"password": "${DB_PASSWORD}"}
{"password": "{{ password }}"}
{"password": "********"}
{"api_key": "YOUR_API_KEY"}
{"password": ["This field is required."]}
{"jwt": "A JSON Web Token is three parts"}
{"required": ["password", "user"]}
{"properties": {"password": {"type": "string", "description": "at least 8"}}}
{"type": "password"}
{"name": "max_tokens", "value": 512}
{"name": "password", "label": "Your password"}
[["token", -0.5]]
""".strip().splitlines()


@pytest.mark.parametrize("value", KEPT_VALUES)
def test_a_value_that_is_no_secret_is_kept(value: str) -> None:
    assert json.loads(shown(json.loads(value))) == json.loads(value)


KEPT_TEXTS = r"""
Password: must contain 8 characters
Your password: minimum 12 characters
Password reset for ann99
Secret: Butter.
the standard bearer announced peace
Bearer authentication scheme
the secret of success: hard work
token: 5
first token: 12345ms
max_tokens=4096
Unexpected token < in JSON at position 0
authorization: denied
for t in x:⏎  if token: continue⏎
token = next_token
token: TokenType = a
password = getpass.getpass()
password VARCHAR(255) NOT NULL
SELECT token, user FROM t1
SET password = %s
token?: string;
token = Text.Space
input('Password: ')⏎print('hello')
kubectl get secret my-app1
password: !vault |
-u 1000:1000
pwd: /home/ann1
http://host:8080/a@b1
git@github.com:org1/x
task-1234567890 and risk-12345678
sk-learn is nice2
tests passed: 42
https://x/?page_token=abc123def
<a accesskey="n" href="x1">
-----BEGIN CERTIFICATE-----⏎MIIB1
monkey: banana1
class="token keyword1"
123e4567-e89b-12d3-a456-426614174000
api_key=api_key
password=None
ssn: see page 12
password: [A-Za-z0-9]{8,}
token: [CLS]
tokens: [101, 2023]
tokens = [t1, t2]
def f(secret: [int], x1)
https://sg.example123.com/x
set password for the new user: ok1
jdbc:postgresql://host1/db1?user=x
https://discord.com/channels/123456/7890123
kiosk-12345678 and desk_12345678 and pspa_12345678
commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b
/home/ann1/tokens/abc123 and C:\Users\ann1\password.txt
""".strip().splitlines()


@pytest.mark.parametrize("case", KEPT_TEXTS)
def test_text_that_holds_no_secret_is_kept(case: str) -> None:
    text = text_of(case)
    assert json.loads(shown([text, json.dumps(text)])) == [text, json.dumps(text)]


# ---- how -------------------------------------------------------------------------------------------------------------

values = st.sampled_from(
    [{"token": WORD}, {"token": "The"}, {"password": "x1"}, f"password={WORD}", "token: The", ["a", 5], None]
)


@given(
    values,
    st.lists(values, max_size=3),
    st.lists(values, max_size=3),
    st.sampled_from(["logprob", "pos", "name", "value", "a"]),
)
def test_neighbours_do_not_decide(value: Any, before: list[Any], after: list[Any], name: str) -> None:
    alone = json.loads(shown([value]))[0]
    assert json.loads(shown([*before, value, *after]))[len(before)] == alone
    if type(value) is dict:
        beside = json.loads(shown({name: -0.5, **value, "z": after}))
        assert {key: beside[key] for key in value} == alone


pieces = st.sampled_from(
    [
        *(
            "password",
            "token",
            "api_key",
            "Authorization",
            "Cookie",
            "name",
            "value",
            "=",
            ": ",
            ":",
            " ",
            "hunter2",
            "\n",
            "\t",
            "\\",
        ),
        *(
            "'",
            '"',
            "'''",
            "{",
            "}",
            "[",
            "]",
            ",",
            "<",
            ">",
            "</",
            "Basic ",
            "Bearer ",
            "http://u:",
            "@",
            "sk-abcdefgh1",
            "- ",
            "é",
        ),
        *("-----BEGIN PRIVATE KEY-----", "identified by ", "curl -u ", "--password", MASK),
    ]
)
words = st.lists(pieces, max_size=8).map("".join)
documents = st.recursive(
    words | st.sampled_from([5, None, True]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(words, inner, max_size=3)
        | inner.map(json.dumps)
        | inner.map(repr)
    ),
    max_leaves=8,
)


@given(documents, documents)
def test_json_is_json_still_and_other_values_are_untouched(value: Any, other: Any) -> None:
    sent = json.loads(
        mask(encode({"before": [1, "x"], "value": value, "other": other, "after": {"n": None}})[0], no_pause)
    )
    assert list(sent) == ["before", "value", "other", "after"]
    assert (sent["before"], sent["after"]) == ([1, "x"], {"n": None})


def work(text: str) -> int:
    """The calls of functions of Python and of C that it takes to mask a text: each does a bounded piece of work."""
    count = 0

    def look(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    encoded = json.dumps([text]).encode()
    before = sys.getprofile()
    sys.setprofile(look)
    try:
        mask(encoded, no_pause)
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("name", NAMES)
def test_twice_the_text_is_twice_the_work(name: str) -> None:
    for more, end in itertools.product(MORE, ("", ")")):
        first, second, third = (work((name + more + end) * count) for count in (40, 80, 120))
        assert third - second <= 1.3 * (second - first) + 40, (name, more, end)


def test_a_decision_looks_at_a_bounded_piece_of_the_text() -> None:
    expressions = [
        value.pattern.decode()
        for module in (masking,)
        for name, value in vars(module).items()
        if isinstance(getattr(value, "pattern", None), bytes)
        and name != "_PLAIN"  # whose value is masked, or ends the name
    ]
    assert len(expressions) > 10
    assert not [text for text in expressions if "*)" in text or "]*" in text.replace("[*`]", "") or "]+" in text]


def test_other_threads_get_turns_within_a_long_value() -> None:
    for value in ({"password": '"' * 3000}, {"password": [[1]] * 3000}, "a" * 1_000_000, "token=abcdef1 " * 3000):
        turns: list[int] = []
        mask(encode(value)[0], lambda turns=turns: turns.append(1))  # type: ignore[misc]  # a default binds it
        assert len(turns) >= 9


# ---- the bound of the search -----------------------------------------------------------------------------------------


def test_a_payload_with_too_many_hits_is_masked_whole_and_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_FREE_HITS", 100)
    hostile = encode("pwd:/" * 1000)[0]
    with pytest.raises(TooManyHits):
        mask(hostile, no_pause)
    sent = Redactor()(event(input=hostile, output=b'"kept"', truncated=["error"], name="pwd:/" * 1000)).fields
    assert json.loads(sent["input"]) == NOT_SEARCHED  # type: ignore[arg-type]  # a payload is bytes
    assert (sent["output"], sent["name"], sent["truncated"]) == (b'"kept"', NOT_SEARCHED, ["error", "input", "name"])


def test_a_log_with_a_secret_on_every_line_is_within_the_bound() -> None:
    lines = "\n".join(f"{number} token=abcdef{number}" for number in range(40_000))
    assert shown(lines).count(MASK) == 40_000


# ---- names and ids ---------------------------------------------------------------------------------------------------


def test_names_and_ids_are_searched_and_masked_ids_stay_apart() -> None:
    redactor = Redactor()
    first, second, again = (
        redactor(
            Event("step", 1, 0, f"token={run}", f"password={WORD}", f"token={run}", {"name": f"get token={WORD}"}, 1)
        )
        for run in (WORD, WORD + "2", WORD)
    )
    assert WORD not in repr((first, second, again))
    assert first.run_id.startswith(f"token={MASK}-")
    assert first.run_id == again.run_id != second.run_id
    assert first.parent_id == first.run_id


def test_an_id_is_masked_alike_by_all_trackers_with_the_same_key() -> None:
    def masked_run(*secrets: str) -> str:
        return Redactor(secrets=secrets)(event()._replace(run_id=f"token={WORD}")).run_id

    assert masked_run("ask_1234") == masked_run("ask_1234") != masked_run("ask_5678")
    assert masked_run() == masked_run() != masked_run("ask_1234")


def test_an_id_with_a_secret_makes_all_events_suspects() -> None:
    plain = plain_step(1, b'"a"')
    assert not Redactor().suspects([plain])
    for field in ("run_id", "step_id", "parent_id"):
        assert list(Redactor().suspects([plain, plain._replace(**{field: f"token={WORD}"})])) == [0, 1]


# ---- the preview -----------------------------------------------------------------------------------------------------


def test_a_preview_is_what_would_be_sent() -> None:
    assert preview({"password": WORD, "n": (1, 2)}, 1000, Redactor()) == {"password": MASK, "n": [1, 2]}
    assert preview(f"card {WORD}", 1000, Redactor([r"Kx\w+"])) == f"card {MASK}"
    assert preview({"a": 1}, 1000, Redactor(lambda fields: {"input": [fields["input"]]})) == [{"a": 1}]


@pytest.mark.parametrize("hook", [lambda fields: {}, lambda fields: 1 / 0])
def test_a_preview_of_what_would_not_be_sent_is_none(hook: Any) -> None:
    assert preview({"a": 1}, 1000, Redactor(hook)) is None
