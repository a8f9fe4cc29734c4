"""Secrets that are recognised by their form, without a name: tokens of providers, JWTs, PEM blocks, URLs with a password."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable

__all__ = ["ESCAPES", "FORMS", "INNER", "NAMELESS", "QUOTE"]

ESCAPES = r"(?:\\{15}|\\{7}|\\{3}|\\)"
QUOTE = rf"""(?:{ESCAPES}?"|\\{{0,15}}')"""
INNER = rf"""(?:{ESCAPES}"|\\{{0,15}}')"""
"""A quotation mark inside a JSON string. An unescaped double quote is left out, since it ends the string."""

_LONGEST = 512
"""Bytes of a secret that the expressions match. The rest of a longer one is masked as well."""
_BEGIN = r"(?:(?<![\w-])|(?<=\\[nrt]))"

_PROVIDER = re.compile(
    (
        rf"{_BEGIN}(?:[sr]k[-_]|gsk_|gh[oprsu]_|github_pat_|dckr_pat_|gl(?:pat|ptt|dt|rt)-|glsa_|xox.-|xapp-|hf_|npm_|whsec_"
        r"|shp(?:at|ca|pa|ss)_|do[opr]_v1_|pypi-|akia|aiza|sg\.|ya29\.|gocspx-|figd_|sntry[su]_|pcsk_|sbp_|tvly-|pplx-|xai-"
        r"|sq0(?:atp|csp)-)"
    ).encode()
)
_TOKEN = re.compile(rb"(?=[\w-]{0,64}\d)[\w-]{8,}(?:\.[\w-]{8,})*")
_JWT = re.compile(rf"{_BEGIN}eyj[\w-]{{4,}}\.[\w-]{{4,}}(?:\.[\w-]*){{0,3}}".encode())
_BEARER = re.compile(rb"bearer {1,4}(?P<value>[\w.~+/=-]{6,512})")
_BASIC = re.compile(rb"basic {1,4}(?P<value>[\w+/-]{4,512}={0,2})")
_SQL = re.compile(rf"""by {{1,4}}{INNER}(?P<value>[^\s'"\\]{{1,512}})""".encode())
_SET_PASSWORD = re.compile(
    rf"""password(?: for [^=;"\n]{{1,80}}= {{0,4}}(?:password\()?| {{0,4}}= {{0,4}}password\(){INNER}"""
    rf"""(?P<value>[^\s'"\\]{{1,512}})""".encode()
)
_ORACLE = re.compile(
    rb"""(?:jdbc:oracle:\w{1,12}:|plus (?:-\w{1,8} ){0,3})[^\s/@:"'\\]{1,64}/(?P<value>[^\s/@"'\\]{1,128})(?=@|[\s"'\\])"""
)
_WEBHOOK = re.compile(rb"ks(?:\.slack\.com/services/\w{1,16}/\w{1,16}|/\d{1,24})/(?P<value>[\w-]{8,})")
_PEM = re.compile(rb"-----begin [a-z0-9 ]{0,20}private key[a-z ]{0,8}-----")
_PEM_BODY = re.compile(rb"(?:[\w+/=:,. \r\n\t]|\\{1,7}[nr]|-(?!----))+")
_OPTION = re.compile(
    rf"""-u(?:ser)?(?:=| {{1,4}}|{QUOTE}, {{0,4}}{QUOTE})(?:{INNER})?[\w.@+-]{{1,64}}:(?P<value>[^\s"'\\]{{1,512}})""".encode()
)
_COMMANDS = re.compile(rb"mysql|mongo|docker login|redis-cli|sshpass")
_PASSWORD_OPTION = re.compile(rb"-[ap] ?(?P<value>[^\s\"'\\-][^\s\"'\\]{0,512})")
_REST = re.compile(rb"[\w.~+/=-]*")
_USER = r"""[^\s/?#@:"'<>\\]{0,128}"""
# A password may hold "/", "?" and "#", but ":8080/path@x" is a port.
_URL = re.compile(
    rf""":(?:\\{{0,8}}/){{2}}{_USER}:(?P<value>[^\s/?#"'<>\\]{{1,256}}(?=@)|(?!\d{{1,5}}[/?#])[^\s"'<>\\@]{{1,256}}(?=@))""".encode()
)

Span = tuple[int, int]


def _provider(text: bytes, lower: bytes, at: int) -> Span | None:
    match = _PROVIDER.search(lower, max(at - 13, 0), at + 3)
    if match is None or (match.group() == b"sg." and text[match.start() : at + 1] != b"SG"):  # a name of a host
        return None
    token = _TOKEN.match(lower, match.end())
    return None if token is None else (match.start(), token.end())


def _jwt(text: bytes, lower: bytes, at: int) -> Span | None:
    match = _JWT.match(lower, at - 2) if at > 1 else None
    return None if match is None else match.span()


def _bearer(text: bytes, lower: bytes, at: int) -> Span | None:
    match = _BEARER.match(lower, at)
    if match is None or not (len(match["value"]) >= 20 or re.search(rb"[\d=_+/]|\w[.-]\w", match["value"])):
        return None  # prose: "the standard bearer announced"
    return match.start("value"), _rest(lower, match.end())


def _basic(text: bytes, lower: bytes, at: int) -> Span | None:
    match = _BASIC.match(lower, at)
    if match is None:
        return None
    start, end = match.span("value")
    value = text[start:end].rstrip(b"=")
    try:
        told = b64decode(value + b"=" * (-len(value) % 4), b"-_" if b"-" in value else None)
        return (start, end) if b":" in told and told.decode().isprintable() else None
    except ValueError:
        return None  # prose: "basic mathematics"


def _sql(text: bytes, lower: bytes, at: int) -> Span | None:
    match = _SQL.match(lower, at)
    return None if match is None else match.span("value")


def _set_password(text: bytes, lower: bytes, at: int) -> Span | None:
    match = _SET_PASSWORD.match(lower, at)
    return None if match is None else match.span("value")


def _oracle(text: bytes, lower: bytes, at: int) -> Span | None:
    match = _ORACLE.match(lower, at)
    return None if match is None else match.span("value")


def _webhook(text: bytes, lower: bytes, at: int) -> Span | None:
    match = _WEBHOOK.match(lower, at)
    return None if match is None else match.span("value")


def _pem(text: bytes, lower: bytes, at: int) -> Span | None:
    match = _PEM.match(lower, at)
    body = _PEM_BODY.match(lower, match.end()) if match is not None else None
    return None if body is None else body.span()


def _option(text: bytes, lower: bytes, at: int) -> Span | None:
    """`curl -u name:password`, `mysql -ppassword`."""
    match = _OPTION.match(lower, at)
    if match is not None:
        return match.span("value") if lower.rfind(b"curl", max(at - 256, 0), at) >= 0 else None
    match = _PASSWORD_OPTION.match(lower, at)
    if match is None or _COMMANDS.search(lower, max(at - 64, 0), at) is None:
        return None
    return match.span("value")


def _url(text: bytes, lower: bytes, at: int) -> Span | None:
    match = _URL.match(lower, lower.rfind(b":", max(at - 9, 0), at)) if at else None
    return None if match is None or match["value"].startswith(b"[redacted") else match.span("value")


def _rest(lower: bytes, at: int) -> int:
    rest = _REST.match(lower, at)
    return at if rest is None else rest.end()


FORMS: dict[int, tuple[Callable[[bytes, bytes, int], Span | None], ...]] = {
    ord("b"): (_bearer, _basic, _sql),
    ord("g"): (_provider,),
    ord("9"): (_provider,),
    ord("p"): (_set_password, _oracle),
    ord("j"): (_jwt, _oracle),
    ord("k"): (_provider, _webhook),
    ord("z"): (_provider,),
    ord("-"): (_pem, _option, _provider),
    ord("_"): (_provider,),
    ord("/"): (_url,),
}
"""Functions by the byte at a hit: (text, lower-case text, place of the hit) -> the span to mask."""
NAMELESS = frozenset(b"-_/")
"""The bytes of hits that are no part of a name."""
