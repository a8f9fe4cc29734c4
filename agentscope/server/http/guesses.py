"""Wrong keys, counted by the address that they come from: they are logged, and answered more and more slowly."""

from __future__ import annotations

import ipaddress
import logging
import time
from asyncio import sleep as _sleep
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger("agentscope.server")

_ADDRESSES = 1024  # that are remembered
_LOG_SECONDS = 60.0  # between two lines on one address
_LINES = 30  # of all addresses in `_LOG_SECONDS`
_LONGEST = 1.0  # seconds that an answer to a wrong key waits
_WAITING = 16  # answers that wait at once; a connection of a stranger must not keep others out


@dataclass
class _Count:
    level: float = 0.0
    """Wrong keys, less one for every `period` since."""
    at: float = 0.0
    since_line: int = 0
    line_at: float | None = None


class Guesses:
    """The wrong keys of each address. `burst` of them are free, then one every `period` seconds.

    `counted` is called for each one.
    """

    def __init__(
        self,
        burst: int,
        period: float,
        counted: Callable[[], None] = lambda: None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst = burst
        self._period = period
        self._counted = counted
        self._now = now
        self._counts: OrderedDict[str, _Count] = OrderedDict()
        self._lines = 0
        self._lines_since = 0.0
        self._waiting = 0

    def wrong(self, address: str) -> float:
        """Count and log a wrong key. Returns the seconds that its answer should wait."""
        now = self._now()
        count = self._counts.setdefault(_network_of(address), _Count())
        self._counts.move_to_end(_network_of(address))
        while len(self._counts) > _ADDRESSES:
            self._counts.popitem(last=False)
        count.level = self._level(count, now) + 1
        count.at = now
        count.since_line += 1
        self._counted()
        self._log(address, count, now)
        beyond = count.level - self._burst
        return 0.0 if beyond <= 0 else min(_LONGEST, 0.1 * 2 ** min(beyond, 8))

    def seconds_to_wait(self, address: str) -> float:
        """Return the seconds until an address may try again; 0 if it may now."""
        count = self._counts.get(_network_of(address))
        if count is None:
            return 0.0
        return max(0.0, (self._level(count, self._now()) + 1 - self._burst) * self._period)

    async def slow_down(self, address: str) -> None:
        """Count a wrong key, and wait before it is answered, unless many answers wait."""
        seconds = self.wrong(address)
        if seconds and self._waiting < _WAITING:
            self._waiting += 1
            try:
                await _sleep(seconds)
            finally:
                self._waiting -= 1

    def _level(self, count: _Count, now: float) -> float:
        return max(0.0, count.level - (now - count.at) / self._period)

    def _log(self, address: str, count: _Count, now: float) -> None:
        if now - self._lines_since >= _LOG_SECONDS:
            self._lines, self._lines_since = 0, now
        if self._lines >= _LINES or (count.line_at is not None and now - count.line_at < _LOG_SECONDS):
            return
        self._lines += 1
        logger.warning("a wrong key came from %s (%d since the last line on it)", address, count.since_line)
        count.line_at, count.since_line = now, 0


def _network_of(address: str) -> str:
    """Return the address that is counted: of IPv6, where one machine has many, the first 64 bits."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if (
        isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None
    ):  # on a socket that takes both versions
        found = found.ipv4_mapped
    return str(found) if found.version == 4 else str(ipaddress.ip_network((found, 64), strict=False))
