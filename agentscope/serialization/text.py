"""Text that UTF-8 can hold: surrogates replaced, names bounded; the name of a class."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .foreign import called

_name_of: Callable[[type], str] = type.__dict__["__name__"].__get__


def class_name(value: object) -> str:
    """Return the name of the value's class, in at most 60 characters, without running code of its metaclass."""
    return _name_of(type(value))[:60]


def replace_surrogates(value: str) -> str:
    """Replace lone surrogates by U+FFFD, and pairs of surrogates by the character that they encode."""
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def text(value: object, limit: int) -> str:
    """Return `str(value)`, for a name, in at most `limit` characters and without NUL and surrogates.

    A value whose `str()` raises is named by its class. Raises only what `called` lets through.
    """
    if type(value) is not str:
        told = called(partial(str, value), None)
        value = f"<{class_name(value)}: str failed>" if told is None else told
    name = str.__getitem__(value, slice(limit + 1))  # a subclass may override its methods
    if len(name) > limit:
        name = f"{name[: limit - 1]}…" if limit > 0 else ""
    if not name.isascii():
        name = replace_surrogates(name)
    return name.replace("\0", "\ufffd")
