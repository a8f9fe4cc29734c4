"""Names and exceptions as plain text: bounded, whole Unicode, and never failing."""

from __future__ import annotations

import builtins
from collections import deque
from types import CodeType, TracebackType

from .adapters import class_name, type_name
from .text import text

_MAX_LINKS = 8  # exceptions of a chain that are told, from the outermost inwards
_MAX_MEMBERS = 5  # exceptions of a group that are told
_FIRST_FRAMES, _LAST_FRAMES = 8, 24
_MAX_LINE = 300  # characters

_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"
_GROUP = getattr(builtins, "BaseExceptionGroup", ())  # Python 3.11


def describe_exception(exc: BaseException, limit: int = 8192) -> dict[str, str]:
    """`{"type", "message", "traceback"}` of an exception, each at most `limit` characters, holding on to no frame.

    `traceback` reads as Python prints it, with the exceptions that led to this one and the members of a group. What is
    too long is cut in the middle: the outermost frames and the innermost tell most. Raises nothing but KeyboardInterrupt.
    """
    try:
        name, message = text(type_name(exc), limit), text(exc, limit)
        traceback = _cut("\n".join(_chain(exc)), limit)
    except KeyboardInterrupt:
        raise
    except BaseException:  # an exception class that overrides what is read here, or too little stack left
        return {"type": class_name(exc), "message": "<cannot be read>", "traceback": ""}
    return {"type": name, "message": message, "traceback": traceback}


def _chain(exc: BaseException, depth: int = 0) -> list[str]:
    links: list[tuple[BaseException, str]] = []
    seen: set[int] = set()
    link: BaseException | None = exc
    joint = ""
    while link is not None and id(link) not in seen and len(links) < _MAX_LINKS:
        links.append((link, joint))
        seen.add(id(link))
        if link.__cause__ is not None:
            link, joint = link.__cause__, _CAUSE
        else:
            link, joint = (None if link.__suppress_context__ else link.__context__), _CONTEXT
    lines: list[str] = []
    for link, joint in reversed(links):
        lines += _one(link, depth)
        if joint:
            lines += ["", joint, ""]
    return lines


def _one(exc: BaseException, depth: int) -> list[str]:
    lines = ["Traceback (most recent call last):", *_frames(exc.__traceback__)] if exc.__traceback__ else []
    message = text(exc, 2048)
    lines.append(f"{type_name(exc)}: {message}" if message else type_name(exc))
    if isinstance(exc, _GROUP) and depth < 2:
        for member in exc.exceptions[:_MAX_MEMBERS]:
            lines += ["  | " + line for line in _chain(member, depth + 1)]
        if (more := len(exc.exceptions) - _MAX_MEMBERS) > 0:
            lines.append(f"  | …[cut: {more} exceptions]")
    return lines


def _frames(traceback: TracebackType | None) -> list[str]:
    first: list[tuple[CodeType, int | None]] = []
    last: deque[tuple[CodeType, int | None]] = deque(maxlen=_LAST_FRAMES)
    count = 0
    while traceback is not None:
        place = traceback.tb_frame.f_code, traceback.tb_lineno
        count += 1
        (first if count <= _FIRST_FRAMES else last).append(place)
        traceback = traceback.tb_next
    lines = [_frame(*place) for place in first]
    if (more := count - len(first) - len(last)) > 0:
        lines.append(f"  …[cut: {more} frames]")
    return lines + [_frame(*place) for place in last]


def _frame(code: CodeType, number: int | None) -> str:
    told = f'  File "{code.co_filename}", line {number}, in {code.co_name}'[:_MAX_LINE]
    import linecache  # by now it is there: the pipeline imports it with logging

    # It reads a source file once; traceback.format_exception() would also look at each for changes.
    source = linecache.getline(code.co_filename, number or 0).strip()[:_MAX_LINE]
    return text(f"{told}\n    {source}" if source else told, 2 * _MAX_LINE + 8)


def _cut(value: str, limit: int) -> str:
    if len(value) <= limit:
        return value
    note = f"\n…[cut: {len(value)} characters]…\n"
    room = max(0, limit - len(note))
    return value[: room // 3] + note + value[len(value) - (room - room // 3) :]
