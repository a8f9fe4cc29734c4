"""Reports on the pipeline: the drop callback and rate-limited log lines, without payloads or keys."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from agentscope.options import OnDrop
from agentscope.protocols.base import NEEDS_PERSON
from agentscope.protocols.drop_reasons import AT_THE_END, SHUTDOWN

from .process import threads

logger = logging.getLogger("agentscope")


def _signed(record: logging.LogRecord) -> bool:
    if not logger.hasHandlers():
        _sign(record)
    return True


def _sign(record: logging.LogRecord) -> None:
    # Without a handler Python prints only the message, so the message begins with the name of the package.
    record.msg = f"agentscope: {record.msg}"


def _handlers() -> Iterator[logging.Handler]:
    above: logging.Logger | None = logger
    while above is not None:
        yield from above.handlers
        above = above.parent if above.propagate else None


def _hand_over(record: logging.LogRecord) -> None:
    """Give a record to the application's handlers, but for those that write to a closed stream.

    Delivery may outlive a test that captured the output, and `logging` prints a traceback for each such handler.
    """
    handlers = list(_handlers())
    usable = [handler for handler in handlers if not getattr(getattr(handler, "stream", None), "closed", False)]
    if len(usable) == len(handlers):
        logging.Logger.callHandlers(logger, record)  # tools that collect logs replace it
        return
    if not usable:
        _sign(record)
    for handler in usable or filter(None, [logging.lastResort]):
        if record.levelno >= handler.level:
            handler.handle(record)


logger.addFilter(_signed)
logger.callHandlers = _hand_over  # type: ignore[method-assign]  # of this logger alone


def counted(number: int, one: str = "event", more: str = "events") -> str:
    """Write a number with its noun."""
    return f"{number} {one if number == 1 else more}"


INTERVAL = 60.0
"""Seconds between two warnings of a kind."""


class Notices:
    """The reports of one worker: log lines, each kind at most once a minute, and calls of `on_drop`."""

    def __init__(self, on_drop: OnDrop | None) -> None:
        self._on_drop = on_drop
        self._announced: dict[str, int] = {}
        self._unlogged: dict[str, int] = {}
        self._next_drop_line = 0.0
        self._next_failure_line = 0.0
        self._next_crash_line = 0.0
        self._problem: str | None = None
        self._callback_blamed = False

    def drops(self, totals: Mapping[str, int], now: float) -> None:
        """Report events that were dropped since the last call."""
        self.tell(totals)
        # `end` reports the drops at the end. This call may come between such a drop and that report, in another thread.
        if self._unlogged.keys() - {SHUTDOWN} and now >= self._next_drop_line:
            self._next_drop_line = now + INTERVAL
            logger.warning("dropped events: %s", spelled(self._unlogged))
            self._unlogged = {}

    def tell(self, totals: Mapping[str, int]) -> None:
        """Call `on_drop` for events that were dropped since the last call."""
        for reason, total in totals.items():
            number = total - self._announced.get(reason, 0)
            if number <= 0:
                continue
            self._announced[reason] = total
            self._unlogged[reason] = self._unlogged.get(reason, 0) + number
            if self._on_drop is not None:
                try:
                    with threads.callback():
                        self._on_drop(reason, number)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:
                    if not self._callback_blamed:
                        self._callback_blamed = True
                        logger.warning("on_drop raised %s; this is said once", type(error).__name__)

    def failure(self, problem: str, kind: str | None, failures: int, pending: int, now: float) -> None:
        """Report a failure of delivery from the second in a row on, and at once if it needs a person."""
        if failures < 2 and kind not in NEEDS_PERSON:
            return
        self._problem = problem
        if now >= self._next_failure_line:
            self._next_failure_line = now + INTERVAL
            logger.warning("%s; %s kept and tried again", problem, counted(pending, "event is", "events are"))

    def recovery(self) -> None:
        """Report that delivery works again."""
        if self._problem is not None:
            self._problem = None
            logger.info("delivery works again")

    def crash(self, error: BaseException, now: float) -> None:
        """Report an internal error of the worker."""
        if now >= self._next_crash_line:
            self._next_crash_line = now + INTERVAL
            logger.warning("the worker stopped on %s and is started again", type(error).__name__)

    def end(self, left: int, totals: Mapping[str, int], problem: str | None, spooled: int = 0) -> None:
        """Report the end in one line, if events are left, or were dropped and not reported."""
        self.tell(totals)
        others = {reason: number for reason, number in self._unlogged.items() if reason not in AT_THE_END}
        parts = []
        if left:
            lost = ("event was", "is") if left == 1 else ("events were", "are")
            parts.append(f"{left} {lost[0]} left undelivered at the end and {lost[1]} lost")
        if spooled:
            kept = counted(spooled, "event is", "events are")
            parts.append(f"{kept} kept in the spool, for the next process or `agentscope replay`")
        if others:
            parts.append(f"dropped before: {spelled(others)}")
        if parts:
            logger.warning("%s%s", "; ".join(parts), f" ({problem})" if problem and (left or spooled) else "")
        self._unlogged = {}


def spelled(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in sorted(counts.items()))


def say(message: str) -> None:
    """Log a warning in another thread: the caller may be a logging handler, which holds a lock.

    At exit it is logged here, since a new thread might never run.
    """
    if threads.ending() or not threads.start(lambda: logger.warning("%s", message), "agentscope-notice"):
        logger.warning("%s", message)
