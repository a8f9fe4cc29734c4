"""Lines of text for a terminal."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from typing import TextIO

BOLD, DIM, RED, GREEN = "1", "2", "31", "32"

Part = str | tuple[str, str]
"""A piece of a line: text, or a colour and text."""

_ASCII = str.maketrans("├└│─✓✗µ…·�", "|`|-+xu~-?")


class Terminal:
    """A stream to print lines to, with the colours, characters and width that it can show."""

    def __init__(self, stream: TextIO | None = None, environ: Mapping[str, str] = os.environ) -> None:
        self.stream = stream or sys.stdout
        self.is_live = self.stream.isatty()
        self.width = max(60, shutil.get_terminal_size().columns) if self.is_live else 110
        self._is_colored = self.is_live and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"

    def say(self, *parts: Part) -> None:
        """Print one line.

        Control characters in a part are replaced, since data must not command a terminal, and so is what the stream's
        encoding lacks.
        """
        line = ""
        for part in parts:
            color, text = ("", part) if isinstance(part, str) else part
            text = self._shown(text)
            line += f"\x1b[{color}m{text}\x1b[0m" if color and text and self._is_colored else text
        print(line.rstrip(), file=self.stream, flush=True)

    def _shown(self, text: str) -> str:
        text = "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in text)
        encoding = self.stream.encoding or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
        return text


def mark(is_good: bool) -> Part:
    """Return a green tick or a red cross."""
    return (GREEN, "✓") if is_good else (RED, "✗")


def shorten(text: str, width: int) -> str:
    """Cut a text to `width` characters, with an ellipsis for the rest."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"
