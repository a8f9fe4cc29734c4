"""The logger of this package. What it says holds no payload and no key."""

from __future__ import annotations

import logging

logger = logging.getLogger("agentscope")


def _signed(record: logging.LogRecord) -> bool:
    # Where nobody has set up logging, Python prints the bare message: it should say whose it is.
    if not logger.hasHandlers():
        record.msg = f"agentscope: {record.msg}"
    return True


logger.addFilter(_signed)


def counted(number: int, one: str = "event", more: str = "events") -> str:
    """A number and what there are so many of."""
    return f"{number} {one if number == 1 else more}"
