"""Names as plain text: bounded, whole Unicode, and never failing."""

from __future__ import annotations

import re

from .adapters import class_name

_LONE = re.compile("[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]")


def mend(value: str) -> str:
    """`value` with U+FFFD for lone surrogates; a high one and a low one that stand together become their character."""
    return _LONE.sub("\ufffd", value).encode("utf-16", "surrogatepass").decode("utf-16")


def text(value: object, limit: int) -> str:
    """`str(value)` for what should be a name: at most `limit` characters, without NUL and lone surrogates.

    Raises nothing but KeyboardInterrupt: a value whose `str()` fails is told by its class.
    """
    if type(value) is not str:
        try:
            value = str(value)
        except KeyboardInterrupt:
            raise
        except BaseException:
            value = f"<{class_name(value)}: str failed>"
    told = str.__getitem__(value, slice(limit + 1))
    if len(told) > limit:
        told = f"{told[: limit - 1]}…" if limit > 0 else ""
    if not told.isascii():
        told = mend(told)
    return told.replace("\0", "\ufffd")
