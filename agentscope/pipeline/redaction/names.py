"""Names of secrets, such as `password`, `X-Api-Key` or `GITHUB_TOKEN`, and names that only resemble them."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["AUTHORIZATION", "COOKIE", "OPEN", "QUALIFIERS", "STRONG", "VAGUE", "WEAK", "Name", "classify", "is_label"]

OPEN, WEAK, VAGUE, STRONG, COOKIE, AUTHORIZATION = range(6)
"""The kinds of names. OPEN: no secret. WEAK: the value decides, since tokens are pieces of text as well. VAGUE: a word of prose
too ("the secret: use butter"). STRONG: nearly any value is a secret. COOKIE, AUTHORIZATION: headers with a form of their own."""


class Name(NamedTuple):
    """The meaning of one name."""

    kind: int
    counted: bool = False
    """A number under this name is no secret: `passwords`, `password_length`, `max_token`."""
    setting: bool = False
    """Words follow the one for the secret. An object is no secret: `secret_config`."""
    words: str = ""
    """The words of the name in lower case, joined by "_"."""


_OPEN = Name(OPEN)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


QUALIFIERS = (
    "api|access|account|admin|aes|app|auth|consumer|deploy|encrypt|encryption|hmac|host|license|master|private|root|secret|"
    "service|service_role|session|shared|signing|ssh|storage|subscription|webhook|anthropic|aws|azure|cohere|datadog|gcp|"
    "github|google|groq|hf|huggingface|mailgun|mistral|openai|sendgrid|stripe|supabase|twilio"
)
_PASSWORDS = (
    "pass_?(?:words?|wd|wds|phrases?|wort|code)|pwds?|kennwort|contrase[ñn]as?|(?<![a-z])pw|wachtwoord|mot_de_passe|"
    "senhas?|lozink[aeu]|adgangskoder?|парол[ьяи]|hasło|密码|密碼|パスワード|비밀번호"
)
_SECRET = re.compile(
    rf"(?:(?P<strong>{_PASSWORDS}|(?:{QUALIFIERS})_?keys?"
    r"|(?:admin|auth|db|ftp|http|login|mail|mysql|pg|postgres|proxy|redis|root|smtp|ssh|sudo|user)_?pass"
    r"|(?:seed|recovery)_phrases?)"
    r"|(?P<vague>secrets?|credentials?)|(?P<cookie>cookies?)|(?P<authorization>authorizations?)"
    r"|(?P<weak>token|bearer|(?:access|amz|goog)_?signature|(?:php|j|(?<![a-z]))sess(?:ion)?id|asp_net_session_id|connect_sid"
    r"|(?:\A|(?<=_))(?:jwt|pass|passe|pin|psk|sig|ssn|(?<!palabra_)claves?|(?:mfa|2_fa|[ht]?otp)(?:_?codes?)?"
    r"|(?:verification|security|recovery|backup|sms|one_time)_codes?)))(?![^_])"
)
_ABOUT = _words(
    """age algorithm arn at attempts budget change changed class classes cost count counts date description enabled endpoint
    error errors expired expires expiry field fields file form format hint id ids index info instructions label left len
    length limit link manager max message meta metadata min mode name names offset param parameter path pattern per
    placeholder policy pos position price prompt provider range rate ratio ref regex required requirements reset rotation
    rule rules schema scheme size source stats status store strategy strength text title type types updated uri url usage
    used valid version window"""
)
"""Last words of names for properties of a secret: `password_policy`, `secret_name`."""
_NO_SECRETS = _words(
    """audio bos boundary cls completion continuation control cursor each end eos eot first image input last mask max min
    next output pad page pagination per predicted prev previous prompt sep special start stop sync time unk video"""
)
"""Words before `token` for pieces of text and for pages of results."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+")
_KINDS = {"strong": STRONG, "vague": VAGUE, "cookie": COOKIE, "authorization": AUTHORIZATION, "weak": WEAK}
_known: dict[bytes, Name] = {}
_MOST_KNOWN = 4096


def classify(name: bytes) -> Name:
    """Return the meaning of a name in UTF-8. The answers are remembered: a log has few names."""
    known = _known.get(name)
    if known is None:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        known = _known[name] = _classify(name.decode("utf-8", "replace"))
    return known


def _classify(name: str) -> Name:
    words = "_".join(_WORD.findall(name)).lower()
    secrets = list(_SECRET.finditer(words))
    if not secrets:
        return _OPEN
    secret = secrets[-1]  # a `password_reset_token` is a token
    kind = _KINDS[str(secret.lastgroup)]
    more = [word for word in words[secret.end() :].split("_") if word and not word.isdigit()]
    if more and more[-1] in _ABOUT and not words.endswith("secret_id"):
        return _OPEN
    said = secret.group()
    if said == "token" and not _NO_SECRETS.isdisjoint(words[: secret.start()].split("_")[-2:]):
        return _OPEN
    plural = said.endswith("s") and not said.endswith("pass")
    return Name(kind, bool(more) or plural or said in ("token", "bearer", "pass"), bool(more), words)


_LABEL = re.compile(
    rf"(?:[^\W\d_]+ ){{0,3}}(?P<noun>{_PASSWORDS.replace('_', ' ')}|token|secret|key|cookie|credential|otp)s?\W*"
)


def is_label(name: Name, value: str) -> bool:
    """Return whether a value is a form's label for the field of this name, perhaps in another language."""
    label = _LABEL.fullmatch(value)
    if label is None:
        return False
    noun = label["noun"]
    return noun in name.words or (
        re.search(_PASSWORDS, name.words) is not None and re.match(_PASSWORDS, noun) is not None
    )
