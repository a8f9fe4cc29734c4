"""Keys, their file, and the sessions of logins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentscope.errors import ConfigurationError
from agentscope.server.http.keys import SESSION_SECONDS, Key, Keys, read_keys, session_cookie
from agentscope.server.http.limits import Refused

AGENTS = Key("agents", "ingest", secret=b"key-of-agents")
PEOPLE = Key("people", "read", secret=b"key-of-people")
BOSS = Key("boss", "admin", secret=b"key-of-boss")
FILE = "# all keys\n\nagents ingest default key-of-agents\n  people\tread  default   key-of-people  \n"


def scope(**headers: str) -> dict[str, Any]:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "headers": pairs, "server": ("127.0.0.1", 8000)}


def headers(**given: str) -> Any:
    from starlette.datastructures import Headers

    return Headers(scope=scope(**given))


@pytest.fixture
def keys() -> Keys:
    return Keys(None, [AGENTS, PEOPLE, BOSS])


@pytest.mark.parametrize(
    "given",
    [
        {"authorization": "Bearer key-of-people"},
        {"authorization": "bearer  key-of-people "},
        {"authorization": "Basic bmFtZTprZXktb2YtcGVvcGxl"},
        {"x_agentscope_key": "key-of-people"},
        {"x_api_key": "key-of-people"},
        {"x_secret_key": "key-of-people"},
    ],
)
def test_a_key_is_taken_in_any_header_that_clients_use(keys: Keys, given: dict[str, str]) -> None:
    assert keys.reader(scope(**given)) is PEOPLE


@pytest.mark.parametrize(
    ("key", "may_send", "may_read"), [(AGENTS, True, False), (PEOPLE, False, True), (BOSS, True, True)]
)
def test_a_key_may_do_what_its_role_says(keys: Keys, key: Key, may_send: bool, may_read: bool) -> None:
    bearer = f"Bearer {key.secret.decode()}"
    assert keys.may_read(scope(authorization=bearer)) is may_read
    if may_send:
        assert keys.sender(headers(authorization=bearer)) is key
    else:
        with pytest.raises(Refused, match="its role is read") as refusal:
            keys.sender(headers(authorization=bearer))
        assert refusal.value.status == 403


@pytest.mark.parametrize("given", [{}, {"authorization": "Bearer"}, {"x_agentscope_key": "key-of-peopl"}])
def test_a_request_without_a_right_key_is_refused(keys: Keys, given: dict[str, str]) -> None:
    assert keys.reader(scope(**given)) is None
    with pytest.raises(Refused) as refusal:
        keys.sender(headers(**given))
    assert refusal.value.status == 401


def cookie(token: str) -> dict[str, Any]:
    return scope(cookie=session_cookie(token, scope(), "").partition(";")[0])


def test_a_session_ends_with_its_age() -> None:
    now = [100.0]
    keys = Keys(None, [PEOPLE], now=lambda: now[0])
    token = keys.open_session(PEOPLE)
    now[0] += SESSION_SECONDS - 1
    assert keys.reader(cookie(token)) is PEOPLE
    now[0] += 1
    assert keys.reader(cookie(token)) is None


def test_a_logout_ends_its_own_session_only(keys: Keys) -> None:
    mine, theirs = keys.open_session(PEOPLE), keys.open_session(BOSS)
    assert mine != theirs
    keys.end_session(cookie(mine))
    keys.end_session(cookie("never-there"))
    assert keys.reader(cookie(mine)) is None
    assert keys.reader(cookie(theirs)) is BOSS


def test_a_wrong_key_in_a_header_is_not_made_up_for_by_a_session(keys: Keys) -> None:
    request = cookie(keys.open_session(PEOPLE))
    request["headers"].append((b"x-agentscope-key", b"wrong"))
    assert keys.reader(request) is None


@pytest.mark.parametrize("given", [b"Basic dTpw", b"Basic dTprZXk6", b"Bearer of-the-proxy", b"Negotiate x"])
def test_what_a_proxy_asks_for_does_not_end_a_session(keys: Keys, given: bytes) -> None:
    request = cookie(keys.open_session(PEOPLE))
    request["headers"].append((b"authorization", given))
    assert keys.reader(request) is PEOPLE
    assert keys.reader({**cookie("ended"), "headers": [*cookie("ended")["headers"], (b"authorization", given)]}) is None


def test_a_key_of_a_header_comes_before_a_session(keys: Keys) -> None:
    for secret, expected in ((b"key-of-boss", BOSS), (b"key-of-agents", None)):
        request = cookie(keys.open_session(PEOPLE))
        request["headers"].append((b"authorization", b"Bearer " + secret))
        assert keys.reader(request) is expected


def test_the_cookie_is_sent_over_https_only_where_it_was_set_there() -> None:
    assert "; Secure" not in session_cookie("t", scope(), "")
    secure = session_cookie("t", {**scope(), "scheme": "https"}, "/agentscope")
    assert secure.endswith("; Path=/agentscope/; Max-Age=43200; HttpOnly; SameSite=Strict; Secure")


def test_sessions_are_bounded_in_number(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentscope.server.http.keys._MAX_SESSIONS", 2)
    first, *others = [keys.open_session(PEOPLE) for _ in range(3)]
    assert keys.reader(cookie(first)) is None
    assert all(keys.reader(cookie(token)) for token in others)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_a_file_of_keys_has_one_on_each_line(tmp_path: Path) -> None:
    assert read_keys(write(tmp_path / "keys", FILE)) == [AGENTS, PEOPLE]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601])
def test_a_file_of_keys_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigurationError, match="chmod 600"):
        read_keys(write(tmp_path / "keys", FILE, mode))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no key"),
        ("# nothing\n\n", "has no key"),
        ("agents ingest canary", "line 1: write a name"),
        (FILE + "x write default canary", "line 5: the role is one of ingest, read, admin"),
        ("a read default canary more", "line 1: write a name"),
        ("a read default canary\u00e9", "line 1: write a name"),
        ("a read default canary\nb read default canary", "line 2: the name or the key is that of an earlier line"),
        ("a read default canary\na read default another", "line 2: the name or the key is that of an earlier line"),
    ],
)
def test_a_wrong_line_is_named_without_its_key(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as error:
        read_keys(write(tmp_path / "keys", text))
    assert "canary" not in str(error.value)


def test_a_folder_is_no_file_of_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        read_keys(tmp_path)


def test_the_repr_of_a_key_does_not_show_it() -> None:
    assert "key-of" not in repr([AGENTS, Keys("key-of", [BOSS])])
