"""Lines for a terminal, whatever it can show."""

from __future__ import annotations

from typing import TextIO


def say(out: TextIO, text: str) -> None:
    """Print a line; what `out` cannot show, or would take for a command, is replaced."""
    encoding = out.encoding or "utf-8"
    print("".join(c if c.isprintable() else "�" for c in text).encode(encoding, "replace").decode(encoding), file=out)
