"""Exceptions as bounded text, with causes, group members and source lines."""

from __future__ import annotations

import builtins
import os
import stat
from collections import deque
from types import CodeType, TracebackType

from .adapters import type_name
from .foreign import is_hosts
from .text import class_name, text

_MAX_LINKS = 8  # exceptions of a chain, from the outermost inwards
_MAX_MEMBERS = 5  # exceptions of a group
_FIRST_FRAMES, _LAST_FRAMES = 8, 24
_MAX_LINE = 300  # characters
_MAX_NOTES = 20
_MAX_SOURCE = 1 << 21  # bytes of a source file whose lines are shown

_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"
_GROUP = getattr(builtins, "BaseExceptionGroup", ())  # Python 3.11 and newer


def describe_exception(exc: BaseException, limit: int = 8192) -> dict[str, str]:
    """Return `{"type", "message", "traceback"}` of an exception, each in at most `limit` characters.

    `traceback` has Python's own form, with causes, contexts and group members. A long one is cut in the middle, since the
    outermost and the innermost frames are the most useful. No frame is referenced afterwards. Raises only the
    host's exceptions.
    """
    try:
        name, message = text(type_name(exc), limit), text(exc, limit)
        traceback = _cut("\n".join(_chain(exc)), limit)
    except Exception as error:  # the class overrides an attribute that is read here, or the stack is nearly full
        if is_hosts(error):
            raise
        return {"type": class_name(exc), "message": "<cannot be read>", "traceback": ""}
    return {"type": name, "message": message, "traceback": traceback}


def _chain(exc: BaseException, depth: int = 0) -> list[str]:
    """Return the lines of an exception after those of its causes. `depth` is the number of groups around it."""
    links: list[tuple[BaseException, str]] = []
    seen: set[int] = set()
    link: BaseException | None = exc
    relation = ""
    while link is not None and id(link) not in seen and len(links) < _MAX_LINKS:
        links.append((link, relation))
        seen.add(id(link))
        if link.__cause__ is not None:
            link, relation = link.__cause__, _CAUSE
        else:
            link, relation = (None if link.__suppress_context__ else link.__context__), _CONTEXT
    lines: list[str] = []
    for link, relation in reversed(links):
        lines += _single(link, depth)
        if relation:
            lines += ["", relation, ""]
    return lines


def _single(exc: BaseException, depth: int) -> list[str]:
    lines = ["Traceback (most recent call last):", *_frames(exc.__traceback__)] if exc.__traceback__ else []
    message = text(exc, 2048)
    lines.append(f"{type_name(exc)}: {message}" if message else type_name(exc))
    notes = getattr(exc, "__notes__", ())
    if isinstance(notes, (list, tuple)):
        lines += [text(note, 2048) for note in notes[:_MAX_NOTES]]
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
        position = traceback.tb_frame.f_code, traceback.tb_lineno
        count += 1
        (first if count <= _FIRST_FRAMES else last).append(position)
        traceback = traceback.tb_next
    lines = [_frame(*position) for position in first]
    if (more := count - len(first) - len(last)) > 0:
        lines.append(f"  …[cut: {more} frames]")
    return lines + [_frame(*position) for position in last]


def _frame(code: CodeType, number: int | None) -> str:
    location = f'  File "{code.co_filename}", line {number}, in {code.co_name}'[:_MAX_LINE]
    import linecache  # not at the top, to keep the import of agentscope light; logging has imported it by now

    name, source = code.co_filename, ""
    if name in linecache.cache or _is_source(name):
        # Reads a source file once, while traceback.format_exception() also checks each file for changes.
        source = linecache.getline(name, number or 0).strip()[:_MAX_LINE]
    return text(f"{location}\n    {source}" if source else location, 2 * _MAX_LINE + 8)


def _is_source(path: str) -> bool:
    """Tell if a file can be read without delay: a regular one, of a bounded size. Code may name any file, a pipe too."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size <= _MAX_SOURCE


def _cut(value: str, limit: int) -> str:
    if len(value) <= limit:
        return value
    note = f"\n…[cut: {len(value)} characters]…\n"
    room = max(0, limit - len(note))
    return value[: room // 3] + note + value[len(value) - (room - room // 3) :]
